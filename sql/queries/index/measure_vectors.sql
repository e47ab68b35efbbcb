SELECT v.ctid::text, pgmeaning._whole(v.embedding) FROM {vectors} AS v
