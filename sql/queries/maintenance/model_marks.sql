-- Of these models, whether each is retired, its fingerprint, and a hash of its options: what a sidecar that has loaded
-- one must notice.
SELECT m.name, m.status = 'retired', m.fingerprint, md5(m.options::text) FROM pgmeaning.model AS m
WHERE m.name = ANY (%(names)s)
