-- Making the other generation serve: what must hold, and the change of names.

-- Whether the caller may compare a source with its vectors: sees all of its rows, and could run nobody's code by it but
-- its own, or a superuser's. Else the owner of the table could make an index on an expression at any moment.
CREATE OR REPLACE FUNCTION pgmeaning._may_compare(c pgmeaning.collection) RETURNS bool
LANGUAGE plpgsql STABLE
AS $$
BEGIN
    RETURN NOT pgmeaning._has_foreign_code(c.source) AND NOT pgmeaning._row_security_binds(c.source, current_user)
        AND current_setting('restrict_nonsystem_relation_kind', true) IS NOT NULL
        AND NOT EXISTS (SELECT FROM pgmeaning._family(c.source) AS f JOIN pg_class AS r ON r.oid = f
                        JOIN pg_roles AS o ON o.oid = r.relowner WHERE o.rolname <> current_user AND NOT o.rolsuper)
        AND (SELECT bool_and(has_column_privilege(c.source, col, 'SELECT'))
             FROM unnest(c.key_columns || pgmeaning._embedded_columns(c)) AS col)
        AND (SELECT has_table_privilege(t.vectors, 'SELECT') FROM pgmeaning.target AS t WHERE t.collection_id = c.id);
END
$$;

-- Keys of up to so many rows with content that have no vector of this very content; of those among `keys`, if given,
-- whose vector was not made since then either.
CREATE OR REPLACE FUNCTION pgmeaning._rows_without_vector(c pgmeaning.collection, most int, keys jsonb[] DEFAULT NULL,
    since timestamptz DEFAULT NULL) RETURNS jsonb[]
LANGUAGE plpgsql VOLATILE SET TimeZone = 'UTC' SET DateStyle = 'ISO, YMD' SET IntervalStyle = 'postgres'
SET bytea_output = 'hex' SET extra_float_digits = '1' SET lc_monetary = 'C'
SET constraint_exclusion = off SET enable_seqscan = on SET enable_hashjoin = on SET enable_mergejoin = on
AS $$
DECLARE
    had     text := current_setting('restrict_nonsystem_relation_kind', true);
    vectors text := pgmeaning._relation_name((pgmeaning._active_target(c)).vectors);
    source  text := pgmeaning._relation_name(c.source);
    found   jsonb[];
BEGIN
    PERFORM set_config('restrict_nonsystem_relation_kind', 'view, foreign-table', true);
    EXECUTE format('SELECT ARRAY(SELECT %s FROM %s WHERE %s AND (%s) IS NOT NULL '
                   'AND NOT EXISTS (SELECT FROM %s AS v WHERE %s AND v.chunk = 0 '
                   'AND (v.content_hash = %4$s OR v.embedded_at > $3)) LIMIT $1)',
        pgmeaning._key_json('s', c.key_columns, c),
        CASE WHEN keys IS NULL THEN source || ' AS s'
             ELSE format('unnest($2) AS u (key) CROSS JOIN LATERAL jsonb_to_record(u.key) AS k (%s) JOIN %s AS s ON %s',
                         pgmeaning._key_record(c.key_columns, c.key_types), source,
                         pgmeaning._key_match('s', c.key_columns, 'k', c.key_columns, c.key_types)) END,
        pgmeaning._source_guard(c), pgmeaning._content_hash('s', c), vectors,
        pgmeaning._key_match('s', c.key_columns, 'v', c.vector_key_columns, c.key_types))
    INTO found USING most, keys, since;
    PERFORM set_config('restrict_nonsystem_relation_kind', had, true);
    RETURN found;
END
$$;

-- Those of these keys that nobody owes: neither noted nor queued.
CREATE OR REPLACE FUNCTION pgmeaning._not_owed(collection_id int, keys jsonb[]) RETURNS jsonb[]
LANGUAGE plpgsql VOLATILE
AS $$
BEGIN
    RETURN ARRAY(SELECT k FROM unnest(keys) AS k
                 WHERE NOT EXISTS (SELECT FROM pgmeaning._unfolded AS i
                                   WHERE i.collection_id = $1 AND (i.key = k OR i.key IS NULL))
                   AND NOT EXISTS (SELECT FROM pgmeaning.queue AS q
                                   WHERE q.collection_id = $1 AND q.key = k AND q.failed_at IS NULL));
