CREATE TABLE IF NOT EXISTS docstrings (
    id        bigint GENERATED ALWAYS AS IDENTITY PRIMARY KEY,
    module    text NOT NULL,
    name      text NOT NULL,
    signature text NOT NULL,
    doc       text NOT NULL,
    UNIQUE (module, name)
);
