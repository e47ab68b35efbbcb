"""Building the indexes of vector tables, and measuring what searches find by them."""
