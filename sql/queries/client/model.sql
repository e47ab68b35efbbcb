SELECT m.name, m.kind, m.backend, m.status, m.location, m.revision, m.dimensions, m.min_dimensions, m.max_tokens,
       m.template, m.pooling, m.normalize, m.query_prompt, m.document_prompt, m.modalities, o.options, m.reranker
FROM pgmeaning.model AS m JOIN pgmeaning._model_options AS o ON o.name = m.name WHERE m.name = %(name)s
