SELECT pgmeaning.detach(%(name)s, keep_vectors => %(keep_vectors)s)
