-- Vectors for queries: from the cache, else from a sidecar. A sidecar sees a request only once it is committed, which a
-- function cannot do within its caller's transaction: a loopback connection (dblink) does, or prepare() beforehand.

CREATE OR REPLACE FUNCTION pgmeaning._input_hash(input text) RETURNS bytea
LANGUAGE sql IMMUTABLE
AS $$ SELECT sha256(convert_to(input, 'UTF8')) $$;

-- SECURITY DEFINER: callers have no right to the cache, which holds everybody's queries.
CREATE OR REPLACE FUNCTION pgmeaning._cached(model text, input text, as_query bool) RETURNS vector
LANGUAGE sql STABLE SECURITY DEFINER
AS $$ SELECT q.embedding FROM pgmeaning.query_cache AS q
      WHERE q.model = $1 AND q.as_query = $3 AND q.input_hash = pgmeaning._input_hash($2) $$;

-- Puts a request where sidecars see it, and wakes them: also where transactions may be prepared, which a NOTIFY would
-- not let be, since nobody prepares the one that asks. SECURITY DEFINER: callers have no right to the table, only to
-- ask.
CREATE OR REPLACE FUNCTION pgmeaning._request(model text, input text, as_query bool, patience interval,
    documents text[] DEFAULT NULL)
RETURNS bigint
LANGUAGE sql VOLATILE SECURITY DEFINER
AS $$
    SELECT pg_notify('pgmeaning_query', '');
    INSERT INTO pgmeaning.request (model, input, as_query, expires_at, documents)
    VALUES ($1, $2, $3, clock_timestamp() + $4, $5) RETURNING id;
$$;

-- A sidecar's reply to everybody who asks for this vector. Found by the text and not by a request, since whoever asked
-- first may be gone.
CREATE OR REPLACE FUNCTION pgmeaning._answer(model text, as_query bool, input text, reply text) RETURNS void
LANGUAGE sql
AS $$
    INSERT INTO pgmeaning.query_cache (model, as_query, input_hash, embedding)
    VALUES ($1, $2, pgmeaning._input_hash($3), ($4)::vector)
    ON CONFLICT (model, as_query, input_hash) DO UPDATE SET created_at = now()
$$;

-- Equal queries have one number, for the advisory lock of the sidecar that makes their vector.
CREATE OR REPLACE FUNCTION pgmeaning._query_number(model text, as_query bool, input text) RETURNS int
LANGUAGE sql IMMUTABLE
AS $$ SELECT hashtext(concat($1, ' ', $2, ' ', $3)) $$;

-- Whether there is a vector by now. VOLATILE, so that it sees what was committed after the caller's statement began.
CREATE OR REPLACE FUNCTION pgmeaning._answered(model text, as_query bool, input text) RETURNS bool
LANGUAGE sql VOLATILE
AS $$ SELECT pgmeaning._cached($1, $3, $2) IS NOT NULL $$;

-- Sleeps a fiftieth of the time waited so far: many sessions that wait for a slow model must not take its processor.
CREATE OR REPLACE FUNCTION pgmeaning._nap(since timestamptz) RETURNS void
LANGUAGE sql VOLATILE
AS $$ SELECT pg_sleep(least(0.005, greatest(0.0005, extract(epoch FROM clock_timestamp() - since)::float8 / 50))) $$;

-- Waits for the reply to a committed request. A sidecar holds an advisory lock on a request from before its claim is
-- seen until its reply is committed (or it died), so waiting for the lock wakes at once. Needs READ COMMITTED, to see
-- the reply. again: that sidecar died, and another will see the request once the caller commits. All null: time is up;
-- loading: since when the model is being loaded, if that is why.
-- SECURITY DEFINER: as above. The text must be passed with the number, lest one caller ends the request of another.
CREATE OR REPLACE FUNCTION pgmeaning._await_reply(request_id bigint, model text, input text, as_query bool,
    deadline timestamptz, OUT reply text, OUT problem text, OUT again bool, OUT loading interval)
LANGUAGE plpgsql VOLATILE SECURITY DEFINER
AS $$
DECLARE
    asked pgmeaning.request;
    slot  int := pgmeaning._lock_number(request_id);
    began timestamptz := clock_timestamp();
