-- A key whose type changed, as from int to bigint: the vector tables follow, and no vector is made again. Until then
-- the collection is broken, so that no row is embedded whose key would not fit; searches go on.

-- The types of the source's key columns as they are now.
CREATE OR REPLACE FUNCTION pgmeaning._present_key_types(c pgmeaning.collection) RETURNS text[]
LANGUAGE sql STABLE
AS $$
    SELECT array_agg(pgmeaning._key_type(a.atttypid) ORDER BY u.i)
    FROM unnest(c.key_columns) WITH ORDINALITY AS u (k, i)
    JOIN pg_attribute AS a ON a.attrelid = c.source AND a.attname = u.k AND NOT a.attisdropped
$$;

-- Whether the change rewrites the table, which would build its index again, slowly and under an exclusive lock.
CREATE OR REPLACE FUNCTION pgmeaning._rewrites(old text[], new text[]) RETURNS bool
LANGUAGE sql STABLE
AS $$
    SELECT EXISTS (SELECT FROM unnest(old, new) AS u (was, is_now)
                   WHERE u.was <> u.is_now
                     AND NOT EXISTS (SELECT FROM pg_cast AS p WHERE p.castsource = to_regtype(u.was)
                                     AND p.casttarget = to_regtype(u.is_now) AND p.castmethod = 'b'))
$$;

-- Gives the vector tables the types that the source's key has now; returns why they cannot have them, or null. The
-- caller bounds how long it may wait for locks. Everything that depends on the columns is made anew.
-- SECURITY DEFINER: as _look_after().
CREATE OR REPLACE FUNCTION pgmeaning._follow_key(collection_id int) RETURNS text
LANGUAGE plpgsql SECURITY DEFINER SET client_min_messages = warning
AS $$
DECLARE
    c        pgmeaning.collection;
    was      text[];
    t        pgmeaning.target;
    granted  aclitem[];
    blocking text;
BEGIN
    SELECT * INTO c FROM pgmeaning.collection AS k WHERE k.id = $1;
    was := c.key_types;
    c.key_types := pgmeaning._present_key_types(c);
    IF NOT FOUND OR was = c.key_types THEN
        RETURN NULL;
    END IF;
    granted := (SELECT r.relacl FROM pg_class AS r WHERE r.oid = to_regclass(
                format('%I.%I', c.view_schema, c.name || '_embedding')));
    FOR t IN SELECT * FROM pgmeaning.target AS k WHERE k.collection_id = c.id LOOP
        IF NOT pgmeaning._try_lock('index ' || t.vectors::oid) THEN
            RAISE lock_not_available USING MESSAGE = 'the index of the vectors is being built';
        END IF;
        PERFORM pgmeaning._drop_view(c, t.vectors),
                pgmeaning._alter_key(c, t, pgmeaning._rewrites(was, c.key_types));
    END LOOP;
    UPDATE pgmeaning.collection AS k SET key_types = c.key_types, key_problem = NULL, problem = NULL WHERE k.id = c.id;
    PERFORM pgmeaning._drop_policy_functions(c),
            pgmeaning._make_policy_functions(c), pgmeaning._make_trigger_function(c);
    PERFORM pgmeaning._make_view(c),
            pgmeaning._grant_again(format('%I.%I', c.view_schema, c.name || '_embedding'), granted)
    WHERE c.role = 'active';
    PERFORM pgmeaning._protect(c, k.vectors),
            CASE WHEN c.language IS NOT NULL THEN pgmeaning._make_words_function(c) END
    FROM pgmeaning.target AS k WHERE k.collection_id = c.id;
    PERFORM pgmeaning._let_go('index ' || k.vectors::oid) FROM pgmeaning.target AS k WHERE k.collection_id = c.id;
    INSERT INTO pgmeaning.inbox (collection_id, note) VALUES (c.id, 'reconcile');
    PERFORM pgmeaning._wake();
    RETURN NULL;
EXCEPTION
    WHEN lock_not_available OR query_canceled OR deadlock_detected THEN
        RAISE;
    WHEN OTHERS THEN
        GET STACKED DIAGNOSTICS blocking = PG_EXCEPTION_DETAIL;
        RETURN pgmeaning._cannot_follow(c, CASE WHEN SQLSTATE = '2BP01' THEN blocking ELSE SQLERRM END);
END
$$;

CREATE OR REPLACE FUNCTION pgmeaning._cannot_follow(c pgmeaning.collection, why text) RETURNS text
LANGUAGE plpgsql
AS $$
BEGIN
    UPDATE pgmeaning.collection AS k SET key_problem = why WHERE k.id = c.id;
    UPDATE pgmeaning.collection AS k SET problem = pgmeaning._source_problem(k) WHERE k.id = c.id;
    RETURN why;
END
$$;

-- An index that the change would build again is dropped: a sidecar builds it later, with enough memory and no lock.
CREATE OR REPLACE FUNCTION pgmeaning._alter_key(c pgmeaning.collection, t pgmeaning.target, rewrites bool) RETURNS void
LANGUAGE plpgsql
AS $$
DECLARE
    vectors text := pgmeaning._relation_name(t.vectors);
    index   regclass;
BEGIN
    EXECUTE format('DROP POLICY IF EXISTS source_rows ON %s', vectors);
    FOR index IN SELECT i.index FROM pgmeaning._indexes(t.vectors) AS i
                 WHERE rewrites AND pgmeaning._is_our_index(t, i.index, i.kind) LOOP
        EXECUTE format('DROP INDEX %s', pgmeaning._relation_name(index));
    END LOOP;
    EXECUTE format('ALTER TABLE %s %s', vectors, (
        SELECT string_agg(format('ALTER COLUMN %1$I TYPE %2$s USING %4$s::%3$s', k.name, k.definition, k.type,
                                 pgmeaning._key_value(quote_ident(k.name), a.atttypid)), ', ')
        FROM pgmeaning._vector_key_types(c) AS k JOIN pg_attribute AS a ON a.attrelid = t.vectors AND a.attname = k.name
        ));
END
$$;

-- Privileges as they were on a relation that was made anew.
CREATE OR REPLACE FUNCTION pgmeaning._grant_again(relation text, granted aclitem[], col name DEFAULT NULL)
RETURNS void
LANGUAGE plpgsql
AS $$
DECLARE
    one record;
BEGIN
    FOR one IN SELECT a.privilege_type, a.is_grantable, r.rolname
               FROM aclexplode(granted) AS a LEFT JOIN pg_roles AS r ON r.oid = a.grantee
               WHERE a.grantee = 0 OR r.oid IS NOT NULL LOOP
        EXECUTE format('GRANT %s %s ON %s TO %s %s', one.privilege_type, '(' || quote_ident(col) || ')', relation,
                       coalesce(quote_ident(one.rolname), 'PUBLIC'),
                       CASE WHEN one.is_grantable THEN 'WITH GRANT OPTION' END);
    END LOOP;
END
$$;
