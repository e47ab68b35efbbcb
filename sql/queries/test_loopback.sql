SELECT pgmeaning._test_loopback()
