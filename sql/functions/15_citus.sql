-- Citus, as far as one node goes: our DDL stays on this node, and tables whose rows are on several are refused.

-- The tables that Citus spreads over nodes, and as what: the one place that reads its catalog, where there is one.
-- Tables that it merely knows, since others refer to them, are local.
CREATE OR REPLACE FUNCTION pgmeaning._spread_tables() RETURNS TABLE (relation oid, kind text)
LANGUAGE plpgsql STABLE
AS $$
BEGIN
    IF to_regclass('pg_catalog.pg_dist_partition') IS NULL THEN
        RETURN;
    END IF;
    -- Dynamic, as the catalog may come and go.
    RETURN QUERY EXECUTE
        'SELECT p.logicalrelid::oid, CASE WHEN p.partmethod IN (''h'', ''r'', ''a'') THEN ''distributed table'' '
        'WHEN p.repmodel = ''t'' THEN ''reference table'' ELSE ''table of a distributed schema'' END '
        'FROM pg_catalog.pg_dist_partition AS p '
        'WHERE NOT (p.partmethod = ''n'' AND p.repmodel = ''s'' AND p.colocationid = 0)';
END
$$;

-- Why no trigger of this node would see all writes to a table, or null.
CREATE OR REPLACE FUNCTION pgmeaning._spread_problem(source regclass) RETURNS text
LANGUAGE sql STABLE
AS $$
    WITH RECURSIVE part (relation) AS (
        SELECT source::oid UNION ALL SELECT i.inhrelid FROM part AS p JOIN pg_inherits AS i ON i.inhparent = p.relation
    )
    SELECT format('%s is a %s of Citus', pgmeaning._relation_name(s.relation), s.kind)
    FROM pgmeaning._spread_tables() AS s WHERE s.relation IN (SELECT p.relation FROM part AS p) LIMIT 1
$$;

-- Keeps Citus from sending our DDL to its workers, where there is no pgmeaning; returns what was set, for the caller to
-- set it again. Without Citus it is a name that nobody reads.
CREATE OR REPLACE FUNCTION pgmeaning._stay_on_node() RETURNS text
LANGUAGE plpgsql VOLATILE
AS $$
DECLARE
    propagation text := current_setting('citus.enable_ddl_propagation', true);
BEGIN
    PERFORM set_config('citus.enable_ddl_propagation', 'off', true);
    RETURN propagation;
END
$$;
