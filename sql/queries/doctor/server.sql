-- What is wrong with the server and the database, as seen by this role.
SELECT 'extension' AS kind, 'dblink' AS thing, 'it is not installed: a query that is not in the cache cannot be '
       'embedded within a statement, other than after CALL pgmeaning.prepare(...)' AS problem,
       'install contrib on the server, then: pgmeaning migrate' AS remedy, NULL AS fix
WHERE NOT EXISTS (SELECT FROM pg_extension AS e WHERE e.extname = 'dblink')
UNION ALL
SELECT 'setting', 'autovacuum', 'it is off: the queue and the inbox grow with every change', 'set autovacuum = on', NULL
WHERE current_setting('autovacuum')::bool IS FALSE OR current_setting('track_counts')::bool IS FALSE
UNION ALL
SELECT 'setting', 'max_connections', format('%%s of %%s connections are in use, and a sidecar takes about 12', n, most),
       'raise max_connections, or let applications go through a pooler', NULL
FROM (SELECT count(*) AS n, current_setting('max_connections')::int
                            - current_setting('superuser_reserved_connections')::int AS most
      FROM pg_stat_activity WHERE backend_type = 'client backend') AS u
WHERE n > most - 12
UNION ALL
SELECT 'bloat', b.relation::text, format('%%s dead rows beside %%s: VACUUM does not keep up', b.dead, b.live),
       format('VACUUM %%s; look for transactions that stay open, and for autovacuum settings', b.relation),
       format('VACUUM %%s', b.relation)
FROM (SELECT c.oid::regclass AS relation, pg_stat_get_dead_tuples(c.oid) AS dead, pg_stat_get_live_tuples(c.oid) AS live
      FROM pg_class AS c JOIN pg_namespace AS n ON n.oid = c.relnamespace
      WHERE n.nspname IN ('pgmeaning', 'pgmeaning_data') AND c.relkind = 'r') AS b
WHERE b.dead > 20000 AND b.dead > 2 * b.live
UNION ALL
SELECT 'transaction', format('session %%s of %%I', a.pid, a.usename),
       format('its transaction has been open since %%s: no VACUUM removes what was deleted since',
              a.xact_start::timestamptz(0)),
       format('end it: SELECT pg_terminate_backend(%%s)', a.pid), NULL
FROM pg_stat_activity AS a
WHERE a.datname = current_database() AND a.xact_start < now() - %(longest)s AND a.backend_xmin IS NOT NULL
      AND a.pid <> pg_backend_pid() AND a.backend_type = 'client backend'
UNION ALL
SELECT 'rights', a.role,
       'a sidecar runs as this superuser: whoever owns an attached table can run code with its rights',
       'pgmeaning migrate --roles, and run it as pgmeaning_sidecar', NULL
FROM (SELECT DISTINCT r.rolname::text AS role FROM pg_stat_activity AS a
      JOIN pg_roles AS r ON r.oid = a.usesysid AND r.rolsuper
      WHERE a.datname = current_database() AND a.application_name LIKE 'pgmeaning maintenance %%') AS a
WHERE EXISTS (SELECT FROM pgmeaning.collection AS c JOIN pg_class AS s ON s.oid = c.source
              JOIN pg_roles AS o ON o.oid = s.relowner AND NOT o.rolsuper)
UNION ALL
SELECT 'rights', g.role, format('it lacks what reading %%s for the sidecar takes: %%s', c.name, g.statement),
       g.statement, NULL
FROM pgmeaning.collection AS c
CROSS JOIN LATERAL (SELECT n.statement, pgmeaning._reader_role() AS role
                    FROM pgmeaning._needed_grants(c) AS n WHERE NOT n.dispensable) AS g
WHERE EXISTS (SELECT FROM pg_class WHERE oid = c.source) AND pgmeaning._source_problem(c) IS NULL
UNION ALL
SELECT 'sidecar', 'none', 'no sidecar is alive: nothing is embedded, and new queries are not answered',
       'pgmeaning sidecar', NULL
WHERE NOT EXISTS (SELECT FROM pgmeaning.sidecars AS s WHERE s.alive)
UNION ALL
SELECT 'sidecar', coalesce(s.host || ' ' || s.pid, s.id::text),
       format('model %%s cannot run there: %%s', p.key, p.value),
       'mend what it says; it is tried again every minute', NULL
FROM pgmeaning.sidecars AS s CROSS JOIN LATERAL jsonb_each_text(s.problems) AS p WHERE s.alive
UNION ALL
SELECT 'sidecar', coalesce(s.host || ' ' || s.pid, s.id::text),
       format('it is of version %%s, the schema of %%s', s.version, i.version),
       'start one of the schema''s version', NULL
FROM pgmeaning.sidecars AS s CROSS JOIN pgmeaning.installation AS i WHERE s.alive AND s.version <> i.version
UNION ALL
SELECT 'model', t.model, 'rows or queries are owed its vectors, and no living sidecar was started for it',
       'start a sidecar without --model, or with this one', NULL
FROM pgmeaning.target AS t
WHERE EXISTS (SELECT FROM pgmeaning.sidecars AS s WHERE s.alive) AND NOT pgmeaning._is_attended(t.model)
GROUP BY t.model