BEGIN
    LOOP
        SELECT * INTO asked FROM pgmeaning.request AS r
        WHERE r.id = request_id AND r.model = _await_reply.model AND r.input = _await_reply.input;
        reply := coalesce(asked.reply, pgmeaning._cached(model, input, as_query)::text);
        problem := CASE WHEN reply IS NULL THEN asked.error END;
        EXIT WHEN reply IS NOT NULL OR problem IS NOT NULL OR asked IS NULL OR clock_timestamp() >= deadline;
        IF asked.claimed_by IS NULL THEN
            PERFORM pgmeaning._nap(began);
            CONTINUE;
        END IF;
        PERFORM set_config('lock_timeout',
            least(greatest(1, extract(epoch FROM deadline - clock_timestamp()) * 1000), 2147483647)::int || 'ms', true);
        BEGIN
            PERFORM pg_advisory_lock_shared(pgmeaning._request_lock_class(), slot);
            PERFORM pg_advisory_unlock_shared(pgmeaning._request_lock_class(), slot);
        EXCEPTION WHEN lock_not_available THEN
            EXIT;
        END;
        -- The lock is free and there is no reply: that sidecar died, so let another have it.
        IF pgmeaning._cached(model, input, as_query) IS NULL THEN
            UPDATE pgmeaning.request AS r SET claimed_by = NULL
            WHERE r.id = request_id AND r.claimed_by = asked.claimed_by AND r.error IS NULL AND r.reply IS NULL;
            IF FOUND THEN
                PERFORM pg_notify('pgmeaning_query', '');
                again := true;
                RETURN;
            END IF;
        END IF;
    END LOOP;
    DELETE FROM pgmeaning.request AS r WHERE r.id = asked.id
    RETURNING clock_timestamp() - r.loading_since INTO loading;
END
$$;

CREATE OR REPLACE FUNCTION pgmeaning._no_answer(model text, patience interval) RETURNS void
LANGUAGE plpgsql STABLE
AS $$
BEGIN
    RAISE EXCEPTION USING ERRCODE = 'PM007', MESSAGE = format('no sidecar answered within %s', patience),
        DETAIL = format('Sidecars alive: %s.', (SELECT count(*) FROM pgmeaning.sidecars AS s WHERE s.alive)),
        HINT = format('Start one that runs model %L: pgmeaning sidecar. Or wait longer: timeout => ''1 minute''.',
                      model);
END
$$;

-- Asks, commits, waits: what the loopback calls, and prepare(). It commits, so it can neither pin its path nor be a
-- SECURITY DEFINER: it qualifies every name, and the functions that it calls have the rights. Null: time is up.
CREATE OR REPLACE PROCEDURE pgmeaning._ask(model text, inputs text[], as_query bool, patience interval,
    documents text[] DEFAULT NULL, INOUT replies text[] DEFAULT NULL)
LANGUAGE plpgsql
AS $$
DECLARE
    deadline timestamptz := pg_catalog.clock_timestamp() OPERATOR(pg_catalog.+) patience;
    requests bigint[] := ARRAY(SELECT pgmeaning._request(model, i.input, as_query, patience, documents)
                               FROM pg_catalog.unnest(inputs) WITH ORDINALITY AS i (input, place) ORDER BY i.place);
    answer   record;
BEGIN
    replies := '{}';
    FOR place IN 1..pg_catalog.cardinality(inputs) LOOP
        LOOP
            COMMIT;
            SET TRANSACTION ISOLATION LEVEL READ COMMITTED;
            SELECT r.* INTO answer
            FROM pgmeaning._await_reply(requests[place], model, inputs[place], as_query, deadline) AS r;
            EXIT WHEN answer.again IS NULL;
        END LOOP;
        IF answer.problem IS NOT NULL THEN
            COMMIT;
            RAISE EXCEPTION USING ERRCODE = 'PM008',
                MESSAGE = pg_catalog.format('model %L could not %s', model,
                                            CASE WHEN documents IS NULL THEN 'embed the query' ELSE 'rerank' END),
                DETAIL = answer.problem, HINT = 'pgmeaning.sidecars shows what each sidecar can run.';
        ELSIF answer.reply IS NULL AND answer.loading IS NOT NULL THEN
            COMMIT;
            RAISE EXCEPTION USING ERRCODE = 'PM007',
                MESSAGE = pg_catalog.format('model %L is still loading, %s s so far', model,
                                            extract(epoch FROM answer.loading)::int),
                DETAIL = pg_catalog.format('A sidecar has the query and answers it once the model is loaded; '
                                           'it was waited for for %s.', patience),
                HINT = 'Ask again in a moment, or wait longer: timeout => ''2 minutes''.';
        ELSIF answer.reply IS NULL THEN
            replies := NULL;
            RETURN;
        END IF;
        replies := pg_catalog.array_append(replies, answer.reply);
    END LOOP;
END
$$;

-- The prefix of the names of dblink's functions: 'public.dblink'. Null: not installed.
CREATE OR REPLACE FUNCTION pgmeaning._dblink() RETURNS text
LANGUAGE sql STABLE
AS $$ SELECT format('%I.dblink', n.nspname) FROM pg_extension AS e JOIN pg_namespace AS n ON n.oid = e.extnamespace
      WHERE e.extname = 'dblink' $$;

