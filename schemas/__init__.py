"""Declarations of data sets and TFMD schemas; README.md lists all fields."""
