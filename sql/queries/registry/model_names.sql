SELECT m.name FROM pgmeaning.model AS m ORDER BY m.name
