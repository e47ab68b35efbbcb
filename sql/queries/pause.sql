SELECT pgmeaning.pause(%(name)s)
