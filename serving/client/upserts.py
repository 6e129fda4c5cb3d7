"""Adds or replaces items."""

from __future__ import annotations

import dataclasses
import functools
from collections.abc import Mapping, Sequence

import numpy as np

from serving.client.batches import Limits, Outputs, named_output
from serving.client.calls import Plan
from serving.client.declared_inputs import DeclaredInputs, SignatureInputs
from serving.client.errors import RequestError, ResponseError
from serving.client.feature_values import Values, features_of_each
from serving.client.types import IdList, item_array


@dataclasses.dataclass(frozen=True, eq=False)
class UpsertResult:
    """Result of storing items.

    Attributes:
        row: int64 (N,), row in the item table.
        stored: bool (N,), whether the item took a slot. False if it was
            already stored with the same vector and features, or if it occurs
            again later in the call.
        used: slots taken since the version was loaded.
        capacity: number of slots of the version.
        load_id: number of the load that stored the items. If a later answer
            has another number, the server has lost them.
    """

    row: np.ndarray
    stored: np.ndarray
    used: int
    capacity: int
    load_id: int


def upsert_plan(
    declared: DeclaredInputs,
    item_ids: IdList,
    embedding: Sequence[Sequence[float]] | np.ndarray,
    features: Mapping[str, Values],
    limits: Limits,
) -> Plan[UpsertResult]:
    """Adds or replaces items, `limits.items` in each call."""
    items = checked_items(item_ids, embedding)
    count = len(items["item_ids"])
    given = features_of_each("features", features, ("item_ids", count))
    answers = []
    for start in range(0, count, limits.items):
        part = slice(start, start + limits.items)
        answer = yield from declared.predict(
            "upsert_items",
            functools.partial(upsert_inputs, items, given, part),
        )
        answers.append(answer)
    return joined_result(answers, count)


def upsert_inputs(
    items: Mapping[str, np.ndarray],
    features: Mapping[str, np.ndarray],
    part: slice,
    declared: SignatureInputs,
) -> dict[str, np.ndarray]:
    """Returns the inputs of a call; features not given are missing."""
    ids = declared.ids("item_id", "item_ids", items["item_ids"][part])
    given = {name: values[part] for name, values in features.items()}
    return {
        "item_ids": ids,
        "embedding": items["embedding"][part],
        **declared.item_features(given, len(ids)),
    }


def checked_items(
    item_ids: IdList,
    embedding: Sequence[Sequence[float]] | np.ndarray,
) -> dict[str, np.ndarray]:
    """Returns ids and float32 vectors, or raises `RequestError`."""
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
    return {"item_ids": ids, "embedding": vectors}


def joined_result(answers: Sequence[Outputs], count: int) -> UpsertResult:
    """Joins the answers of several calls."""
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
