-- Vectors for queries: from the cache, else from a sidecar. A sidecar sees a request only once it is committed, which a
-- function cannot do within its caller's transaction: a loopback connection (dblink) does, or prepare() beforehand.

CREATE OR REPLACE FUNCTION pgmeaning._input_hash(input text) RETURNS bytea
LANGUAGE sql IMMUTABLE
AS $$ SELECT sha256(convert_to(input, 'UTF8')) $$;

-- Not for everybody: it tells whether others have asked for a text.
CREATE OR REPLACE FUNCTION pgmeaning._cached(model text, input_hash bytea, as_query bool) RETURNS vector
LANGUAGE sql STABLE
AS $$ SELECT q.embedding FROM pgmeaning.query_cache AS q
      WHERE q.model = $1 AND q.as_query = $3 AND q.input_hash = $2 $$;
REVOKE EXECUTE ON FUNCTION pgmeaning._cached(text, bytea, bool) FROM PUBLIC;

-- How long somebody waits, at most a day: a time cannot hold an end in millions of years, and a request stays as long.
CREATE OR REPLACE FUNCTION pgmeaning._patience(timeout interval, otherwise interval) RETURNS interval
LANGUAGE sql IMMUTABLE
AS $$ SELECT greatest(least(coalesce($1, $2), interval '1 day'), interval '0') $$;

-- Refuses what no sidecar could answer, or what would hold others up: an unknown model, texts that are too long. The
-- text of an error never holds a query.
CREATE OR REPLACE FUNCTION pgmeaning._check_request(model text, inputs text[], documents text[], asker name)
RETURNS void
LANGUAGE plpgsql STABLE
AS $$
DECLARE
    most_bytes     int := 1024 * 1024;
    most_documents int := 10000;
    document_bytes int := 32 * 1024 * 1024;
    problem        text;
BEGIN
    IF documents IS NULL THEN
        PERFORM pgmeaning._embedder(coalesce(model, '')), pgmeaning._check_served(model, asker);
    ELSE
        PERFORM pgmeaning._reranker(coalesce(model, ''), asker);
    END IF;
    IF array_position(inputs, NULL) > 0 OR array_position(documents, NULL) > 0 THEN
        problem := 'a text is NULL';
    ELSIF octet_length(array_to_string(inputs, '')) > most_bytes
          AND (SELECT max(octet_length(i)) FROM unnest(inputs) AS u (i)) > most_bytes THEN
        problem := format('a query has more than %s bytes', most_bytes);
    ELSIF cardinality(documents) > most_documents THEN
        problem := format('there are more than %s documents', most_documents);
    ELSIF octet_length(array_to_string(documents, '')) > document_bytes THEN
        problem := format('the documents have more than %s bytes', document_bytes);
    END IF;
    IF problem IS NOT NULL THEN
        RAISE EXCEPTION USING ERRCODE = 'PM014', MESSAGE = problem,
            HINT = 'No model reads so much at once: shorten it, or ask in parts.';
    END IF;
END
$$;

-- Refuses more than a role may have open: what others ask would have to wait behind it. Requests whose time is over are
-- forgotten first.
CREATE OR REPLACE FUNCTION pgmeaning._check_open_requests(who oid, more int) RETURNS void
LANGUAGE plpgsql VOLATILE
AS $$
DECLARE
    most       int := 1000;
    most_bytes bigint := 64 * 1024 * 1024;
BEGIN
    FOR attempt IN 1..2 LOOP
        IF (SELECT count(*) + more <= most
                   AND coalesce(sum(pg_column_size(r.input) + coalesce(pg_column_size(r.documents), 0)), 0) < most_bytes
            FROM pgmeaning.request AS r WHERE r.asker = who) THEN
            RETURN;
        END IF;
        DELETE FROM pgmeaning.request AS r
        WHERE r.id = ANY (ARRAY(SELECT o.id FROM pgmeaning.request AS o WHERE o.asker = who
                                AND (o.expires_at < clock_timestamp() OR o.error IS NOT NULL) FOR UPDATE SKIP LOCKED));
    END LOOP;
    RAISE EXCEPTION USING ERRCODE = 'PM021', MESSAGE = format('role %I has too many requests open', who::regrole::text),
        DETAIL = format('It may have %s, and %s bytes of texts in them.', most, most_bytes),
        HINT = 'Wait until some are answered. Those that nobody waits for end with their timeout.';
