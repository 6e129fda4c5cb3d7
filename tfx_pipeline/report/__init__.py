"""One self-contained HTML page about the runs of a pipeline."""

from tfx_pipeline.report.writer import Summary, write_report

__all__ = ["Summary", "write_report"]
