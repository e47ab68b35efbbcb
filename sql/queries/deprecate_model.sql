SELECT pgmeaning.deprecate_model(%(name)s)