END
$$;

-- Puts requests where sidecars see them, and wakes them: also where transactions may be prepared, which a NOTIFY would
-- not let be, since nobody prepares the one that asks. asker: the role that the loopback asks for; others can ask for
-- themselves alone. SECURITY DEFINER: callers have no right to the table, only to ask.
CREATE OR REPLACE FUNCTION pgmeaning._request(model text, inputs text[], as_query bool, patience interval,
    documents text[] DEFAULT NULL, asker text DEFAULT NULL)
RETURNS uuid[]
LANGUAGE plpgsql VOLATILE SECURITY DEFINER
AS $$
DECLARE
    who oid := quote_ident(session_user)::regrole;
    ids uuid[] := ARRAY(SELECT gen_random_uuid() FROM unnest(inputs));
BEGIN
    IF asker IS NOT NULL AND session_user = (SELECT l.login FROM pgmeaning.loopback AS l) THEN
        who := coalesce(to_regrole(quote_ident(asker)), who);
    END IF;
    PERFORM pgmeaning._check_request(model, inputs, documents, pg_get_userbyid(who)),
            pgmeaning._check_open_requests(who, cardinality(ids));
    PERFORM pg_notify('pgmeaning_query', '');
    INSERT INTO pgmeaning.request (id, asker, model, input, input_hash, as_query, expires_at, documents)
    SELECT i.id, who, _request.model, i.input, pgmeaning._input_hash(i.input), coalesce(_request.as_query, true),
           clock_timestamp() + pgmeaning._patience(patience, '10 seconds'), _request.documents
    FROM unnest(ids, inputs) AS i (id, input);
    RETURN ids;
END
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

-- The number of the advisory lock that wakes whoever waits for a request. It cannot be guessed before it is held: a
-- stranger who reads it in pg_locks and takes it, too, delays the one who waits, no more.
CREATE OR REPLACE FUNCTION pgmeaning._wake_number(request_id uuid) RETURNS bigint
LANGUAGE sql IMMUTABLE
AS $$ SELECT hashtextextended($1::text, 0) $$;

-- Sleeps a fiftieth of the time waited so far: many sessions that wait for a slow model must not take its processor.
CREATE OR REPLACE FUNCTION pgmeaning._nap(since timestamptz) RETURNS void
LANGUAGE sql VOLATILE
AS $$ SELECT pg_sleep(least(0.005, greatest(0.0005, extract(epoch FROM clock_timestamp() - since)::float8 / 50))) $$;

-- Waits for the reply to a committed request. A sidecar holds an advisory lock on a request from before its claim is
-- seen until its reply is committed (or it died), so waiting for the lock wakes at once; it only wakes, since anybody
-- can take such a lock, and what is true is in the tables. Needs READ COMMITTED, to see the reply. again: that sidecar
-- died, and another will see the request once the caller commits. All null: time is up; loading: since when the model
-- is being loaded, if that is why. SECURITY DEFINER: as above. Whoever knows the id has asked.
CREATE OR REPLACE FUNCTION pgmeaning._await_reply(request_id uuid, deadline timestamptz,
    OUT reply text, OUT problem text, OUT again bool, OUT loading interval)
LANGUAGE plpgsql VOLATILE SECURITY DEFINER
AS $$
DECLARE
    asked    pgmeaning.request;
    began    timestamptz := clock_timestamp();
    left_ms  float8;
    woken    bool := false;
