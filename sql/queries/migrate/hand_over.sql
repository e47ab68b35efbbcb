-- Objects made by a superuser, or by a member of the owning role, go to the owner of the installation, who could not
-- replace them in the next migration otherwise. Existing objects keep their owner when they are replaced.
DO $$
DECLARE
    installer oid := (SELECT relowner FROM pg_class WHERE oid = 'pgmeaning.alembic_version'::regclass);
    vectors   oid[] := ARRAY(SELECT t.vectors FROM pgmeaning.target AS t);
    item      record;
BEGIN
    FOR item IN
        SELECT o.kind, o.name
        FROM (SELECT 'ROUTINE', p.oid::regprocedure::text, p.proowner, p.pronamespace, 'pg_proc'::regclass, p.oid
              FROM pg_proc AS p
              UNION ALL
              SELECT CASE c.relkind WHEN 'c' THEN 'TYPE' ELSE 'TABLE' END, c.oid::regclass::text, c.relowner,
                     c.relnamespace, 'pg_class'::regclass, c.oid
              FROM pg_class AS c WHERE c.relkind IN ('r', 'v', 'm', 'S', 'c')
              UNION ALL
              -- The loopback belongs to the owner of the function that uses it.
              SELECT 'SERVER', 'pgmeaning_loopback', s.srvowner, 'pgmeaning'::regnamespace,
                     'pg_foreign_server'::regclass, s.oid
              FROM pg_foreign_server AS s
              WHERE s.srvname = 'pgmeaning_loopback') AS o (kind, name, owner, namespace, class, oid)
        WHERE o.namespace IN ('pgmeaning'::regnamespace, 'pgmeaning_data'::regnamespace)
          AND o.owner <> installer AND pg_has_role(o.owner, 'USAGE')
          -- Vector tables may be the sidecar's, see below.
          AND NOT (o.class = 'pg_class'::regclass AND o.oid = ANY (vectors))
          -- The sequence of a column follows its table; an extension's objects are not ours.
          AND NOT EXISTS (SELECT FROM pg_depend AS d WHERE d.classid = o.class AND d.objid = o.oid AND d.objsubid = 0
                          AND (d.deptype = 'e' OR d.deptype IN ('a', 'i') AND d.refclassid = 'pg_class'::regclass
                               AND d.refobjsubid > 0))
    LOOP
        EXECUTE format('ALTER %s %s OWNER TO %I', item.kind, item.name, pg_get_userbyid(installer));
    END LOOP;
    PERFORM pgmeaning._hand_over(c) FROM pgmeaning.collection AS c;
END
$$
