"""Ranks candidates within a deadline, with a user cache and fallbacks.

Example:
    >>> from serving.ranking_service import ServiceConfig, running_service
    >>> config = ServiceConfig(store="lmdb:/data/store", port=0, rest_port=0)
    >>> with running_service(config) as app:  # doctest: +SKIP
    ...     app.grpc_target
    '127.0.0.1:41327'
"""

from serving.ranking_service.admission import Overloaded
from serving.ranking_service.app import (
    ServiceApp,
    run_until_signal,
    running_service,
)
from serving.ranking_service.config import ServiceConfig
from serving.ranking_service.service import RankingService

__all__ = [
    "Overloaded",
    "RankingService",
    "ServiceApp",
    "ServiceConfig",
    "run_until_signal",
    "running_service",
]
