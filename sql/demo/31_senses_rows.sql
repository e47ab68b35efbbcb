INSERT INTO senses VALUES
    (1, 'The children play with a wooden train.'),
    (2, 'Our cat plays with a ball of wool.'),
    (3, 'We are going to see a play at the theatre tonight.'),
    (4, 'The actors in this play forgot their lines.')
ON CONFLICT DO NOTHING;
