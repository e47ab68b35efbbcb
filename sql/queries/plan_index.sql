SELECT * FROM pgmeaning.plan_index(%(name)s, %(kind)s, %(dimensions)s)
