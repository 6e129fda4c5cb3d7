"""The served module: one model and its signatures."""

from collections.abc import Callable, Mapping, Sequence
from types import MappingProxyType
from typing import TYPE_CHECKING, Any

import numpy.typing as npt
import tensorflow as tf

from muse_keras.tables import ItemTable
from muse_keras.tensorflow import (
    dense_model_inputs,
    densify,
    newest_mask,
)
from schemas.columns import Features
from serving.export.cached_ranking import CachedRanking
from serving.export.encodings import Encoding
from serving.export.feature_names import prefixed, tensor_names
from serving.export.item_features import ItemFeatures
from serving.export.item_upsert import ItemUpsert
from serving.export.request import (
    EMBED_INPUTS,
    EXAMPLES_INPUTS,
    Specs,
    checked_item_ids,
    checked_request,
    in_few_lengths,
    rank_inputs,
    traced,
)
from serving.export.request_inputs import RequestInputs
from serving.export.saving import Untracked
from serving.export.user_cache import Histories, UserCacheConfig

if TYPE_CHECKING:  # The retrieval model's export must not import the rankers.
    from muse_keras.models import BaseRanker

Tensors = dict[str, tf.Tensor]


class RankingModule(tf.Module):
    """Ranks, explains and embeds, given raw ids.

    The item table and the weights are the variables of the Keras model, which
    are not copied; the module adds the encodings and the item features.
    """

    def __init__(
        self,
        model: "BaseRanker",
        item_table: ItemTable,
        features: Features,
        learned: Mapping[str, npt.ArrayLike],
        max_history: int | None,
        transform: Callable[[Any], Any] | None = None,
        raw_feature_spec: Mapping[str, Any] | None = None,
        user_cache: UserCacheConfig | None = None,
    ) -> None:
        super().__init__(name="ranking_module")
        self._encodings = {
            name: Encoding(name, one, learned.get(name, ()))
            for name, one in features.learned().items()
        }
        self._item_features = ItemFeatures(
            item_table,
            {
                field: self._encodings[f"item_{field}"]
                for field in features.item
            },
            model.table.spare_rows,
        )
        self.upsert = (
            ItemUpsert(model.table, self._item_features, features)
            if model.table.spare_rows
            else None
        )
        self._scale = item_table.scale
        self._max_history = max_history
        self._raw_feature_spec = dict(raw_feature_spec or {})
        # Must be tracked, or its resources are not saved.
        self.transform = transform
        # Not tracked as a Keras object, so that loading needs no Keras. The
        # variables it uses are tracked after tracing the signatures.
        self._model = Untracked(model)
        self._features = features
        self._names = Untracked(tensor_names(features))
        self._inputs = Untracked(
            RequestInputs(model, features, self._encodings, self._item_features)
        )
        # `rank`, `rank_cached` and `serving_default` share one trace of it.
        self._scores = Untracked(tf.function(self._score, autograph=False))
        self.model_variables: Mapping[str, tf.Variable] = {}
        self.cached: CachedRanking | None = None
        if user_cache is not None and user_cache.users:
            self.cached = CachedRanking(
                user_cache,
                model=model,
                features=features,
                behavior_sizes=self._inputs.object.stored_sizes(),
                item_table=item_table,
                max_history=max_history,
                resolve=self._inputs.object.resolve,
                score=self._score_cached,
            )

    def functions(self) -> dict[str, tuple[Any, Specs]]:
        """Return the functions to trace and their inputs, by signature."""
        ranking = rank_inputs(self._features)
        functions: dict[str, tuple[Any, Specs]] = {
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
        return functions

    def signatures(
        self, shards: Mapping[str, Sequence[tf.Variable]] = MappingProxyType({})
    ) -> dict[str, Any]:
        """Trace the signatures and track the variables they use.

        `shards` are those of tables that are spread, by the tables' paths.
        """
        signatures = {
            name: tf.function(function, autograph=False).get_concrete_function(
                **traced(inputs)
            )
            for name, (function, inputs) in self.functions().items()
        }
        # `graph.variables` lacks variables that only `gather_nd` reads.
        used = {
            id(captured)
            for function in signatures.values()
            for captured in function.captured_inputs
        }
        candidates = {
            variable.path: variable.value
            for variable in self._model.object.variables
        }
        for path, parts in shards.items():
            candidates |= {
                f"{path}/shard_{number}": part
                for number, part in enumerate(parts)
            }
        self.model_variables = {
            path.replace("/", "."): variable
            for path, variable in candidates.items()
            if any(id(part.handle) in used for part in _components(variable))
        }
        return signatures

    def named_variables(self) -> dict[str, tf.Variable]:
        """Return the variables of a loaded version by readable names."""
        named = dict(self.model_variables)
        for name, encoding in self._encodings.items():
            for variable in encoding.variables:
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
        """Return probabilities float32 (B, C), 0 for padding.

        They are `click_probability` for the first label and
        `<label>_probability` for each other label.
        """
        return self._probabilities(self._model_inputs(request))

    def explain(self, **request: tf.Tensor) -> Tensors:
        """Return the scores and the behaviors behind them.

        The result has the probabilities of `rank`; `behavior_indices` int32
        (B, C, K), positions of the retrieved behaviors in the history, or -1;
        `similarities` and `attention` float32 (B, C, K), or 0; `tiers` float32
        (B, C, N), counts. Padded candidates have 0 (or -1) in all of them.
        """
        inputs = self._model_inputs(request)
        explained = self._model.object.explain(inputs)
        real = inputs["candidate_mask"]
        found = tf.logical_and(explained["mask"], real[:, :, tf.newaxis])
        # int64 until the end, since int32 arithmetic would run on the host.
        positions = tf.cast(explained["behavior_indices"], tf.int64)
        return {
            **{
                name: _where(real, values)
                for name, values in explained.items()
                if name.endswith("_probability")
            },
            "behavior_indices": tf.cast(
                tf.where(found, positions, -tf.ones_like(positions)), tf.int32
            ),
            "similarities": _where(found, explained["similarities"]),
            "attention": _where(found, explained["attention"]),
            "tiers": _where(real[:, :, tf.newaxis], explained["tiers"]),
        }

    def embed(self, item_ids: tf.Tensor) -> Tensors:
        """Return the vectors of items.

        `embedding` is float32 (N, D), codes / 127; `found` is bool (N,). An
        item without an embedding has False and a zero vector.
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
        training. Only vectors and embeddings come from the item table.
        """
        if self.transform is None:
            raise ValueError("`serving_default` needs a transform graph.")
        raw = tf.io.parse_example(examples, self._raw_feature_spec)
        transformed = self.transform(raw)
        candidates = densify(transformed["candidate_item_ids"])
        inputs = dense_model_inputs(
            {**transformed, **self._not_served(candidates)}, self._names.object
        )
        inputs = in_few_lengths(inputs)
        ids = inputs["candidate_item_ids"]
        lookup = self._model.object.table.lookup
        for items in ("behavior", "candidate"):
            inputs[f"{items}_rows"] = lookup(inputs.pop(f"{items}_item_ids"))
        return {
            **self._probabilities(inputs),
            "candidate_item_ids": tf.where(
                inputs["candidate_mask"], ids, tf.zeros_like(ids)
            ),
        }

    def _not_served(self, candidates: tf.Tensor) -> Tensors:
        """Return missing values, transformed, for training-only features."""
        features = self._features
        every = {
            **prefixed("context", features.context),
            **prefixed("candidate", features.candidate),
        }
        return {
            name: tf.repeat(tf.zeros_like(candidates), one.width, axis=1)
            for name, one in every.items()
            if one.training_only
        }

    def _model_inputs(self, request: Tensors) -> Tensors:
        specs = rank_inputs(self._features)
        request = in_few_lengths(checked_request(request, specs))
        behavior_ids = request["behavior_item_ids"]
        table = self._model.object.table
        fresh_index = table.fresh_index()
        histories = self._inputs.object.resolve(
            request,
            table.lookup(behavior_ids, fresh_index),
            newest_mask(behavior_ids, self._max_history),
        )
        return self._inputs.object.combine(request, histories, fresh_index)

    def _score_cached(self, request: Tensors, found: Histories) -> Tensors:
        """Return probabilities for cached histories."""
        fresh_index = self._model.object.table.fresh_index()
        return self._probabilities(
            self._inputs.object.combine(request, found, fresh_index)
        )

    def _score(self, inputs: Tensors) -> Tensors:
        """Return the probabilities of all labels."""
        model = self._model.object
        logits = tf.cast(model(inputs, training=False), tf.float32)
        return model.probabilities(logits)

    def _probabilities(self, inputs: Tensors) -> Tensors:
        """Return the probabilities of all labels, 0 for padding."""
        same = {
            name: tf.cast(values, tf.int64)
            if values.dtype.is_integer
            else values
            for name, values in inputs.items()
        }
        return {
            name: _where(inputs["candidate_mask"], values)
            for name, values in self._scores.object(same).items()
        }


def _where(mask: tf.Tensor, values: tf.Tensor) -> tf.Tensor:
    values = tf.cast(values, tf.float32)
    return tf.where(mask, values, tf.zeros_like(values))


def _components(variable: Any) -> tuple[Any, ...]:
    """Return a variable's replicas under `tf.distribute`, or itself."""
    return tuple(getattr(variable, "values", None) or (variable,))
