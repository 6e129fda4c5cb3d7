"""A transport to test programs that use the clients, without a server."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any, TypeVar

import numpy as np

from serving.client.calls import Call, GetMetadata, GetStatus, Predict
from serving.client.errors import call_error
from serving.client.ranking_types import (
    AppendEvents,
    Rank,
    RankingRequest,
    RankingResult,
)
from serving.client.types import (
    ModelMetadata,
    Signature,
    TensorSpec,
    VersionStatus,
)

_T = TypeVar("_T")
Outputs = Mapping[str, np.ndarray]


class MockTransport:
    """Answers the calls of a client with functions that a test provides.

    All four clients accept it as `transport`, the asynchronous ones too.
    Batching, retries and the checks of requests and answers are the real ones.

    Args:
        signatures: by name of a signature, a function from its inputs to its
            outputs. To simulate a failure, raise the result of `call_error` of
            `serving.client.errors`.
        ranking: makes the result of `RankingClient.rank`.
        inputs: declared inputs by signature, to check requests as a served
            model does. A signature without an entry accepts all inputs.

    Attributes:
        calls: the calls sent, one per attempt.

    Example:
        >>> def half(inputs):
        ...     shape = inputs["candidate_item_ids"].shape
        ...     return {"click_probability": np.full(shape, 0.5, np.float32)}
        >>> transport = MockTransport({"rank": half})
        >>> with MuseClient("mock", transport) as client:
        ...     request = RankRequest(7, [13, 14], behavior_item_ids=[11])
        ...     client.rank(request).click_probability
        array([0.5, 0.5], dtype=float32)
    """

    def __init__(
        self,
        signatures: Mapping[str, Callable[[Outputs], Outputs]] | None = None,
        ranking: Callable[[RankingRequest], RankingResult] | None = None,
        inputs: Mapping[str, Mapping[str, TensorSpec]] | None = None,
    ) -> None:
        self._signatures = dict(signatures or {})
        self._ranking = ranking
        self._inputs = dict(inputs or {})
        self.calls: list[Call[Any]] = []

    def send(self, call: Call[_T], seconds: float) -> _T:
        """Answers a call. `append_events` appends all; the version is 1.

        Raises:
            SignatureError: no function was given for the call.
        """
        self.calls.append(call)
        answer: Any
        if isinstance(call, Predict) and call.signature in self._signatures:
            outputs = self._signatures[call.signature](call.inputs)
            answer = {name: outputs[name] for name in call.outputs or outputs}
        elif isinstance(call, GetStatus):
            answer = [VersionStatus(1, "AVAILABLE")]
        elif isinstance(call, GetMetadata):
            names = dict.fromkeys((*self._signatures, *self._inputs))
            signatures = {
                name: Signature(self._inputs.get(name, {}), {})
                for name in names
            }
            answer = ModelMetadata(call.target.model, 1, signatures)
        elif isinstance(call, Rank) and self._ranking is not None:
            answer = self._ranking(call.request)
        elif isinstance(call, AppendEvents):
            answer = len(call.item_ids)
        else:
            name = getattr(call, "signature", type(call).__name__)
            raise call_error(
                "FAILED_PRECONDITION",
                f"the mock has no function for {name!r}, only for "
                f"{sorted(self._signatures)}",
            )
        return answer

    def close(self) -> None:
        """Does nothing."""
