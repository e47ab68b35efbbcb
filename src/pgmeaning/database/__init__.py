"""Everything that talks to PostgreSQL: connections, the SQL files, values, the registry's targets, migrations."""
