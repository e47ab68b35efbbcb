-- What is going on: status, failures, sidecars, models, releases.

-- Options of a model without what looks like a password or a key, at any depth: by its name, or by how such values
-- begin.
CREATE OR REPLACE FUNCTION pgmeaning._redacted(options jsonb, name text DEFAULT '') RETURNS jsonb
LANGUAGE plpgsql IMMUTABLE
AS $$
BEGIN
    RETURN CASE jsonb_typeof(options)
        WHEN 'object' THEN (SELECT coalesce(jsonb_object_agg(o.key, pgmeaning._redacted(o.value, o.key)), '{}')
                            FROM jsonb_each(options) AS o)
        WHEN 'array' THEN (SELECT coalesce(jsonb_agg(pgmeaning._redacted(o.value, name) ORDER BY o.ordinality), '[]')
                           FROM jsonb_array_elements(options) WITH ORDINALITY AS o)
        WHEN 'string' THEN CASE
            WHEN name ~* '(key|token|secret|password|passwd|pwd|auth|authorization|credentials?|bearer|cookie)$'
                 OR options #>> '{}' ~* '^(bearer |basic |sk-|hf_|gh[a-z]_|github_|xox|eyj)|://[^/]*@'
            THEN '"***"' ELSE options END
        ELSE options END;
END
$$;

-- Rows of a source or vector table: counted while that is cheap, else as many as its size suggests, by the last
-- ANALYZE. No other relation, and nothing that has its name by the time it is counted: a caller's view or policy would
-- bring functions along, which must not run as the owner. Nor must those of an index on an expression, which planning
-- runs, or of a constraint: where there are such, nothing is counted; nor what the owner of pgmeaning may not read.
-- SECURITY DEFINER: everybody may see how many rows a collection has, which a count as the caller would not tell.
CREATE OR REPLACE FUNCTION pgmeaning._rows_of(relation regclass, OUT rows bigint, OUT estimated bool)
LANGUAGE plpgsql STABLE SECURITY DEFINER
SET search_path = pg_catalog, pg_temp SET row_security = off SET lock_timeout = '200ms' SET constraint_exclusion = off
AS $$
DECLARE
    is_source bool := EXISTS (SELECT FROM pgmeaning.collection AS c WHERE c.source = relation);
    forbidden text := current_setting('restrict_nonsystem_relation_kind', true);  -- null: too old to know it
BEGIN
    IF NOT is_source AND NOT EXISTS (SELECT FROM pgmeaning.target AS t WHERE t.vectors = relation)
       OR NOT EXISTS (SELECT FROM pg_class AS r WHERE r.oid = relation AND r.relkind IN ('r', 'p')) THEN
        RETURN;
    END IF;
    rows := pgmeaning._estimate(relation, 64 * 1024 * 1024);
    estimated := rows IS NOT NULL;
    IF estimated THEN
        RETURN;
    ELSIF is_source AND (forbidden IS NULL
            -- Hardly ever, so what it costs to know that counts.
            OR EXISTS (SELECT FROM pg_class AS r WHERE r.oid = relation
                       AND (r.relhassubclass OR EXISTS (SELECT FROM pg_index AS i WHERE i.indrelid = r.oid
                                                        AND (i.indexprs IS NOT NULL OR i.indpred IS NOT NULL))))
               AND pgmeaning._has_foreign_code(relation)) THEN
        RAISE insufficient_privilege;
    ELSIF is_source THEN
        PERFORM set_config('restrict_nonsystem_relation_kind', 'view, foreign-table', true);
    END IF;
    EXECUTE format('SELECT count(*) FROM %s', pgmeaning._relation_name(relation)) INTO rows;
    PERFORM set_config('restrict_nonsystem_relation_kind', forbidden, true) WHERE is_source;
