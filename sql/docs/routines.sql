-- The public functions and procedures, for the SQL reference.
SELECT p.proname, CASE p.prokind WHEN 'p' THEN 'procedure' ELSE 'function' END,
       string_to_array(pg_get_function_arguments(p.oid), ', '), pg_get_function_result(p.oid),
       obj_description(p.oid, 'pg_proc')
FROM pg_proc AS p
WHERE p.pronamespace = 'pgmeaning'::regnamespace AND p.proname !~ '^(_|on_change_)'
  AND NOT EXISTS (SELECT FROM pg_depend AS d WHERE d.objid = p.oid AND d.deptype = 'e')
ORDER BY p.proname, p.pronargs DESC, 3
