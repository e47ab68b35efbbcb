UPDATE docstrings SET name = 'paint_wall', signature = '(colour)', doc = 'Cover a wall with paint.'
WHERE module = 'kitchen';
