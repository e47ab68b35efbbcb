-- The public functions and procedures, for the SQL reference; of a row type of ours, its columns.
SELECT p.proname, CASE p.prokind WHEN 'p' THEN 'procedure' ELSE 'function' END,
       string_to_array(pg_get_function_arguments(p.oid), ', '), pg_get_function_result(p.oid),
       (SELECT array_agg(format('%s %s', a.attname, format_type(a.atttypid, a.atttypmod)) ORDER BY a.attnum)
        FROM pg_type AS t JOIN pg_attribute AS a ON a.attrelid = t.typrelid AND a.attnum > 0 AND NOT a.attisdropped
        WHERE t.oid = p.prorettype AND t.typnamespace = p.pronamespace),
       obj_description(p.oid, 'pg_proc')
FROM pg_proc AS p
WHERE p.pronamespace = 'pgmeaning'::regnamespace AND p.proname !~ '^(_|on_change_)'
  AND NOT EXISTS (SELECT FROM pg_depend AS d WHERE d.objid = p.oid AND d.deptype = 'e')
ORDER BY p.proname, p.pronargs DESC, 3
