-- How a search is done, and how many rows its filter is expected to let through.
SELECT p.kind, coalesce(p.indexed, false) AS indexed, p.candidates,
       round(pgmeaning._vectors_expected(t.vectors))::bigint AS vectors,
       CASE WHEN %(filter)s::text IS NOT NULL THEN round(pgmeaning._rows_expected(c,
            pgmeaning._condition(c, %(filter)s::text, %(filter_params)s::text[], path.own), path.own))::bigint
       END AS rows_expected
FROM pgmeaning._collection(%(collection)s) AS c
JOIN pgmeaning.target AS t ON t.collection_id = c.id AND t.model = c.model
CROSS JOIN LATERAL (SELECT pgmeaning._filter_path(current_setting('search_path')) AS own) AS path
CROSS JOIN LATERAL pgmeaning._search_plan(t, NULL, %(k)s, NULL) AS p
