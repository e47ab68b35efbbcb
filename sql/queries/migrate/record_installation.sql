INSERT INTO pgmeaning.installation (functions_hash, version) VALUES (%s, %s)
ON CONFLICT (only_one) DO UPDATE SET functions_hash = excluded.functions_hash, version = excluded.version, migrated_at = now()
