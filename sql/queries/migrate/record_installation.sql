INSERT INTO pgmeaning.installation (functions_hash, version, migrations_hash) VALUES (%s, %s, %s)
ON CONFLICT (only_one) DO UPDATE
    SET functions_hash = excluded.functions_hash, version = excluded.version,
        migrations_hash = excluded.migrations_hash,
        migrated_at = now()
