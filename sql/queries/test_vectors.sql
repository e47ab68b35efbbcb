SELECT v.ctid::text, v.embedding FROM {vectors} AS v
