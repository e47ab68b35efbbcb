SELECT DISTINCT t.model FROM pgmeaning.target AS t ORDER BY t.model
