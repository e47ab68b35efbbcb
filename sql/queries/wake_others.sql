SELECT pgmeaning._wake()
