-- Whether there are collections but these.
SELECT EXISTS (SELECT FROM pgmeaning.collection AS c WHERE c.name <> ALL (%s::text[]))