BEGIN
    LOOP
        SELECT * INTO asked FROM pgmeaning.request AS r WHERE r.id = request_id;
        reply := coalesce(asked.reply, pgmeaning._cached(asked.model, asked.input_hash, asked.as_query)::text);
        problem := CASE WHEN reply IS NULL THEN asked.error END;
        left_ms := extract(epoch FROM deadline - clock_timestamp()) * 1000;
        EXIT WHEN reply IS NOT NULL OR problem IS NOT NULL OR asked IS NULL OR left_ms > 0 IS NOT TRUE;
        IF asked.claimed_by IS NULL THEN
            PERFORM pgmeaning._nap(began);
            CONTINUE;
        END IF;
        -- Woken without a reply: that sidecar died, so let another have it; or somebody else plays with the lock.
        IF woken THEN
            PERFORM pg_stat_clear_snapshot();
        END IF;
        IF woken AND NOT pgmeaning._is_connected(asked.claimed_pid, NULL) THEN
            UPDATE pgmeaning.request AS r SET claimed_by = NULL
            WHERE r.id = request_id AND r.claimed_by = asked.claimed_by AND r.error IS NULL AND r.reply IS NULL;
            PERFORM pg_notify('pgmeaning_query', '');
            again := true;
            RETURN;
        ELSIF woken THEN
            PERFORM pgmeaning._nap(began);
        END IF;
        PERFORM pgmeaning._wait_for_lock(request_id,
            least(left_ms, greatest(50, extract(epoch FROM clock_timestamp() - began) * 50))::int);
        woken := true;
    END LOOP;
    DELETE FROM pgmeaning.request AS r WHERE r.id = asked.id
    RETURNING clock_timestamp() - r.loading_since INTO loading;
END
$$;

-- Waits until a sidecar lets a request go, for so many milliseconds at most: not longer than a twentieth of the time
-- waited so far, lest a stranger who holds the lock keeps a caller from a reply that is there.
CREATE OR REPLACE FUNCTION pgmeaning._wait_for_lock(request_id uuid, milliseconds int) RETURNS void
LANGUAGE plpgsql VOLATILE
AS $$
BEGIN
    PERFORM set_config('lock_timeout', greatest(1, milliseconds) || 'ms', true);
    PERFORM pg_advisory_lock_shared(pgmeaning._wake_number(request_id));
    PERFORM pg_advisory_unlock_shared(pgmeaning._wake_number(request_id));
EXCEPTION WHEN lock_not_available THEN
    RETURN;
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
    documents text[] DEFAULT NULL, asker text DEFAULT NULL, INOUT replies text[] DEFAULT NULL)
LANGUAGE plpgsql
AS $$
DECLARE
    deadline timestamptz := pg_catalog.clock_timestamp()
                            OPERATOR(pg_catalog.+) pgmeaning._patience(patience, '10 seconds');
    requests uuid[] := pgmeaning._request(model, inputs, as_query, patience, documents, asker);
    answer   record;
BEGIN
    replies := '{}';
    FOR place IN 1..pg_catalog.cardinality(requests) LOOP
        LOOP
            COMMIT;
            SET TRANSACTION ISOLATION LEVEL READ COMMITTED;
            SELECT r.* INTO answer
            FROM pgmeaning._await_reply(requests[place], deadline) AS r;
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

-- Which database of which cluster this is: what the foreign server was made for. A dump brings that of another.
CREATE OR REPLACE FUNCTION pgmeaning._place() RETURNS text
LANGUAGE sql STABLE
AS $$ SELECT concat(pgmeaning._cluster(), '/', d.oid) FROM pg_database AS d WHERE d.datname = current_database() $$;

-- Why the foreign server cannot lead to where a request can be written, or null. It leads to this very server, or, with
-- a list of hosts, to whichever of them is the primary.
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
    -- A database that was restored from a dump, made from a template or renamed has the server of another until a
    -- sidecar starts or a migration runs; so has a copy of a whole server.
    IF 'dbname=' || current_database() = ANY (server.srvoptions) IS NOT TRUE
       OR server.srvversion IS DISTINCT FROM pgmeaning._place()
       OR NOT (listed OR pg_is_in_recovery()
               OR coalesce('port=' || current_setting('port') = ANY (server.srvoptions), false))
       OR NOT (SELECT c.relispopulated FROM pg_class AS c WHERE c.oid = 'pgmeaning.loopback'::regclass) THEN
        RETURN 'No foreign server pgmeaning_loopback leads to this database; a sidecar makes it when it starts.';
    ELSIF pg_is_in_recovery() AND NOT listed THEN
        RETURN 'This server is a standby, where no request can be written, and it was not told where its primary is.';
    END IF;
    RETURN NULL;
