-- What filters on metadata for equality are answered from.
CREATE INDEX ON {table} USING gin (metadata jsonb_path_ops)
