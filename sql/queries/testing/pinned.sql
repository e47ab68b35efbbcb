-- The caller's own values of settings.
SELECT s.name, pg_catalog.current_setting(s.name) FROM pg_catalog.unnest(%(names)s::text[]) AS s (name)
