-- By jsonb: a version that was never released had no hash of its migrations.
SELECT i.functions_hash, to_jsonb(i) ->> 'migrations_hash' AS migrations_hash FROM pgmeaning.installation AS i
