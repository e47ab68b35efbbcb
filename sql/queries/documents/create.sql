-- A table for texts with metadata. What a framework keeps of a document besides these is in "extra".
CREATE TABLE {table} (
    id text PRIMARY KEY DEFAULT gen_random_uuid()::text,
    content text,
    metadata jsonb NOT NULL DEFAULT '{{}}',
    extra jsonb
)
