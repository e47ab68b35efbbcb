"""Agreements on models: whether a process, or another database, makes the vectors that this one has."""
