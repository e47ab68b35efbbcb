-- The table was renamed: the policy functions contain its name.
UPDATE pgmeaning.collection AS c SET source_name = pgmeaning._relation_name(c.source)
WHERE c.id = %(collection_id)s RETURNING pgmeaning._make_policy_functions(c)