EXCEPTION
    -- Locked, since who looks at the status waits for nobody; not to be counted; or dropped meanwhile: then it is null.
    WHEN lock_not_available OR insufficient_privilege OR object_not_in_prerequisite_state OR undefined_table
         OR syntax_error THEN
        rows := pgmeaning._noted_rows(relation);
        estimated := CASE WHEN rows IS NOT NULL THEN true END;
END
$$;

-- Whether planning a count could run a function that a user made: of an index.
CREATE OR REPLACE FUNCTION pgmeaning._has_foreign_code(relation regclass) RETURNS bool
LANGUAGE sql STABLE
AS $$
    SELECT EXISTS (
        SELECT FROM pgmeaning._family(relation) AS f
        JOIN pg_index AS i ON i.indrelid = f AND (i.indexprs IS NOT NULL OR i.indpred IS NOT NULL)
        JOIN pg_depend AS d ON d.classid = 'pg_class'::regclass AND d.objid = i.indexrelid  -- none on the system's own
            AND d.refclassid IN ('pg_proc'::regclass, 'pg_operator'::regclass, 'pg_type'::regclass))
$$;

-- How many rows a table has as the server notes it without a look: a second behind, or as of the last ANALYZE.
CREATE OR REPLACE FUNCTION pgmeaning._noted_rows(relation regclass) RETURNS bigint
LANGUAGE sql STABLE
AS $$
    SELECT sum(greatest(pg_stat_get_live_tuples(c.oid), c.reltuples, 0))::bigint
    FROM pgmeaning._family(relation) AS f JOIN pg_class AS c ON c.oid = f WHERE c.relkind = 'r'
$$;

-- How many rows a table has that is larger than so many bytes, by its size: as the planner does, its density is taken
-- to be what it was at the last ANALYZE. Null: it is smaller, or was never analyzed.
CREATE OR REPLACE FUNCTION pgmeaning._estimate(relation regclass, bytes bigint) RETURNS bigint
LANGUAGE sql STABLE
SET enable_seqscan = off SET enable_hashjoin = off SET enable_mergejoin = off
AS $$
    WITH RECURSIVE family AS (
        SELECT relation::oid AS member
        UNION ALL
        SELECT i.inhrelid FROM pg_inherits AS i JOIN family AS f ON i.inhparent = f.member
    ), part AS MATERIALIZED (
        SELECT r.reltuples, r.relpages, pg_relation_size(r.oid) AS size
        FROM family AS f JOIN pg_class AS r ON r.oid = f.member WHERE r.relkind = 'r'
    )
    SELECT sum(p.reltuples / greatest(p.relpages, 1) * p.size / current_setting('block_size')::int)::bigint
    FROM part AS p HAVING sum(p.size) > bytes AND min(p.reltuples) >= 0
$$;

CREATE OR REPLACE FUNCTION pgmeaning._row_count(relation regclass) RETURNS bigint
LANGUAGE sql STABLE
AS $$ SELECT (pgmeaning._rows_of(relation)).rows $$;

-- Rows that are owed, with those that a first scan has yet to see: never more than there are, or are queued.
CREATE OR REPLACE FUNCTION pgmeaning._owed(queued bigint, source_rows bigint, t pgmeaning.target) RETURNS bigint
LANGUAGE sql STABLE
AS $$
    SELECT CASE WHEN t.scanning AND t.scan_finished_at IS NULL
                THEN least(queued + greatest(source_rows - t.scanned, 0), greatest(source_rows, queued))
                ELSE queued END
$$;

-- What a million tokens of a model cost: option price of an endpoint. Null: it is not known.
CREATE OR REPLACE FUNCTION pgmeaning._price(options jsonb) RETURNS float8
LANGUAGE sql IMMUTABLE
AS $$ SELECT CASE WHEN jsonb_typeof(options -> 'price') = 'number' THEN (options ->> 'price')::float8 END $$;

