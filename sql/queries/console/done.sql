-- Of each collection, how many documents sidecars have embedded so far, or taken over: what a rate is made of.
SELECT c.name, u.documents + u.reused
FROM pgmeaning.usage AS u JOIN pgmeaning.collection AS c ON c.id = u.collection_id
