SELECT pgmeaning.resume(%(name)s)
