-- Why the collection's rows cannot all be seen, by this role, just now; null: they can. Hidden rows would look deleted.
SELECT pgmeaning._access_problem(c) FROM pgmeaning.collection AS c WHERE c.id = %(collection_id)s
