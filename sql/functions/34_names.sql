-- Which collection is meant: by a new name, or by a table that has several.

-- The collection's view, wherever its schema's name is by now.
CREATE OR REPLACE FUNCTION pgmeaning._view(c pgmeaning.collection) RETURNS regclass
LANGUAGE sql STABLE
AS $$
    SELECT v::regclass FROM pgmeaning.target AS t CROSS JOIN LATERAL pgmeaning._views_on(t.vectors, c.name) AS v
    WHERE t.collection_id = c.id LIMIT 1
$$;

-- Vector tables, indexes, triggers and functions keep their names: sidecars that are at work on them, and statements
-- that are cached, need not learn of it.
CREATE OR REPLACE FUNCTION pgmeaning._rename(c pgmeaning.collection, new_name text) RETURNS void
LANGUAGE plpgsql
AS $$
DECLARE
    view regclass := pgmeaning._view(c);
BEGIN
    c.view_schema := coalesce((SELECT n.nspname FROM pg_class AS r JOIN pg_namespace AS n ON n.oid = r.relnamespace
                               WHERE r.oid = coalesce(view, c.source)), c.view_schema);
    PERFORM pgmeaning._check_name(new_name, c.view_schema);
    BEGIN
        UPDATE pgmeaning.collection AS k SET name = new_name, view_schema = c.view_schema WHERE k.id = c.id
        RETURNING * INTO c;
    EXCEPTION WHEN unique_violation OR lock_not_available THEN
        RAISE EXCEPTION USING ERRCODE = 'PM002',
            MESSAGE = format('another session is taking the name %L, or changing collection %L', new_name, c.name),
            HINT = 'Choose another name, or try again.';
    END;
    PERFORM pgmeaning._drop_kept_view(c);
    IF view IS NULL THEN
        PERFORM pgmeaning._make_view(c);
    ELSE
        EXECUTE format('ALTER VIEW %s RENAME TO %I', pgmeaning._relation_name(view), new_name || '_embedding');
    END IF;
END
$$;

CREATE OR REPLACE FUNCTION pgmeaning.rename_collection(collection text, new_name text) RETURNS void
LANGUAGE plpgsql
AS $$
DECLARE
    c        pgmeaning.collection := pgmeaning._check_manager(pgmeaning._collection($1));
    patience text := pgmeaning._bound_patience();
    spreads  text := pgmeaning._stay_on_node();
BEGIN
    PERFORM pgmeaning._check_swappable(c);  -- its generations are named after it
    BEGIN
        PERFORM pgmeaning._rename(c, new_name);
    EXCEPTION WHEN lock_not_available THEN
        RAISE EXCEPTION USING ERRCODE = 'PM015',
            MESSAGE = format('the view of collection %L is in use by an open transaction', c.name),
            DETAIL = 'rename_collection() renames it, and must wait for the transactions that read it.',
            HINT = 'Try again, or SET lock_timeout to wait longer than 5 seconds.';
    END;
    PERFORM set_config('lock_timeout', patience, true), set_config('citus.enable_ddl_propagation', spreads, true);
END
$$;
COMMENT ON FUNCTION pgmeaning.rename_collection IS 'Gives a collection and its view another name; nothing is embedded.';

CREATE OR REPLACE FUNCTION pgmeaning.set_default_collection(collection text) RETURNS void
LANGUAGE plpgsql
AS $$
DECLARE
    c pgmeaning.collection := pgmeaning._check_manager(pgmeaning._collection($1));
BEGIN
    PERFORM pgmeaning._check_serves(c, 'set_default_collection');
    UPDATE pgmeaning.collection AS k SET preferred = k.id = c.id
    WHERE k.source = c.source AND k.preferred <> (k.id = c.id);
END
$$;
COMMENT ON FUNCTION pgmeaning.set_default_collection
    IS 'Of a table''s collections the one that search(NULL::docs, ...) means; without it, the first.';
