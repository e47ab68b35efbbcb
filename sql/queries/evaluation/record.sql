-- All that one evaluation found, or none of it.
SELECT count(pgmeaning.record_evaluation(r.collection, r.other_collection, r.queries, r.measure, r.value, r.other_value,
                                         r.difference_low, r.difference_high, r.definition))
FROM jsonb_to_recordset(%(rows)s::jsonb) AS r (collection text, other_collection text, queries int, measure text,
    value float8, other_value float8, difference_low float8, difference_high float8, definition jsonb)
