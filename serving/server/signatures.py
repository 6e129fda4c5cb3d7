"""Calls of a signature: checks, the run, and the three request types.

Checks and texts are those of TF Serving's predict_util.cc, classifier.cc and
regressor.cc.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from tensorflow_serving.apis import (
    classification_pb2,
    predict_pb2,
    regression_pb2,
)

from serving.client.tensors import (
    DTYPE_NAMES,
    TensorError,
    array_from_proto,
    fill_proto,
)
from serving.server.errors import (
    failed_precondition,
    invalid_argument,
)
from serving.server.servable import Servable

__all__ = [
    "DEFAULT_SIGNATURE",
    "classify",
    "predict",
    "regress",
    "run_signature",
]

DEFAULT_SIGNATURE = "serving_default"
_CLASSIFY = "tensorflow/serving/classify"
_REGRESS = "tensorflow/serving/regress"


@dataclasses.dataclass(frozen=True)
class _OneOutput:
    """How Classify and Regress name one of their outputs."""

    alias: str
    dtype: int


def run_signature(
    servable: Servable,
    signature_name: str,
    inputs: Mapping[str, np.ndarray],
    output_filter: Sequence[str] = (),
    timeout_ms: int | None = None,
) -> dict[str, np.ndarray]:
    """Runs a signature on arrays.

    Args:
        servable: the model.
        signature_name: key of the signature; empty is `serving_default`.
        inputs: alias to array.
        output_filter: aliases to return; none means all.
        timeout_ms: limit, ms.

    Returns:
        Alias to array, in the order of the filter, else sorted by alias.

    Raises:
        ServingError: unknown signature, inputs that do not match it, or what
            the graph said.
    """
    name = signature_name or DEFAULT_SIGNATURE
    signature = servable.signatures.get(name)
    if signature is None:
        raise failed_precondition(f'Serving signature key "{name}" not found.')
    feeds = _feeds(signature, inputs)
    aliases = _output_aliases(signature, output_filter)
    values = servable.run(
        feeds, [signature.outputs[a].name for a in aliases], timeout_ms
    )
    return dict(zip(aliases, values, strict=True))


def predict(
    servable: Servable,
    request: predict_pb2.PredictRequest,
    timeout_ms: int | None = None,
) -> predict_pb2.PredictResponse:
    """Answers a PredictRequest.

    Args:
        servable: the model.
        request: the request.
        timeout_ms: limit, ms.

    Raises:
        ServingError: as `run_signature`, and tensors that cannot be read.
    """
    inputs = {}
    for alias, proto in request.inputs.items():
        try:
            inputs[alias] = array_from_proto(proto)
        except TensorError as error:
            raise invalid_argument(f"tensor parsing error: {alias}") from error
    name = request.model_spec.signature_name or DEFAULT_SIGNATURE
    outputs = run_signature(
        servable, name, inputs, request.output_filter, timeout_ms
    )
    response = predict_pb2.PredictResponse()
    _fill_spec(response.model_spec, servable, name)
    for alias, array in outputs.items():
        fill_proto(response.outputs[alias], np.asarray(array), content=False)
    return response


def classify(
    servable: Servable,
    request: classification_pb2.ClassificationRequest,
    timeout_ms: int | None = None,
) -> classification_pb2.ClassificationResponse:
    """Answers a ClassificationRequest.

    Args:
        servable: the model.
        request: Examples for a signature of the method classify.
        timeout_ms: limit, ms.

    Raises:
        ServingError: the signature does not allow it, or the graph failed.
    """
    name, outputs, count = _run_examples(
        servable,
        request,
        "classification",
        _CLASSIFY,
        (_OneOutput("classes", 7), _OneOutput("scores", 1)),
        timeout_ms,
    )
    for alias, array in outputs.items():
        if array.ndim != 2:
            raise invalid_argument(
                f"Expected Tensor shape: [batch_size num_classes] but got "
                f"{_shape(array)}"
            )
        _check_count(array, count, f"{alias} ")
    widths = {array.shape[1] for array in outputs.values()}
    width = max(widths)
    if len(widths) > 1:
        raise invalid_argument(
            "Tensors class and score should match in dim_size(1). Got "
            + " vs. ".join(str(a.shape[1]) for a in outputs.values())
        )
    response = classification_pb2.ClassificationResponse()
    _fill_spec(response.model_spec, servable, name)
    classes, scores = outputs.get("classes"), outputs.get("scores")
    for row in range(count):
        item = response.result.classifications.add()
        for column in range(width):
            entry = item.classes.add()
            if classes is not None:
                entry.label = classes[row, column]
            if scores is not None:
                entry.score = scores[row, column]
    return response


def regress(
    servable: Servable,
    request: regression_pb2.RegressionRequest,
    timeout_ms: int | None = None,
) -> regression_pb2.RegressionResponse:
    """Answers a RegressionRequest.

    Args:
        servable: the model.
        request: Examples for a signature of the method regress.
        timeout_ms: limit, ms.

    Raises:
        ServingError: the signature does not allow it, or the graph failed.
    """
    name, outputs, count = _run_examples(
        servable,
        request,
        "regression",
        _REGRESS,
        (_OneOutput("outputs", 1),),
        timeout_ms,
    )
    array = outputs["outputs"]
    if array.ndim != 1 and not (array.ndim == 2 and array.shape[1] == 1):
        raise invalid_argument(
            f"Expected output Tensor shape to be either [batch_size] or "
            f"[batch_size, 1] but got {_shape(array)}"
        )
    _check_count(array, count, "")
    response = regression_pb2.RegressionResponse()
    _fill_spec(response.model_spec, servable, name)
    for value in array.ravel().tolist():
        response.result.regressions.add(value=value)
    return response


def _feeds(
    signature: Any, inputs: Mapping[str, np.ndarray]
) -> dict[str, np.ndarray]:
    wanted, sent = set(signature.inputs), set(inputs)
    defaults = getattr(signature, "defaults", {})
    if len(sent) > len(wanted) or (len(sent) < len(wanted) and not defaults):
        raise invalid_argument(
            f"input size does not match signature: {len(sent)}!="
            f"{len(wanted)} len({_braced(sent)}) != len({_braced(wanted)}). "
            f"Sent extra: {_braced(sent - wanted)}. "
            f"Missing but required: {_braced(wanted - sent)}."
        )
    feeds = {}
    for alias in sorted(wanted):
        info = signature.inputs[alias]
        if alias in inputs:
            feeds[info.name] = inputs[alias]
        elif alias in defaults:
            feeds[info.name] = array_from_proto(defaults[alias])
        else:
            raise invalid_argument(
                f"Signature input alias: {alias}(feed name: {info.name}) not "
                f"found in request and no default value provided. Inputs "
                f"expected to be in the request {_braced(sent)}, or default "
                f"input alias set: {','.join(sorted(defaults))}"
            )
    if sent - wanted:
        raise invalid_argument(
            f"Inputs contains invalid name. Used request inputs: "
            f"{','.join(sorted(sent & wanted))}, request input: "
            f"{','.join(sorted(sent))}"
        )
    return feeds


def _output_aliases(signature: Any, output_filter: Sequence[str]) -> list[str]:
    known = sorted(signature.outputs)
    seen: list[str] = []
    for alias in output_filter:
        if alias not in signature.outputs:
            raise invalid_argument(
                f"output tensor alias not found in signature: {alias} Outputs "
                f"expected to be in the set {_braced(known)}."
            )
        if alias in seen:
            raise invalid_argument(f"duplicate output tensor alias: {alias}")
        seen.append(alias)
    return seen or known


def _run_examples(
    servable: Servable,
    request: Any,
    kind: str,
    method: str,
    allowed: Sequence[_OneOutput],
    timeout_ms: int | None,
) -> tuple[str, dict[str, np.ndarray], int]:
    name = request.model_spec.signature_name or DEFAULT_SIGNATURE
    signature = servable.signatures.get(name)
    if signature is None:
        raise invalid_argument(f"No signature was found with the name: {name}")
    if servable.checks_methods and signature.method_name != method:
        raise invalid_argument(
            f"Expected {kind} signature method_name to be {method}. "
            f"Was: {signature.method_name}"
        )
    if len(signature.inputs) != 1:
        raise invalid_argument("Expected one input Tensor.")
    if "inputs" not in signature.inputs:
        raise failed_precondition(
            f"No {kind} inputs found in SignatureDef: {name}"
        )
    outputs = [one for one in allowed if one.alias in signature.outputs]
    if not outputs:
        aliases = " or ".join(f'"{one.alias}"' for one in allowed)
        raise failed_precondition(
            f"Expected {kind} signature outputs to contain at least one of "
            f"{aliases}. Signature was: {name}"
        )
    examples = _serialized_examples(request.input)
    values = servable.run(
        {signature.inputs["inputs"].name: examples},
        [signature.outputs[one.alias].name for one in outputs],
        timeout_ms,
    )
    named = {}
    for one, value in zip(outputs, values, strict=True):
        expected = np.dtype(object if one.dtype == 7 else np.float32)
        if value.dtype != expected:
            raise invalid_argument(
                f"Expected {one.alias} Tensor of {DTYPE_NAMES[one.dtype]}. "
                f"Got: {value.dtype}"
            )
        named[one.alias] = value
    return name, named, len(examples)


def _serialized_examples(request_input: Any) -> np.ndarray:
    kind = request_input.WhichOneof("kind")
    if kind == "example_list":
        rows = [
            e.SerializeToString() for e in request_input.example_list.examples
        ]
    elif kind == "example_list_with_context":
        source = request_input.example_list_with_context
        # Concatenated messages merge, and the example wins over the context.
        context = source.context.SerializeToString()
        rows = [context + e.SerializeToString() for e in source.examples]
    else:
        rows = []
    if not rows:
        raise invalid_argument("Input is empty.")
    array = np.empty(len(rows), object)
    array[:] = rows
    return array


def _check_count(array: np.ndarray, count: int, what: str) -> None:
    if array.shape[0] != count:
        raise invalid_argument(
            f"Expected {what}output batch size of {count}. "
            f"Got: {array.shape[0]}"
        )


def _fill_spec(spec: Any, servable: Servable, signature_name: str) -> None:
    spec.name = servable.name
    spec.signature_name = signature_name
    spec.version.value = servable.version


def _braced(names: Any) -> str:
    return "{" + ",".join(sorted(names)) + "}"


def _shape(array: np.ndarray) -> str:
    return "[" + ",".join(str(size) for size in array.shape) + "]"
