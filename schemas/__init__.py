"""TFMD schemas, the reader of YAML settings; README.md names all fields."""
