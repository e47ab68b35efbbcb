SELECT pgmeaning._register_models(%s::jsonb)
