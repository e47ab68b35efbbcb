-- Of these names those of models, and whether anybody may ask for them.
SELECT m.name, pgmeaning._is_served(m.name) FROM pgmeaning.model AS m WHERE m.name = ANY (%(models)s::text[])
