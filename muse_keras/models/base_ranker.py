"""What all rankers share; only the long history differs."""

import inspect
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import keras
import numpy as np
from keras import ops

from muse_keras._keras_internals import keep_arrays
from muse_keras._ops.checks import (
    check_indices,
    check_inputs,
    check_names,
    integer,
    integers,
    number,
    seed_of,
)
from muse_keras._ops.docstrings import complete_docstring
from muse_keras._ops.positions import newest_positions, take_positions
from muse_keras._ops.rows import assign_rows
from muse_keras._ops.shapes import masked_mean
from muse_keras.layers.gsu_top_k import GSUResult
from muse_keras.layers.id_embedding import IdEmbedding
from muse_keras.models.behavior_search import BehaviorSearch
from muse_keras.models.dict_model import DictModel
from muse_keras.models.exact_search_unit import ExactSearchUnit, WholeHistory
from muse_keras.models.score_tower import ScoreTower
from muse_keras.models.short_term_interest import (
    RecentBehaviors,
    ShortTermInterest,
)
from muse_keras.models.views import BehaviorView, CandidateView
from muse_keras.tables import MultimodalEmbeddingTable, gather_rows
from muse_keras.tables.item_table import blocks

_INPUTS = (
    "user_profile",
    "behavior_categories",
    "behavior_mask",
    "candidate_categories",
    "candidate_cities",
    "candidate_provinces",
    "candidate_category_matches",
)
_MORE_INPUTS = (
    "behavior_item_ids",
    "behavior_rows",
    "candidate_item_ids",
    "candidate_rows",
    "candidate_mask",
)


class Explanation(NamedTuple):
    """How a score came about.

    Attributes:
        found: `GSUResult`, the behaviours that were looked at.
        attention: float32 (B, C, heads, K).
        tiers: float32 (B, C, N), raw counts.
    """

    found: GSUResult
    attention: Any
    tiers: Any


