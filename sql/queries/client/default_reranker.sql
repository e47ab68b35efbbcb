SELECT name FROM pgmeaning.model WHERE kind = 'reranker' AND status = 'default'
