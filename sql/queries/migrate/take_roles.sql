-- The installation becomes pgmeaning_admin's: what it consists of follows, see hand_over.sql.
ALTER SCHEMA pgmeaning OWNER TO pgmeaning_admin;
ALTER SCHEMA pgmeaning_data OWNER TO pgmeaning_admin;
ALTER TABLE pgmeaning.alembic_version OWNER TO pgmeaning_admin
