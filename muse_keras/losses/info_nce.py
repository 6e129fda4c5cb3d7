"""The contrastive loss of queries and the items bought after them."""

import math
from typing import Any

import keras
from keras import ops

from muse_keras._export import muse_keras_export
from muse_keras._keras_internals import keep_arrays
from muse_keras._ops.checks import check_inputs, number
from muse_keras._ops.ids import id_tensor
from muse_keras._ops.replicas import gather_over_replicas
from muse_keras._ops.shapes import has_content

# Far below any logit, and far from overflow, in float32.
_MASKED_LOGIT = -1e9


@muse_keras_export()
class InfoNCE(keras.layers.Layer):
    """Cross entropy of the bought item among all others, by cosine.

    `-log(e^(q k / T) / (e^(q k / T) + sum over negatives e^(q n / T)))`,
    where the negatives are the keys of the other rows and those of a memory
    bank. A layer and not a `keras.losses.Loss`, since its temperature `T` is
    learned: the weight `log_temperature`, kept between the logarithms of the
    two limits by a constraint.

    A key with the item id of the row's positive is not counted as a
    negative. A zero vector (an item or query without content) is never a
    negative, and a row with one costs nothing. Under `tf.distribute` the rows
    of all replicas are each other's negatives, so that two replicas train
    like one. Everything is computed in float32.

    Reference: arXiv 1807.03748; the bank, arXiv 1911.05722; the limit of
    the temperature, arXiv 2103.00020.

    Args:
        temperature: float, at the start.
        min_temperature: float, > 0.
        max_temperature: float.
        **kwargs: see `keras.layers.Layer`.

    Call arguments:
        queries: float (B, D), unit or zero vectors.
        keys: float (B, D), row by row the positives of `queries`.
        item_ids: integers (B,), the items of `keys`; see `MemoryBank` for
            backends without int64.
        bank_keys: float (M, D), or None for no bank.
        bank_ids: integers (M,).
        bank_mask: bool (M,), True = a real key.
        sample_weight: float (B,), or None.

    Output shape:
        `(B,)` float32

    Example:
    >>> import numpy as np
    >>> from keras import ops
    >>> from muse_keras.losses import InfoNCE
    >>> loss = InfoNCE(temperature=1.0)
    >>> vectors = np.eye(2, dtype="float32")
    >>> losses = loss(vectors, vectors, np.array([7, 8]))
    >>> ops.convert_to_numpy(losses).round(4)
    array([0.3133, 0.3133], dtype=float32)
    """

    built: bool

    def __init__(
        self,
        temperature: float = 0.07,
        min_temperature: float = 0.01,
        max_temperature: float = 1.0,
        **kwargs: Any,
    ) -> None:
        super().__init__(**kwargs)
        temperature = number("temperature", temperature)
        min_temperature = number("min_temperature", min_temperature)
        max_temperature = number("max_temperature", max_temperature)
        if not 0.0 < min_temperature <= temperature <= max_temperature:
            raise ValueError(
                "`temperature` must be between `min_temperature` > 0 and "
                f"`max_temperature`. Received: temperature={temperature}, "
                f"min_temperature={min_temperature}, "
                f"max_temperature={max_temperature}"
            )
        self.autocast = False
        # Keras must not touch ids: it would cut them to int32 under JAX.
        keep_arrays(self)
        self.start_temperature = temperature
        self.min_temperature = min_temperature
        self.max_temperature = max_temperature
        self.build()

    def build(self, *shapes: Any, **named_shapes: Any) -> None:
        """Make the weight; it depends on no shape."""
        if self.built:
            return
        self.log_temperature = self.add_weight(
            shape=(),
            initializer=keras.initializers.Constant(
                math.log(self.start_temperature)
            ),
            constraint=LogRange(self.min_temperature, self.max_temperature),
            dtype="float32",
            autocast=False,
            name="log_temperature",
        )
        self.built = True

    @property
    def temperature(self) -> Any:
        """The temperature now, a float32 scalar."""
        # A custom training loop may not apply the constraint.
        return ops.exp(self.log_temperature.constraint(self.log_temperature))

    def call(
        self,
        queries: Any,
        keys: Any,
        item_ids: Any,
        bank_keys: Any = None,
        bank_ids: Any = None,
        bank_mask: Any = None,
        sample_weight: Any = None,
    ) -> Any:
        """Return the loss of every row; see the class."""
        ids = id_tensor(item_ids)
        if bank_keys is not None:
            bank_ids = id_tensor(bank_ids, "bank_ids")
        _check(
            queries, keys, ids, bank_keys, bank_ids, bank_mask, sample_weight
        )
        queries = ops.cast(queries, "float32")
        keys = ops.cast(keys, "float32")
        negatives = gather_over_replicas(keys)
        negative_ids = gather_over_replicas(ids)
        real = has_content(negatives)
        if bank_keys is not None:
            negatives = ops.concatenate(
                [negatives, ops.cast(bank_keys, "float32")]
            )
            negative_ids = ops.concatenate([negative_ids, bank_ids])
            real = ops.concatenate([real, ops.cast(bank_mask, "bool")])
        temperature = self.temperature
        positive = ops.sum(queries * keys, axis=-1) / temperature
        logits = ops.matmul(queries, ops.transpose(negatives)) / temperature
        others = ops.not_equal(
            ops.expand_dims(ids, 1), ops.expand_dims(negative_ids, 0)
        )
        # This leaves out the row's own positive too: it has the same id.
        counted = ops.logical_and(others, ops.expand_dims(real, 0))
        logits = ops.where(counted, logits, _MASKED_LOGIT)
        logits = ops.concatenate([ops.expand_dims(positive, 1), logits], axis=1)
        losses = ops.logsumexp(logits, axis=1) - positive
        content = ops.logical_and(has_content(queries), has_content(keys))
        losses = losses * ops.cast(content, "float32")
        if sample_weight is not None:
            losses = losses * ops.cast(sample_weight, "float32")
        return losses

    def compute_output_spec(
        self,
        queries: Any,
        keys: Any,
        item_ids: Any,
        bank_keys: Any = None,
        bank_ids: Any = None,
        bank_mask: Any = None,
        sample_weight: Any = None,
    ) -> Any:
        """Return the shape and dtype of `call`'s result."""
        _check(
            queries,
            keys,
            item_ids,
            bank_keys,
            bank_ids,
            bank_mask,
            sample_weight,
        )
        return keras.KerasTensor((queries.shape[0],), "float32")

    def get_config(self) -> dict[str, Any]:
        """Return the constructor's arguments."""
        return {
            **super().get_config(),
            "temperature": self.start_temperature,
            "min_temperature": self.min_temperature,
            "max_temperature": self.max_temperature,
        }


def _check(
    queries: Any,
    keys: Any,
    item_ids: Any,
    bank_keys: Any,
    bank_ids: Any,
    bank_mask: Any,
    sample_weight: Any,
) -> None:
    check_inputs(
        queries=(queries, "BD", "floats"),
        keys=(keys, "BD", "floats"),
        item_ids=(item_ids, "B", "integers"),
        bank_keys=(bank_keys, "MD", "floats"),
        bank_ids=(bank_ids, "M", "integers"),
        bank_mask=(bank_mask, "M"),
        sample_weight=(sample_weight, "B"),
    )


@muse_keras_export()
class LogRange(keras.constraints.Constraint):
    """Keeps a logarithm between those of two limits.

    Args:
        low: float, > 0.
        high: float.
    """

    def __init__(self, low: float, high: float) -> None:
        self.low = low
        self.high = high

    def __call__(self, w: Any) -> Any:
        """Return the weight, cut to its range."""
        return ops.clip(w, math.log(self.low), math.log(self.high))

    def get_config(self) -> dict[str, Any]:
        """Return the constructor's arguments."""
        return {"low": self.low, "high": self.high}
