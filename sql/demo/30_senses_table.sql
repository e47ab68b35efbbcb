CREATE TABLE IF NOT EXISTS senses (id int PRIMARY KEY, sentence text NOT NULL);
