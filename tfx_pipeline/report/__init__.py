"""The report on a pipeline's models: one HTML page and its numbers."""

from tfx_pipeline.report.writer import Summary, write_report

__all__ = ["Summary", "write_report"]
