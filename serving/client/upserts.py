"""Items to add or replace: arrays of a call, and its answer."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping, Sequence

import numpy as np

from serving.client.errors import RequestError, ResponseError
from serving.client.outputs import named_output
from serving.client.types import IntegerList, id_array

__all__ = ["UpsertResult", "joined_result", "upsert_inputs"]

FEATURES = ("category_ids", "city_ids", "province_ids")


@dataclasses.dataclass(frozen=True, eq=False)
class UpsertResult:
    """Where items are now.

    Attributes:
        row: int64 (N,), row of the item table.
        stored: bool (N,), whether the item took a slot; False if it was
            there with this very vector and features, or stands again later in
            the same call.
        used: slots taken since the version was loaded.
        capacity: slots that the version has.
        load_id: number of the load that took the first items. With another
            one, in a later answer, the server has forgotten them.
    """

    row: np.ndarray
    stored: np.ndarray
    used: int
    capacity: int
    load_id: int


def upsert_inputs(
    item_ids: IntegerList,
    embedding: Sequence[Sequence[float]] | np.ndarray,
    features: Mapping[str, IntegerList | None],
) -> dict[str, np.ndarray]:
    """Checks items and makes the inputs of the signature upsert_items.

    Args:
        item_ids: (N,), none of them 0.
        embedding: numbers (N, D).
        features: `category_ids`, `city_ids`, `province_ids`, each (N,), or
            None for unknown.

    Raises:
        RequestError: one of them is not as described.
    """
    ids = id_array("item_ids", item_ids)
    if ids.size == 0:
        raise RequestError("item_ids", "hold at least one id", [])
    if not ids.all():
        raise RequestError(
            "item_ids",
            "not contain 0, which means padding",
            f"0 at position {int(np.argmin(ids != 0))}",
        )
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
        values = np.zeros_like(ids) if given is None else id_array(name, given)
        if len(values) != len(ids):
            raise RequestError(
                name,
                f"hold {len(ids)} ids, one per item",
                f"{len(values)} ids",
            )
        inputs[name] = values
    return inputs


def joined_result(
    answers: Sequence[Mapping[str, np.ndarray]], count: int
) -> UpsertResult:
    """Joins the answers of consecutive calls.

    Args:
        answers: outputs of the signature upsert_items, at least one.
        count: items in all.

    Raises:
        ResponseError: an output is missing or has a wrong size.
    """
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
