-- Whether there are collections other than these.
SELECT EXISTS (SELECT FROM pgmeaning.collection AS c WHERE c.name <> ALL (%s::text[]))
