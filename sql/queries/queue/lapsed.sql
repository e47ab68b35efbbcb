-- How many of these claims still owe their row, as it was claimed: their leases lapsed. After `finish`, in its
-- transaction: what is not there any more was changed meanwhile, or finished by another sidecar.
SELECT count(*) FROM pgmeaning.queue AS q
WHERE q.collection_id = %(collection_id)s AND q.model = %(model)s AND q.key = ANY (%(keys)b::text[]::jsonb[])
  AND q.generation = ANY (%(generations)b::bigint[])