class BaseRanker(DictModel):
    """Scores the candidates of a request against the user's history.

    A ranker embeds the user's profile and the candidate, models the newest
    behaviours (`ShortTermInterest`), and, if the subclass has one, searches
    the long history (`BehaviorSearch`) and models what was found
    (`ExactSearchUnit`). All is concatenated and scored by a `ScoreTower`.
    A subclass overrides `make_search` and `make_exact_search_unit`, and ends
    its constructor with `self.assemble()`. Its docstring gets the arguments,
    call arguments and output that it does not tell of from its base's.

    Behaviours and candidates share one table of item-id embeddings, whose
    rows are those of the item table (row 0 for unknown items), and one of
    categories. At inference a candidate's score depends on its request and
    itself only: not on other candidates, padding or the rest of the batch.

    All weights exist after construction; `ranker.table.assign(item_table)`
    fills the frozen multimodal table.

    Args:
        num_items: int, items in the item table.
        profile_sizes: sequence of int, sizes of the profile vocabularies.
        category_size: int, size of the category vocabulary.
        city_size: int, size of the city vocabulary.
        province_size: int, size of the province vocabulary. Sizes include
            index 0 (missing) and the out-of-vocabulary index.
        vector_dim: int, width of the multimodal vectors.
        embedding_dim: int, width of the trained embeddings.
        recent: int, newest behaviours modelled as short-term interest.
        num_tiers: int, tiers of SimTier.
        tier_scale: str, `scale` of SimTier.
        hidden_units: sequence of int, hidden layers of the tower.
        num_heads: int, attention heads.
        attention_activation: activation of the attentions' projections.
        oov_rate: float in [0, 1), the share of item ids replaced by row 0 in
            training, so that unknown items have a trained embedding.
        seed: int, for those replacements.
        spare_rows: int, items that can be added to the multimodal table, or
            replaced in it, while it serves. Their trained embedding is that
            of the item they replace, or the unknown item's.
        **kwargs: see `keras.Model`.

    Call arguments:
        inputs: dict. B requests, L behaviours, C candidates:
            `user_profile` int32 (B, profiles), vocabulary indices;
            `behavior_item_ids` int64 (B, L) or `behavior_rows` int32 (B, L);
            `behavior_categories` int32 (B, L);
            `behavior_mask` bool (B, L), True = real, oldest first;
            `candidate_item_ids` int64 (B, C) or `candidate_rows` int32;
            `candidate_categories`, `candidate_cities`,
            `candidate_provinces` int32 (B, C);
            `candidate_category_matches` float32 (B, C), behaviours of the
            candidate's category;
            `candidate_mask` bool (B, C), True = real; may be left out.
        training: bool.

    Output shape:
        logits `(B, C)` float32
    """

    def __init_subclass__(cls, **kwargs: Any) -> None:
        """Complete a subclass's docstring by what it leaves to its base's."""
        super().__init_subclass__(**kwargs)
        complete_docstring(cls)
        # Keras's own signature of every model is `(*args, **kwargs)`.
        _, *own = inspect.signature(cls.__init__).parameters.values()
        cls.__signature__ = inspect.Signature(own)

    def __init__(
        self,
        num_items: int,
        profile_sizes: Sequence[int],
        category_size: int,
        city_size: int,
        province_size: int,
        vector_dim: int = 128,
        embedding_dim: int = 16,
        recent: int = 50,
        num_tiers: int = 20,
        tier_scale: str = "log1p",
        hidden_units: Sequence[int] = (256, 128, 64),
        num_heads: int = 1,
        attention_activation: Any = "silu",
        oov_rate: float = 0.0,
        seed: int | None = None,
        spare_rows: int = 0,
        **kwargs: Any,
    ) -> None:
        """Set the arguments; see the class."""
        super().__init__(**kwargs)
        # Ids must reach the table uncut, and counts the logarithm.
        self.autocast = False
        # XLA has no `Unique`, which sparse updates need on TensorFlow.
        self.supports_jit = keras.backend.backend() != "tensorflow"
        keep_arrays(self)
        self.num_items = integer("num_items", num_items)
        self.profile_sizes = integers("profile_sizes", profile_sizes)
        self.category_size = integer("category_size", category_size)
        self.city_size = integer("city_size", city_size)
        self.province_size = integer("province_size", province_size)
        self.vector_dim = integer("vector_dim", vector_dim)
        self.embedding_dim = integer("embedding_dim", embedding_dim)
        self.recent = integer("recent", recent)
        self.num_tiers = integer("num_tiers", num_tiers)
        self.tier_scale = tier_scale
        self.hidden_units = integers("hidden_units", hidden_units)
        self.num_heads = integer("num_heads", num_heads)
        self.attention_activation = keras.activations.get(attention_activation)
        self.oov_rate = number("oov_rate", oov_rate, "[0, 1)")
        self.seed = seed_of(seed)
        self.spare_rows = integer("spare_rows", spare_rows, minimum=0)

    def assemble(self) -> None:
        """Make and build all layers; the last act of a constructor."""
        self._make_layers()
        self._build_layers()
        self.built = True

    def make_search(self) -> BehaviorSearch | None:
        """Return the search of the long history, or None for no search."""
        return None

    def make_exact_search_unit(self) -> ExactSearchUnit | None:
        """Return what models the behaviours found, or None."""
        return None

    def call(self, inputs: dict[str, Any], training: bool | None = None) -> Any:
        """Return logits (B, C); see the class."""
        return self._score(inputs, training)[0]

    def explain(self, inputs: dict[str, Any]) -> dict[str, Any]:
        """Return scores with what they are based on.

        Args:
            inputs: as in `call`.

        Returns:
            dict of `click_probability` float32 (B, C); `behavior_indices`
            int32 (B, C, K), positions in the history; `similarities` float32
            (B, C, K), cosines; `attention` float32 (B, C, K), mean over
            heads; `tiers` float32 (B, C, N), raw counts; `mask` bool
            (B, C, K), True = a real behaviour.
        """
        logits, explanation = self._score(inputs, False, explaining=True)
        found = explanation.found
        return {
            "click_probability": ops.sigmoid(logits),
            "behavior_indices": found.indices,
            "similarities": found.similarities,
            "attention": ops.mean(explanation.attention, axis=2),
            "tiers": explanation.tiers,
            "mask": found.mask,
        }

    def share_oov_row(self, optimizer: Any) -> int:
        """Give items that training never touched the unknown item's vector.

        Their own is random and means nothing. Call it once, after training.

        Args:
            optimizer: the `RowSparseAdam` that trained this model.

        Returns:
            int, how many rows were set.
        """
        table = self.item_embedding.embeddings
        moment = optimizer.second_moment(table)
        first = gather_rows(table, [0])
        changed = 0
        # Block by block: whole tables of temporaries would be gigabytes.
        for block in blocks(table.shape[0]):
            rows = np.arange(max(block.start, 1), block.stop, dtype=np.int32)
            touched = ops.any(
                ops.not_equal(gather_rows(moment, rows), 0.0), axis=1
            )
            untouched = rows[~ops.convert_to_numpy(touched)]
            values = ops.broadcast_to(first, (len(untouched), first.shape[1]))
            assign_rows(table, untouched, values)
            changed += len(untouched)
        return changed

    def compute_output_spec(
        self, inputs: dict[str, Any], training: bool | None = None
    ) -> Any:
        """Return the shape and dtype of `call`'s result."""
        self.check_inputs(inputs)
        shape = tuple(inputs["candidate_categories"].shape)
        return keras.KerasTensor(shape, "float32")

    def get_config(self) -> dict[str, Any]:
        """Return the constructor's arguments."""
        config = super().get_config()
        config.update(
            {
                "num_items": self.num_items,
                "profile_sizes": self.profile_sizes,
                "category_size": self.category_size,
                "city_size": self.city_size,
                "province_size": self.province_size,
                "vector_dim": self.vector_dim,
                "embedding_dim": self.embedding_dim,
                "recent": self.recent,
                "num_tiers": self.num_tiers,
                "tier_scale": self.tier_scale,
                "hidden_units": self.hidden_units,
                "num_heads": self.num_heads,
                "attention_activation": keras.activations.serialize(
                    self.attention_activation
                ),
                "oov_rate": self.oov_rate,
                "seed": self.seed,
                "spare_rows": self.spare_rows,
            }
        )
        return config

    def _make_layers(self) -> None:
        """Make, not build, all layers."""
        self._make_tables()
        # All profile fields in one table, one after the other.
        self.profile_embedding = self._embedding(
            sum(self.profile_sizes), "profile_embedding"
        )
        self.short_term = ShortTermInterest(
            num_heads=self.num_heads,
            activation=self.attention_activation,
            num_tiers=self.num_tiers,
            tier_scale=self.tier_scale,
            dtype=self.dtype_policy,
            name="short_term",
        )
        self.search: Any = self.make_search()
        if self.search is not None:
            self.search.read_vectors_with(self.table.vectors)
        self.exact_search_unit: Any = self.make_exact_search_unit()
        if (self.search is None) != (self.exact_search_unit is None):
            raise ValueError(
                "`make_search` and `make_exact_search_unit` must both return "
                f"a layer or both None. Received: {self.search}, "
                f"{self.exact_search_unit}"
            )
        self.tower = ScoreTower(
            self.hidden_units, dtype=self.dtype_policy, name="tower"
        )
        self.seed_generator = keras.random.SeedGenerator(self.seed)

    def _make_tables(self) -> None:
        """Make the tables that behaviours and candidates are looked up in."""
        self.table = MultimodalEmbeddingTable(
            self.num_items, self.vector_dim, self.spare_rows, name="table"
        )
        self.item_embedding = self._embedding(
            self.num_items + 1, "item_embedding"
        )
        self.category_embedding = self._embedding(
            self.category_size, "category_embedding"
        )
        self.city_embedding = self._embedding(self.city_size, "city_embedding")
        self.province_embedding = self._embedding(
            self.province_size, "province_embedding"
        )

    def _embedding(
        self, rows: int, name: str, dim: int | None = None
    ) -> IdEmbedding:
        """Return a table of trained embeddings."""
        return IdEmbedding(
            rows,
            self.embedding_dim if dim is None else dim,
            dtype=self.dtype_policy,
            name=name,
        )

    def _build_tables(self, *profile: IdEmbedding) -> None:
        """Build all tables, the profile's too."""
        tables: tuple[Any, ...] = (
            self.table,
            self.item_embedding,
            self.category_embedding,
            self.city_embedding,
            self.province_embedding,
            *profile,
        )
        for layer in tables:
            with keras.name_scope(layer.name, caller=layer):
                layer.build(None)

    def _build_layers(self) -> None:
        """Build all layers: their shapes follow from the arguments."""
        self._build_tables(self.profile_embedding)
        dim = self.embedding_dim
        item = 2 * dim
        target = (None, None, item)
        self.short_term.build(target)
        interest = self.num_tiers + item
        # Candidate id, category, city, province; profile; pooled; matches.
        width = 4 * dim + len(self.profile_sizes) * dim + item + 1 + interest
        if self.search is not None:
            self.search.build()
            behaviors = (None, None, None, item)
            self.exact_search_unit.build(target, behaviors)
            features, _ = self.exact_search_unit.compute_output_spec(
                keras.KerasTensor(target),
                keras.KerasTensor(behaviors),
                GSUResult(*[keras.KerasTensor((None, None, None))] * 3),
            )
            width += features.shape[-1]
        self.tower.build((None, None, width))

    def _score(
        self,
        inputs: dict[str, Any],
        training: bool | None,
        explaining: bool = False,
    ) -> tuple[Any, Any]:
        """Return logits and, if asked for, their `Explanation`."""
        inputs = self._checked(inputs)
        candidates, behaviors, target = self._views(inputs, training)
        recent = self._recent(behaviors, training)
        short, attention, found = self.short_term(
            target, candidates.vectors, recent
        )
        candidate_features = [
            target,
            self.city_embedding(inputs["candidate_cities"]),
            self.province_embedding(inputs["candidate_provinces"]),
            self._matches(inputs["candidate_category_matches"]),
            short,
        ]
        explanation = None
        if self.search is None:
            # The attention sees recent behaviours without a vector too.
            tiers = self.short_term.tiers.count(found.similarities, found.mask)
            real = ops.logical_or(found.mask, ops.expand_dims(recent.mask, 1))
            explanation = Explanation(
                found._replace(mask=real), attention, tiers
            )
        else:
            long, explanation = self._long_term(
                target, candidates, behaviors, training, explaining
            )
            candidate_features.append(long)
        user_features = [
            self._profile(inputs["user_profile"]),
            masked_mean(recent.embeddings, recent.mask),
        ]
        features = self._join(user_features, candidate_features)
        logits = self.tower(features, mask=candidates.mask, training=training)
        return logits, explanation

    def _long_term(
        self,
        target: Any,
        candidates: CandidateView,
        behaviors: BehaviorView,
        training: bool | None,
        explaining: bool,
    ) -> tuple[Any, Explanation | None]:
        """Return the long history's features and their explanation.

        Without `explaining` only what the features need is computed: reads of
        a table are carried out even where nothing uses them.
        """
        unit: ExactSearchUnit = self.exact_search_unit
        found = embedded = history = None
        if unit.needs_found or explaining:
            found = self._find(
                target,
                candidates,
                behaviors,
                training,
                unit.needs_similarities or explaining,
            )
            # A unit that needs nothing of a search may still weigh it.
            if unit.needs_behaviors or not unit.needs_found:
                embedded = self._embed_items(
                    take_positions(behaviors.rows, found.indices),
                    take_positions(behaviors.categories, found.indices),
                    training,
                )
        if unit.needs_history:
            history = WholeHistory(
                self._embed_items(
                    behaviors.rows, behaviors.categories, training
                ),
                behaviors.mask,
            )
        long, attention = unit(target, embedded, found, history)
        if found is None:
            return long, None
        return long, Explanation(found, attention, unit.count_tiers(found))

    def _views(
        self, inputs: dict[str, Any], training: bool | None
    ) -> tuple[CandidateView, BehaviorView, Any]:
        """Return candidates, behaviours and the candidates' embeddings."""
        fresh_index = self._fresh_index(inputs, training)
        candidates = CandidateView(
            rows=self._rows(inputs, "candidate", fresh_index),
            categories=inputs["candidate_categories"],
            mask=inputs.get("candidate_mask"),
        )
        candidates = candidates._replace(
            vectors=self.table.vectors(candidates.rows)
        )
        behaviors = BehaviorView(
            rows=self._rows(inputs, "behavior", fresh_index),
            categories=inputs["behavior_categories"],
            mask=inputs["behavior_mask"],
        )
        target = self._embed_items(
            candidates.rows, candidates.categories, training
        )
        return candidates, behaviors, target

    def _find(
        self,
        target: Any,
        candidates: CandidateView,
        behaviors: BehaviorView,
        training: bool | None,
        with_similarities: bool,
    ) -> GSUResult:
        """Search the long history, with what the search asks for."""
        search: BehaviorSearch = self.search
        if search.needs_vectors:
            behaviors = behaviors._replace(
                vectors=self.table.vectors(behaviors.rows),
                inverse_norms=self.table.inverse_norms_of(behaviors.rows),
            )
        if search.needs_embeddings:
            candidates = candidates._replace(embeddings=target)
            behaviors = behaviors._replace(
                embeddings=self._embed_items(
                    behaviors.rows, behaviors.categories, training
                )
            )
        if search.needs_projections:
            attention = self.exact_search_unit.attention
            if attention is None:
                attention = self.short_term.attention
            candidates = candidates._replace(queries=attention.queries(target))
            behaviors = behaviors._replace(
                keys=attention.keys(behaviors.embeddings)
            )
        return search(
            candidates, behaviors, with_similarities=with_similarities
        )

    def check_inputs(self, inputs: Mapping[str, Any]) -> None:
        """Raise `ValueError` for inputs that are missing or do not fit.

        That is: names that the model does not read, shapes that do not go
        together as far as they are known, and, in NumPy arrays alone, indices
        outside their vocabulary or table. A tensor is not looked into: that
        would hold up the device, and a compiled program would need ops that
        have no GPU kernels. There, such an index reads row 0 (missing), or in
        a profile the nearest row of its field.
        """
        missing = [name for name in _INPUTS if name not in inputs]
        for kind in ("behavior", "candidate"):
            given = {f"{kind}_rows", f"{kind}_item_ids"} & set(inputs)
            if not given:
                missing.append(f"{kind}_item_ids (or {kind}_rows)")
            if len(given) == 2:
                raise ValueError(
                    f"`inputs` must have {kind}_item_ids or {kind}_rows, not "
                    "both: the model would not look at the ids."
                )
        if missing:
            raise ValueError(
                f"`inputs` must have {', '.join(missing)}. "
                f"Received: {sorted(inputs)}"
            )
        check_names(inputs, (*_INPUTS, *_MORE_INPUTS))
        shapes: dict[str, Any] = {}
        for name in ("user_profile", *sorted(inputs)):
            if inputs[name] is not None:
                axes = "BF" if name == "user_profile" else f"B{name[0]}"
                shapes[name] = (tuple(np.shape(inputs[name])), axes)
        check_inputs(**shapes)
        self._profile_fields(inputs["user_profile"])
        rows = self.num_items + 1 + self.spare_rows
        table = "the rows of the item table"
        for name, size, what in (
            ("user_profile", self.profile_sizes, "the sizes of its fields"),
            ("behavior_rows", rows, table),
            ("candidate_rows", rows, table),
            ("behavior_categories", self.category_size, "the vocabulary"),
            ("candidate_categories", self.category_size, "the vocabulary"),
            ("candidate_cities", self.city_size, "the vocabulary"),
            ("candidate_provinces", self.province_size, "the vocabulary"),
        ):
            check_indices(name, inputs.get(name), size, what)

    def _checked(self, inputs: dict[str, Any]) -> dict[str, Any]:
        """Return the inputs as tensors, all but ids, if they can be."""
        self.check_inputs(inputs)
        tensors = {
            name: value
            if name.endswith("_item_ids")
            else ops.convert_to_tensor(value)
            for name, value in inputs.items()
        }
        for name in ("behavior_mask", "candidate_mask"):
            if tensors.get(name) is not None:
                tensors[name] = ops.cast(tensors[name], "bool")
        return tensors

    def _fresh_index(
        self, inputs: dict[str, Any], training: bool | None
    ) -> Any:
        """Return the table's fresh items, or None where they do not count.

        Training knows none, and rows were looked up by the caller.
        """
        has_rows = {"behavior_rows", "candidate_rows"} <= set(inputs)
        return None if training or has_rows else self.table.fresh_index()

    def _rows(self, inputs: dict[str, Any], kind: str, fresh_index: Any) -> Any:
        """Return int32 rows of the item table."""
        rows = inputs.get(f"{kind}_rows")
        if rows is not None:
            return ops.cast(rows, "int32")
        ids = inputs[f"{kind}_item_ids"]
        if fresh_index is None:
            return self.table.lookup_known(ids)
        return self.table.lookup(ids, fresh_index)

    def _embed_items(
        self, rows: Any, categories: Any, training: bool | None
    ) -> Any:
        """Return id and category embeddings, (..., 2 * embedding_dim)."""
        if not training:
            rows = self.table.known_rows(rows)
        if training and self.oov_rate > 0.0:
            draw = keras.random.uniform(
                ops.shape(rows), seed=self.seed_generator
            )
            rows = ops.where(draw < self.oov_rate, 0, rows)
        return ops.concatenate(
            [self.item_embedding(rows), self.category_embedding(categories)],
            axis=-1,
        )

    def _recent(
        self, behaviors: BehaviorView, training: bool | None
    ) -> RecentBehaviors:
        """Return the newest behaviours with all that is needed of them."""
        indices, mask = newest_positions(behaviors.mask, self.recent)
        rows = take_positions(behaviors.rows, indices)
        categories = take_positions(behaviors.categories, indices)
        return RecentBehaviors(
            indices,
            mask,
            self._embed_items(rows, categories, training),
            self.table.vectors(rows),
        )

    def _profile(self, profile: Any) -> Any:
        """Return the profile's embeddings, (B, profiles * embedding_dim)."""
        count = self._profile_fields(profile)
        sizes = np.array(self.profile_sizes, np.int64)
        starts = np.cumsum(sizes) - sizes
        # An index outside its vocabulary must not read another field's row.
        last = ops.convert_to_tensor(sizes - 1, dtype="float32")
        profile = ops.minimum(ops.cast(profile, "float32"), last)
        profile = ops.maximum(profile, 0.0)
        starts = ops.convert_to_tensor(starts, dtype="float32")
        rows = ops.cast(profile + starts, "int32")
        embedded = self.profile_embedding(rows)
        return ops.reshape(embedded, (-1, count * self.embedding_dim))

    def _profile_fields(self, profile: Any) -> int:
        """Return how many fields a profile has, if it has all of them."""
        count = len(self.profile_sizes)
        shape = np.shape(profile)
        if shape[-1] != count:
            raise ValueError(
                f"`user_profile` must have {count} fields. Received: "
                f"user_profile.shape={tuple(shape)}"
            )
        return count

    def _matches(self, matches: Any) -> Any:
        """Return the category-match feature, (B, C, 1)."""
        matches = ops.maximum(ops.cast(matches, "float32"), 0.0)
        matches = ops.cast(ops.log1p(matches), self.compute_dtype)
        return ops.expand_dims(matches, -1)

    def _join(self, user: list[Any], candidate: list[Any]) -> Any:
        """Return all features of each candidate, (B, C, F)."""
        joined = ops.concatenate(candidate, axis=-1)
        shared = ops.expand_dims(ops.concatenate(user, axis=-1), 1)
        ones = ops.ones_like(joined[:, :, :1])
        return ops.concatenate([shared * ones, joined], axis=-1)
