"""One self-contained HTML page about the runs of a pipeline."""
