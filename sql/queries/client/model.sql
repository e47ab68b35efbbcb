SELECT name, kind, backend, status, location, revision, dimensions, min_dimensions, max_tokens, template, pooling,
       normalize, query_prompt, document_prompt, modalities, options, reranker
FROM pgmeaning.model WHERE name = %(name)s