CREATE OR REPLACE VIEW pgmeaning.status AS
SELECT c.name AS collection,
       CASE WHEN r.oid IS NULL THEN c.source_name ELSE pgmeaning._relation_name(c.source) END AS source,
       CASE WHEN r.oid IS NULL AND pgmeaning._is_dropped(c.source) THEN 'orphaned'
            WHEN trouble.problem IS NOT NULL THEN 'broken'
            WHEN c.state = 'paused' THEN 'paused'
            WHEN trouble.unseen THEN 'checking'
            WHEN t.scanning THEN 'scanning' WHEN work.owed > 0 THEN 'embedding' ELSE 'ready' END AS state,
       t.model, t.dimensions, c.role,
       counts.source_rows, counts.vectors,
       -- What the first scan has yet to see is owed, too; but a row that was changed meanwhile is not owed twice.
       pgmeaning._owed(work.owed, counts.source_rows, t) AS owed,
       work.failed,
       CASE WHEN t.scanning THEN least(t.scanned / greatest(counts.source_rows, 1)::float8, 1) ELSE 1 END AS scanned,
       work.oldest_owed,
       trouble.problem,
       built.state AS index, built.progress AS index_progress, c.chunking,
       nullif(concat_ws('; ', coalesce(c.warning, CASE WHEN trouble.unseen THEN pgmeaning._watch_problem(c) END,
                                       CASE WHEN r.oid IS NOT NULL THEN pgmeaning._unseen_writes(c) END),
                        pgmeaning._model_warning(c.name, t.model), refused.warning), '') AS warning,
       counts.estimated OR work.many OR t.scanning AND t.scan_finished_at IS NULL AS estimated,
       pace.rows_per_second,
       make_interval(secs => nullif(pgmeaning._owed(work.owed, counts.source_rows, t), 0) / pace.rows_per_second)
           AS time_left,
       bill.price * used.tokens / 1e6 AS cost,
       bill.price * used.tokens / 1e6 / nullif(used.documents, 0)
           * pgmeaning._owed(work.owed, counts.source_rows, t) AS cost_left
FROM pgmeaning.collection AS c
JOIN pgmeaning.target AS t ON t.collection_id = c.id
JOIN pgmeaning.model AS of_model ON of_model.name = t.model
LEFT JOIN pg_catalog.pg_class AS r ON r.oid = c.source
LEFT JOIN pgmeaning._marks() AS m ON m.collection_id = c.id
LEFT JOIN pgmeaning._spread_tables() AS spread ON spread.relation = c.source
CROSS JOIN LATERAL (  -- where the catalog is as it was, maintenance has found what there is to find
    SELECT r.oid IS NOT NULL AND m.marks IS DISTINCT FROM c.marks AS unseen,
           CASE WHEN r.oid IS NULL THEN pgmeaning._orphan_problem(c)
                ELSE coalesce(c.problem, CASE WHEN m.marks IS DISTINCT FROM c.marks OR spread.relation IS NOT NULL
                                              THEN pgmeaning._source_problem(c) END,
                              CASE WHEN of_model.fingerprint <> t.fingerprint
                                   THEN format('model %s was changed after vectors were made: their fingerprints '
                                               'differ', t.model) END, t.scan_problem) END AS problem
    ) AS trouble
CROSS JOIN LATERAL (
    SELECT s.rows AS source_rows, v.rows AS vectors, coalesce(s.estimated OR v.estimated, false) AS estimated
    FROM pgmeaning._rows_of(c.source) AS s CROSS JOIN pgmeaning._rows_of(t.vectors) AS v) AS counts
LEFT JOIN LATERAL (
    SELECT 'a sidecar cannot run its model: ' || (s.problems ->> t.model) AS warning FROM pgmeaning.sidecar AS s
    WHERE s.heartbeat_at > clock_timestamp() - interval '15 seconds' AND s.problems ? t.model LIMIT 1) AS refused
    ON true
