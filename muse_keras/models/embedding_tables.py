"""The tables of a model of requests, and embeddings from them."""

from collections.abc import Mapping
from typing import Any

import keras
import numpy as np
from keras import ops

from muse_keras._ops.feature_columns import Size, columns_of
from muse_keras._ops.replicas import uniform_over_replicas
from muse_keras._ops.rows import assign_rows, table_rows
from muse_keras._ops.shapes import mean_of_given
from muse_keras.layers.id_embedding import IdEmbedding
from muse_keras.models.dict_model import DictModel
from muse_keras.models.views import CandidateView
from muse_keras.tables import MultimodalEmbeddingTable, gather_rows
from muse_keras.tables.array_blocks import blocks
from muse_keras.tables.row_gather import holders, read_rows


class EmbeddingTables(DictModel):
    """A model with tables of multimodal vectors and trained embeddings.

    A subclass sets the attributes, which its constructor checks, and then
    calls `_make_tables`; before it is called it sets `seed_generator`.
    """

    num_items: int
    vector_dim: int
    spare_rows: int
    embedding_dim: int
    oov_rate: float
    item_sizes: dict[str, Size]
    context_sizes: dict[str, Size]
    behavior_sizes: dict[str, Size]
    behavior_features: tuple[str, ...]
    seed_generator: Any

    def _make_tables(self) -> None:
        """Make the tables of items and of features."""
        table = MultimodalEmbeddingTable(
            self.num_items, self.vector_dim, self.spare_rows, name="table"
        )
        self.table = _built(table)
        self.item_embedding = self.embedding(
            "item_embedding", self.num_items + 1
        )
        # Of an item as the attentions see it: its id and behavior features.
        self.target_dim = (1 + len(self.behavior_features)) * self.embedding_dim
        self.feature_embeddings = {
            name: self.embedding(f"{name}_embedding", own.size, dim)
            for sizes, dim in (
                (self.item_sizes, self.embedding_dim),
                (self.context_sizes, self.embedding_dim),
                (self.behavior_sizes, self.target_dim),
            )
            for name, own in columns_of(sizes).items()
        }

    def embedding(
        self, name: str, rows: int, dim: int | None = None
    ) -> IdEmbedding:
        """Return a new table of trained embeddings.

        Args:
            name: str, of the layer.
            rows: int.
            dim: int, width; None: `embedding_dim`.
        """
        dim = dim or self.embedding_dim
        layer = IdEmbedding(rows, dim, dtype=self.dtype_policy, name=name)
        return _built(layer)

    def share_oov_row(self, optimizer: Any) -> int:
        """Give items that training never touched the unknown item's vector.

        Their own is random and means nothing. Call it once, after training, in
        the scope of the strategy; if tables are divided, in all processes.

        Args:
            optimizer: the `RowSparseAdam` that trained this model.

        Returns:
            int, how many rows were set in this process.
        """
        table = self.item_embedding.embeddings
        moment = optimizer.second_moment(table)
        first = read_rows(table, np.zeros(1, np.int64))
        changed: dict[int, int] = {}
        held = zip(holders(table), holders(moment), strict=True)
        for (shard, count, part), (_, _, moments) in held:
            changed[shard] = 0
            # Block by block: temporaries of a whole table would take gigabytes.
            for block in blocks(part.shape[0]):
                places = np.arange(block.start, block.stop)
                rows = places * count + shard
                places = places[(rows > 0) & (rows < table_rows(table))]
                places = places.astype(np.int32)
                touched = ops.any(
                    ops.not_equal(gather_rows(moments, places), 0.0), axis=1
                )
                untouched = places[~ops.convert_to_numpy(touched)]
                width = first.shape[1]
                values = ops.broadcast_to(first, (len(untouched), width))
                assign_rows(part, untouched, values)
                changed[shard] += len(untouched)
        return sum(changed.values())

    def other_embeddings(self, candidates: CandidateView) -> list[Any]:
        """Return embeddings (B, C, E) of what candidates alone have."""
        return [
            self.embedded(name, candidates.features)
            for name in self.item_sizes
            if name not in self.behavior_features
        ]

    def embedded(self, name: str, features: Mapping[str, Any]) -> Any:
        """Return embeddings of a feature, the mean of those of many values.

        Args:
            name: str, of the feature.
            features: mapping of names to indices (...), or (..., V) of a
                feature of many values.
        """
        indices = features[name]
        vectors = self.feature_embeddings[name](indices)
        sizes = self.item_sizes | self.context_sizes | self.behavior_sizes
        if isinstance(sizes[name], tuple):
            return mean_of_given(vectors, indices)
        return vectors

    def _embed_items(
        self, training: bool | None, rows: Any, features: Mapping[str, Any]
    ) -> Any:
        """Return embeddings of ids and behavior features, side by side."""
        if not training:
            rows = self.table.known_rows(rows)
        if training and self.oov_rate > 0.0:
            draw = uniform_over_replicas(ops.shape(rows), self.seed_generator)
            rows = ops.where(draw < self.oov_rate, 0, rows)
        return ops.concatenate(
            [
                self.item_embedding(rows),
                *(
                    self.embedded(name, features)
                    for name in self.behavior_features
                ),
            ],
            axis=-1,
        )

    def _embed_behaviors(
        self, training: bool | None, rows: Any, features: Mapping[str, Any]
    ) -> Any:
        """Return embeddings of items, with those of own features added."""
        embeddings = self._embed_items(training, rows, features)
        for name in self.behavior_sizes:
            embeddings = embeddings + self.embedded(name, features)
        return embeddings


def _built(layer: Any) -> Any:
    """Return a table whose weights have been made, named after it."""
    with keras.name_scope(layer.name, caller=layer):
        layer.build(None)
    return layer
