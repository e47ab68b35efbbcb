SELECT pgmeaning.embed(%(input)s, model => %(model)s, as_query => %(as_query)s, timeout => %(timeout)s)
