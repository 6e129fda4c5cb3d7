"""Export of a trained ranker as a SavedModel with its item table inside."""

from serving.export.exporter import (
    UNSERVED_FEATURES,
    Export,
    export_saved_model,
    next_version,
)
from serving.export.kernel_report import KernelReport, kernel_report
from serving.export.user_cache import UserCacheConfig

__all__ = [
    "UNSERVED_FEATURES",
    "Export",
    "KernelReport",
    "UserCacheConfig",
    "export_saved_model",
    "kernel_report",
    "next_version",
]
