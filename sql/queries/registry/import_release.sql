SELECT pgmeaning._import_release(%(release)s::jsonb, %(models)s::jsonb, %(probes)s::jsonb)
