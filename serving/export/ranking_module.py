"""The served module: one model and its signatures."""

from collections.abc import Callable, Collection, Mapping
from typing import TYPE_CHECKING, Any

import keras
import tensorflow as tf

from muse_keras.tables import ItemTable
from muse_keras.tensorflow import (
    dense_model_inputs,
    feature_matches,
    newest_mask,
)
from serving.export.cached_ranking import CachedRanking
from serving.export.feature_names import names_of, vocabulary_sizes
from serving.export.item_features import ItemFeatures
from serving.export.item_upsert import ItemUpsert
from serving.export.request import (
    EMBED_INPUTS,
    EXAMPLES_INPUTS,
    checked_item_ids,
    checked_request,
    in_few_lengths,
    rank_inputs,
)
from serving.export.saving import Untracked
from serving.export.user_cache import Histories, UserCacheConfig
from serving.export.vocabulary import Vocabulary

if TYPE_CHECKING:  # The key of the retrieval model knows no ranker.
    from muse_keras.models import BaseRanker

Tensors = dict[str, tf.Tensor]


class RankingModule(tf.Module):
    """Ranks, explains and embeds, from raw ids alone.

    The item table and all weights are the variables of the Keras model; the
    module adds the vocabularies and the item features and copies nothing.
    """

    def __init__(
        self,
        model: "BaseRanker",
        item_table: ItemTable,
        vocabularies: Mapping[str, Any],
        max_history: int | None,
        transform: Callable[[Any], Any] | None = None,
        raw_feature_spec: Mapping[str, Any] | None = None,
        user_cache: UserCacheConfig | None = None,
        of_items: Collection[str] = (),
    ) -> None:
        super().__init__(name="ranking_module")
        self._vocabularies = {
            name: Vocabulary(name, vocabularies[name])
            for name in vocabulary_sizes(model)
        }
        self._item_features = ItemFeatures(
            item_table,
            {
                field: self._vocabularies[f"item_{field}"]
                for field in model.item_sizes
            },
            model.table.spare_rows,
        )
        self.upsert = (
            ItemUpsert(model.table, self._item_features)
            if model.table.spare_rows
            else None
        )
        self._scale = item_table.scale
        self._max_history = max_history
        self._raw_feature_spec = dict(raw_feature_spec or {})
        # Tracked, or its resources are not saved.
        self.transform = transform
        # Not tracked as a Keras object: the file needs no Keras to load. The
        # variables it uses are tracked once the signatures are traced.
        self._model = Untracked(model)
        self._of_items = tuple(of_items)
        # Of transformed features, and of what requests carry.
        self._names = Untracked(names_of(model))
        self._carried = Untracked(names_of(model, of_items))
        self.model_variables: Mapping[str, tf.Variable] = {}
        self.cached: CachedRanking | None = None
        if user_cache is not None and user_cache.users:
            self.cached = CachedRanking(
                user_cache,
                model=model,
                names=self._carried.object,
                item_table=item_table,
                max_history=max_history,
                indices=self._indices,
                score=self._score_cached,
            )

    def signatures(self) -> dict[str, Any]:
        """Trace the signatures and track the variables they use."""
        ranking = rank_inputs(self._carried.object)
        functions: dict[str, tuple[Any, Mapping[str, tf.TensorSpec]]] = {
            "rank": (self.rank, ranking),
            "explain": (self.explain, ranking),
            "embed": (self.embed, EMBED_INPUTS),
        }
        if self.upsert is not None:
            functions["upsert_items"] = self.upsert, self.upsert.inputs
        if self.transform is not None:
            functions["serving_default"] = (
                self.serve_examples,
                EXAMPLES_INPUTS,
            )
        if self.cached is not None:
            functions |= self.cached.functions()
        traced = {
            name: tf.function(function, autograph=False).get_concrete_function(
                **inputs
            )
            for name, (function, inputs) in functions.items()
        }
        # Not `graph.variables`: it misses what only `gather_nd` reads.
        used = {
            id(captured)
            for function in traced.values()
            for captured in function.captured_inputs
        }
        self.model_variables = {
            variable.path.replace("/", "."): variable.value
            for variable in self._model.object.variables
            if any(
                id(part.handle) in used for part in _components(variable.value)
            )
        }
        return traced

    def named_variables(self) -> dict[str, tf.Variable]:
        """Return the variables of a loaded version, by a readable name."""
        named = dict(self.model_variables)
        for name, vocabulary in self._vocabularies.items():
            for variable in vocabulary.variables:
                short = variable.name.rpartition("/")[2].partition(":")[0]
                named[f"vocabulary.{name}.{short}"] = variable
        for field, variable in self._item_features.by_field.items():
            named[f"item_features.{field}"] = variable
        if self.upsert is not None:
            named["item_upsert.counter"] = self.upsert.counter
            named["item_upsert.load_id"] = self.upsert.load_id
        if self.cached is not None:
            for part, variable in self.cached.cache.state().items():
                named[f"user_cache.{part}"] = variable
        return named

    def rank(self, **request: tf.Tensor) -> Tensors:
        """Return `click_probability` float32 (B, C), 0 where padded."""
        inputs = self._model_inputs(request)
        return {"click_probability": self._click_probability(inputs)}

    def explain(self, **request: tf.Tensor) -> Tensors:
        """Return the scores and what the model looked at.

        `click_probability` (B, C); `behavior_indices` int32 (B, C, K), the
        positions in the history that were retrieved, -1 where there is none;
        `similarities` and `attention` float32 (B, C, K), 0 there; `tiers`
        float32 (B, C, N), counts. All 0 (or -1) for a padded candidate.
        """
        inputs = self._model_inputs(request)
        explained = self._model.object.explain(inputs)
        real = inputs["candidate_mask"]
        found = tf.logical_and(explained["mask"], real[:, :, tf.newaxis])
        # int64 until the end: int32 arithmetic would run on the host.
        positions = tf.cast(explained["behavior_indices"], tf.int64)
        return {
            "click_probability": _where(real, explained["click_probability"]),
            "behavior_indices": tf.cast(
                tf.where(found, positions, -tf.ones_like(positions)), tf.int32
            ),
            "similarities": _where(found, explained["similarities"]),
            "attention": _where(found, explained["attention"]),
            "tiers": _where(real[:, :, tf.newaxis], explained["tiers"]),
        }

    def embed(self, item_ids: tf.Tensor) -> Tensors:
        """Return the vectors of items.

        `embedding` float32 (N, D), codes / 127, and `found` bool (N,): False,
        with a zero vector, for an item without an embedding.
        """
        table = self._model.object.table
        rows, codes = table(checked_item_ids(item_ids))
        return {
            "embedding": tf.cast(codes, tf.float32)
            * tf.constant(self._scale, tf.float32),
            "found": tf.greater(table.inverse_norms_of(rows), 0.0),
        }

    def serve_examples(self, examples: tf.Tensor) -> Tensors:
        """Rank serialized request-grouped Examples (B,).

        The features come from the Example through the Transform graph, as in
        training; only vectors and embeddings come from the item table.
        """
        if self.transform is None:
            raise ValueError("`serving_default` needs a transform graph.")
        raw = tf.io.parse_example(examples, self._raw_feature_spec)
        inputs = dense_model_inputs(self.transform(raw), self._names.object)
        inputs = in_few_lengths(inputs)
        ids = inputs["candidate_item_ids"]
        return {
            "click_probability": self._click_probability(inputs),
            "candidate_item_ids": tf.where(
                inputs["candidate_mask"], ids, tf.zeros_like(ids)
            ),
        }

    def _model_inputs(self, request: Tensors) -> Tensors:
        specs = rank_inputs(self._carried.object)
        request = in_few_lengths(checked_request(request, specs))
        behavior_ids = request["behavior_item_ids"]
        table = self._model.object.table
        fresh_index = table.fresh_index()
        rows = table.lookup(behavior_ids, fresh_index)
        user, behaviors = self._indices(request, rows)
        histories = Histories(
            user,
            rows,
            behaviors,
            newest_mask(behavior_ids, self._max_history),
        )
        candidate_ids = request["candidate_item_ids"]
        return self._combined(histories, candidate_ids, fresh_index)

    def _score_cached(
        self, candidate_ids: tf.Tensor, found: Histories
    ) -> tf.Tensor:
        """Return probabilities (B, C) with the histories of the cache."""
        fresh_index = self._model.object.table.fresh_index()
        inputs = self._combined(found, candidate_ids, fresh_index)
        return self._click_probability(inputs)

    def _combined(
        self, histories: Histories, candidate_ids: tf.Tensor, fresh_index: Any
    ) -> Tensors:
        model = self._model.object
        candidate_rows = model.table.lookup(candidate_ids, fresh_index)
        features = self._item_features(candidate_rows)
        behaviors = dict(
            zip(model.behavior_features, histories.behaviors, strict=True)
        )
        inputs = {
            "user_features": tf.cast(histories.user, tf.int32),
            "behavior_rows": tf.cast(histories.rows, tf.int32),
            "behavior_mask": histories.mask,
            "candidate_rows": candidate_rows,
            "candidate_features": tf.stack([*features.values()], axis=2),
            "candidate_mask": tf.not_equal(candidate_ids, 0),
        }
        if behaviors:
            inputs["behavior_features"] = tf.stack(
                [*behaviors.values()], axis=2
            )
        if model.matches:
            matches = [
                feature_matches(
                    behaviors[field],
                    histories.mask,
                    features[field],
                    model.item_sizes[field],
                )
                for field in model.matches
            ]
            inputs["candidate_matches"] = tf.stack(matches, axis=2)
        return inputs

    def _indices(
        self, request: Tensors, rows: tf.Tensor
    ) -> tuple[tf.Tensor, list[tf.Tensor]]:
        """Return int64 vocabulary indices of a request's features.

        Those of the user are (B, U), those of each behavior feature (B, L):
        of raw ids in the request, or of the item in the table row.
        """
        model, known = self._model.object, self._vocabularies
        of_items = self._item_features(rows) if self._of_items else {}
        of_user = [
            known[f"user_{field}"](request[f"user_{field}"])
            for field in model.user_sizes
        ]
        of_behaviors = [
            of_items[field]
            if field in self._of_items
            else known[f"item_{field}"](request[f"behavior_{field}"])
            for field in model.behavior_features
        ]
        if not of_user:
            users = tf.size(request["user_id"])
            return tf.zeros([users, 0], tf.int64), of_behaviors
        return tf.stack(of_user, axis=1), of_behaviors

    def _click_probability(self, inputs: Tensors) -> tf.Tensor:
        logits = self._model.object(inputs, training=False)
        probability = keras.ops.sigmoid(tf.cast(logits, tf.float32))
        return _where(inputs["candidate_mask"], probability)


def _where(mask: tf.Tensor, values: tf.Tensor) -> tf.Tensor:
    values = tf.cast(values, tf.float32)
    return tf.where(mask, values, tf.zeros_like(values))


def _components(variable: Any) -> tuple[Any, ...]:
    """Return a variable's copies under `tf.distribute`, or itself."""
    return tuple(getattr(variable, "values", None) or (variable,))
