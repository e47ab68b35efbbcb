DELETE FROM pgmeaning.sidecar WHERE id = %(id)s
