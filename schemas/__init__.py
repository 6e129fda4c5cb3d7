"""TFMD schemas, and README.md: the dictionary of all fields."""
