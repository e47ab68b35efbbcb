-- Whether the model is still the one that the collection's vectors are of.
SELECT EXISTS (SELECT FROM pgmeaning.target AS t JOIN pgmeaning.model AS m ON m.name = t.model
               WHERE t.collection_id = %(collection_id)s AND t.model = %(model)s
                 AND t.fingerprint = %(fingerprint)s AND m.fingerprint = %(fingerprint)s)
