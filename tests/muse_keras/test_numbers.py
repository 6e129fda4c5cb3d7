"""Every number that a constructor takes is checked there, by name."""

from __future__ import annotations

import inspect

import pytest

from muse_keras import callbacks, layers, losses, models, optimizers

RANKER = {
    "num_items": 3,
    "user_sizes": {"age": 2},
    "item_sizes": {"brand": 2},
    "behavior_features": ("brand",),
    "matches": ("brand",),
}
GIVEN = {
    "ResidualMLP": {"hidden_units": (2,), "output_dim": 2},
    "SCLTower": {"modalities": {"text": 2}},
    "SCL": {"query_tower": None},
    "LogRange": {"low": 0.1, "high": 1.0},
}
KERAS_OWN = {"weight_decay", "clipnorm", "clipvalue", "global_clipnorm"}
FOUND = sorted(
    (kind.__name__, kind, name)
    for module in (callbacks, layers, losses, models, optimizers)
    for kind in {getattr(module, name) for name in module.__all__}
    if inspect.isclass(kind) and not issubclass(kind, Exception)
    for name, argument in inspect.signature(kind).parameters.items()
    if name not in KERAS_OWN
    and str(argument.annotation) in ("float", "float | None", "<class 'float'>")
)


def test_there_are_such_arguments() -> None:
    names = {name for _, _, name in FOUND}
    assert {"similarity_scale", "dropout", "oov_rate", "margin"} <= names


@pytest.mark.parametrize("value", ["x", float("nan"), float("inf"), True])
@pytest.mark.parametrize(
    ("kind", "argument"),
    [pytest.param(k, a, id=f"{n}-{a}") for n, k, a in FOUND],
)
def test_what_is_no_number_is_refused(kind, argument, value) -> None:
    given = GIVEN.get(
        kind.__name__,
        RANKER if "num_items" in inspect.signature(kind).parameters else {},
    )
    with pytest.raises(ValueError, match=f"{argument}.*Received"):
        kind(**{**given, argument: value})
