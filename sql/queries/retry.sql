SELECT pgmeaning.retry(%(name)s)