-- Tells this cluster, its standbys included, from every other, as that of a restored dump; 'unknown': this role may not
-- ask.
CREATE OR REPLACE FUNCTION pgmeaning._cluster() RETURNS text
LANGUAGE plpgsql STABLE
AS $$
BEGIN
    RETURN (SELECT c.system_identifier FROM pg_control_system() AS c);
EXCEPTION WHEN insufficient_privilege THEN
    RETURN 'unknown';
END
$$;

-- Why the foreign server cannot lead to where a request can be written, or null. It leads to this very server, or, with
-- a list of hosts, to whichever of them is the primary; the server's version is the cluster that the list is for.
CREATE OR REPLACE FUNCTION pgmeaning._loopback_problem() RETURNS text
LANGUAGE plpgsql STABLE
AS $$
DECLARE
    server pg_foreign_server;
    listed bool;
BEGIN
    IF pgmeaning._dblink() IS NULL THEN
        RETURN 'The extension dblink is not installed.';
    END IF;
    SELECT * INTO server FROM pg_foreign_server WHERE srvname = 'pgmeaning_loopback';
    listed := coalesce('target_session_attrs=read-write' = ANY (server.srvoptions), false);
    -- A database made from a template, or renamed, has the server of another until a sidecar starts or a migration
    -- runs.
    IF 'dbname=' || current_database() = ANY (server.srvoptions) IS NOT TRUE
       OR listed AND server.srvversion IS DISTINCT FROM pgmeaning._cluster() THEN
        RETURN 'No foreign server pgmeaning_loopback leads to this database; a sidecar makes it when it starts.';
    ELSIF pg_is_in_recovery() AND NOT listed THEN
        RETURN 'This server is a standby, where no request can be written, and it was not told where its primary is.';
    END IF;
    RETURN NULL;
END
$$;

-- Raises on a standby that cannot ask its primary, since there is nothing that would help but what it says.
CREATE OR REPLACE FUNCTION pgmeaning._refuse_on_standby(message text, problem text, instead text) RETURNS void
LANGUAGE plpgsql STABLE
AS $$
BEGIN
    IF pg_is_in_recovery() THEN
        RAISE EXCEPTION USING ERRCODE = 'PM013', MESSAGE = message, DETAIL = problem,
            HINT = 'Name the hosts of the primary and its standbys in PGMEANING_LOOPBACK_HOSTS where a sidecar or '
                   '"pgmeaning migrate" runs, which must reach the primary by them. Or ' || instead;
    END IF;
END
$$;

-- Sends a question through the session's loopback connection, opened on first use, and waits so that a cancel or a
-- statement_timeout ends the wait at once. A problem: why there is no loopback. It logs in as a role that may do
-- nothing but ask. SECURITY DEFINER: the user mapping belongs to this function's owner alone.
CREATE OR REPLACE FUNCTION pgmeaning._ask_loopback(model text, inputs text[], as_query bool, patience interval,
    documents text[], OUT problem text, OUT replies text[])
LANGUAGE plpgsql STABLE SECURITY DEFINER SET client_min_messages = warning  -- not that the connection is still busy
AS $$
DECLARE
    dblink   text := pgmeaning._dblink();
    question text := format('CALL pgmeaning._ask(%L, %L, %L, %L, %L)', model, inputs, as_query, patience, documents);
    began    timestamptz := clock_timestamp();
    give_up  timestamptz := began + patience + interval '1 second';
    flag     int;
    reason   text;
BEGIN
    problem := pgmeaning._loopback_problem();
    IF problem IS NOT NULL THEN
        RETURN;
    END IF;
    FOR attempt IN 1..2 LOOP
        BEGIN
            EXECUTE format('SELECT CASE WHEN ''pgmeaning'' = ANY (%1$s_get_connections()) '
                           'THEN %1$s_is_busy(''pgmeaning'') ELSE -1 END', dblink) INTO flag;
            -- Busy: an earlier call was cancelled, and nobody wants its answer. A second attempt: the connection broke.
            IF flag = 1 OR flag = 0 AND attempt = 2 THEN
                EXECUTE format('SELECT %s_disconnect(''pgmeaning'')', dblink);
                flag := -1;
            END IF;
            IF flag = -1 THEN
                EXECUTE format('SELECT %s_connect(''pgmeaning'', ''pgmeaning_loopback'')', dblink);
            END IF;
        EXCEPTION WHEN connection_exception OR sqlserver_rejected_establishment_of_sqlconnection
                       OR sqlclient_unable_to_establish_sqlconnection OR insufficient_privilege OR undefined_object THEN
            GET STACKED DIAGNOSTICS reason = PG_EXCEPTION_DETAIL;
            problem := concat_ws(' ', format('The loopback cannot connect: %s.', SQLERRM), reason);
            RETURN;
        END;
        EXECUTE format('SELECT %s_send_query(''pgmeaning'', $1)', dblink) INTO flag USING question;
        CONTINUE WHEN flag <> 1;
        LOOP
            EXECUTE format('SELECT %s_is_busy(''pgmeaning'')', dblink) INTO flag;
            EXIT WHEN flag = 0 OR clock_timestamp() > give_up;
            PERFORM pgmeaning._nap(began);
        END LOOP;
        EXIT WHEN flag <> 0;
        BEGIN
            EXECUTE format('SELECT r.replies FROM %s_get_result(''pgmeaning'') AS r (replies text[])', dblink)
            INTO replies;
            EXECUTE format('SELECT count(*) FROM %s_get_result(''pgmeaning'') AS r (replies text[])', dblink) INTO flag;
            EXIT;
        EXCEPTION WHEN connection_exception OR connection_failure OR connection_does_not_exist OR admin_shutdown
                       OR crash_shutdown OR idle_session_timeout THEN
            -- The connection had been closed from the other side.
            problem := CASE attempt WHEN 2 THEN format('The loopback cannot ask: %s.', SQLERRM) END;
        END;
    END LOOP;
