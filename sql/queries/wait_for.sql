CALL pgmeaning.wait_for(%(name)s, %(key)s, %(timeout)s)
