"""Base class of models of requests: tables, inputs and explanations."""

import functools
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import keras
from keras import ops

from muse_keras._keras_internals import keep_arrays
from muse_keras._ops.checks import (
    integer,
    integers,
    label_names,
    names_among,
    number,
    seed_of,
)
from muse_keras._ops.docstrings import attributes_of, complete_subclass
from muse_keras._ops.feature_columns import Size, feature_sizes
from muse_keras.models.embedding_tables import EmbeddingTables
from muse_keras.models.ranker_inputs import (
    as_tensors,
    check_ranker_inputs,
    features_of,
    sizes_of_behaviors,
)
from muse_keras.models.views import BehaviorView, CandidateView, FoundBehaviors


class Explanation(NamedTuple):
    """How a score came about.

    Attributes:
        found: `FoundBehaviors`, the behaviors that were looked at.
        attention: float32 (B, C, heads, K).
        tiers: float32 (B, C, N), raw counts.
    """

    found: FoundBehaviors
    attention: Any
    tiers: Any


class RequestModel(EmbeddingTables):
    """Scores the candidates of a request against the user's history.

    A subclass makes and builds its own layers in its constructor, after this
    one's, and implements `score`. Its docstring and its signature are
    completed by the arguments that it passes on to its base's.

    Args:
        num_items: int, items in the item table.
        user_sizes: mapping of the names of the user's features to the sizes
            of their vocabularies, which include index 0 (missing) and the
            out-of-vocabulary index. A feature of many values at once has a
            pair (size, values); its embedding is the mean over the values
            other than 0.
        item_sizes: the same of the features of items.
        behavior_features: sequence of str, the item features that each
            behavior has too. They are embedded with the id.
        matches: sequence of str, the behavior features for which a candidate
            has the number of behaviors that share its value.
        context_sizes: as `user_sizes`, of the features of each impression:
            of the request (the device) or of the candidate in it (the
            position). None: no such features.
        behavior_sizes: as `user_sizes`, of the behaviors' own features (what
            was done, how long ago). Their embeddings are added to that of
            the behavior. None: no such features.
        user_numbers: int, columns of numbers of the user. Numbers enter the
            tower as they are: standardize them, and give 0 and a column that
            says so for what is missing.
        item_numbers: int, columns of numbers of a candidate.
        context_numbers: int, columns of numbers of an impression.
        labels: sequence of str, what is predicted of an impression. The first
            one decides; "click" can be no other one.
        training_only: sequence of str, features of `context_sizes` that are
            not known in serving, such as the position. At inference they
            have index 0, whatever is given; so they have for a tenth of the
            requests of training.
        vector_dim: int, width of the multimodal vectors.
        embedding_dim: int, width of the trained embeddings.
        recent: int, newest behaviors modeled as short-term interest.
        hidden_units: sequence of int, hidden layers of the tower.
        oov_rate: float in [0, 1), the share of item ids replaced by row 0 in
            training, so that unknown items have a trained embedding.
        seed: int, for those replacements.
        spare_rows: int, items that can be added to the multimodal table, or
            replaced in it, while it serves. Their trained embedding is that
            of the item they replace, or the unknown item's.
        **kwargs: see `keras.Model`.

    Call arguments:
        inputs: dict. B requests, L behaviors, C candidates:
            `user_features` int32 (B, U), vocabulary indices;
            `user_numbers` float32 (B, columns);
            `behavior_item_ids` int64 (B, L) or `behavior_rows` int32 (B, L);
            `behavior_features` int32 (B, L, F), vocabulary indices;
            `behavior_mask` bool (B, L), True = real, oldest first;
            `candidate_item_ids` int64 (B, C) or `candidate_rows` int32;
            `candidate_features` int32 (B, C, I), vocabulary indices;
            `candidate_numbers` float32 (B, C, columns);
            `candidate_matches` float32 (B, C, M), counts of behaviors;
            `candidate_mask` bool (B, C), True = real; may be left out;
            `context_features` int32 (B, C, X), vocabulary indices;
            `context_numbers` float32 (B, C, columns).
            Last axes have the order of `user_sizes`, `behavior_features` and
            then `behavior_sizes`, `item_sizes`, `matches` and
            `context_sizes`, with a column for each value of a feature. A
            group of no columns may be left out.
        training: bool.

    Output shape:
        logits `(B, C)` float32; `(B, C, T)` of T > 1 labels
    """

    def __init_subclass__(cls, **kwargs: Any) -> None:
        """Complete a subclass's docstring and signature by its base's."""
        super().__init_subclass__(**kwargs)
        complete_subclass(cls)

    def __init__(
        self,
        num_items: int,
        user_sizes: Mapping[str, Size],
        item_sizes: Mapping[str, Size],
        behavior_features: Sequence[str] = (),
        matches: Sequence[str] = (),
        context_sizes: Mapping[str, Size] | None = None,
        behavior_sizes: Mapping[str, Size] | None = None,
        user_numbers: int = 0,
        item_numbers: int = 0,
        context_numbers: int = 0,
        labels: Sequence[str] = ("click",),
        training_only: Sequence[str] = (),
        vector_dim: int = 128,
        embedding_dim: int = 16,
        recent: int = 50,
        hidden_units: Sequence[int] = (256, 128, 64),
        oov_rate: float = 0.0,
        seed: int | None = None,
        spare_rows: int = 0,
        **kwargs: Any,
    ) -> None:
        super().__init__(**kwargs)
        # An autocast would cut ids and counts.
        self.autocast = False
        # XLA has no `Unique`, which sparse updates need on TensorFlow.
        self.supports_jit = keras.backend.backend() != "tensorflow"
        keep_arrays(self)
        self.num_items = integer("num_items", num_items)
        taken = ["item", "user"]  # The tables of ids and of users.
        self.user_sizes = feature_sizes("user_sizes", user_sizes, taken)
        taken += self.user_sizes
        self.item_sizes = feature_sizes("item_sizes", item_sizes, taken)
        taken += self.item_sizes
        self.context_sizes = feature_sizes(
            "context_sizes", context_sizes, taken
        )
        taken += self.context_sizes
        self.behavior_sizes = feature_sizes(
            "behavior_sizes", behavior_sizes, taken
        )
        self.behavior_features = names_among(
            "behavior_features", behavior_features, self.item_sizes
        )
        self.matches = names_among("matches", matches, self.behavior_features)
        self.user_numbers = integer("user_numbers", user_numbers, minimum=0)
        self.item_numbers = integer("item_numbers", item_numbers, minimum=0)
        self.context_numbers = integer(
            "context_numbers", context_numbers, minimum=0
        )
        self.labels = label_names(labels)
        self.training_only = names_among(
            "training_only", training_only, self.context_sizes
        )
        self.vector_dim = integer("vector_dim", vector_dim)
        self.embedding_dim = integer("embedding_dim", embedding_dim)
        self.recent = integer("recent", recent)
        self.hidden_units = integers("hidden_units", hidden_units)
        self.oov_rate = number("oov_rate", oov_rate, "[0, 1)")
        self.seed = seed_of(seed)
        self.spare_rows = integer("spare_rows", spare_rows, minimum=0)
        self._make_tables()

    def score(
        self,
        inputs: dict[str, Any],
        training: bool | None,
        explaining: bool = False,
    ) -> tuple[Any, Any]:
        """Return logits as `call` does, and their `Explanation` or None.

        Args:
            inputs: tensors, as in `call`; raw ids as they were given.
            training: bool.
            explaining: bool, whether an explanation is asked for.
        """
        raise NotImplementedError

    def call(self, inputs: dict[str, Any], training: bool | None = None) -> Any:
        """Return logits; see the class."""
        self.check_inputs(inputs)
        return self.score(as_tensors(inputs), training)[0]

    def explain(self, inputs: dict[str, Any]) -> dict[str, Any]:
        """Return scores with what they are based on.

        Args:
            inputs: as in `call`.

        Returns:
            dict of `click_probability` float32 (B, C), of the first label,
            and `<label>_probability` of each other one; `behavior_indices`
            int32 (B, C, K), positions in the history; `similarities` float32
            (B, C, K), cosines; `attention` float32 (B, C, K), mean over
            heads; `tiers` float32 (B, C, N), raw counts; `mask` bool
            (B, C, K), True = a real behavior.
        """
        self.check_inputs(inputs)
        logits, explanation = self.score(as_tensors(inputs), False, True)
        found = explanation.found
        return {
            **self.probabilities(logits),
            "behavior_indices": found.indices,
            "similarities": found.similarities,
            "attention": ops.mean(explanation.attention, axis=2),
            "tiers": explanation.tiers,
            "mask": found.mask,
        }

    def probabilities(self, logits: Any) -> dict[str, Any]:
        """Return a probability (B, C) of each label, the first one's as click.

        Args:
            logits: as returned by `call`.
        """
        values = ops.sigmoid(logits)
        if len(self.labels) == 1:
            return {"click_probability": values}
        names = ("click", *self.labels[1:])
        return {
            f"{name}_probability": values[..., place]
            for place, name in enumerate(names)
        }

    def check_inputs(self, inputs: Mapping[str, Any]) -> None:
        """Raise `ValueError` for inputs that are missing or do not fit.

        That is: names that the model does not read, shapes that do not go
        together as far as they are known, and, in NumPy arrays alone, indices
        outside their vocabulary or table. A tensor is not looked into: that
        would hold up the device, and a compiled program would need ops that
        have no GPU kernels. There, such an index reads row 0 (missing), or of
        the user the nearest row of its feature.
        """
        check_ranker_inputs(inputs, self)

    def compute_output_spec(
        self, inputs: dict[str, Any], training: bool | None = None
    ) -> Any:
        """Return the shape and dtype of `call`'s result."""
        self.check_inputs(inputs)
        given = {"candidate_rows", "candidate_item_ids"} & set(inputs)
        shape = tuple(inputs[given.pop()].shape)
        if len(self.labels) > 1:
            shape += (len(self.labels),)
        return keras.KerasTensor(shape, "float32")

    def get_config(self) -> dict[str, Any]:
        """Return the constructor's arguments, those that are attributes."""
        return {**super().get_config(), **attributes_of(self)}

    def views(
        self,
        inputs: dict[str, Any],
        training: bool | None,
        attention: Any = None,
    ) -> tuple[CandidateView, BehaviorView]:
        """Return candidates and behaviors, looked up when they are read.

        Args:
            inputs: as of `score`.
            training: bool.
            attention: target attention whose queries and keys the views have,
                or None.
        """
        # Fresh items exist in serving only, and for ids, not given rows.
        has_rows = {"behavior_rows", "candidate_rows"} <= set(inputs)
        fresh = None if training or has_rows else self.table.fresh_index()

        def rows(kind: str) -> Any:
            given = inputs.get(f"{kind}_rows")
            if given is not None:
                return ops.cast(given, "int32")
            ids = inputs[f"{kind}_item_ids"]
            if fresh is None:
                return self.table.lookup_known(ids)
            return self.table.lookup(ids, fresh)

        embed = functools.partial(self._embed_items, training)
        candidates: CandidateView = CandidateView(
            rows("candidate"),
            vectors=lambda: self.table.vectors(candidates.rows),
            embeddings=lambda: embed(candidates.rows, candidates.features),
            mask=inputs.get("candidate_mask"),
            queries=lambda: attention.queries(candidates.embeddings),
            features=features_of(inputs, "candidate_features", self.item_sizes),
        )
        behaviors: BehaviorView = BehaviorView(
            rows("behavior"),
            inputs["behavior_mask"],
            inverse_norms=lambda: self.table.inverse_norms_of(behaviors.rows),
            keys=lambda: attention.keys(behaviors.embeddings),
            features=features_of(
                inputs, "behavior_features", sizes_of_behaviors(self)
            ),
            vectors_of=self.table.vectors,
            embeddings_of=functools.partial(self._embed_behaviors, training),
        )
        return candidates, behaviors