END
$$;

CREATE OR REPLACE FUNCTION pgmeaning._except(keys jsonb[], others jsonb[]) RETURNS jsonb[]
LANGUAGE sql IMMUTABLE
AS $$ SELECT ARRAY(SELECT unnest(keys) EXCEPT SELECT unnest(others)) $$;

CREATE OR REPLACE FUNCTION pgmeaning._refuse_incomplete(c pgmeaning.collection, keys jsonb[], why text, hint text)
RETURNS void
LANGUAGE plpgsql STABLE
AS $$
BEGIN
    RAISE EXCEPTION USING ERRCODE = 'PM023',
        MESSAGE = format('generation %L lacks the vectors of %s', c.name,
                         CASE WHEN cardinality(keys) > 1000 THEN 'more than 1000 rows'
                              WHEN cardinality(keys) = 1 THEN '1 row' ELSE cardinality(keys) || ' rows' END),
        DETAIL = format('Such as %s. %s', array_to_string(keys[1:3], ', '), why), HINT = hint;
END
$$;

-- Refuses a generation that lacks the vector of a row with content, as the rows are now. Rows that were written a
-- moment ago are owed, and waited for: those that were there when it began, so that it ends however many follow.
-- accepted: failed rows that were accepted.
CREATE OR REPLACE FUNCTION pgmeaning._check_complete(c pgmeaning.collection, patience interval, accepted jsonb[])
RETURNS void
LANGUAGE plpgsql VOLATILE
AS $$
DECLARE
    began timestamptz := clock_timestamp();
    keys  jsonb[];
    lost  jsonb[];
BEGIN
    IF NOT pgmeaning._may_compare(c) THEN
        PERFORM pgmeaning._check_scanned(c);
        RETURN;
    END IF;
    keys := pgmeaning._except(pgmeaning._rows_without_vector(c, 1001), accepted);
    WHILE keys <> '{}' LOOP
        IF cardinality(keys) > 1000 THEN
            PERFORM pgmeaning._refuse_incomplete(c, keys, 'It is not filled yet.',
                'Wait until it is: pgmeaning.swaps shows how far it has come.');
        END IF;
        lost := pgmeaning._not_owed(c.id, keys);
        keys := pgmeaning._rows_without_vector(c, 1001, keys, began);
        lost := pgmeaning._except(lost, pgmeaning._except(lost, keys));
        IF lost <> '{}' THEN
            PERFORM pgmeaning._refuse_incomplete(c, lost, 'Nobody owes them: they failed, or were written or changed '
                'where no trigger saw it.', format('See pgmeaning.failures; SELECT pgmeaning.refresh(%L) has a sidecar '
                'look for all that is missing, pgmeaning.retry(%1$L) tries again what failed.', c.name));
        ELSIF keys <> '{}' AND (clock_timestamp() - began > patience
                                OR current_setting('transaction_isolation') <> 'read committed'
                                OR NOT pgmeaning._is_attended(c.model)) THEN
            PERFORM pgmeaning._refuse_incomplete(c, keys, CASE
                WHEN pgmeaning._is_attended(c.model) THEN 'They are still owed.'
                ELSE format('They are owed, and no sidecar runs that has model %s.', c.model) END,
                'Let a sidecar embed them first; pgmeaning.swaps shows how far it has come.');
        END IF;
        PERFORM pg_sleep(0.02) WHERE keys <> '{}';
    END LOOP;
END
$$;

-- Where the caller may not compare rows and vectors, as with roles, what a sidecar compared counts: the last scan, if
-- it began within the hour.
CREATE OR REPLACE FUNCTION pgmeaning._check_scanned(c pgmeaning.collection) RETURNS void
LANGUAGE plpgsql STABLE
AS $$
DECLARE
    t pgmeaning.target := pgmeaning._active_target(c);
