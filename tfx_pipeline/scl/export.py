"""Exports a trained SCL model as a SavedModel that embeds."""

from __future__ import annotations

import os
from collections.abc import Callable, Mapping
from typing import Any

import keras
import numpy as np
import tensorflow as tf

from serving.export.saving import place_variables
from serving.files import replaced_folder
from tfx_pipeline.scl import embedding

EMBED_ITEMS = "embed_items"
EMBED_QUERIES = "embed_queries"
EMBEDDING = "embedding"


class _Module(tf.Module):
    """The variables of the towers; bank and loss are not exported."""

    def __init__(self, variables: list[tf.Variable]) -> None:
        super().__init__(name="scl")
        self.tower_variables = variables


def export_saved_model(
    path: str | os.PathLike[str],
    model: keras.Model,
    *,
    query_widths: Mapping[str, int],
    item_widths: Mapping[str, int],
) -> None:
    """Writes a SavedModel; its folder appears when it is complete.

    The signatures ``embed_items`` and ``embed_queries`` take one float32 tensor
    (N, width) per modality, named after it, with zeros for missing values. They
    return ``embedding`` float32 (N, D): unit vectors, or zeros for a row
    without any modality.
    """
    signatures = {
        EMBED_ITEMS: _trace(model.embed_items, item_widths),
        EMBED_QUERIES: _trace(model.embed_queries, query_widths),
    }
    used = {
        id(captured)
        for function in signatures.values()
        for captured in function.captured_inputs
    }
    module = _Module(
        [
            variable.value
            for variable in model.variables
            if id(variable.value.handle) in used
        ]
    )
    with replaced_folder(path) as fresh:
        tf.saved_model.save(module, str(fresh), signatures=signatures)
        place_variables(fresh)


def model_embedder(model: keras.Model) -> embedding.Embedder:
    """Returns the embedder of a model in memory."""

    def compiled(
        embed: Callable[[Any], tf.Tensor],
    ) -> Callable[[embedding.Features], embedding.Vectors]:
        function = tf.function(embed, autograph=False, reduce_retracing=True)
        return lambda features: function(dict(features)).numpy()

    return embedding.Embedder(
        compiled(model.embed_queries), compiled(model.embed_items)
    )


def load_items_embedder(
    path: str | os.PathLike[str],
) -> Callable[[embedding.Features], embedding.Vectors]:
    """Loads a SavedModel of `export_saved_model` to embed items.

    Returns:
        A function of the items' features by modality; it ignores modalities
        that the tower does not have.
    """
    loaded = tf.saved_model.load(str(path))
    signature = loaded.signatures[EMBED_ITEMS]
    widths = {
        name: spec.shape[-1]
        for name, spec in signature.structured_input_signature[1].items()
    }

    def embed(features: embedding.Features) -> embedding.Vectors:
        # Keep `loaded`: it owns the variables, the signature does not.
        _ = loaded
        count = len(next(iter(features.values())))
        tensors = {
            name: tf.constant(
                features.get(name, np.zeros((count, width), np.float32))
            )
            for name, width in widths.items()
        }
        return signature(**tensors)[EMBEDDING].numpy()

    return embed


def _trace(
    embed: Callable[[dict[str, tf.Tensor]], tf.Tensor],
    widths: Mapping[str, int],
) -> Any:
    specs = {
        name: tf.TensorSpec([None, width], tf.float32, name=name)
        for name, width in widths.items()
    }

    def signature(**features: tf.Tensor) -> dict[str, tf.Tensor]:
        return {EMBEDDING: tf.cast(embed(features), tf.float32)}

    return tf.function(signature, autograph=False).get_concrete_function(
        **specs
    )
