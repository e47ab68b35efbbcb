-- Read as jsonb: a version that was never released has no column for the hash of its migrations.
SELECT i.functions_hash, to_jsonb(i) ->> 'migrations_hash' AS migrations_hash FROM pgmeaning.installation AS i
