SELECT key::text, chunk, chunk_text, distance, score, model
FROM pgmeaning.similar(%(collection)s, %(key)s, k => %(k)s, filter => %(filter)s, filter_params => %(filter_params)s::text[], mode => %(mode)s, candidates => %(candidates)s, "group" => %(group)s)
