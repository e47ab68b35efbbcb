WITH present AS ({catalog})
UPDATE pgmeaning.installation SET catalog = (SELECT jsonb_agg(to_jsonb(p) ORDER BY p.kind, p.name) FROM present AS p)
