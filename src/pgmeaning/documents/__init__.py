"""From the columns of a row to the texts that are embedded."""
