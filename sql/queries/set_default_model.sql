SELECT pgmeaning.set_default_model(%(name)s)