END
$$;

-- What the other end of the loopback must say yes to before it is asked anything: that it is this database. No two
-- servers start in the same microsecond; the primary of a standby is another server of the same cluster.
CREATE OR REPLACE FUNCTION pgmeaning._proof() RETURNS text
LANGUAGE sql VOLATILE
AS $$
    SELECT CASE WHEN pg_is_in_recovery() THEN format('SELECT pgmeaning._place() = %L', pgmeaning._place())
           ELSE format('SELECT current_database() = %L AND extract(epoch FROM pg_postmaster_start_time()) = %L',
                       current_database(), extract(epoch FROM pg_postmaster_start_time())) END
$$;

-- The loopback's connection string: the server's options, and the role, which is not among them, since a dump would
-- hold its password.
CREATE OR REPLACE FUNCTION pgmeaning._loopback_address() RETURNS text
LANGUAGE sql STABLE
AS $$
    SELECT string_agg(format('%s=''%s''', o.name, replace(replace(o.value, E'\\', E'\\\\'), '''', E'\\''')), ' ')
    FROM (SELECT p.option_name, p.option_value
          FROM pg_foreign_server AS s CROSS JOIN LATERAL pg_options_to_table(s.srvoptions) AS p
          WHERE s.srvname = 'pgmeaning_loopback'
          UNION ALL
          SELECT u.* FROM pgmeaning.loopback AS l
          CROSS JOIN LATERAL (VALUES ('user', l.login), ('password', l.password)) AS u) AS o (name, value)
$$;

-- Whether nobody but the owner of pgmeaning can call dblink, and so get at a connection that a session keeps: they all
-- log in as one role, and whoever sends statements over one sees what the others ask, and can end them.
CREATE OR REPLACE FUNCTION pgmeaning._keeps_loopback() RETURNS bool
LANGUAGE sql STABLE
AS $$
    SELECT n.nspacl IS NULL AND n.nspowner = quote_ident(current_user)::regrole OR NOT EXISTS (
        SELECT FROM aclexplode(coalesce(n.nspacl, acldefault('n', n.nspowner))) AS a
        LEFT JOIN pg_roles AS r ON r.oid = a.grantee
        WHERE NOT coalesce(r.rolsuper OR r.rolname = current_user, false))
    FROM pg_extension AS e JOIN pg_namespace AS n ON n.oid = e.extnamespace WHERE e.extname = 'dblink'
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

-- Opens the session's loopback connection anew; returns why it cannot, or null.
CREATE OR REPLACE FUNCTION pgmeaning._open_loopback(dblink text) RETURNS text
LANGUAGE plpgsql VOLATILE
AS $$
DECLARE
    problem text;
    home    bool;
BEGIN
    PERFORM pgmeaning._close_loopback(dblink);
    problem := pgmeaning._loopback_problem();
    IF problem IS NOT NULL THEN
        RETURN problem;
    END IF;
    EXECUTE format('SELECT %s_connect(''pgmeaning'', $1)', dblink) USING pgmeaning._loopback_address();
    EXECUTE format('SELECT r.home FROM %s(''pgmeaning'', $1) AS r (home bool)', dblink)
    INTO home USING pgmeaning._proof();
    IF home IS NOT TRUE THEN
        PERFORM pgmeaning._close_loopback(dblink);
        RETURN 'The loopback leads to another server or database; a sidecar mends it when it starts.';
    END IF;
    RETURN NULL;
EXCEPTION WHEN connection_exception OR sqlserver_rejected_establishment_of_sqlconnection
               OR sqlclient_unable_to_establish_sqlconnection OR insufficient_privilege OR undefined_object
               OR invalid_schema_name OR undefined_function THEN
    GET STACKED DIAGNOSTICS problem = PG_EXCEPTION_DETAIL;
    RETURN concat_ws(' ', format('The loopback cannot connect: %s.', SQLERRM), problem);
END
$$;

CREATE OR REPLACE FUNCTION pgmeaning._close_loopback(dblink text) RETURNS void
LANGUAGE plpgsql VOLATILE
AS $$
BEGIN
    EXECUTE format('SELECT %1$s_disconnect(c) FROM unnest(%1$s_get_connections()) AS c WHERE c = ''pgmeaning''',
                   dblink);
