SELECT * FROM pgmeaning.models ORDER BY kind, status, name
