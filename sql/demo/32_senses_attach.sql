SELECT pgmeaning.attach('senses', ARRAY['sentence']);
