-- Settings that cut sessions, as an ordinary session of this role has them.
SELECT 'setting' AS kind, s.name AS thing,
       format('it is %%s: a statement that embeds a query may wait for 10 s, and is cut', s.value) AS problem,
       format('ALTER DATABASE %%I SET %%I = ''15s'', or pass a shorter timeout => to search()', current_database(),
              s.name) AS remedy, NULL AS fix
FROM (SELECT p.name, current_setting(p.name) AS value, p.setting::bigint AS milliseconds FROM pg_settings AS p
      WHERE p.name IN ('statement_timeout', 'transaction_timeout')) AS s
WHERE s.milliseconds BETWEEN 1 AND 9999
UNION ALL
SELECT 'setting', 'idle_session_timeout',
       format('it is %%s: the loopback of a session is cut as often, and logs in anew',
              current_setting('idle_session_timeout')),
       format('ALTER ROLE %%I SET idle_session_timeout = 0', l.login), NULL
FROM pgmeaning.loopback AS l
WHERE current_setting('idle_session_timeout') NOT IN ('0')
      AND NOT EXISTS (SELECT FROM pg_db_role_setting AS d JOIN pg_roles AS r ON r.oid = d.setrole
                      WHERE r.rolname = l.login AND d.setconfig::text LIKE '%%idle_session_timeout=0%%')
