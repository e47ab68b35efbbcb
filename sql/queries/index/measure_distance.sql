SELECT pgmeaning._farthest(%(vector)s, array_agg(v.embedding)) FROM {vectors} AS v
WHERE v.ctid = ANY (%(places)s::tid[])