END
$$;

-- A sidecar's vectors, as text, for distinct inputs; what is asked for together can go through the model together.
CREATE OR REPLACE FUNCTION pgmeaning._ask_sidecar(model text, inputs text[], as_query bool, patience interval)
RETURNS text[]
LANGUAGE plpgsql STABLE
AS $$
DECLARE
    asked record;
BEGIN
    asked := pgmeaning._ask_loopback(model, inputs, as_query, patience, NULL);
    IF asked.problem IS NOT NULL THEN
        PERFORM pgmeaning._refuse_on_standby(
            'the query''s vector is not cached, and this standby cannot ask the primary for it', asked.problem,
            'on the primary: CALL pgmeaning.prepare(...), or search there.');
        RAISE EXCEPTION USING ERRCODE = 'PM009',
            MESSAGE = 'the query''s vector is not cached, and this database has no dblink loopback to ask for it',
            DETAIL = asked.problem,
            HINT = format('Outside a transaction block: CALL pgmeaning.prepare(%L%s) first. Or %s',
                left(inputs[1], 100),
                CASE WHEN pgmeaning._models_in_use() = ARRAY[model] THEN '' ELSE format(', model => %L', model) END,
                CASE WHEN EXISTS (SELECT FROM pg_extension WHERE extname = 'dblink')
                     THEN 'run "pgmeaning migrate" as the owner of the schema pgmeaning: it says what is missing.'
                     ELSE 'let a superuser CREATE EXTENSION dblink and run "pgmeaning migrate".' END);
    ELSIF asked.replies IS NULL THEN
        PERFORM pgmeaning._no_answer(model, patience);
    END IF;
    RETURN asked.replies;
END
$$;

-- The models that embed the collections here; where there is no collection, the database's default.
CREATE OR REPLACE FUNCTION pgmeaning._models_in_use() RETURNS text[]
LANGUAGE plpgsql STABLE
AS $$
DECLARE
    used text[] := ARRAY(SELECT DISTINCT c.model FROM pgmeaning.collection AS c JOIN pg_class AS r ON r.oid = c.source
                         ORDER BY c.model);
BEGIN
    RETURN CASE WHEN used = '{}' THEN ARRAY[(pgmeaning._embedder(NULL)).name] ELSE used END;
END
$$;

-- Vectors of two models cannot be compared, and where they have the same length nobody would notice.
CREATE OR REPLACE FUNCTION pgmeaning._ambiguous_model(call text) RETURNS void
LANGUAGE plpgsql STABLE
AS $$
DECLARE
    first pgmeaning.collection;
    used  text;
BEGIN
    SELECT string_agg(format('%s (%s)', m.model, m.collections), ', ' ORDER BY m.model) INTO used
    FROM (SELECT c.model, string_agg(c.name, ', ' ORDER BY c.name) AS collections
          FROM pgmeaning.collection AS c JOIN pg_class AS r ON r.oid = c.source GROUP BY c.model) AS m;
    SELECT c.* INTO first FROM pgmeaning.collection AS c JOIN pg_class AS r ON r.oid = c.source ORDER BY c.name LIMIT 1;
    RAISE EXCEPTION USING ERRCODE = 'PM016', MESSAGE = 'the collections of this database use several embedding models',
        DETAIL = format('Models in use: %s.', used),
        HINT = format('Say which one: %s%s).', call, CASE WHEN call LIKE 'pgmeaning.similarity%'
                          THEN format('model => %L', first.model) ELSE format('collection => %L', first.name) END);
END
$$;

-- The model that embeds a text: the collection's, or the one that is named, or else the only one in use. Not simply the
-- default: that may change, and queries written for the collections there are would go on with another model's vectors.
CREATE OR REPLACE FUNCTION pgmeaning._query_model(collection text, model text, call text) RETURNS text
LANGUAGE plpgsql STABLE
AS $$
DECLARE
    used text[];
