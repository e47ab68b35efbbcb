-- How long one look at the database may take: nobody waits longer in front of a page.
SELECT pg_catalog.set_config('statement_timeout', %(milliseconds)s::text, false)
