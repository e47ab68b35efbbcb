-- Writes rows of a table, given as JSON, in their order; a column that no row has keeps its default.
WITH written AS (
    INSERT INTO {source} AS s ({columns})
    SELECT {values}
    FROM jsonb_array_elements(%(rows)s) WITH ORDINALITY AS e (row, place)
    CROSS JOIN LATERAL jsonb_populate_record(NULL::{source}, e.row) AS r
    ORDER BY e.place
    {conflict}
    RETURNING {key_json} AS key
)
SELECT w.key::text FROM written AS w