BEGIN
    IF collection IS NOT NULL THEN
        used := ARRAY[(pgmeaning._collection(collection)).model];
        IF model <> used[1] THEN
            RAISE EXCEPTION USING ERRCODE = 'PM014',
                MESSAGE = format('collection %L is embedded by model %L, not by %L', collection, used[1], model),
                HINT = 'Leave out either the collection or the model.';
        END IF;
    ELSIF model IS NOT NULL THEN
        used := ARRAY[model];
    ELSE
        used := pgmeaning._models_in_use();
        IF cardinality(used) > 1 THEN
            PERFORM pgmeaning._ambiguous_model(call);
        END IF;
    END IF;
    used := ARRAY[(pgmeaning._embedder(used[1])).name];
    PERFORM pgmeaning._check_served(used[1]);
    RETURN used[1];
END
$$;

-- For a collection: a vector to compare with those of its view. It has their dimensions, and is rounded to half
-- precision where they are: so distances equal those of search(), even where halfvec is cast to vector. For a model:
-- its full vector.
CREATE OR REPLACE FUNCTION pgmeaning.embed(input text, collection text DEFAULT NULL, model text DEFAULT NULL,
    as_query bool DEFAULT true, timeout interval DEFAULT '10 seconds') RETURNS vector
LANGUAGE plpgsql STABLE
AS $$
DECLARE
    embedder text := pgmeaning._query_model(embed.collection, embed.model,
                                            format('pgmeaning.embed(%L, ', left(input, 100)));
    made     vector := (pgmeaning._vectors(embedder, ARRAY[input], coalesce(as_query, true),
                                           coalesce(timeout, '10 seconds')))[1];
    t        pgmeaning.target;
BEGIN
    IF embed.collection IS NULL OR made IS NULL THEN
        RETURN made;
    END IF;
    t := pgmeaning._active_target(pgmeaning._collection(embed.collection));
    made := pgmeaning._to_dimensions(made, t);
    RETURN CASE pgmeaning._vector_type(t.vectors) WHEN 'halfvec' THEN made::halfvec::vector ELSE made END;
END
$$;
COMMENT ON FUNCTION pgmeaning.embed IS 'The vector of a text, by a collection''s model or another one. '
    'In ORDER BY write (SELECT pgmeaning.embed(''...'', collection => ''docs'')): bare, it runs once per row.';

-- Both texts are embedded as documents: neither is a query for the other, and so the result is symmetric.
CREATE OR REPLACE FUNCTION pgmeaning.similarity(a text, b text, model text DEFAULT NULL,
    timeout interval DEFAULT '10 seconds') RETURNS float8
LANGUAGE plpgsql STABLE
AS $$
DECLARE
    embedder text := pgmeaning._query_model(NULL, similarity.model,
                                            format('pgmeaning.similarity(%L, %L, ', left(a, 100), left(b, 100)));
    made     vector[];
BEGIN
    IF a IS NULL OR b IS NULL THEN
        RETURN NULL;
    END IF;
    made := pgmeaning._vectors(embedder, ARRAY[a, b], false, coalesce(timeout, '10 seconds'));
    RETURN 1 - (made[1] <=> made[2]);
END
$$;
COMMENT ON FUNCTION pgmeaning.similarity IS 'How similar two texts are in meaning: the cosine of their vectors.';

-- The vectors of several inputs, null for null: from the cache, and the others from a sidecar, asked for together.
CREATE OR REPLACE FUNCTION pgmeaning._vectors(model text, inputs text[], as_query bool, patience interval)
RETURNS vector[]
LANGUAGE plpgsql STABLE
AS $$
DECLARE
    vectors vector[] := ARRAY(SELECT pgmeaning._cached(model, i.input, as_query)
                              FROM unnest(inputs) WITH ORDINALITY AS i (input, place) ORDER BY i.place);
    missing text[] := ARRAY(SELECT DISTINCT inputs[place] FROM generate_subscripts(inputs, 1) AS place
                            WHERE vectors[place] IS NULL AND inputs[place] IS NOT NULL);
    replies text[];
BEGIN
    IF missing <> '{}' THEN
        replies := pgmeaning._ask_sidecar(model, missing, as_query, patience);
        vectors := ARRAY(SELECT coalesce(vectors[place], (replies[array_position(missing, inputs[place])])::vector)
                         FROM generate_subscripts(inputs, 1) AS place ORDER BY place);
    END IF;
    RETURN vectors;
END
$$;

-- The server's message for a COMMIT in an atomic context, in its own language.
CREATE OR REPLACE FUNCTION pgmeaning._words_for_commit_in_a_block() RETURNS text
LANGUAGE plpgsql VOLATILE SET search_path = pg_catalog, pg_temp
AS $$
BEGIN
    COMMIT;
EXCEPTION WHEN invalid_transaction_termination THEN
    RETURN SQLERRM;
