SELECT pgmeaning.attach('docstrings', template => '{module}.{name}: {doc}');
