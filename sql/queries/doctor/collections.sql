-- What is wrong with collections: as their status says, and what drifted since a sidecar last looked. fix: a statement
-- that mends it and can do no harm.
WITH of AS MATERIALIZED (
    SELECT c, s.collection, s.problem, s.warning, s.state, t.vectors, t.model,
           format('SELECT pgmeaning._look_after(%%s)', c.id) AS look_after
    FROM pgmeaning.status AS s
    JOIN pgmeaning.collection AS c ON c.name = s.collection
    JOIN pgmeaning.target AS t ON t.collection_id = c.id AND t.model = s.model
)
SELECT 'collection' AS kind, o.collection AS thing, o.problem, CASE o.state WHEN 'orphaned' THEN
           format('make a table of that name and key, or: SELECT pgmeaning.detach(%%L)', o.collection)
           ELSE 'mend the table: a sidecar notices it, and embeds what changed meanwhile' END AS remedy, NULL AS fix
FROM of AS o WHERE o.problem IS NOT NULL
UNION ALL
SELECT 'trigger', format('%%s on %%s', m.trigger, m.relation), 'it is missing or disabled: writes are not noticed',
       'a sidecar makes it again and compares all rows', o.look_after
FROM of AS o CROSS JOIN LATERAL pgmeaning._missing_triggers(o.c) AS m WHERE o.problem IS NULL
UNION ALL
SELECT 'view', format('%%I.%%I', (o.c).view_schema, o.collection || '_embedding'), 'the view is gone',
       'a sidecar makes it again', o.look_after
FROM of AS o
WHERE o.problem IS NULL AND NOT EXISTS (SELECT FROM pgmeaning._views_on(o.vectors, o.collection))
UNION ALL
SELECT 'drift', o.collection, 'its table, or something of ours that it needs, changed and no sidecar has looked yet',
       'start a sidecar: it mends what it can, and compares the rows that may have changed', o.look_after
FROM of AS o
WHERE o.state = 'checking' AND EXISTS (SELECT FROM pgmeaning._views_on(o.vectors, o.collection))
      AND NOT EXISTS (SELECT FROM pgmeaning._missing_triggers(o.c))
UNION ALL
SELECT 'warning', o.collection, o.warning, 'as it says', NULL FROM of AS o
WHERE o.warning IS NOT NULL AND o.state <> 'checking'
UNION ALL
SELECT 'paused', o.collection, 'it is paused: changes are noted, and not embedded',
       format('SELECT pgmeaning.resume(%%L)', o.collection), NULL FROM of AS o WHERE o.state = 'paused'
UNION ALL
SELECT 'index', x.collection, x.problem, format('see: pgmeaning index %%s', pgmeaning._shell_word(x.collection)), NULL
FROM pgmeaning.index_report AS x WHERE x.problem IS NOT NULL
UNION ALL
SELECT 'index', o.collection, 'a build that failed has left an index that no search uses',
       'a sidecar drops it and builds it again', NULL
FROM of AS o CROSS JOIN LATERAL pgmeaning._index_state(o.vectors) AS b WHERE b.state LIKE 'broken %%'
UNION ALL
SELECT 'failures', o.collection, format('%%s rows failed, such as: %%s', count(*), min(f.error)),
       format('mend the cause, then: SELECT pgmeaning.retry(%%L)', o.collection), NULL
FROM of AS o JOIN pgmeaning.queue AS q ON q.collection_id = (o.c).id AND q.failed_at IS NOT NULL
CROSS JOIN LATERAL (SELECT left(q.last_error, 200) AS error) AS f
GROUP BY o.collection
UNION ALL
SELECT 'probes', o.model, 'vectors were made by it, and nothing is kept that tells whether it is still the same',
       'start a sidecar that runs it: it keeps probes', NULL
FROM of AS o
WHERE EXISTS (SELECT FROM pgmeaning.usage AS u WHERE u.collection_id = (o.c).id AND u.documents > 0)
      AND NOT EXISTS (SELECT FROM pgmeaning.model_probe AS p WHERE p.model = o.model)
GROUP BY o.model
