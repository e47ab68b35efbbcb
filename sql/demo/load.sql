-- Make the table hold these rows; unchanged ones are left alone, so that they are not embedded again.
WITH given AS (
    SELECT * FROM unnest(%(modules)s::text[], %(names)s::text[], %(signatures)s::text[], %(docs)s::text[])
        AS g (module, name, signature, doc)
), gone AS (
    DELETE FROM public.docstrings AS d
    WHERE NOT EXISTS (SELECT FROM given AS g WHERE (g.module, g.name) = (d.module, d.name))
)
INSERT INTO public.docstrings AS d (module, name, signature, doc)
SELECT g.module, g.name, g.signature, g.doc FROM given AS g
ON CONFLICT (module, name) DO UPDATE SET signature = excluded.signature, doc = excluded.doc
WHERE (d.signature, d.doc) IS DISTINCT FROM (excluded.signature, excluded.doc)
