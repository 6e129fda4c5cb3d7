"""Items to add or replace."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping, Sequence

import numpy as np

from serving.client.batches import Limits, Outputs, named_output
from serving.client.calls import Plan, Predict, Target
from serving.client.errors import RequestError, ResponseError
from serving.client.types import IntegerList, id_array, item_array

FEATURES = ("category_ids", "city_ids", "province_ids")


@dataclasses.dataclass(frozen=True, eq=False)
class UpsertResult:
    """Where items are now.

    Attributes:
        row: int64 (N,), row of the item table.
        stored: bool (N,), whether the item took a slot; False if it was
            there with the same vector and features, or is given again later in
            the same call.
        used: slots taken since the version was loaded.
        capacity: slots that the version has.
        load_id: number of the load that took the first items. Another number
            in a later answer means that the server has forgotten them.
    """

    row: np.ndarray
    stored: np.ndarray
    used: int
    capacity: int
    load_id: int


def upsert_plan(
    target: Target,
    item_ids: IntegerList,
    embedding: Sequence[Sequence[float]] | np.ndarray,
    features: Mapping[str, IntegerList | None],
    limits: Limits,
) -> Plan[UpsertResult]:
    """Adds items, or replaces them, `limits.items` in each call."""
    inputs = upsert_inputs(item_ids, embedding, features)
    count = len(inputs["item_ids"])
    calls = (
        Predict(
            target,
            "upsert_items",
            {
                name: values[start : start + limits.items]
                for name, values in inputs.items()
            },
        )
        for start in range(0, count, limits.items)
    )
    return Plan(calls, lambda answers: joined_result(answers, count))


def upsert_inputs(
    item_ids: IntegerList,
    embedding: Sequence[Sequence[float]] | np.ndarray,
    features: Mapping[str, IntegerList | None],
) -> dict[str, np.ndarray]:
    """Inputs of `upsert_items`, checked."""
    ids = item_array("item_ids", item_ids)
    try:
        vectors = np.asarray(embedding, np.float32)
    except (TypeError, ValueError) as error:
        raise RequestError(
            "embedding", "be an array of numbers, one row per item", embedding
        ) from error
    if vectors.ndim != 2 or len(vectors) != len(ids):
        raise RequestError(
            "embedding",
            f"have one row for each of {len(ids)} items",
            f"shape {vectors.shape}",
        )
    bad = np.flatnonzero(~np.isfinite(vectors).all(axis=1))
    if bad.size:
        raise RequestError(
            "embedding", "be finite", f"NaN or infinity in row {bad[0]}"
        )
    inputs = {"item_ids": ids, "embedding": vectors}
    for name in FEATURES:
        given = features[name]
        inputs[name] = (
            np.zeros_like(ids)
            if given is None
            else id_array(name, given, ("item_ids", len(ids)))
        )
    return inputs


def joined_result(answers: Sequence[Outputs], count: int) -> UpsertResult:
    """The answers of several calls as one."""
    joined = {
        name: np.concatenate([named_output(answer, name) for answer in answers])
        for name in ("row", "stored", "used", "capacity", "load_id")
    }
    for name, values in joined.items():
        if values.shape != (count,):
            raise ResponseError(
                f"output {name!r} has shape {values.shape}, not ({count},)"
            )
    return UpsertResult(
        row=joined["row"],
        stored=joined["stored"].astype(bool),
        used=int(joined["used"][-1]),
        capacity=int(joined["capacity"][-1]),
        load_id=int(joined["load_id"][0]),
    )
