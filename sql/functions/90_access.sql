-- Who may do what, and the search_path of every function; runs after all other files.

-- What an earlier version had besides what this one made in this transaction: beside a new function of its name an old
-- one would be an overload, and a call could mean either. Functions of other names may be a user's.
DO $$
DECLARE
    routine record;
BEGIN
    FOR routine IN
        SELECT p.oid::regprocedure AS signature FROM pg_proc AS p
        WHERE p.pronamespace = 'pgmeaning'::regnamespace AND p.xmin <> pg_current_xact_id()::xid
          AND (p.proname LIKE E'\\_%' OR EXISTS (SELECT FROM pg_proc AS new WHERE new.pronamespace = p.pronamespace
                                                 AND new.proname = p.proname AND new.xmin = pg_current_xact_id()::xid))
          AND NOT EXISTS (SELECT FROM pg_depend AS d WHERE d.objid = p.oid AND d.deptype = 'e')
    LOOP
        EXECUTE format('DROP ROUTINE %s', routine.signature);
    END LOOP;
END
$$;

GRANT USAGE ON SCHEMA pgmeaning, pgmeaning_data TO PUBLIC;
-- The registry is readable; the queue, the inbox, requests and the cache hold keys and queries, so they are not.
GRANT SELECT ON pgmeaning.model, pgmeaning.release, pgmeaning.collection, pgmeaning.target, pgmeaning.vector_index,
    pgmeaning.status, pgmeaning.index_report, pgmeaning.sidecars, pgmeaning.models, pgmeaning.releases,
    pgmeaning.alembic_version, pgmeaning.installation TO PUBLIC;
-- Run as their owner for embed() and status; of no use to others, and the one could log in.
REVOKE EXECUTE ON FUNCTION pgmeaning._test_loopback(), pgmeaning._make_loopback(text, text, bool) FROM PUBLIC;

-- Functions that name no path get one: with pgvector's schema, wherever that is, only where its types and operators are
-- spoken of, and never for what runs as its owner. That schema is often public, where others might plant a function
-- that fits a call better than the system's own.
DO $$
DECLARE
    vector_schema text := (SELECT quote_ident(n.nspname) FROM pg_extension AS e
                           JOIN pg_namespace AS n ON n.oid = e.extnamespace
                           WHERE e.extname = 'vector');
    vector_type   oid := (SELECT t.oid FROM pg_type AS t JOIN pg_namespace AS n ON n.oid = t.typnamespace
                          WHERE t.typname = 'vector' AND quote_ident(n.nspname) = vector_schema);
    routine       record;
BEGIN
    FOR routine IN
        SELECT p.oid::regprocedure AS signature, NOT p.prosecdef AND (
            p.prosrc ~ '\m(vector(_dims)?|halfvec|_vector_type)\M|<=>|<~>|quantize'
            OR vector_type = ANY (p.proargtypes)) AS of_vectors
        FROM pg_proc AS p
        WHERE p.pronamespace = 'pgmeaning'::regnamespace AND p.prokind = 'f'
          AND NOT coalesce(p.proconfig::text LIKE '%search_path=%', false)
          AND NOT EXISTS (SELECT FROM pg_depend AS d WHERE d.objid = p.oid AND d.deptype = 'e')
    LOOP
        EXECUTE format('ALTER FUNCTION %s SET search_path = pg_catalog, %s pg_temp', routine.signature,
            CASE WHEN routine.of_vectors THEN vector_schema || ',' END);
    END LOOP;
END
$$;

-- A newer trigger function for the collections that there are: replacing it locks no table.
SELECT pgmeaning._make_trigger_function(c) FROM pgmeaning.collection AS c
WHERE EXISTS (SELECT FROM pg_catalog.pg_class WHERE oid = c.source) AND c.problem IS NULL;
