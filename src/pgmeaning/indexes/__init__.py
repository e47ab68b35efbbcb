"""Builds the indexes of vector tables, and measures the recall of searches that use them."""
