SELECT d.module, d.name, e.embedding <=> (
    SELECT pgmeaning.embed('guess the kind of a file from its name', collection => 'docstrings')) AS distance
FROM docstrings d JOIN docstrings_embedding e USING (id)
ORDER BY distance LIMIT 3;
