-- The list of hosts that the loopback has, if it was made for this cluster: a dump brings that of another.
SELECT max(o.option_value) FILTER (WHERE o.option_name = 'host'),
       max(o.option_value) FILTER (WHERE o.option_name = 'port')
FROM pg_foreign_server AS s CROSS JOIN LATERAL pg_options_to_table(s.srvoptions) AS o
WHERE s.srvname = 'pgmeaning_loopback' AND 'target_session_attrs=read-write' = ANY (s.srvoptions)
  AND split_part(s.srvversion, '/', 1) = pgmeaning._cluster()
HAVING count(*) > 0
