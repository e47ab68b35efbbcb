-- An installation with roles: what a collection needs of its table is granted at attach(), by the table's owner, and
-- what is made belongs to the installation, whoever attached.

-- Hands what was made for a collection over to its owners: the vector tables to the sidecar, all else to the owner.
CREATE OR REPLACE FUNCTION pgmeaning._hand_over(c pgmeaning.collection) RETURNS void
LANGUAGE plpgsql
AS $$
DECLARE
    item record;
BEGIN
    FOR item IN
        SELECT 'FUNCTION' AS kind, p.oid::regprocedure::text AS name, pgmeaning._owner() AS owner FROM pg_proc AS p
        WHERE p.pronamespace IN ('pgmeaning'::regnamespace, 'pgmeaning_data'::regnamespace)
          AND p.proname IN ('on_change_' || c.id, 'visible_' || c.id, 'unrestricted_' || c.id, 'words_' || c.id)
          AND p.proowner <> pgmeaning._owner()::regrole
        UNION ALL
        SELECT 'TABLE', pgmeaning._relation_name(r.oid), pgmeaning._sidecar_role() FROM pgmeaning.target AS t
        JOIN pg_class AS r ON r.oid = t.vectors
        WHERE t.collection_id = c.id AND r.relowner <> pgmeaning._sidecar_role()::regrole
        UNION ALL
        SELECT 'VIEW', pgmeaning._relation_name(r.oid), pgmeaning._owner() FROM pgmeaning.target AS t
        CROSS JOIN LATERAL pgmeaning._views_on(t.vectors, c.name) AS v JOIN pg_class AS r ON r.oid = v
        WHERE t.collection_id = c.id AND r.relowner <> pgmeaning._owner()::regrole
          AND has_schema_privilege(pgmeaning._owner(), r.relnamespace, 'CREATE')
    LOOP
        EXECUTE format('ALTER %s %s OWNER TO %I', item.kind, item.name, item.owner);
    END LOOP;
END
$$;

-- What the installation's roles need of a collection's table and do not have, as statements: the reader its columns and
-- no more, the owner to make triggers, and its view in the table's schema.
CREATE OR REPLACE FUNCTION pgmeaning._needed_grants(c pgmeaning.collection)
RETURNS TABLE (statement text, dispensable bool)
LANGUAGE sql STABLE
AS $$
    SELECT format('GRANT USAGE ON SCHEMA %I TO %I', n.nspname, role), false
    FROM pg_class AS r JOIN pg_namespace AS n ON n.oid = r.relnamespace
    CROSS JOIN (SELECT pgmeaning._owner() UNION SELECT pgmeaning._reader_role()) AS u (role)
    WHERE r.oid = c.source AND NOT has_schema_privilege(role, n.oid, 'USAGE')
    UNION ALL
    SELECT format('GRANT CREATE ON SCHEMA %I TO %I', c.view_schema, pgmeaning._owner()), true
    WHERE NOT has_schema_privilege(pgmeaning._owner(), to_regnamespace(quote_ident(c.view_schema))::oid, 'CREATE')
    UNION ALL
    SELECT format('GRANT SELECT (%s) ON %s TO %I', string_agg(quote_ident(col), ', ' ORDER BY i),
                  pgmeaning._relation_name(c.source), pgmeaning._reader_role()), false
    FROM unnest(c.key_columns || pgmeaning._embedded_columns(c)) WITH ORDINALITY AS u (col, i)
    WHERE NOT has_column_privilege(pgmeaning._reader_role(), c.source, col, 'SELECT')
    HAVING count(*) > 0
    UNION ALL
    SELECT format('GRANT TRIGGER ON %s TO %I', pgmeaning._relation_name(w), pgmeaning._owner()), false
    FROM pgmeaning._watched(c) AS w WHERE NOT has_table_privilege(pgmeaning._owner(), w, 'TRIGGER')
    UNION ALL
    SELECT format('CREATE POLICY pgmeaning ON %s FOR SELECT TO %I USING (true)', pgmeaning._relation_name(c.source),
                  pgmeaning._reader_role()), false
    WHERE pgmeaning._row_security_binds(c.source, pgmeaning._reader_role())
      AND NOT pgmeaning._lets_all_through(c.source, pgmeaning._reader_role())
