-- (seconds to wait or null, by which limit) for what is about to be sent to a model's endpoint; see the function.
SELECT s.wait, s.by_limit FROM pgmeaning._spend(%(model)s, %(requests)s, %(tokens)s, %(requests_per_minute)s,
    %(tokens_per_minute)s, %(tokens_per_day)s, %(waits)s) AS s
