LISTEN pgmeaning