END
$$;

-- Raises when the caller (a procedure that is about to commit) runs inside a transaction block.
-- probe: SQLERRM of a COMMIT that failed in an exception block, which differs inside a block and outside.
CREATE OR REPLACE FUNCTION pgmeaning._refuse_block(probe text, procedure text) RETURNS void
LANGUAGE plpgsql VOLATILE
AS $$
BEGIN
    IF probe = pgmeaning._words_for_commit_in_a_block() THEN
        RAISE EXCEPTION USING ERRCODE = 'PM012',
            MESSAGE = format('CALL pgmeaning.%s() cannot run inside a transaction block', procedure),
            DETAIL = 'It commits, so that a sidecar sees what is asked.',
            HINT = 'COMMIT first, or switch your driver to autocommit for this call.';
    END IF;
END
$$;

CREATE OR REPLACE PROCEDURE pgmeaning.prepare(query text, collection text DEFAULT NULL, model text DEFAULT NULL,
    timeout interval DEFAULT '30 seconds')
LANGUAGE plpgsql
AS $$
DECLARE
    embedder text;
    patience interval := coalesce(timeout, '30 seconds');
    replies  text[];
    probe    text;
BEGIN
    BEGIN
        COMMIT;
    EXCEPTION WHEN invalid_transaction_termination THEN
        probe := SQLERRM;
    END;
    PERFORM pgmeaning._refuse_block(probe, 'prepare');
    embedder := pgmeaning._query_model(collection, model,
        pg_catalog.format('CALL pgmeaning.prepare(%L, ', pg_catalog."left"(query, 100)));
    IF query IS NOT NULL AND pgmeaning._cached(embedder, query, true) IS NULL THEN
        IF pg_catalog.pg_is_in_recovery() THEN  -- the primary caches it, and the cache comes with everything else
            PERFORM pgmeaning._ask_sidecar(embedder, ARRAY[query], true, patience);
            RETURN;
        END IF;
        CALL pgmeaning._ask(embedder, ARRAY[query], true, patience, NULL, replies);
        IF replies IS NULL THEN
            PERFORM pgmeaning._no_answer(embedder, patience);
        END IF;
    END IF;
END
$$;
COMMENT ON PROCEDURE pgmeaning.prepare IS 'Caches a query''s vector, so that embed() and search() need no loopback.';

-- Whether a collection (or this row of it) still owes a vector; failed: this row does, and nobody will try again. One
-- statement, one snapshot: a row is never between the inbox and the queue. An older failure says nothing about a row
-- that changed since. SECURITY DEFINER: the queue holds keys of rows that the caller may not see; it only learns
-- whether there are any.
CREATE OR REPLACE FUNCTION pgmeaning._owed(collection_id int, wanted jsonb, OUT owed bool, OUT failed bool)
LANGUAGE sql VOLATILE SECURITY DEFINER
AS $$
    -- the cheapest to look at, so first
    SELECT EXISTS (SELECT FROM pgmeaning.target AS t WHERE t.collection_id = $1 AND t.scanning)
        OR EXISTS (SELECT FROM pgmeaning._unfolded AS i
                   WHERE i.collection_id = $1 AND ($2 IS NULL OR i.key = $2 OR i.key IS NULL))
        OR EXISTS (SELECT FROM pgmeaning.queue AS q
                   WHERE q.collection_id = $1 AND ($2 IS NULL OR q.key = $2) AND q.failed_at IS NULL)
        -- Rows may have changed unseen: a trigger was disabled, a column rewritten, and maintenance has yet to look.
        OR NOT EXISTS (SELECT FROM pgmeaning.collection AS c JOIN pgmeaning._marks($1) AS m ON m.marks = c.marks
                       WHERE c.id = $1 AND c.problem IS NULL),
           EXISTS (SELECT FROM pgmeaning.queue AS q
                   WHERE q.collection_id = $1 AND q.key = $2 AND q.failed_at IS NOT NULL)
$$;

CREATE OR REPLACE PROCEDURE pgmeaning.wait_for(collection text, key jsonb DEFAULT NULL,
    timeout interval DEFAULT '30 seconds')
LANGUAGE plpgsql
AS $$
DECLARE
    c        pgmeaning.collection;
    wanted   jsonb;
    state    record;
    probe    text;
    patience interval := coalesce(timeout, '30 seconds');
    started  timestamptz := pg_catalog.clock_timestamp();
    waited   interval;
