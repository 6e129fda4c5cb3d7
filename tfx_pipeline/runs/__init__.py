"""A run of the pipeline: how it starts, what it may reuse, how it ended."""
