"""Runs of the pipeline: the local runner, cache keys, lineage, verdicts."""
