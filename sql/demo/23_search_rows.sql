SELECT key, distance, model FROM pgmeaning.search('docstrings', 'remove a folder and everything in it', k => 3);
