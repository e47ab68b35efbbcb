-- Of these models, whether each is retired, and its fingerprint: what a sidecar that has loaded one must notice.
SELECT m.name, m.status = 'retired', m.fingerprint FROM pgmeaning.model AS m WHERE m.name = ANY (%(names)s)
