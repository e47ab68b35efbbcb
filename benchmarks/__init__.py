"""One script per question; each prints a table of ratios between things measured in the same run."""
