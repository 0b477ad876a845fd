"""data.csv_files."""

DIGITS = 6  # significant, of every number in a table
