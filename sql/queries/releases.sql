SELECT * FROM pgmeaning.releases ORDER BY name
