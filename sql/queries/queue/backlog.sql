-- What keeps --drain from ending: owed and failed rows of these (collection, model) pairs, and unfinished scans.
SELECT EXISTS (SELECT FROM pgmeaning._unfolded AS i WHERE i.collection_id = ANY (%(collections)s))::int
       + (SELECT count(*) FROM pgmeaning.queue AS q
          WHERE q.collection_id = ANY (%(collections)s) AND q.model = ANY (%(models)s) AND q.failed_at IS NULL)
       + (SELECT count(*) FROM pgmeaning.target AS t
          WHERE t.collection_id = ANY (%(collections)s) AND t.model = ANY (%(models)s) AND t.scanning
            AND NOT pgmeaning._is_held(t)) AS owed,
       (SELECT count(*) FROM pgmeaning.queue AS q
        WHERE q.collection_id = ANY (%(collections)s) AND q.model = ANY (%(models)s)
          AND q.failed_at IS NOT NULL) AS failed
