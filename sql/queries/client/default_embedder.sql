SELECT name FROM pgmeaning.model WHERE kind = 'embedder' AND status = 'default'