BEGIN
    BEGIN
        COMMIT;
    EXCEPTION WHEN invalid_transaction_termination THEN
        probe := SQLERRM;
    END;
    PERFORM pgmeaning._refuse_block(probe, 'wait_for');
    c := pgmeaning._collection(collection);
    wanted := pgmeaning._full_key(c, key);
    IF pgmeaning._unseen_writes(c) IS NOT NULL THEN
        RAISE EXCEPTION USING ERRCODE = 'PM020',
            MESSAGE = pg_catalog.format('nobody can know when collection %L owes nothing', collection),
            DETAIL = pgmeaning._unseen_writes(c),
            HINT = pg_catalog.format('SELECT pgmeaning.refresh(%L) has a sidecar compare all rows; pgmeaning.status '
                                     'shows when it has.', collection);
    END IF;
    LOOP
        state := pgmeaning._owed(c.id, wanted);
        EXIT WHEN NOT state.owed;
        waited := pg_catalog.clock_timestamp() OPERATOR(pg_catalog.-) started;
        IF waited OPERATOR(pg_catalog.>=) patience THEN
            SELECT coalesce(k.problem, pgmeaning._watch_problem(k)) AS problem,
                   k.state OPERATOR(pg_catalog.=) 'paused' AS paused INTO state
            FROM pgmeaning.collection AS k WHERE k.id OPERATOR(pg_catalog.=) c.id;
            RAISE EXCEPTION USING ERRCODE = 'PM007',
                MESSAGE = pg_catalog.format('collection %L still owes vectors after %s', collection, patience),
                DETAIL = CASE WHEN state.problem IS NOT NULL THEN 'It is broken: ' OPERATOR(pg_catalog.||) state.problem
                              WHEN state.paused THEN 'It is paused.' ELSE '' END,
                HINT = CASE WHEN state.problem IS NOT NULL THEN 'Fix that; pgmeaning.status shows when it works again.'
                            WHEN state.paused THEN pg_catalog.format('SELECT pgmeaning.resume(%L)', collection)
                            ELSE 'Is a sidecar running? See pgmeaning.sidecars and pgmeaning.status.' END;
        END IF;
        COMMIT;
        -- A twentieth of the time waited so far: waiting for a backfill should not take a processor from it.
        PERFORM pg_catalog.pg_sleep(least(0.1, greatest(0.002, extract(epoch FROM waited) OPERATOR(pg_catalog./) 20)));
    END LOOP;
    IF state.failed THEN
        RAISE EXCEPTION USING ERRCODE = 'PM008',
            MESSAGE = pg_catalog.format('row %s of collection %L could not be embedded', wanted, collection),
            HINT = 'SELECT * FROM pgmeaning.failures shows why; pgmeaning.retry() tries again.';
    END IF;
END
$$;
COMMENT ON PROCEDURE pgmeaning.wait_for IS 'Waits until a collection, or one of its rows, is embedded.';

