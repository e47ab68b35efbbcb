"""A PostgreSQL of our own for the demo and the tests; nothing else here depends on it."""
