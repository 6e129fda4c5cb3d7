"""Inputs that the signatures of a served model declare."""

from __future__ import annotations

import dataclasses
import functools
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any

import numpy as np

from serving.client.calls import GetMetadata, Plan, Predict, Target
from serving.client.declaration import Declaration
from serving.client.errors import (
    CallError,
    InvalidArgumentError,
    RequestError,
)
from serving.client.feature_values import (
    Kind,
    inferred_kind,
    objects,
    tensor_of_each,
)
from serving.client.types import ModelMetadata, TensorSpec

# The prefix of a feature's input name, by the field of a request.
_PREFIXES = {
    "user": "user_",
    "behaviors": "behavior_",
    "context": "context_",
    "candidates": "candidate_",
    "features": "item_",
}
_NO_FEATURES = (
    *("user_id", "behavior_item_ids", "behavior_rows", "item_ids"),
    "candidate_item_ids",
)
_EACH = ("behaviors", "candidates")
_DTYPES = {"int64": "int64", "float32": "float"}


@dataclasses.dataclass(frozen=True)
class SignatureInputs:
    """Makes the inputs of one signature.

    Attributes:
        specs: the declared inputs. Empty if the model does not declare them,
            like a mock; then the kind of the given values is used.
        declaration: converts texts to ids.
    """

    specs: Mapping[str, TensorSpec] = dataclasses.field(default_factory=dict)
    declaration: Declaration = dataclasses.field(default_factory=Declaration)

    def ids(self, name: str, field: str, values: Any) -> np.ndarray:
        """Returns keys as int64 (N,); see `Declaration.ids`."""
        return self.declaration.ids(name, field, values)

    def user_ids(self, requests: Iterable[Any]) -> np.ndarray:
        """Returns the users of requests as int64 (B,)."""
        ids = [
            self.declaration.id("user_id", "user_id", request.user_id)
            for request in requests
        ]
        return np.array(ids, np.int64)

    def features(
        self, field: str, requests: Sequence[Any], length: int = 0
    ) -> dict[str, np.ndarray]:
        """Returns the features in a field of requests, padded.

        Args:
            field: `user` or `context`, which have one entity per request, or
                `behaviors` or `candidates`, which have several.
            requests: requests with this field.
            length: number of entities of a request after padding.

        Raises:
            RequestError: a name is not declared, or a value does not fit.
        """
        given = [getattr(request, field) for request in requests]
        inputs = {}
        for name, key in self.names(field, given).items():
            values = [features.get(name) for features in given]
            where = f"{field}[{name!r}]"
            kind = self.kind(key, values, field in _EACH)
            if field in _EACH:
                inputs[key] = tensor_of_each(where, values, kind, length)
            else:
                inputs[key] = _of_each_row(where, values, kind)
        return inputs

    def item_features(
        self, given: Mapping[str, np.ndarray], count: int
    ) -> dict[str, np.ndarray]:
        """Returns features of items, each (N,) or (N, width)."""
        inputs = {}
        for name, key in self.names("features", [given]).items():
            values = given.get(name)
            kind = self.kind(key, [values], True)
            values = objects([None] * count) if values is None else values
            inputs[key] = _of_each_row(f"features[{name!r}]", values, kind)
        return inputs

    def names(
        self, field: str, given: Iterable[Mapping[str, Any]]
    ) -> dict[str, str]:
        """Returns the features to send, and the names of their inputs.

        Args:
            field: a field of requests, or `features` for items.
            given: the value of this field in each request.

        Raises:
            RequestError: the model does not declare a feature.
        """
        prefix = _PREFIXES[field]
        asked = {name: f"{prefix}{name}" for some in given for name in some}
        if not self.specs:
            return asked
        known = {
            name.removeprefix(prefix): name
            for name in sorted(self.specs)
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

    def kind(self, key: str, values: Sequence[Any], each: bool) -> Kind:
        """Returns what an input takes for one entity."""

        def text_id(field: str, text: str) -> int:
            return self.declaration.id(key, field, text)

        declared = self.declaration.feature(key)
        spec = self.specs.get(key)
        if spec is None:
            return inferred_kind(values, text_id, each)
        if declared and _DTYPES[declared.dtype] != spec.dtype:
            raise RequestError(
                "schema",
                f"be that of the served model, where {key} is {spec.dtype}",
                declared.dtype,
            )
        things = 2 if key.startswith(("behavior_", "candidate_")) else 1
        shape = spec.shape or ()
        width = shape[-1] if len(shape) > things else None
        if width is not None and width < 0 and declared:
            width = declared.raw_width
        return Kind(spec.dtype, width, spec.dtype == "float", text_id)


def _of_each_row(field: str, values: Any, kind: Kind) -> np.ndarray:
    """Returns values of one entity per row, (N,) or (N, width)."""
    return tensor_of_each(field, [values], kind, len(values))[0]


class DeclaredInputs:
    """Makes the inputs of signatures that take features by name.

    The inputs of a signature are fetched once, and again if the model rejects
    them, because another version may be served by then.
    """

    def __init__(self, target: Target, declaration: Declaration) -> None:
        self.declaration = declaration
        self._target = target
        self._metadata: ModelMetadata | None = None

    @functools.cached_property
    def unknown(self) -> SignatureInputs:
        """Returns the inputs of a signature without features."""
        return SignatureInputs(declaration=self.declaration)

    def predict(
        self,
        signature: str,
        inputs: Callable[[SignatureInputs], Mapping[str, np.ndarray]],
    ) -> Plan[Mapping[str, np.ndarray]]:
        """Runs a signature. `inputs` makes the inputs that it declares."""
        if self._metadata is None:
            self._metadata = yield GetMetadata(self._target)
        declared = self._declared(signature)
        try:
            made = inputs(declared)
            return (yield Predict(self._target, signature, made))
        except InvalidArgumentError as refused:
            try:
                self._metadata = yield GetMetadata(self._target)
            except CallError:
                raise refused from None
            again = self._declared(signature)
            if again.specs == declared.specs:
                raise
        return (yield Predict(self._target, signature, inputs(again)))

    def _declared(self, signature: str) -> SignatureInputs:
        known = self._metadata.signatures if self._metadata else {}
        if signature not in known:
            return self.unknown
        return SignatureInputs(known[signature].inputs, self.declaration)
