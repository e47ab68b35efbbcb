"""The process beside the database; a row's way through it is claim -> read -> fetch -> embed -> write."""
