SELECT pgmeaning.refresh(%(name)s)
