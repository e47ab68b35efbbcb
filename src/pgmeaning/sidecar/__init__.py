"""The process beside the database. A row passes through it as claim -> read -> fetch -> embed -> write."""
