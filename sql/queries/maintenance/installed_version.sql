SELECT version, functions_hash FROM pgmeaning.installation