-- (Re)makes the loopback: a foreign server, and a role that may only ask. Returns why it cannot, or null. host: where
-- this server can be reached from itself, a socket directory or an address; or, with ports, a list of hosts, the
-- primary among them, for standbys to ask: an empty port is this server's own. new_role: the existing role cannot log
-- in (a restored dump has a password, and this server's role another).
CREATE OR REPLACE FUNCTION pgmeaning._make_loopback(host text, ports text DEFAULT NULL, new_role bool DEFAULT false)
RETURNS text
LANGUAGE plpgsql VOLATILE
AS $$
DECLARE
    owner    text := (SELECT pg_get_userbyid(proowner) FROM pg_proc WHERE oid = 'pgmeaning._ask_loopback'::regproc);
    own_port text := current_setting('port');
    port     text := coalesce((SELECT string_agg(coalesce(nullif(p, ''), own_port), ',' ORDER BY i)
                               FROM unnest(string_to_array(ports, ',')) WITH ORDINALITY AS u (p, i)), own_port);
    listed   bool := ports IS NOT NULL;
    login    text;
    password text := gen_random_uuid()::text || gen_random_uuid()::text;
    server   pg_foreign_server;
    -- A lost request costs a time-out, so its commit need not wait for the disk.
    settings text := '-c default_transaction_isolation=read\ committed -c default_transaction_read_only=off '
                     '-c statement_timeout=0 -c lock_timeout=0 -c idle_session_timeout=0 '
                     '-c idle_in_transaction_session_timeout=0 -c synchronous_commit=off '
                     '-c search_path=pg_catalog,pg_temp'
                     || CASE WHEN current_setting('server_version_num')::int >= 170000
                             THEN ' -c transaction_timeout=0' ELSE '' END;
BEGIN
    PERFORM pgmeaning._stay_on_node();
    -- Two sidecars that start at once would both alter the server, and one would fail.
    PERFORM pg_advisory_xact_lock(pgmeaning._lock_class(), pgmeaning._loopback_lock());
    IF NOT EXISTS (SELECT FROM pg_extension WHERE extname = 'dblink') THEN
        CREATE EXTENSION dblink WITH SCHEMA public;
    END IF;
    IF NOT EXISTS (SELECT FROM pg_foreign_server WHERE srvname = 'pgmeaning_loopback') THEN
        CREATE SERVER pgmeaning_loopback FOREIGN DATA WRAPPER dblink_fdw
            OPTIONS (host '', port '', dbname '', options '', application_name 'pgmeaning loopback',
                     connect_timeout '5');
        EXECUTE format('ALTER SERVER pgmeaning_loopback OWNER TO %I', owner);
    END IF;
    SELECT * INTO server FROM pg_foreign_server WHERE srvname = 'pgmeaning_loopback';
    -- connect_timeout means nothing to dblink since PostgreSQL 16; this one is for hosts of the list that are down.
    IF listed <> ('target_session_attrs=read-write' = ANY (server.srvoptions)) THEN
        EXECUTE format('ALTER SERVER pgmeaning_loopback OPTIONS (%s)',
            CASE WHEN listed THEN 'ADD target_session_attrs ''read-write'', ADD tcp_user_timeout ''3000'''
                 ELSE 'DROP target_session_attrs, DROP tcp_user_timeout' END);
    END IF;
    -- A database made from a template, or restored from a dump, has the options of another.
    IF NOT server.srvoptions @> ARRAY['host=' || host, 'port=' || port, 'dbname=' || current_database(),
                                      'options=' || settings]
       OR listed AND server.srvversion IS DISTINCT FROM pgmeaning._cluster() THEN
        EXECUTE format('ALTER SERVER pgmeaning_loopback %s '
                       'OPTIONS (SET host %L, SET port %L, SET dbname %L, SET options %L)',
            CASE WHEN listed THEN format('VERSION %L', pgmeaning._cluster()) END,
            host, port, current_database(), settings);
    END IF;
    SELECT o.option_value INTO login
    FROM pg_user_mappings AS m CROSS JOIN LATERAL pg_options_to_table(m.umoptions) AS o
    WHERE m.srvname = 'pgmeaning_loopback' AND m.usename = owner AND o.option_name = 'user';
    IF new_role OR login IS NULL OR NOT EXISTS (SELECT FROM pg_roles WHERE rolname = login) THEN
        login := 'pgmeaning_loopback_' || (SELECT oid FROM pg_database WHERE datname = current_database());
        IF NOT EXISTS (SELECT FROM pg_roles WHERE rolname = login) THEN
            EXECUTE format('CREATE ROLE %I NOINHERIT', login);
        END IF;
        EXECUTE format('ALTER ROLE %I LOGIN PASSWORD %L', login, password);
        EXECUTE format('DROP USER MAPPING IF EXISTS FOR %I SERVER pgmeaning_loopback', owner);
        EXECUTE format('CREATE USER MAPPING FOR %I SERVER pgmeaning_loopback OPTIONS (user %L, password %L)',
                       owner, login, password);
    END IF;
    IF NOT has_database_privilege(login, current_database(), 'CONNECT') THEN
        EXECUTE format('GRANT CONNECT ON DATABASE %I TO %I', current_database(), login);
    END IF;
    RETURN NULL;
EXCEPTION WHEN insufficient_privilege OR undefined_file OR feature_not_supported OR undefined_object
               OR invalid_schema_name THEN
    RETURN SQLERRM;
END
$$;

-- Whether the loopback answers, as the role that embed() runs it as. elsewhere: it does, but it is another server, as
-- with the host list of the server that this one is a clone of. SECURITY DEFINER: as _ask_loopback.
CREATE OR REPLACE FUNCTION pgmeaning._test_loopback(OUT problem text, OUT elsewhere bool)
LANGUAGE plpgsql VOLATILE SECURITY DEFINER
AS $$
DECLARE
    dblink text := pgmeaning._dblink();
    reason text;
    -- No two servers start in the same microsecond.
    same   text := format('SELECT extract(epoch FROM pg_postmaster_start_time()) = %L',
                          extract(epoch FROM pg_postmaster_start_time()));
BEGIN
    IF dblink IS NULL THEN
        problem := 'dblink is not installed';
        RETURN;
    END IF;
    EXECUTE format('SELECT %s_connect(''pgmeaning_test'', ''pgmeaning_loopback'')', dblink);
    EXECUTE format('SELECT NOT r.same FROM %s(''pgmeaning_test'', $1) AS r (same bool)', dblink)
    INTO elsewhere USING same;
    EXECUTE format('SELECT %s_disconnect(''pgmeaning_test'')', dblink);
    problem := CASE WHEN elsewhere THEN 'it leads to another server' END;
EXCEPTION WHEN OTHERS THEN
    GET STACKED DIAGNOSTICS reason = PG_EXCEPTION_DETAIL;
    problem := concat_ws(': ', SQLERRM, nullif(reason, ''));
    EXECUTE format('SELECT %1$s_disconnect(c) FROM unnest(%1$s_get_connections()) AS c WHERE c = ''pgmeaning_test''',
                   dblink);
END
$$;
