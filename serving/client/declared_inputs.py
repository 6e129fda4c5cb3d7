"""Features that the signatures of a served model declare."""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterable, Mapping
from typing import Any

import numpy as np

from serving.client.calls import GetMetadata, Plan, Predict, Target
from serving.client.errors import (
    CallError,
    InvalidArgumentError,
    RequestError,
)
from serving.client.types import ModelMetadata

# Before the name of a feature in the name of its input, by the field of a
# request.
_PREFIXES = {"user": "user_", "behaviors": "behavior_", "features": "item_"}
_NO_FEATURES = ("user_id", "behavior_item_ids", "behavior_rows", "item_ids")


class DeclaredInputs:
    """Makes the inputs of signatures that take features by name.

    The model is asked once which inputs its signatures have, and again when
    it refuses them: another version may have come.
    """

    def __init__(self, target: Target) -> None:
        self._target = target
        self._metadata: ModelMetadata | None = None

    def predict(
        self,
        signature: str,
        inputs: Callable[[Collection[str]], Mapping[str, np.ndarray]],
    ) -> Plan[Mapping[str, np.ndarray]]:
        """Runs a signature; `inputs` makes inputs of the declared names.

        There are none where the model does not say, as a mock.
        """
        if self._metadata is None:
            self._metadata = yield GetMetadata(self._target)
        declared = self._declared(signature)
        try:
            return (yield Predict(self._target, signature, inputs(declared)))
        except InvalidArgumentError as refused:
            try:
                self._metadata = yield GetMetadata(self._target)
            except CallError:
                raise refused from None
            again = self._declared(signature)
            if again == declared:
                raise
        return (yield Predict(self._target, signature, inputs(again)))

    def _declared(self, signature: str) -> Collection[str]:
        known = self._metadata.signatures if self._metadata else {}
        return set(known[signature].inputs) if signature in known else ()


def feature_names(
    field: str,
    given: Iterable[Mapping[str, Any]],
    declared: Collection[str],
) -> dict[str, str]:
    """Returns the features to send, and the names of their inputs.

    Args:
        field: `user`, `behaviors` or `features`.
        given: that field of each request.
        declared: names of inputs; without any, what is given counts.

    Raises:
        RequestError: the model does not declare a feature.
    """
    prefix = _PREFIXES[field]
    asked = {name: f"{prefix}{name}" for some in given for name in some}
    if not declared:
        return asked
    known = {
        name.removeprefix(prefix): name
        for name in sorted(declared)
        if name.startswith(prefix) and name not in _NO_FEATURES
    }
    for name in asked:
        if name not in known:
            raise RequestError(
                field,
                f"name features of the model: {', '.join(known) or 'none'}",
                name,
            )
    return known
