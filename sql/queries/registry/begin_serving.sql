SELECT pgmeaning._begin_serving(%(sidecar)s, %(model)s, %(fingerprint)s, %(probes)s::jsonb)
