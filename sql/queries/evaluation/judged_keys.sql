SELECT k.key, k.is_there, k.has_vector FROM pgmeaning._judged_keys(%(collection)s, %(keys)s::jsonb[]) AS k
ORDER BY k.place
