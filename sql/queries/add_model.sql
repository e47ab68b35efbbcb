SELECT pgmeaning._add_model(%(model)s::jsonb)
