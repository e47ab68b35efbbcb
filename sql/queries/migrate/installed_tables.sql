SELECT pg_catalog.to_regclass('pgmeaning.alembic_version') IS NOT NULL AS versions,
       pg_catalog.to_regclass('pgmeaning.installation') IS NOT NULL AS installation
