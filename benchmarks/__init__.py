"""One script a question; each prints a table with ratios of things measured in the same run."""
