"""Clients of the model server and of the ranking service.

They pad and batch requests, and need grpcio, protobuf, NumPy and urllib3, but
not TensorFlow. `serving.client.testing` answers their calls without a server.
"""

from serving.client.async_client import AsyncMuseClient
from serving.client.batches import Limits
from serving.client.client import MuseClient
from serving.client.errors import (
    AuthenticationError,
    CallError,
    ClientClosedError,
    DeadlineError,
    InvalidArgumentError,
    MuseClientError,
    NotFoundError,
    OverloadedError,
    RequestError,
    ResponseError,
    SignatureError,
    UnavailableError,
)
from serving.client.examples import make_example
from serving.client.fresh_items import FreshItems, PushReport
from serving.client.matching import RecommendRequest, RecommendResult
from serving.client.ranking import (
    AsyncRankingClient,
    RankingClient,
    RankingRequest,
    RankingResult,
    Stage,
)
from serving.client.settings import Retry, Timeouts, Tls
from serving.client.types import (
    EmbedResult,
    ExplainResult,
    ModelMetadata,
    RankRequest,
    RankResult,
    Signature,
    TensorSpec,
    VersionStatus,
)
from serving.client.upserts import UpsertResult
from serving.client.user_cache import (
    CachedRankRequest,
    CachedRankResult,
    PrefetchRequest,
    PrefetchResult,
    ResolvedItems,
    UserCacheStats,
)

__all__ = [
    "AsyncMuseClient",
    "AsyncRankingClient",
    "AuthenticationError",
    "CachedRankRequest",
    "CachedRankResult",
    "CallError",
    "ClientClosedError",
    "DeadlineError",
    "EmbedResult",
    "ExplainResult",
    "FreshItems",
    "InvalidArgumentError",
    "Limits",
    "ModelMetadata",
    "MuseClient",
    "MuseClientError",
    "NotFoundError",
    "OverloadedError",
    "PrefetchRequest",
    "PrefetchResult",
    "PushReport",
    "RankRequest",
    "RankResult",
    "RankingClient",
    "RankingRequest",
    "RankingResult",
    "RecommendRequest",
    "RecommendResult",
    "RequestError",
    "ResolvedItems",
    "ResponseError",
    "Retry",
    "Signature",
    "SignatureError",
    "Stage",
    "TensorSpec",
    "Timeouts",
    "Tls",
    "UnavailableError",
    "UpsertResult",
    "UserCacheStats",
    "VersionStatus",
    "make_example",
]