END
$$;

-- Sends a question through the loopback, and waits so that a cancel or a statement_timeout ends the wait at once. A
-- problem: why there is no loopback. kept: a connection that is open may be used, since nobody else can have opened it;
-- it has proved where it leads to. One that is busy was left by a call that was cancelled.
CREATE OR REPLACE FUNCTION pgmeaning._ask_over(dblink text, kept bool, question text, patience interval,
    OUT problem text, OUT replies text[])
LANGUAGE plpgsql VOLATILE
AS $$
DECLARE
    began   timestamptz := clock_timestamp();
    give_up timestamptz := began + patience + interval '1 second';
    flag    int;
BEGIN
    FOR attempt IN 1..2 LOOP
        EXECUTE format('SELECT CASE WHEN ''pgmeaning'' = ANY (%1$s_get_connections()) '
                       'THEN %1$s_is_busy(''pgmeaning'') ELSE -1 END', dblink) INTO flag;
        IF flag <> 0 OR attempt = 2 OR NOT kept THEN
            problem := pgmeaning._open_loopback(dblink);
        END IF;
        IF problem IS NOT NULL THEN
            RETURN;
        END IF;
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

-- Asks through the session's loopback connection, which is kept where nobody else can get at it. It logs in as a role
-- that may do nothing but ask. The text stands behind as many blanks as pg_stat_activity shows of a statement, which
-- whoever monitors a server reads. SECURITY DEFINER: its owner alone knows the password, and may call dblink.
CREATE OR REPLACE FUNCTION pgmeaning._ask_loopback(model text, inputs text[], as_query bool, patience interval,
    documents text[], OUT problem text, OUT replies text[])
LANGUAGE plpgsql STABLE SECURITY DEFINER SET client_min_messages = warning  -- not that the connection is still busy
AS $$
DECLARE
    dblink text := pgmeaning._dblink();
    kept   bool := pgmeaning._keeps_loopback();
    question text;
    -- A primary may show more of a statement than its standby.
    blanks int := greatest(pg_size_bytes(current_setting('track_activity_query_size')),
                           CASE WHEN pg_is_in_recovery() THEN 65536 ELSE 0 END);
BEGIN
    IF dblink IS NULL THEN
        problem := pgmeaning._loopback_problem();
        RETURN;
    END IF;
    question := format('CALL pgmeaning._ask(%s%L, %L, %L, %L, %L, %L)', repeat(' ', blanks),
                       model, inputs, as_query, patience, documents, session_user);
    IF kept THEN
        SELECT a.problem, a.replies INTO problem, replies
        FROM pgmeaning._ask_over(dblink, kept, question, patience) AS a;
        RETURN;
    END IF;
    BEGIN
        SELECT a.problem, a.replies INTO problem, replies
        FROM pgmeaning._ask_over(dblink, kept, question, patience) AS a;
        PERFORM pgmeaning._close_loopback(dblink);
    EXCEPTION WHEN OTHERS OR query_canceled OR assert_failure THEN
        PERFORM pgmeaning._close_loopback(dblink);
        RAISE;
    END;
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
                         WHERE c.role = 'active' ORDER BY c.model);
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
          FROM pgmeaning.collection AS c JOIN pg_class AS r ON r.oid = c.source
          WHERE c.role = 'active' GROUP BY c.model) AS m;
    SELECT c.* INTO first FROM pgmeaning.collection AS c JOIN pg_class AS r ON r.oid = c.source
    WHERE c.role = 'active' ORDER BY c.name LIMIT 1;
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
        PERFORM pgmeaning._embedder(model), pgmeaning._check_served(model, current_user);
    ELSE
        used := pgmeaning._models_in_use();
        IF cardinality(used) > 1 THEN
            PERFORM pgmeaning._ambiguous_model(call);
        END IF;
    END IF;
    RETURN (pgmeaning._embedder(used[1])).name;  -- those in use and the default are served
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
                                           pgmeaning._patience(timeout, '10 seconds')))[1];
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
    made := pgmeaning._vectors(embedder, ARRAY[a, b], false, pgmeaning._patience(timeout, '10 seconds'));
    RETURN 1 - (made[1] <=> made[2]);
