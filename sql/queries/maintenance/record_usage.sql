-- Adds what making vectors took; of a target that is gone, nothing.
INSERT INTO pgmeaning.usage AS u (collection_id, model, documents, tokens, seconds, cut, reused)
SELECT t.collection_id, t.model, %(documents)s, %(tokens)s, %(seconds)s, %(cut)s, %(reused)s FROM pgmeaning.target AS t
WHERE t.collection_id = %(collection_id)s AND t.model = %(model)s
ON CONFLICT (collection_id, model) DO UPDATE
    SET documents = u.documents + excluded.documents, tokens = u.tokens + excluded.tokens,
        seconds = u.seconds + excluded.seconds, cut = u.cut + excluded.cut, reused = u.reused + excluded.reused
