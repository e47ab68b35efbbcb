"""`pgmeaning try FILE`: somebody's own rows, searchable, in one command."""
