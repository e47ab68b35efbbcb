DELETE FROM docstrings WHERE module = 'kitchen';