CROSS JOIN LATERAL pgmeaning._index_state(t.vectors) AS built
LEFT JOIN pgmeaning.usage AS used ON used.collection_id = c.id AND used.model = t.model
CROSS JOIN LATERAL (
    SELECT coalesce((SELECT s.price FROM pgmeaning.swap AS s WHERE c.id = s.new_id AND s.state = 'filling'),
                    pgmeaning._price(of_model.options)) AS price) AS bill
CROSS JOIN LATERAL (
    SELECT nullif(sum((s.rates ->> c.id::text)::float8), 0) AS rows_per_second FROM pgmeaning.sidecar AS s
    WHERE s.heartbeat_at > clock_timestamp() - interval '15 seconds') AS pace
CROSS JOIN LATERAL (
    SELECT count(*) FILTER (WHERE q.failed_at IS NULL) AS owed, count(q.failed_at) AS failed,
           min(q.owed_since) FILTER (WHERE q.failed_at IS NULL) AS since
    FROM pgmeaning.queue AS q WHERE q.collection_id = c.id AND q.model = t.model) AS queued
CROSS JOIN LATERAL (
    SELECT count(*) AS changes, min(i.written_at) AS since
    FROM pgmeaning._unfolded AS i WHERE i.collection_id = c.id) AS noted
CROSS JOIN LATERAL (  -- a row is owed once, however often it was changed; of very many changes, each is counted
    SELECT queued.failed, least(queued.since, noted.since) AS oldest_owed, noted.changes > 10000 AS many,
           queued.owed + CASE WHEN noted.changes = 0 OR noted.changes > 10000 THEN noted.changes
                              ELSE (SELECT count(DISTINCT coalesce(i.key::text, i.note, ''))
                                    FROM pgmeaning._unfolded AS i
                                    WHERE i.collection_id = c.id
                                      AND NOT EXISTS (SELECT FROM pgmeaning.queue AS q
                                                      WHERE q.collection_id = c.id AND q.model = t.model
                                                        AND q.key = i.key AND q.failed_at IS NULL))
                         END AS owed) AS work;
COMMENT ON VIEW pgmeaning.status
    IS 'One row per collection and model: rows, vectors (one per chunk, where documents are cut), owed and failed.';

CREATE OR REPLACE VIEW pgmeaning.index_report AS
SELECT c.name AS collection, t.model, coalesce(present.kind, 'none') AS index, present.dimensions AS index_dimensions,
       pg_relation_size(present.index) AS index_bytes, coalesce(x.wanted, 'auto') AS wanted, x.built_at,
       x.build_seconds, x.kind AS measured, x.measured_at, x.measured_rows, x.sample, x.recall_goal, x.recall,
       x.recall >= x.recall_goal AS reached, x.candidates, x.milliseconds, x.milliseconds_95, x.exact_milliseconds,
       coalesce(x.problem, CASE WHEN x.recall < x.recall_goal
                THEN format('recall %s is the best that %s candidates reach; the goal is %s',
                            round(x.recall::numeric, 4), x.candidates, x.recall_goal) END)
       AS problem, pgmeaning._vector_type(t.vectors) AS vector_type,
       pg_table_size(made.oid) / nullif(pgmeaning._row_count(made.oid), 0) AS bytes_per_vector
FROM pgmeaning.collection AS c
JOIN pgmeaning.target AS t ON t.collection_id = c.id
LEFT JOIN pg_class AS made ON made.oid = t.vectors
LEFT JOIN pgmeaning.vector_index AS x ON x.collection_id = t.collection_id AND x.model = t.model
LEFT JOIN LATERAL (SELECT i.* FROM pgmeaning._indexes(t.vectors) AS i WHERE i.valid
                   ORDER BY i.kind = x.kind DESC NULLS LAST,
                            array_position('{direct,vchordrq,diskann,signature,prefix}', i.kind)
                   LIMIT 1) AS present ON true;
COMMENT ON VIEW pgmeaning.index_report
    IS 'The index of each collection''s vectors, and what was measured of it: recall, time, candidates.';

