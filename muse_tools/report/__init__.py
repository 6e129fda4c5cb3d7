"""One self-contained HTML page about the runs of a pipeline."""

from muse_tools.report.writer import Summary, write_report

__all__ = ["Summary", "write_report"]
