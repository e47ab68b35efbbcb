-- Vectors that outlive their collection: detach(keep_vectors => true) leaves them behind, attach() takes them up again
-- if they are of the same kind. Which of them are still right, the scan finds by content hash.

CREATE OR REPLACE FUNCTION pgmeaning._keep_vectors(c pgmeaning.collection, t pgmeaning.target) RETURNS void
LANGUAGE plpgsql
AS $$
DECLARE
    vectors text := pgmeaning._relation_name(t.vectors);
BEGIN
    EXECUTE format('DROP POLICY IF EXISTS source_rows ON %s', vectors);
    EXECUTE format('DROP TRIGGER IF EXISTS words ON %s', vectors);
    EXECUTE format('DROP TRIGGER IF EXISTS words_emptied ON %s', vectors);
    c.model := t.model;
    INSERT INTO pgmeaning.kept_vectors AS k (vectors, collection, definition, grant_to)
    VALUES (t.vectors, c.name, pgmeaning._definition(c, t.dimensions, pgmeaning._vector_type(t.vectors)), c.grant_to)
    ON CONFLICT ON CONSTRAINT kept_vectors_pkey DO UPDATE
        SET collection = excluded.collection, definition = excluded.definition, grant_to = excluded.grant_to,
            kept_at = now();
END
$$;

-- The view that detach() left behind on kept vectors of a collection of this name.
CREATE OR REPLACE FUNCTION pgmeaning._kept_view(wanted text, view_schema name) RETURNS regclass
LANGUAGE sql STABLE
AS $$
    SELECT r.oid::regclass
    FROM pgmeaning.kept_vectors AS k
    CROSS JOIN LATERAL pgmeaning._views_on(k.vectors, wanted) AS v
    JOIN pg_class AS r ON r.oid = v JOIN pg_namespace AS n ON n.oid = r.relnamespace
    WHERE k.collection = wanted AND n.nspname = view_schema LIMIT 1
$$;

-- Makes kept vectors of the same kind those of a new collection; returns whether there were any. Otherwise the view on
-- those of another kind gives way.
CREATE OR REPLACE FUNCTION pgmeaning._take_kept(c pgmeaning.collection, dimensions int, vector_type text) RETURNS bool
LANGUAGE plpgsql
AS $$
DECLARE
    wanted   jsonb := pgmeaning._definition(c, dimensions, vector_type);
    kept     pgmeaning.kept_vectors;
    t        pgmeaning.target;
BEGIN
    DELETE FROM pgmeaning.kept_vectors AS k
    WHERE k.vectors = (SELECT o.vectors FROM pgmeaning.kept_vectors AS o JOIN pg_class AS r ON r.oid = o.vectors
                       WHERE o.collection = c.name AND o.definition = wanted AND pg_has_role(r.relowner, 'USAGE')
                       ORDER BY o.kept_at DESC LIMIT 1)
    RETURNING k.* INTO kept;
    IF NOT FOUND THEN
        PERFORM pgmeaning._drop_kept_view(c);
        RETURN false;
    END IF;
    PERFORM pgmeaning._protect(c, kept.vectors);
    INSERT INTO pgmeaning.target (collection_id, model, dimensions, vector_type, vectors, fingerprint)
    SELECT c.id, m.name, $2, $3, kept.vectors, m.fingerprint FROM pgmeaning.model AS m WHERE m.name = c.model
    RETURNING * INTO t;
    PERFORM pgmeaning._add_words(c, t) WHERE c.language IS NOT NULL;
    PERFORM pgmeaning._change_grants(c, kept.vectors, kept.grant_to);
    RETURN true;
END
$$;

CREATE OR REPLACE FUNCTION pgmeaning._drop_kept_view(c pgmeaning.collection) RETURNS void
LANGUAGE plpgsql
AS $$
DECLARE
    view     regclass := pgmeaning._kept_view(c.name, c.view_schema);
    blocking text;
BEGIN
    IF view IS NOT NULL THEN
        EXECUTE format('DROP VIEW %s', pgmeaning._relation_name(view));
    END IF;
EXCEPTION WHEN dependent_objects_still_exist THEN
    GET STACKED DIAGNOSTICS blocking = PG_EXCEPTION_DETAIL;
    RAISE EXCEPTION USING ERRCODE = 'PM018',
        MESSAGE = format('other objects depend on the view of vectors that collection %L left behind', c.name),
        DETAIL = blocking,
        HINT = 'Drop them first, or attach as it was attached: then its vectors and its view are taken up.';
END
$$;