BEGIN
    IF t.scanning OR t.scan_started_at < clock_timestamp() - interval '1 hour' THEN
        RAISE EXCEPTION USING ERRCODE = 'PM023',
            MESSAGE = format('nobody has compared the rows with generation %L within the hour', c.name),
            DETAIL = format('Role %I cannot: it may not read %s, or would run code of the table''s owner.',
                            current_user, c.source),
            HINT = format('SELECT pgmeaning.refresh(%L); once a sidecar has, call this again.', c.name);
    ELSIF (pgmeaning._owed(c.id, NULL)).owed THEN
        RAISE EXCEPTION USING ERRCODE = 'PM023', MESSAGE = format('generation %L still owes vectors', c.name),
            HINT = 'Let a sidecar embed them first; pgmeaning.swaps shows how far it has come.';
    END IF;
END
$$;

-- What must hold before a generation serves, but for its rows; passes: null, nothing is known of it. Where overruling
-- can make it serve all the same, that is a judgement; else vectors would be missing, or another model's.
-- SECURITY DEFINER: everybody may see how far a swap is, and the queue holds keys. It takes numbers and no more, lest
-- a caller describe a collection that there is not.
CREATE OR REPLACE FUNCTION pgmeaning._swap_gates(swap_id int, collection_id int)
RETURNS TABLE (gate text, passes bool, finding text, judgement bool)
LANGUAGE plpgsql STABLE SECURITY DEFINER
AS $$
#variable_conflict use_column
DECLARE
    c pgmeaning.collection;
    t pgmeaning.target;
    x pgmeaning.vector_index;
    p pgmeaning.index_plan;
BEGIN
    SELECT k.* INTO c FROM pgmeaning.swap AS s JOIN pgmeaning.collection AS k ON k.id IN (s.old_id, s.new_id)
    WHERE s.id = $1 AND k.id = $2;
    IF NOT FOUND THEN
        RETURN;
    END IF;
    t := pgmeaning._active_target(c);
    SELECT * INTO x FROM pgmeaning.vector_index AS k WHERE k.collection_id = t.collection_id AND k.model = t.model;
    SELECT * INTO p FROM pgmeaning._index_plan(t, NULL, NULL, 10000);
    RETURN QUERY SELECT 'model', m.fingerprint = t.fingerprint AND m.status <> 'retired',
        CASE WHEN m.fingerprint <> t.fingerprint THEN 'the model was changed after vectors were made'
             ELSE format('model %s is %s', m.name, m.status) END, false
    FROM pgmeaning.model AS m WHERE m.name = t.model;
    RETURN QUERY SELECT 'source', trouble IS NULL AND seen, coalesce(trouble, CASE WHEN NOT seen
        THEN 'the table changed, and no sidecar has looked since' ELSE 'its table is as it was' END), false
    FROM (SELECT coalesce(c.problem, pgmeaning._source_problem(c)) AS trouble,
                 c.marks IS NOT DISTINCT FROM (SELECT m.marks FROM pgmeaning._marks(c.id) AS m) AS seen) AS now;
    RETURN QUERY SELECT 'filled', t.scan_finished_at IS NOT NULL AND t.scan_problem IS NULL,
        coalesce(t.scan_problem, CASE WHEN t.scan_finished_at IS NULL
            THEN format('%s rows have been looked at so far', t.scanned) ELSE 'all rows have been looked at' END),
        false;
    RETURN QUERY SELECT 'failures', f.count = 0, format('%s rows failed', f.count), true
    FROM (SELECT count(*) AS count FROM pgmeaning.queue AS q
          WHERE q.collection_id = c.id AND q.failed_at IS NOT NULL) AS f;
    RETURN QUERY SELECT 'index', p.kind = 'none' OR p.present <> 'none', CASE WHEN p.kind = 'none' THEN p.reason
        WHEN p.present <> 'none' THEN p.present ELSE format('the index that it should have is not built: %s',
        p.statement) END, true;
    RETURN QUERY SELECT 'recall', CASE WHEN x.recall IS NOT NULL THEN x.recall >= x.recall_goal
                                       WHEN p.kind <> 'none' THEN false END,
        CASE WHEN x.recall IS NOT NULL THEN format('%s of %s', round(x.recall::numeric, 4), x.recall_goal)
             ELSE 'not measured' END, true;
    RETURN QUERY SELECT 'quality', q.passes, q.finding, true FROM pgmeaning._judge_quality($1, $2) AS q;
