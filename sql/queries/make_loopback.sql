SELECT pgmeaning._make_loopback(%s, %s)
