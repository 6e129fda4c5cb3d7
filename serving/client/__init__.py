"""Client of a served MUSE model.

Needs grpcio, protobuf and numpy, not TensorFlow. Padding and batching are
done for the caller; errors name the field and what was expected.
"""

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

__all__ = [
    "AuthenticationError",
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
    "PushReport",
    "RankRequest",
    "RankResult",
    "RecommendRequest",
    "RecommendResult",
    "RequestError",
    "ResponseError",
    "Retry",
    "Signature",
    "SignatureError",
    "TensorSpec",
    "Timeouts",
    "Tls",
    "UnavailableError",
    "UpsertResult",
    "VersionStatus",
    "make_example",
]
