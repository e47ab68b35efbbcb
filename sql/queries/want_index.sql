SELECT pgmeaning.want_index(%(name)s, %(kind)s, %(dimensions)s)
