"""Scores and explanations of the exported models on the eval split."""

from __future__ import annotations

import hashlib
import os
import pathlib
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import tensorflow as tf

from tfx_pipeline import features
from tfx_pipeline.training import records

_BATCH = 64
_EXPLAIN_BATCH = 8
_Z = 1.959964  # Quantile of the normal distribution, two-sided 95 %.


def score_models(
    models: Mapping[str, pathlib.Path],
    files: Sequence[pathlib.Path],
    cache: pathlib.Path,
) -> dict[str, np.ndarray]:
    """Returns ``user_id``, ``clicks`` and each model's scores, (impressions,).

    The file `cache` keeps the scores; it is used for the same models and files.
    """
    paths = [str(path) for path in files]
    places = sorted([*map(str, models.values()), *paths])
    key = hashlib.sha256("\n".join(places).encode()).hexdigest()
    if cache.exists():
        with np.load(cache) as stored:
            if str(stored["key"]) == key:
                return {n: stored[n] for n in stored.files if n != "key"}
    loaded = {name: tf.saved_model.load(str(p)) for name, p in models.items()}
    parts: dict[str, list[np.ndarray]] = {}
    for serialized in records.record_dataset(paths).batch(_BATCH):
        parsed = _parsed(serialized, features.USER_ID, features.CLICKS)
        clicks = parsed[features.CLICKS]
        lengths = clicks.row_lengths().numpy()
        found = {
            "user_id": np.repeat(
                parsed[features.USER_ID].flat_values.numpy(), lengths
            ),
            "clicks": clicks.flat_values.numpy(),
        }
        for name, model in loaded.items():
            answer = model.signatures["serving_default"](examples=serialized)
            found[name] = np.concatenate(
                [
                    row[:length]
                    for row, length in zip(
                        answer["click_probability"].numpy(),
                        lengths,
                        strict=True,
                    )
                ]
            )
        for name, values in found.items():
            parts.setdefault(name, []).append(values)
    scores = {k: np.concatenate(v) for k, v in parts.items()}
    temporary = cache.with_name(f".{cache.name}.{os.getpid()}.npz")
    arrays: dict[str, Any] = {"key": np.array(key), **scores}
    np.savez(temporary, **arrays)
    temporary.replace(cache)
    return scores


def tier_histograms(
    model: pathlib.Path, files: Sequence[pathlib.Path], requests: int
) -> dict[str, list[Any]]:
    """Averages the retrieved behaviors and their attention by SimTier's tiers.

    ``clicked`` and ``not_clicked`` are the mean numbers of behaviors per tier.
    ``attention`` is the attention of a tier's behaviors, divided by that with
    equal weights; None for a tier without behaviors.
    """
    loaded = tf.saved_model.load(str(model))
    explain = loaded.signatures["explain"]
    inputs = explain.structured_input_signature[1]
    paths = [str(path) for path in files]
    step = max(1, records.count_records(paths) // requests)
    chosen = records.record_dataset(paths).shard(step, 0).take(requests)
    sums = {True: 0.0, False: 0.0}
    counts = {True: 0, False: 0}
    weights: Any = 0.0
    equal: Any = 0.0
    for serialized in chosen.batch(_EXPLAIN_BATCH):
        clicks = _parsed(serialized, features.CLICKS)[features.CLICKS]
        answer = explain(**request_inputs(serialized, inputs))
        tiers = answer["tiers"].numpy()
        real = tf.sequence_mask(clicks.row_lengths()).numpy()
        clicked = clicks.to_tensor().numpy() > 0
        for kind in (True, False):
            rows = tiers[real & (clicked == kind)]
            sums[kind] = sums[kind] + rows.sum(axis=0)
            counts[kind] += len(rows)
        indices, similarities, attention = (
            answer[name].numpy()[real]
            for name in ("behavior_indices", "similarities", "attention")
        )
        given, expected = attention_by_tier(
            indices, similarities, attention, tiers.shape[-1]
        )
        weights, equal = weights + given, equal + expected
    found: dict[str, list[Any]] = {
        name: np.asarray(sums[kind] / max(1, counts[kind])).tolist()
        for name, kind in (("clicked", True), ("not_clicked", False))
    }
    found["attention"] = [
        float(given / expected) if expected else None
        for given, expected in zip(
            np.atleast_1d(weights), np.atleast_1d(equal), strict=True
        )
    ]
    return found


def request_inputs(
    serialized: Any, inputs: Mapping[str, tf.TensorSpec]
) -> dict[str, tf.Tensor]:
    """Returns the inputs of a signature from request-grouped Examples.

    In serving, a request has one context: here that of its first candidate.
    """
    spec = {n: tf.io.RaggedFeature(one.dtype) for n, one in inputs.items()}
    found = {}
    for name, values in tf.io.parse_example(serialized, spec).items():
        shape = inputs[name].shape
        missing = float("nan") if values.dtype.is_floating else 0
        dense = values.to_tensor(missing)
        if shape.rank == 1:
            found[name] = dense[:, 0]
        elif shape.rank == 2 and shape[1] is not None:
            found[name] = dense[:, : shape[1]]
        else:
            found[name] = tf.reshape(
                dense, [len(dense), -1, *shape.as_list()[2:]]
            )
    return found


def _parsed(serialized: Any, *names: str) -> dict[str, tf.RaggedTensor]:
    spec = dict.fromkeys(names, tf.io.RaggedFeature(tf.int64))
    parsed: dict[str, tf.RaggedTensor] = tf.io.parse_example(serialized, spec)
    return parsed


def attention_by_tier(
    indices: np.ndarray,
    similarities: np.ndarray,
    attention: np.ndarray,
    num_tiers: int,
) -> tuple[np.ndarray, np.ndarray]:
    """Sums attention over `num_tiers` tiers of equal width in [-1, 1].

    The arrays are (n, K), for the behaviors found for n candidates; the index
    -1 is padding. Returns the attention, and the attention if all behaviors of
    a candidate had equal weights, each (num_tiers,).
    """
    real = indices >= 0
    edges = -1 + 2 * np.arange(1, num_tiers) / num_tiers
    tiers = np.searchsorted(
        edges.astype(np.float32), similarities[real], side="right"
    )
    share = real / np.maximum(1, real.sum(axis=1, keepdims=True))
    return (
        np.bincount(tiers, attention[real], num_tiers),
        np.bincount(tiers, share[real], num_tiers),
    )


def calibration(
    clicks: np.ndarray, scores: np.ndarray, bins: int = 10
) -> list[dict[str, float]]:
    """Compares predicted and observed click rates in `bins` groups by score.

    ``lower`` and ``upper`` are 95 % Wilson intervals of the observed rate.
    """
    order = np.argsort(scores, kind="stable")
    rows = []
    for part in np.array_split(order, min(bins, len(order))):
        number, rate = len(part), float(np.mean(clicks[part]))
        middle = (rate + _Z**2 / (2 * number)) / (1 + _Z**2 / number)
        half = (
            _Z
            / (1 + _Z**2 / number)
            * np.sqrt(rate * (1 - rate) / number + _Z**2 / (4 * number**2))
        )
        rows.append(
            {
                "predicted": float(np.mean(scores[part])),
                "observed": rate,
                "lower": float(max(0.0, middle - half)),
                "upper": float(min(1.0, middle + half)),
                "impressions": number,
            }
        )
    return rows
