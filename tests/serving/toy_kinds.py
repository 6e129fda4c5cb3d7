"""A model that takes features of every kind, and answers with its inputs.

Each input comes back as the output `seen_<input>`; floats as their bits, so
that NaN and rounding are seen.
"""

from __future__ import annotations

import pathlib

import numpy as np
import tensorflow as tf

from tests.serving.kinds_schema import SCHEMA

_TYPES = {"int64": tf.int64, "float32": tf.float32}


def _specs(widths: bool) -> dict[str, dict[str, tf.TensorSpec]]:
    """Inputs by group, as an export declares them; with or without widths."""

    def spec(feature, things: int) -> tf.TensorSpec:
        shape: list[int | None] = [None] * things
        if feature.many or feature.dim:
            shape.append(feature.raw_width if widths else None)
        return tf.TensorSpec(shape, _TYPES[feature.dtype])

    def ids(name: str, rank: int) -> dict[str, tf.TensorSpec]:
        return {name: tf.TensorSpec([None] * rank, tf.int64)}

    features = SCHEMA.features
    behaviors = {n: features.of_behavior(n) for n in features.behavior}
    groups = {
        "user": (features.user, 1, ids("user_id", 1)),
        "context": (features.context, 1, {}),
        "candidate": (features.candidate, 2, ids("candidate_item_ids", 2)),
        "behavior": (behaviors, 2, ids("behavior_item_ids", 2)),
        "item": (features.item, 1, ids("item_ids", 1)),
    }
    return {
        group: keys | {f"{group}_{n}": spec(f, things) for n, f in some.items()}
        for group, (some, things, keys) in groups.items()
    }


class ToyKinds(tf.Module):
    def __init__(self, widths: bool) -> None:
        super().__init__()
        specs = _specs(widths)
        history = specs["user"] | specs["behavior"]
        scored = specs["context"] | specs["candidate"]
        rows = {
            key: spec
            for key, spec in history.items()
            if key != "behavior_item_ids"
        } | {
            "behavior_rows": tf.TensorSpec([None, None], tf.int32),
            "table_stamp": tf.TensorSpec([None], tf.int64),
        }
        user_id = {"user_id": specs["user"]["user_id"]}
        vectors = {"embedding": tf.TensorSpec([None, None], tf.float32)}
        self.inputs = {
            "rank": history | scored,
            "explain": history | scored,
            "prefetch": history,
            "prefetch_rows": rows,
            "rank_cached": user_id | scored,
            "upsert_items": specs["item"] | vectors,
        }

    def signatures(self):
        return {
            name: tf.function(
                lambda _name=name, **inputs: self._answer(_name, inputs),
                autograph=False,
            ).get_concrete_function(**specs)
            for name, specs in self.inputs.items()
        }

    def _answer(self, name, inputs):
        seen = {
            f"seen_{key}": tf.bitcast(value, tf.int32)
            if value.dtype == tf.float32
            else tf.identity(value)
            for key, value in inputs.items()
        }
        if name == "upsert_items":
            ones = tf.ones_like(inputs["item_ids"])
            names = ("row", "used", "capacity", "load_id")
            made = {**dict.fromkeys(names, ones), "stored": ones > 0}
            return seen | {n: tf.identity(v) for n, v in made.items()}
        users = inputs["user_id"]
        if name.startswith("prefetch"):
            lengths = tf.ones_like(users, tf.int32)
            return seen | {"cached_length": lengths, "generation": users}
        offers = inputs["candidate_offer"]
        missing = tf.math.is_nan(offers)
        click = tf.sigmoid(tf.where(missing, 0.0, offers))
        found = {"click_probability": click, "order_probability": click / 2}
        if name == "rank_cached":
            hits = {"cache_hit": users > 0, "generation": tf.identity(users)}
            found |= hits
        if name == "explain":
            each = tf.zeros_like(offers)[:, :, None]
            for part in ("similarities", "attention", "tiers"):
                found[part] = tf.identity(each)
            found["behavior_indices"] = tf.cast(each, tf.int32)
        return seen | found


def export_toy_kinds(base: pathlib.Path, widths: bool) -> None:
    """Writes version 1; `widths` says whether signatures declare them."""
    model = ToyKinds(widths)
    tf.saved_model.save(model, str(base / "1"), signatures=model.signatures())


def seen(outputs: dict[str, np.ndarray], dtypes: dict[str, type]):
    """The inputs that an answer shows."""
    return {
        name: outputs[f"seen_{name}"].view(np.float32)
        if dtype is np.float32
        else outputs[f"seen_{name}"]
        for name, dtype in dtypes.items()
    }
