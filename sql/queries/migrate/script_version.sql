-- In a printed migration: what Alembic writes itself.
CREATE TABLE IF NOT EXISTS pgmeaning.alembic_version (
    version_num varchar(32) NOT NULL CONSTRAINT alembic_version_pkc PRIMARY KEY
);
DELETE FROM pgmeaning.alembic_version;
INSERT INTO pgmeaning.alembic_version (version_num) VALUES (%s)
