SELECT pgmeaning._register_releases(%s::jsonb)