$$;

-- Grants it, as far as the caller may; raises an error with the statements that another must run.
CREATE OR REPLACE FUNCTION pgmeaning._grant_access(c pgmeaning.collection) RETURNS void
LANGUAGE plpgsql SET client_min_messages = error  -- not that nothing was granted
AS $$
DECLARE
    needed  record;
    missing text;
BEGIN
    IF pgmeaning._owner() = pgmeaning._reader_role() THEN
        RETURN;  -- it is whoever attaches
    END IF;
    FOR needed IN SELECT g.* FROM pgmeaning._needed_grants(c) AS g LOOP
        BEGIN
            EXECUTE needed.statement;
        EXCEPTION WHEN insufficient_privilege THEN
            NULL;  -- said below
        END;
    END LOOP;
    SELECT string_agg(g.statement, '; ') INTO missing FROM pgmeaning._needed_grants(c) AS g WHERE NOT g.dispensable;
    IF missing IS NOT NULL THEN
        RAISE EXCEPTION USING ERRCODE = 'PM011',
            MESSAGE = format('role %I may not let pgmeaning read %s', current_user, c.source),
            DETAIL = 'Its roles need rights that only the owner of the table can give.',
            HINT = 'As its owner: ' || missing;
    END IF;
END
$$;

-- What takes back the rights that were given for a collection which is gone: all of them, or, while others are of the
-- same table, the reader's on columns that none of those has.
CREATE OR REPLACE FUNCTION pgmeaning._withdrawals(c pgmeaning.collection, source text) RETURNS SETOF text
LANGUAGE plpgsql STABLE
AS $$
DECLARE
    needed name[] := (SELECT array_agg(DISTINCT col) FROM pgmeaning.collection AS k
                      CROSS JOIN LATERAL unnest(k.key_columns || pgmeaning._embedded_columns(k)) AS col
                      WHERE k.source = c.source);
BEGIN
    IF needed IS NOT NULL THEN
        RETURN QUERY SELECT format('REVOKE SELECT (%s) ON %s FROM %I', string_agg(quote_ident(a.attname), ', '),
                                   source, pgmeaning._reader_role())
        FROM pg_attribute AS a
        WHERE a.attrelid = c.source AND NOT a.attisdropped AND a.attname <> ALL (needed)
          AND a.attname = ANY (c.key_columns || pgmeaning._embedded_columns(c))
        HAVING count(*) > 0;
        RETURN;
    END IF;
    RETURN QUERY SELECT format('REVOKE SELECT ON %s FROM %I', source, pgmeaning._reader_role())  -- on the columns, too
        UNION ALL
        SELECT format('REVOKE TRIGGER ON %s FROM %I', pgmeaning._relation_name(w), pgmeaning._owner())
        FROM pgmeaning._watched(c) AS w
        UNION ALL
        SELECT format('DROP POLICY pgmeaning ON %s', source) FROM pg_policy AS p
        WHERE p.polrelid = c.source AND p.polname = 'pgmeaning'
          AND p.polroles = ARRAY[pgmeaning._reader_role()::regrole::oid];
END
$$;

-- Takes back what attach() granted on a table that no collection is of any more, as far as the caller may; rights to
-- the schema stay, since they may be others'.
CREATE OR REPLACE FUNCTION pgmeaning._take_back(c pgmeaning.collection) RETURNS void
LANGUAGE plpgsql SET client_min_messages = error  -- not that a right was somebody else's to take
AS $$
DECLARE
    source    text := pgmeaning._relation_name(c.source);
    statement text;
BEGIN
    IF source IS NULL OR pgmeaning._owner() = pgmeaning._reader_role() THEN
        RETURN;
    END IF;
    FOR statement IN SELECT w FROM pgmeaning._withdrawals(c, source) AS w
    LOOP
        BEGIN
            EXECUTE statement;
        EXCEPTION WHEN insufficient_privilege THEN
            NULL;
        END;
    END LOOP;
END
$$;