END
$$;
COMMENT ON FUNCTION pgmeaning.similarity IS 'How similar two texts are in meaning: the cosine of their vectors.';

-- The vectors of several inputs, null for null: from the cache, and the others from a sidecar, asked for together, as
-- far as a role may. SECURITY DEFINER: callers have no right to the cache, which tells what others have asked.
CREATE OR REPLACE FUNCTION pgmeaning._vectors(model text, inputs text[], as_query bool, patience interval,
    OUT vectors vector[])
LANGUAGE plpgsql STABLE SECURITY DEFINER
AS $$
DECLARE
    at_once int := 500;
    missing text[];
    replies text[] := '{}';
BEGIN
    vectors := ARRAY(SELECT pgmeaning._cached(model, pgmeaning._input_hash(i.input), as_query)
                     FROM unnest(inputs) WITH ORDINALITY AS i (input, place) ORDER BY i.place);
    missing := ARRAY(SELECT DISTINCT inputs[place] FROM generate_subscripts(inputs, 1) AS place
                     WHERE vectors[place] IS NULL AND inputs[place] IS NOT NULL);
    FOR start IN 1..cardinality(missing) BY at_once LOOP
        replies := replies || pgmeaning._ask_sidecar(model, missing[start : start + at_once - 1], as_query, patience);
    END LOOP;
    IF missing <> '{}' THEN
        FOR place IN 1..cardinality(inputs) LOOP
            IF vectors[place] IS NULL THEN
                vectors[place] := replies[array_position(missing, inputs[place])];
            END IF;
        END LOOP;
    END IF;
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
    patience interval := pgmeaning._patience(timeout, '30 seconds');
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
    IF query IS NOT NULL THEN
        IF pg_catalog.pg_is_in_recovery() THEN  -- the primary caches it, and the cache comes with everything else
            PERFORM pgmeaning._vectors(embedder, ARRAY[query], true, patience);
            RETURN;
        END IF;
        CALL pgmeaning._ask(embedder, ARRAY[query], true, patience, NULL, NULL, replies);
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

