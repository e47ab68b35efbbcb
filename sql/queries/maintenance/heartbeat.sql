INSERT INTO pgmeaning.sidecar (id, host, pid, version, models, named, problems, rows_done, rates)
VALUES (%(id)s, %(host)s, %(pid)s, %(version)s, %(models)s, %(named)s, %(problems)s, %(rows_done)s, %(rates)s)
ON CONFLICT (id) DO UPDATE SET heartbeat_at = now(), models = excluded.models, problems = excluded.problems,
    rows_done = excluded.rows_done, rates = excluded.rates
