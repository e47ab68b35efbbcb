-- After the down migrations only Alembic's own table is left.
DO $$
BEGIN
    DROP TABLE IF EXISTS pgmeaning.alembic_version;
    DROP SCHEMA IF EXISTS pgmeaning;
    DROP SERVER IF EXISTS pgmeaning_loopback CASCADE;
END
$$
