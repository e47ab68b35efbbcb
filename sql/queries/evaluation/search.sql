-- Completed by client/hits.sql.
SELECT h.*, 1 AS query_index
FROM pgmeaning._search_by_vector(%(collection)s, %(query)s, %(vector)s, %(k)s, mode => %(mode)s,
    candidates => %(candidates)s, weights => %(weights)s::float8[], rank_constant => %(rank_constant)s,
    filter => %(filter)s, among => %(among)s::text[]) WITH ORDINALITY AS h
