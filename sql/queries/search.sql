SELECT key::text, chunk, chunk_text, distance, score, model, vector_rank, text_rank
FROM pgmeaning.search(%(collection)s::text, %(query)s::text, k => %(k)s, filter => %(filter)s, filter_params => %(filter_params)s::text[], mode => %(mode)s, candidates => %(candidates)s,
    timeout => %(timeout)s, "group" => %(group)s)
