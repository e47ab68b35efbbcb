-- The table was renamed: the policy functions contain its name, and rows may have been read by the old one until a
-- moment ago, from a table that has it now.
UPDATE pgmeaning.collection AS c SET source_name = pgmeaning._relation_name(c.source)
WHERE c.id = %(collection_id)s RETURNING pgmeaning._make_policy_functions(c), pgmeaning._start_scan(c)
