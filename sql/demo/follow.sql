SELECT d.name, e.embedding <=> (SELECT pgmeaning.embed('make a meal', collection => 'docstrings')) AS distance
FROM docstrings d JOIN docstrings_embedding e USING (id)
WHERE d.module = 'kitchen';
