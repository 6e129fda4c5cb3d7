"""Methods compared on equal terms: a grid of trainings, and its tables."""
