-- What the schema pgmeaning consists of, without what belongs to single collections; ddl: how to make it again. Runs
-- with search_path = pg_catalog, on which definitions depend. No function of ours: it may be what is missing.
SELECT 'routine' AS kind,
       -- A look-up for each type: a join would read all of pg_type for each function.
       format('%s(%s)', p.proname, (SELECT string_agg((SELECT t.typname FROM pg_type AS t WHERE t.oid = u.type), ', '
                                                      ORDER BY u.i)
                                    FROM unnest(p.proargtypes) WITH ORDINALITY AS u (type, i))) AS name,
       hashtextextended(concat(p.prosrc, p.proconfig::text, p.prosecdef), 0)::text AS mark, NULL AS ddl
FROM pg_proc AS p
WHERE p.pronamespace = to_regnamespace('pgmeaning') AND p.proname !~ '^on_change_[0-9]+$'
UNION ALL
SELECT CASE c.relkind WHEN 'r' THEN 'column' WHEN 'v' THEN 'column of a view' ELSE 'column of a type' END,
       format('%s.%s', c.relname, a.attname), concat_ws(' ', t.typname, a.atttypmod, a.attnotnull), NULL
FROM pg_class AS c JOIN pg_attribute AS a ON a.attrelid = c.oid AND a.attnum > 0 AND NOT a.attisdropped
JOIN pg_type AS t ON t.oid = a.atttypid
WHERE c.relnamespace = to_regnamespace('pgmeaning') AND c.relkind IN ('r', 'v', 'c') AND c.relname <> 'alembic_version'
UNION ALL
SELECT 'sequence', c.relname, '', NULL FROM pg_class AS c
WHERE c.relnamespace = to_regnamespace('pgmeaning') AND c.relkind = 'S'
UNION ALL
SELECT 'materialized view', c.relname, '',
       format('CREATE MATERIALIZED VIEW pgmeaning.%I AS %s', c.relname, pg_get_viewdef(c.oid))
FROM pg_class AS c WHERE c.relnamespace = to_regnamespace('pgmeaning') AND c.relkind = 'm'
UNION ALL
SELECT 'constraint', format('%s.%s', r.relname, c.conname), c.contype::text,
       format('ALTER TABLE pgmeaning.%I ADD CONSTRAINT %I %s', r.relname, c.conname, pg_get_constraintdef(c.oid))
FROM pg_constraint AS c JOIN pg_class AS r ON r.oid = c.conrelid
WHERE c.connamespace = to_regnamespace('pgmeaning') AND c.contype IN ('p', 'u', 'f', 'c')
UNION ALL
SELECT 'index', c.relname, i.indisvalid::text, pg_get_indexdef(c.oid)
FROM pg_index AS i JOIN pg_class AS c ON c.oid = i.indexrelid
WHERE c.relnamespace = to_regnamespace('pgmeaning')
  AND NOT EXISTS (SELECT FROM pg_constraint AS k WHERE k.conindid = c.oid)
UNION ALL
-- Functions that speak of vectors have its schema in their path.
SELECT 'extension', e.extname, n.nspname, NULL
FROM pg_extension AS e JOIN pg_namespace AS n ON n.oid = e.extnamespace WHERE e.extname = 'vector'