-- What must be run for the caller to be able to make the loopback, as statements; null: nothing is known to be missing.
CREATE OR REPLACE FUNCTION pgmeaning._loopback_needs() RETURNS text
LANGUAGE sql STABLE
AS $$
    SELECT string_agg(n.statement, '; ' ORDER BY n.place)
    FROM (SELECT 1, 'CREATE SCHEMA pgmeaning_dblink; CREATE EXTENSION dblink WITH SCHEMA pgmeaning_dblink'
          WHERE pgmeaning._dblink() IS NULL
          UNION ALL
          SELECT 2, format('GRANT USAGE ON SCHEMA pgmeaning_dblink TO %I', current_user)
          WHERE pgmeaning._dblink() IS NULL
          UNION ALL
          SELECT 3, format('GRANT USAGE ON FOREIGN DATA WRAPPER dblink_fdw TO %I', current_user)
          WHERE NOT EXISTS (SELECT FROM pg_foreign_data_wrapper AS w
                            WHERE w.fdwname = 'dblink_fdw' AND has_foreign_data_wrapper_privilege(w.oid, 'USAGE'))
          UNION ALL
          SELECT 4, format('ALTER ROLE %I CREATEROLE', current_user)
          WHERE NOT (SELECT r.rolsuper OR r.rolcreaterole FROM pg_roles AS r WHERE r.rolname = current_user)
         ) AS n (place, statement)
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
    password text;
    place    name;
    routine  regprocedure;
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
    PERFORM FROM pgmeaning.lock WHERE name = 'loopback' FOR UPDATE;
    IF NOT EXISTS (SELECT FROM pg_extension WHERE extname = 'dblink') THEN
        -- Where nobody else can call it: see _keeps_loopback.
        CREATE SCHEMA IF NOT EXISTS pgmeaning_dblink;
        CREATE EXTENSION dblink WITH SCHEMA pgmeaning_dblink;
    END IF;
    SELECT n.nspname INTO place FROM pg_extension AS e JOIN pg_namespace AS n ON n.oid = e.extnamespace
    WHERE e.extname = 'dblink';
    IF NOT has_schema_privilege(owner, place, 'USAGE') THEN
        EXECUTE format('GRANT USAGE ON SCHEMA %I TO %I', place, owner);
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
    -- A database that was renamed, made from a template, or restored from a dump has those of another.
    IF NOT server.srvoptions @> ARRAY['host=' || host, 'port=' || port, 'dbname=' || current_database(),
                                      'options=' || settings]
       OR server.srvversion IS DISTINCT FROM pgmeaning._place() THEN
        EXECUTE format('ALTER SERVER pgmeaning_loopback VERSION %L '
                       'OPTIONS (SET host %L, SET port %L, SET dbname %L, SET options %L)',
            pgmeaning._place(), host, port, current_database(), settings);
    END IF;
    IF NOT (SELECT c.relispopulated FROM pg_class AS c WHERE c.oid = 'pgmeaning.loopback'::regclass) THEN
        REFRESH MATERIALIZED VIEW pgmeaning.loopback;
    END IF;
    IF new_role OR NOT EXISTS (SELECT FROM pg_roles AS r JOIN pgmeaning.loopback AS l ON l.login = r.rolname) THEN
        REFRESH MATERIALIZED VIEW pgmeaning.loopback;
        SELECT l.login, l.password INTO login, password FROM pgmeaning.loopback AS l;
        IF NOT EXISTS (SELECT FROM pg_roles WHERE rolname = login) THEN
            EXECUTE format('CREATE ROLE %I NOINHERIT', login);
        END IF;
        EXECUTE format('ALTER ROLE %I LOGIN PASSWORD %L', login, password);
    END IF;
    login := (SELECT l.login FROM pgmeaning.loopback AS l);
    IF NOT has_database_privilege(login, current_database(), 'CONNECT') THEN
        EXECUTE format('GRANT CONNECT ON DATABASE %I TO %I', current_database(), login);
    END IF;
    -- What it needs where it is not everybody's.
    IF NOT has_schema_privilege(login, 'pgmeaning', 'USAGE') THEN
        EXECUTE format('GRANT USAGE ON SCHEMA pgmeaning TO %I', login);
    END IF;
    FOR routine IN SELECT p.oid FROM pg_proc AS p
                   WHERE p.pronamespace = 'pgmeaning'::regnamespace
                     AND p.proname IN ('_ask', '_request', '_await_reply', '_patience', '_place', '_cluster')
                     AND NOT has_function_privilege(login, p.oid, 'EXECUTE') LOOP
        EXECUTE format('GRANT EXECUTE ON ROUTINE %s TO %I', routine, login);
    END LOOP;
    RETURN NULL;
EXCEPTION WHEN insufficient_privilege OR undefined_file OR feature_not_supported OR undefined_object
               OR invalid_schema_name THEN
    RETURN concat(SQLERRM, '. Let a superuser run, in this database: ' || pgmeaning._loopback_needs()
                           || '; then run "pgmeaning migrate" again');
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
BEGIN
    IF dblink IS NULL THEN
        problem := 'dblink is not installed';
        RETURN;
    END IF;
    EXECUTE format('SELECT %s_connect(''pgmeaning_test'', $1)', dblink) USING pgmeaning._loopback_address();
    EXECUTE format('SELECT NOT r.home FROM %s(''pgmeaning_test'', $1) AS r (home bool)', dblink)
    INTO elsewhere USING pgmeaning._proof();
    EXECUTE format('SELECT %s_disconnect(''pgmeaning_test'')', dblink);
    problem := CASE WHEN elsewhere THEN 'it leads to another server' END;
EXCEPTION WHEN OTHERS THEN
    GET STACKED DIAGNOSTICS reason = PG_EXCEPTION_DETAIL;
    problem := concat_ws(': ', SQLERRM, nullif(reason, ''));
    EXECUTE format('SELECT %1$s_disconnect(c) FROM unnest(%1$s_get_connections()) AS c WHERE c = ''pgmeaning_test''',
                   dblink);
END
$$;
