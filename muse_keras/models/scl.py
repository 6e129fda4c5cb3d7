"""Training of the item embeddings."""

from collections.abc import Mapping
from typing import Any

import keras
import numpy as np
from keras import ops

from muse_keras._export import muse_keras_export
from muse_keras._keras_internals import keep_arrays
from muse_keras._ops.checks import check_inputs, check_names, integer, number
from muse_keras._ops.ids import check_ids_fit, id_tensor
from muse_keras._ops.replicas import add_state, replica_count
from muse_keras.layers.memory_bank import MemoryBank
from muse_keras.losses.cosine_triplet_loss import CosineTripletLoss
from muse_keras.losses.info_nce import InfoNCE
from muse_keras.metrics.embedding_spread import EmbeddingSpread
from muse_keras.models.dict_model import DictModel

# Steps over which the momentum towers stay close to the trained ones.
_MOMENTUM_WARM_UP = 10.0
_INPUTS = ("query", "item", "item_ids", "negatives", "negative_mask")


@muse_keras_export()
class SCL(DictModel):
    """Semantic-aware contrastive learning of item embeddings.

    What was searched with and the item then bought are brought together, all
    other items kept away: those of the batch, those in a memory bank, and, in
    a loss of their own, items of the same search that were clicked but not
    bought:

        loss = (1 - bank_weight) * batch + bank_weight * (items + queries) / 2
               + triplet_weight * triplet

    `batch` is `InfoNCE` among the pairs of the batch, all embedded by the
    trained towers. `items` sets the queries against what the momentum tower
    makes of the items, those of the batch and those in the bank; `queries`
    sets the items against a bank of queries, so that the item tower learns
    from a bank as well. Positive and negatives of a term come from the same
    tower, so that they cannot be told apart by their age.

    Momentum towers are moving averages of the trained ones' weights:
    `m w + (1 - m) new` before each step, with `m = min(momentum,
    t / (t + 10))` at step t from 0, so that they forget the random start.
    Keys enter the banks after the loss of their batch.

    The loss is part of the model: `compile(optimizer)` and `fit` with inputs
    alone, on every backend and under `tf.distribute`. `evaluate` takes
    negatives from the batch only and changes nothing. Weights exist from
    construction on, unless an encoder of a tower needs to see its input.

    Reported by `fit` and `evaluate`: `loss`; `info_nce`; `triplet`;
    `temperature`; and of the item vectors `mean_pairwise_cosine`,
    `min_dimension_variance` and `mean_dimension_variance` (see
    `EmbeddingSpread` and `callbacks.CollapseGuard`).

    Reference: arXiv 2407.19467; MUSE, arXiv 2512.07216; the momentum
    encoder, MoCo, arXiv 1911.05722.

    Args:
        query_tower: layer of a features dict to (B, D) unit vectors, such as
            `SCLTower`.
        item_tower: the same for items; None: the query tower embeds both.
        bank_size: int, keys in each bank; 0: negatives of the batch only.
        momentum: float in [0, 1), see above.
        bank_weight: float in (0, 1], the banks' share, see above.
        temperature: float, at the start; it is learned.
        triplet_weight: float, >= 0; 0: no hard negatives.
        margin: float, of the triplet loss.
        **kwargs: see `keras.Model`.

    Call arguments:
        inputs: dict. `query` and `item`, features as the towers take them;
            `item_ids` integers (B,), not needed for embedding alone;
            `negatives`, features of items with an axis of H after the batch,
            (B, H, ...); `negative_mask` bool (B, H), True = a negative. The
            last two may be left out. JAX holds no int64 by default: give
            rows of an item table as ids there.
        training: bool.

    Output shape:
        dict of `query` `(B, D)`, `item` `(B, D)` and `negatives`
        `(B, H, D)`, float32, of what was given

    Example:
    >>> import keras
    >>> import numpy as np
    >>> from muse_keras.layers import SCLTower
    >>> from muse_keras.models import SCL
    >>> model = SCL(SCLTower({"image": 8}, output_dim=4), bank_size=64)
    >>> images = np.random.default_rng(0).normal(size=(32, 8))
    >>> inputs = {
    ...     "query": {"image": images + 0.1},
    ...     "item": {"image": images},
    ...     "item_ids": np.arange(32, dtype="int32"),
    ... }
    >>> model.compile(keras.optimizers.Adam(1e-3))
    >>> history = model.fit(inputs, batch_size=16, verbose=0)
    >>> tuple(model.embed_items({"image": images}).shape)
    (32, 4)
    """

    built: bool

    def __init__(
        self,
        query_tower: Any,
        item_tower: Any = None,
        bank_size: int = 16384,
        momentum: float = 0.999,
        bank_weight: float = 0.5,
        temperature: float = 0.07,
        triplet_weight: float = 1.0,
        margin: float = 0.2,
        **kwargs: Any,
    ) -> None:
        super().__init__(**kwargs)
        # An autocast would cut ids, and the towers take float32.
        self.autocast = False
        keep_arrays(self)
        # XLA would compile again for the last batch, which is smaller.
        self.supports_jit = keras.backend.backend() != "tensorflow"
        bank_size = integer("bank_size", bank_size, minimum=0)
        triplet_weight = number("triplet_weight", triplet_weight, "[0, inf)")
        self.query_tower = query_tower
        self.item_tower = query_tower if item_tower is None else item_tower
        self.bank_size = bank_size
        self.momentum = number("momentum", momentum, "[0, 1)")
        self.bank_weight = number("bank_weight", bank_weight, "(0, 1]")
        self.triplet_weight = triplet_weight
        self.margin = number("margin", margin, "(0, inf)")
        self.info_nce = InfoNCE(temperature, name="info_nce")
        self.triplet: Any = None
        if triplet_weight > 0.0:
            self.triplet = CosineTripletLoss(margin, name="triplet")
        self.slow_query_tower: Any = None
        self.slow_item_tower: Any = None
        if bank_size:
            self.slow_query_tower = _slow_twin(self.query_tower)
            self.slow_item_tower = self.slow_query_tower
            if self.item_tower is not self.query_tower:
                self.slow_item_tower = _slow_twin(self.item_tower)
        if self.query_tower.built and self.item_tower.built:
            self.build()

    def build(self, input_shape: Any = None) -> None:
        """Make all weights.

        Args:
            input_shape: dict of the shapes of `inputs`, or None if both
                towers are built.
        """
        if self.built:
            return
        shapes = input_shape or {}
        for tower, side in (
            (self.query_tower, "query"),
            (self.item_tower, "item"),
            (self.slow_query_tower, "query"),
            (self.slow_item_tower, "item"),
        ):
            if tower is not None and not tower.built:
                tower.build(shapes.get(side))
        dim = self.item_tower.output_dim
        if self.bank_size:
            self.item_bank = MemoryBank(self.bank_size, dim, name="item_bank")
            self.query_bank = MemoryBank(self.bank_size, dim, name="query_bank")
            self.steps = add_state(self, "steps")
        self._means = {
            name: keras.metrics.Mean(name=name)
            for name in ("info_nce", "triplet", "temperature")
            if name != "triplet" or self.triplet is not None
        }
        self._spread = EmbeddingSpread(dim)
        self.built = True

    def call(
        self, inputs: dict[str, Any], training: bool | None = None
    ) -> dict[str, Any]:
        """Return the vectors of what is given; see the class."""
        check_names(inputs, _INPUTS)
        vectors = {}
        if "query" in inputs:
            vectors["query"] = self.query_tower(
                inputs["query"], training=training
            )
        if "item" in inputs:
            vectors["item"] = self.item_tower(inputs["item"], training=training)
        if "negatives" in inputs and self.triplet is not None:
            vectors["negatives"] = self._embed_lists(
                inputs["negatives"], training
            )
        return vectors

    def compute_loss(
        self,
        x: Any = None,
        y: Any = None,
        y_pred: Any = None,
        sample_weight: Any = None,
        training: bool = True,
    ) -> Any:
        """Return the loss of a batch; in training, update towers and banks.

        Args:
            x: the inputs.
            y: not used.
            y_pred: what `call` returned for them.
            sample_weight: float (B,), or None. `fit` hands it on only with
                some `y`.
            training: bool.

        Returns:
            scalar.

        Raises:
            ValueError: if `query`, `item` or `item_ids` is missing.
        """
        missing = [n for n in ("query", "item", "item_ids") if n not in x]
        if missing:
            raise ValueError(
                f"`inputs` must have {', '.join(missing)} for a loss. "
                f"Received: {sorted(x)}"
            )
        ids = id_tensor(x["item_ids"])
        queries, items = y_pred["query"], y_pred["item"]
        each = self.info_nce(queries, items, ids)
        if training and self.bank_size:
            banks = self._bank_losses(x, queries, items, ids)
            each = (1.0 - self.bank_weight) * each + self.bank_weight * banks
        parts = {"info_nce": self._mean(each, sample_weight)}
        loss = parts["info_nce"]
        if "negatives" in y_pred:
            each = self.triplet(
                queries, items, y_pred["negatives"], x.get("negative_mask")
            )
            parts["triplet"] = self._mean(each, sample_weight)
            loss = loss + self.triplet_weight * parts["triplet"]
        parts["temperature"] = self.info_nce.temperature
        for name, value in parts.items():
            self._means[name].update_state(value)
        self._spread.update_state(items)
        for penalty in self.losses:
            loss = loss + ops.sum(penalty)
        # Gradients of replicas are summed.
        return loss / replica_count()

    def embed_queries(self, features: dict[str, Any]) -> Any:
        """Return unit vectors (B, D) of what was searched with."""
        return self.query_tower(features, training=False)

    def embed_items(self, features: dict[str, Any]) -> Any:
        """Return unit vectors (B, D) of items."""
        return self.item_tower(features, training=False)

    def check_inputs(self, inputs: Mapping[str, Any]) -> None:
        """Raise `ValueError` for unknown names, and ids that would be cut."""
        check_names(inputs, _INPUTS)
        ids = inputs.get("item_ids")
        if isinstance(ids, np.ndarray):
            check_ids_fit(ids)

    def get_config(self) -> dict[str, Any]:
        """Return the constructor's arguments."""
        config = super().get_config()
        serialize = keras.saving.serialize_keras_object
        shared = self.item_tower is self.query_tower
        config.update(
            {
                "query_tower": serialize(self.query_tower),
                "item_tower": None if shared else serialize(self.item_tower),
                "bank_size": self.bank_size,
                "momentum": self.momentum,
                "bank_weight": self.bank_weight,
                "temperature": self.info_nce.start_temperature,
                "triplet_weight": self.triplet_weight,
                "margin": self.margin,
            }
        )
        return config

    @classmethod
    def from_config(
        cls, config: dict[str, Any], custom_objects: Any = None
    ) -> "SCL":
        """Return a model with new weights from `get_config`'s result."""
        config = dict(config)
        for name in ("query_tower", "item_tower"):
            if config[name] is not None:
                config[name] = keras.saving.deserialize_keras_object(
                    config[name], custom_objects=custom_objects
                )
        return cls(**config)

    def _embed_lists(
        self, features: dict[str, Any], training: bool | None
    ) -> Any:
        """Return vectors (B, H, D) of features (B, H, ...)."""
        features = {
            name: ops.convert_to_tensor(values)
            for name, values in features.items()
        }
        flat = {
            name: ops.reshape(values, (-1, *ops.shape(values)[2:]))
            for name, values in features.items()
        }
        vectors = self.item_tower(flat, training=training)
        batch, count = ops.shape(next(iter(features.values())))[:2]
        return ops.reshape(vectors, (batch, count, vectors.shape[-1]))

    def _mean(self, losses: Any, sample_weight: Any) -> Any:
        check_inputs(query=(losses, "B"), sample_weight=(sample_weight, "B"))
        if sample_weight is not None:
            losses = losses * ops.cast(sample_weight, losses.dtype)
        return ops.mean(losses)

    def _bank_losses(self, x: Any, queries: Any, items: Any, ids: Any) -> Any:
        """Return the losses (B,) against the banks; move towers and banks."""
        self._move_slow_towers()
        query_keys = self.slow_query_tower(x["query"], training=False)
        item_keys = self.slow_item_tower(x["item"], training=False)
        losses = 0.0
        for vectors, keys, bank in (
            (queries, item_keys, self.item_bank),
            (items, query_keys, self.query_bank),
        ):
            keys = ops.stop_gradient(keys)
            losses = losses + self.info_nce(
                vectors, keys, ids, *bank.contents()
            )
            bank.enqueue(keys, ids)
        return 0.5 * losses

    def _move_slow_towers(self) -> None:
        """Bring the momentum towers a step closer to the trained ones."""
        warm = self.steps / (self.steps + _MOMENTUM_WARM_UP)
        kept = ops.stop_gradient(ops.minimum(warm, self.momentum))
        pairs = [(self.slow_query_tower, self.query_tower)]
        if self.item_tower is not self.query_tower:
            pairs.append((self.slow_item_tower, self.item_tower))
        for slow_tower, tower in pairs:
            for slow, fast in zip(
                slow_tower.weights, tower.weights, strict=True
            ):
                new = ops.stop_gradient(ops.convert_to_tensor(fast))
                if keras.backend.is_float_dtype(slow.dtype):
                    share = ops.cast(kept, slow.dtype)
                    new = share * slow + (1.0 - share) * new
                slow.assign(new)
        self.steps.assign(self.steps + 1.0)


def _slow_twin(tower: Any) -> Any:
    """Return a tower of the same kind that is not trained."""
    stored = keras.saving.serialize_keras_object(tower)
    twin = keras.saving.deserialize_keras_object(stored)
    twin.trainable = False
    return twin