CREATE OR REPLACE VIEW pgmeaning.failures AS
SELECT c.name AS collection, q.key, q.model, q.attempts, q.last_error AS error, q.failed_at,
       q.failed_at IS NULL AS will_retry, CASE WHEN q.failed_at IS NULL THEN q.visible_at END AS next_attempt_at
FROM pgmeaning.queue AS q JOIN pgmeaning.collection AS c ON c.id = q.collection_id
WHERE q.last_error IS NOT NULL;
COMMENT ON VIEW pgmeaning.failures
    IS 'Rows that could not be embedded, and why; pgmeaning.retry(collection) tries them again.';

CREATE OR REPLACE VIEW pgmeaning.sidecars AS
SELECT s.id, CASE WHEN may.manage THEN s.host END AS host, CASE WHEN may.manage THEN s.pid END AS pid, s.version,
       s.heartbeat_at > clock_timestamp() - interval '15 seconds' AS alive, s.models,
       s.problems, s.rows_done, s.started_at, s.heartbeat_at,
       (SELECT count(*) FROM pgmeaning.queue AS q
        WHERE q.claimed_by = s.id AND q.failed_at IS NULL AND q.visible_at > now()) AS claimed, s.named
FROM pgmeaning.sidecar AS s
CROSS JOIN (SELECT has_table_privilege('pgmeaning.sidecar', 'UPDATE') AS manage) AS may;
COMMENT ON VIEW pgmeaning.sidecars
    IS 'The sidecars that have connected, the models that each has loaded, and why one cannot run. Their hosts are '
       'shown to who may manage them.';

CREATE OR REPLACE VIEW pgmeaning.models AS
SELECT m.name, m.kind, m.status, m.dimensions, m.min_dimensions, m.max_tokens, m.modalities, m.backend, m.location,
       m.revision, m.template, m.pooling, m.normalize, m.query_prompt, m.document_prompt,
       CASE WHEN has_table_privilege('pgmeaning.model', 'UPDATE') THEN pgmeaning._redacted(m.options) END AS options,
       m.fingerprint, (SELECT count(*) FROM pgmeaning.target AS t WHERE t.model = m.name) AS collections, m.reranker,
       m.allowed, m.replacement,
       (SELECT coalesce('release ' || p.origin, 'first use here') FROM pgmeaning.model_probe AS p
        WHERE p.model = m.name ORDER BY p.number LIMIT 1) AS probed
FROM pgmeaning.model AS m;
COMMENT ON VIEW pgmeaning.models
    IS 'The registry: everything that changes a model''s vectors, and how many collections have them. '
       'Options are shown to whoever may change them, without passwords and keys. probed: where the vectors come from '
       'that tell whether a process runs this very model; null: it has not run yet.';

-- What it takes to run a model: all of its options for who may read them, as sidecars; for others, who may load it in a
-- process of their own, what changes vectors, but not what is sent to an endpoint besides.
CREATE OR REPLACE VIEW pgmeaning._model_options AS
SELECT m.name, CASE WHEN has_column_privilege('pgmeaning.model', 'options', 'SELECT') THEN m.options
                    ELSE pgmeaning._redacted(m.options - 'extra_body') END AS options
FROM pgmeaning.model AS m;

CREATE OR REPLACE VIEW pgmeaning.releases AS
SELECT r.name, r.embedder, r.reranker, r.dimensions, r.current, m.fingerprint AS embedder_fingerprint,
       m.status = 'default' AND (r.reranker IS NULL OR EXISTS (SELECT FROM pgmeaning.model AS j
                                                               WHERE j.name = r.reranker AND j.status = 'default'))
       AS defaults, r.signed_off_by, r.signed_off_at
FROM pgmeaning.release AS r JOIN pgmeaning.model AS m ON m.name = r.embedder;
COMMENT ON VIEW pgmeaning.releases
    IS 'The releases, which one this database follows, and whether its models are the defaults.';