END
$$;

-- Whether a generation is worse than the other, by what was measured last of both as they are, of all queries or those
-- of a language or tag: worse is what the whole interval of the difference says. Null: nothing was measured, and
-- nothing had to be.
CREATE OR REPLACE FUNCTION pgmeaning._judge_quality(swap_id int, collection_id int, OUT passes bool, OUT finding text)
LANGUAGE plpgsql STABLE
AS $$
BEGIN
    WITH compared AS (
        SELECT DISTINCT ON (e.measure, e.definition ->> 'way', e.definition ->> 'tag')
               concat_ws(' of ', e.measure, e.definition ->> 'way', e.definition ->> 'tag') AS what,
               e.definition ->> 'tag' AS tag,
               CASE WHEN side.of_it THEN e.value ELSE e.other_value END AS own,
               CASE WHEN side.of_it THEN e.other_value ELSE e.value END AS others,
               CASE WHEN side.of_it THEN e.difference_high ELSE -e.difference_low END AS at_most
        FROM pgmeaning.swap AS s
        JOIN pgmeaning.evaluation AS e ON e.collection = s.collection
             AND e.other_value IS NOT NULL  -- how alike two lists are says nothing of which is better
        CROSS JOIN LATERAL (SELECT e.definition #>> '{generation,collection_id}' = $2::text AS of_it) AS side
        WHERE s.id = $1
          AND (e.definition #>> '{generation,collection_id}', e.definition #>> '{other_generation,collection_id}')
              IN ((s.old_id::text, s.new_id::text), (s.new_id::text, s.old_id::text))
          AND pgmeaning._is_present(e.definition -> 'generation')
          AND pgmeaning._is_present(e.definition -> 'other_generation')
        ORDER BY e.measure, e.definition ->> 'way', e.definition ->> 'tag', e.id DESC
    )
    SELECT CASE WHEN count(*) > 0 THEN bool_and(coalesce(c.at_most >= 0, true)) END,
           coalesce('worse: ' || string_agg(format('%s %s, not %s', c.what, round(c.own::numeric, 4),
                        round(c.others::numeric, 4)), ', ' ORDER BY c.what) FILTER (WHERE c.at_most < 0),
                    string_agg(format('%s %s, was %s', c.what, round(c.own::numeric, 4), round(c.others::numeric, 4)),
                        ', ' ORDER BY c.what) FILTER (WHERE c.tag IS NULL), 'not evaluated')
    INTO passes, finding FROM compared AS c;
    IF passes IS NULL AND EXISTS (SELECT FROM pgmeaning.swap AS s WHERE s.id = $1 AND s.gate ? 'evaluation'
                                  AND s.new_id = $2) THEN
        passes := false;
        finding := 'it must be evaluated against the present generation first: pgmeaning evaluate';
    END IF;
END
$$;

-- Raises an error for what does not hold; with a reason to overrule, only for what no reason can. Returns what was
-- overruled.
CREATE OR REPLACE FUNCTION pgmeaning._check_gates(s pgmeaning.swap, c pgmeaning.collection, overrule text)
RETURNS jsonb
LANGUAGE plpgsql STABLE
AS $$
DECLARE
    gates jsonb := (SELECT jsonb_agg(g ORDER BY g.judgement) FROM pgmeaning._swap_gates(s.id, c.id) AS g
                    WHERE NOT g.passes);
    shut  record;
BEGIN
    SELECT g.gate, g.finding, g.judgement INTO shut
    FROM jsonb_to_recordset(gates) AS g (gate text, finding text, judgement bool)
    WHERE overrule IS NULL OR NOT g.judgement LIMIT 1;
    IF FOUND THEN
        RAISE EXCEPTION USING ERRCODE = 'PM023',
            MESSAGE = format('generation %L cannot serve: %s', c.name, shut.gate), DETAIL = shut.finding || '.',
            HINT = format('pgmeaning.swaps shows what else is missing%s', CASE WHEN shut.judgement
                THEN format('; overrule => ''the reason'' lets %L serve all the same, and is recorded.', c.name)
                ELSE '.' END);
    END IF;
    RETURN coalesce((SELECT jsonb_agg(jsonb_build_object('gate', g.gate, 'finding', g.finding, 'reason', overrule,
                                                         'by', current_user, 'at', now()))
                     FROM jsonb_to_recordset(gates) AS g (gate text, finding text)), '[]');
END
$$;

-- Gives the name, the view and what else is the collection's own to its other generation: in the caller's transaction,
-- so every statement sees one generation or the other.
CREATE OR REPLACE FUNCTION pgmeaning._exchange(serving pgmeaning.collection, next pgmeaning.collection, back bool)
RETURNS void
LANGUAGE plpgsql
AS $$
DECLARE
    view regclass := pgmeaning._view(serving);
    had  aclitem[] := (SELECT r.relacl FROM pg_class AS r WHERE r.oid = view);
BEGIN
    serving.view_schema := coalesce((SELECT n.nspname FROM pg_class AS r
                                     JOIN pg_namespace AS n ON n.oid = r.relnamespace WHERE r.oid = view),
                                    serving.view_schema);
    UPDATE pgmeaning.collection AS k
    SET name = format('%s@%s', serving.name, serving.generation), preferred = false,
        role = CASE WHEN back THEN 'filling' ELSE 'previous' END
    WHERE k.id = serving.id;
    UPDATE pgmeaning.collection AS k
    SET name = serving.name, role = 'active', preferred = serving.preferred, view_schema = serving.view_schema,
        grant_to = serving.grant_to
    WHERE k.id = next.id RETURNING * INTO next;
    UPDATE pgmeaning.target AS t
    SET scan_until = NULL, scan_tokens = NULL, scan_rate = NULL, scan_share = NULL, scan_allowed_at = NULL
    WHERE t.collection_id = next.id;
    PERFORM pgmeaning._grant_again(pgmeaning._relation_name(n.oid), o.relacl)  -- whoever was granted the vectors
    FROM pg_class AS o CROSS JOIN pg_class AS n
    WHERE o.oid = (pgmeaning._active_target(serving)).vectors AND n.oid = (pgmeaning._active_target(next)).vectors;
    PERFORM pgmeaning._replace_view(serving, next, view, had);
    -- The view is another's now, which is no news to maintenance.
    UPDATE pgmeaning.collection AS k SET marks = k.marks[1:3] || m.marks[4]
    FROM pgmeaning._marks() AS m WHERE m.collection_id = k.id AND k.id IN (serving.id, next.id) AND k.marks IS NOT NULL;
END
$$;

-- What else than rights others gave a view: options, comments, and rights on columns.
CREATE OR REPLACE FUNCTION pgmeaning._view_extras(view regclass) RETURNS jsonb
LANGUAGE sql STABLE
AS $$
    SELECT jsonb_build_object('options', to_jsonb(r.reloptions), 'comment', obj_description(r.oid, 'pg_class'),
               'columns', (SELECT jsonb_agg(jsonb_build_object('name', a.attname, 'rights', a.attacl::text,
                                                               'comment', col_description(r.oid, a.attnum)))
                           FROM pg_attribute AS a WHERE a.attrelid = r.oid AND a.attnum > 0))
    FROM pg_class AS r WHERE r.oid = view
$$;

CREATE OR REPLACE FUNCTION pgmeaning._restore_extras(relation text, extras jsonb) RETURNS void
LANGUAGE plpgsql
AS $$
DECLARE
    option text;
    col    record;
BEGIN
    FOR option IN SELECT jsonb_array_elements_text(extras -> 'options') LOOP
        EXECUTE format('ALTER VIEW %s SET (%I = %L)', relation, split_part(option, '=', 1), split_part(option, '=', 2));
    END LOOP;
    EXECUTE format('COMMENT ON VIEW %s IS %L', relation, extras ->> 'comment');
    FOR col IN SELECT c.* FROM jsonb_to_recordset(extras -> 'columns') AS c (name name, rights text, comment text)
               JOIN pg_attribute AS a ON a.attrelid = relation::regclass AND a.attname = c.name LOOP
        PERFORM pgmeaning._grant_again(relation, col.rights::aclitem[], col.name);
        EXECUTE format('COMMENT ON COLUMN %s.%I IS %L', relation, col.name, col.comment);
    END LOOP;
END
$$;

-- The same view, on the other vectors: replaced, so that what depends on it stays; but vectors of another type take a
-- new one, with the rights, options and comments of the old.
CREATE OR REPLACE FUNCTION pgmeaning._replace_view(serving pgmeaning.collection, next pgmeaning.collection,
    view regclass, had aclitem[]) RETURNS void
LANGUAGE plpgsql
AS $$
DECLARE
    relation text := pgmeaning._relation_name(view);
    extras   jsonb := pgmeaning._view_extras(view);
    blocking text;
BEGIN
    IF view IS NOT NULL AND (pgmeaning._active_target(serving)).vector_type
                            <> (pgmeaning._active_target(next)).vector_type THEN
        EXECUTE format('DROP VIEW %s', relation);
        PERFORM pgmeaning._make_view(next);
        PERFORM pgmeaning._grant_again(relation, had), pgmeaning._restore_extras(relation, extras);
    ELSE
        PERFORM pgmeaning._make_view(next);
    END IF;
    PERFORM pgmeaning._hand_over(next);
EXCEPTION WHEN wrong_object_type OR invalid_table_definition THEN
    RAISE EXCEPTION USING ERRCODE = 'PM002',
        MESSAGE = format('%I.%I is not the view of collection %L', next.view_schema, next.name || '_embedding',
                         next.name),
        DETAIL = 'The view was dropped, and something else has its name.', HINT = 'Rename or drop that, and try again.';
WHEN invalid_schema_name THEN
    RAISE EXCEPTION USING ERRCODE = 'PM010',
        MESSAGE = format('schema %I of the view of collection %L is gone', next.view_schema, next.name),
        DETAIL = 'The view is replaced where it was made.',
        HINT = format('CREATE SCHEMA %I, and try again.', next.view_schema);
WHEN dependent_objects_still_exist THEN
    GET STACKED DIAGNOSTICS blocking = PG_EXCEPTION_DETAIL;
    RAISE EXCEPTION USING ERRCODE = 'PM018', MESSAGE = format('other objects depend on the view %s', relation),
        DETAIL = blocking || ' It must be made anew, since its vectors are of another type.',
        HINT = 'Drop them, and create them again afterwards.';
END
$$;

-- Lets the other generation of a collection serve, if all holds that must. Searches are never refused, and wait for no
-- more than the view's replacement.
CREATE OR REPLACE FUNCTION pgmeaning._let_serve(s pgmeaning.swap, back bool, overrule text, patience interval)
RETURNS void
LANGUAGE plpgsql
AS $$
DECLARE
    waits      text := pgmeaning._bound_patience();
    spreads    text := pgmeaning._stay_on_node();
    serving    pgmeaning.collection;
    next       pgmeaning.collection;
    findings   jsonb;
BEGIN
    SELECT * INTO serving FROM pgmeaning.collection AS k WHERE k.id = CASE WHEN back THEN s.new_id ELSE s.old_id END;
    SELECT * INTO next FROM pgmeaning.collection AS k WHERE k.id = CASE WHEN back THEN s.old_id ELSE s.new_id END;
    findings := pgmeaning._check_gates(s, next, overrule);
    PERFORM pgmeaning._check_complete(next, coalesce(patience, '10 seconds'),
        ARRAY(SELECT q.key FROM pgmeaning.queue AS q
              WHERE q.collection_id = next.id AND q.failed_at IS NOT NULL AND overrule IS NOT NULL));
    PERFORM FROM pgmeaning.collection AS k WHERE k.id IN (serving.id, next.id) ORDER BY k.id FOR UPDATE;
    SELECT * INTO serving FROM pgmeaning.collection AS k WHERE k.id = serving.id;  -- as they are after the wait
    SELECT * INTO next FROM pgmeaning.collection AS k WHERE k.id = next.id;
    PERFORM pgmeaning._exchange(serving, next, back);
    UPDATE pgmeaning.swap AS k
    SET state = CASE WHEN back THEN 'filling' ELSE 'activated' END, overruled = k.overruled || findings,
        activated_at = CASE WHEN NOT back THEN now() END
    WHERE k.id = s.id;
    PERFORM set_config('lock_timeout', waits, true), set_config('citus.enable_ddl_propagation', spreads, true);
EXCEPTION WHEN lock_not_available THEN
    RAISE EXCEPTION USING ERRCODE = 'PM015',
        MESSAGE = format('the view of collection %L is in use by an open transaction', s.collection),
        DETAIL = 'It is replaced, which must wait for the transactions that read it.',
        HINT = 'Try again, or SET lock_timeout to wait longer than 5 seconds.';
END
$$;

CREATE OR REPLACE FUNCTION pgmeaning.swap_activate(collection text, overrule text DEFAULT NULL,
    patience interval DEFAULT '10 seconds') RETURNS void
LANGUAGE plpgsql
AS $$
DECLARE
    s pgmeaning.swap := pgmeaning._open_swap($1);
BEGIN
    PERFORM pgmeaning._check_point(s, 'filling');
    PERFORM pgmeaning._let_serve(s, false, nullif(btrim(overrule), ''), patience);
END
$$;
COMMENT ON FUNCTION pgmeaning.swap_activate
    IS 'Lets the new generation serve, in one transaction; refuses while it lacks a row''s vector, its recall is short '
       'or it is worse. overrule: a reason to let it serve all the same, which is recorded.';

CREATE OR REPLACE FUNCTION pgmeaning.swap_rollback(collection text, overrule text DEFAULT NULL,
    patience interval DEFAULT '10 seconds') RETURNS void
LANGUAGE plpgsql
AS $$
DECLARE
    s pgmeaning.swap := pgmeaning._open_swap($1);
BEGIN
    PERFORM pgmeaning._check_point(s, 'activated');
    PERFORM pgmeaning._let_serve(s, true, nullif(btrim(overrule), ''), patience);
END
$$;
COMMENT ON FUNCTION pgmeaning.swap_rollback
    IS 'Lets the previous generation serve again; it was kept up to date, and the new one still is.';

-- For a migration that is taken back: gives up the swap that is under way, if one is, at whatever point it is, so that
-- the generation from before serves alone. False: there is none, it was finished, so only another swap leads back.
CREATE OR REPLACE FUNCTION pgmeaning._undo_swap(collection text) RETURNS bool
LANGUAGE plpgsql
AS $$
DECLARE
    c pgmeaning.collection := pgmeaning._check_manager(pgmeaning._collection(collection));
    s pgmeaning.swap;
BEGIN
    SELECT * INTO s FROM pgmeaning.swap AS k WHERE k.collection = c.name AND k.state IN ('filling', 'activated');
    IF NOT FOUND THEN
        RETURN false;
    ELSIF s.state = 'activated' THEN
        PERFORM pgmeaning.swap_rollback(c.name, overrule => 'a migration is taken back');
    END IF;
    PERFORM pgmeaning.swap_cancel(c.name);
    RETURN true;
END
$$;
