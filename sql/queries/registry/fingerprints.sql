SELECT m.name, m.fingerprint FROM pgmeaning.model AS m
