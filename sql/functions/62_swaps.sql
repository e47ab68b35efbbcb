-- How far swaps have come, and what is to be done next.

-- Whether rows that a scan found still lack their vector, though all have been looked at.
-- SECURITY DEFINER: everybody may see how far a swap is, and the queue holds keys.
CREATE OR REPLACE FUNCTION pgmeaning._owes_backfill(collection_id int) RETURNS bool
LANGUAGE sql STABLE SECURITY DEFINER
AS $$ SELECT EXISTS (SELECT FROM pgmeaning.queue AS q
                     WHERE q.collection_id = $1 AND q.priority = 0 AND q.failed_at IS NULL) $$;

-- What a swap waits for and what to do: 'broken', 'paused', 'waiting' for a sidecar, 'held' by its pace, 'filling',
-- 'closed' by a gate, 'ready'. gates: those of the generation that does not serve.
CREATE OR REPLACE FUNCTION pgmeaning._swap_state(s pgmeaning.swap, OUT state text, OUT problem text, OUT next text,
    OUT gates jsonb)
LANGUAGE plpgsql STABLE
AS $$
DECLARE
    st    record;
    t     pgmeaning.target;
    shut  text;  -- the first gate that is closed
BEGIN
    SELECT k.* INTO st FROM pgmeaning.status AS k JOIN pgmeaning.collection AS c ON c.name = k.collection
    WHERE c.id = s.new_id;
    SELECT k.* INTO t FROM pgmeaning.target AS k WHERE k.collection_id = s.new_id;
    SELECT jsonb_agg(jsonb_build_object('gate', g.gate, 'passes', g.passes, 'finding', g.finding)),
           (array_agg(g.gate ORDER BY g.judgement) FILTER (WHERE NOT g.passes))[1] INTO gates, shut
    FROM pgmeaning._swap_gates(s.id, CASE s.state WHEN 'filling' THEN s.new_id ELSE s.old_id END) AS g;
    problem := coalesce(st.problem, (SELECT format('%s: %s', t.model, k.problems ->> t.model)
                                     FROM pgmeaning.sidecars AS k WHERE k.alive AND k.problems ? t.model LIMIT 1));
    IF s.state = 'activated' THEN
        state := s.state;
        next := pgmeaning._next_step('finish', s.collection) || '; to go back: '
                || pgmeaning._next_step('rollback', s.collection);
    ELSIF st.state IN ('broken', 'orphaned') THEN
        state := 'broken';
        next := 'mend what problem says, or: ' || pgmeaning._next_step('cancel', s.collection);
    ELSIF st.state = 'paused' THEN
        state := 'paused';
        next := format('SELECT pgmeaning.resume(%L), or: pgmeaning resume %s', s.collection,
                       pgmeaning._shell_word(s.collection));
    ELSIF (st.owed > 0 OR st.scanned < 1) AND NOT pgmeaning._is_attended(t.model) THEN
        state := 'waiting';
        problem := coalesce(problem, format('no sidecar runs that has model %s', t.model));
        next := 'pgmeaning sidecar';
    ELSIF problem IS NOT NULL THEN
        state := 'waiting';
        next := 'mend what problem says: a sidecar goes on by itself';
    ELSIF pgmeaning._is_held(t) THEN
        state := 'held';
        next := format('evaluate it: pgmeaning evaluate %s --queries FILE; to go on: %s',
                       pgmeaning._shell_word(s.collection), pgmeaning._next_step('adjust', s.collection));
    ELSIF t.scan_finished_at IS NULL OR pgmeaning._owes_backfill(s.new_id) THEN
        state := 'filling';
        next := format('wait, as with: CALL pgmeaning.wait_for(%L)',
                       (SELECT c.name FROM pgmeaning.collection AS c WHERE c.id = s.new_id));
    ELSIF shut = 'failures' THEN
        state := 'closed';
        next := format('see pgmeaning failures, then: SELECT pgmeaning.retry(%L)', st.collection);
    ELSIF shut IS NOT NULL THEN
        state := 'closed';
        next := format('see gates; to give it up: %s', pgmeaning._next_step('cancel', s.collection));
    ELSE
        state := 'ready';
        next := pgmeaning._next_step('activate', s.collection);
    END IF;
END
$$;

CREATE OR REPLACE VIEW pgmeaning.swaps AS
SELECT s.collection, s.id AS swap, coalesce(now.state, s.state) AS state, coalesce(s.ended_at IS NULL, false) AS open,
       o.name AS old, n.name AS new, o.model AS old_model, coalesce(n.model, s.changes ->> 'model') AS new_model,
       s.changes, st.source_rows AS rows, st.scanned AS filled, st.vectors, st.owed, st.failed,
       u.reused, u.documents, u.tokens, u.tokens / 1e6 * s.price AS cost, u.cut,
       t.scanned / nullif(date_part('epoch', coalesce(t.scan_finished_at, clock_timestamp()) - s.started_at), 0)
           AS rows_per_second,
       CASE WHEN t.scan_finished_at IS NULL AND t.scanned > 0
            THEN (clock_timestamp() - s.started_at) * (greatest(st.source_rows - t.scanned, 0) / t.scanned::float8) END
           AS time_left,
       old_st.owed AS old_owed, old_st.failed AS old_failed,
       now.gates,
       now.problem, s.overruled, now.next, s.started_at, s.started_by, s.activated_at, s.ended_at
FROM pgmeaning.swap AS s
LEFT JOIN pgmeaning.collection AS o ON o.id = s.old_id
LEFT JOIN pgmeaning.collection AS n ON n.id = s.new_id
LEFT JOIN pgmeaning.target AS t ON t.collection_id = n.id
LEFT JOIN pgmeaning.usage AS u ON u.collection_id = n.id
LEFT JOIN pgmeaning.status AS st ON st.collection = n.name
LEFT JOIN pgmeaning.status AS old_st ON old_st.collection = o.name
LEFT JOIN LATERAL (SELECT (pgmeaning._swap_state(s)).*) AS now ON s.state IN ('filling', 'activated');
COMMENT ON VIEW pgmeaning.swaps
    IS 'Every swap: both generations, how far the new one is, what must hold before it serves, and the next command.';
