SELECT s.sentence,
       e.embedding <=> (SELECT pgmeaning.embed('play with a toy', collection => 'senses')) AS "play with a toy",
       e.embedding <=> (SELECT pgmeaning.embed('going to a play', collection => 'senses')) AS "going to a play"
FROM senses s JOIN senses_embedding e USING (id)
ORDER BY s.id;
