"""Adam that moves only the rows of embedding tables that were used."""

from typing import Any

import keras
from keras import ops

from muse_keras._export import muse_keras_export
from muse_keras._keras_internals import OptimizerHooks
from muse_keras._ops.checks import number
from muse_keras._ops.replicas import replica_count

# Base class arguments that would touch every row of every table.
_DENSE_ARGUMENTS = (
    "use_ema",
    "loss_scale_factor",
    "gradient_accumulation_steps",
)


@muse_keras_export()
class RowSparseAdam(OptimizerHooks):
    """Adam for dense weights and, row by row, for embedding tables.

    Keras's own Adam turns the sparse gradient of an embedding table into a
    dense one and moves all rows of the table and of both moments: seconds
    per step for a table of tens of millions of rows. Here a table row whose
    gradient, summed over the batch and all replicas, is zero keeps its
    weights and moments; its cost is that of the touched rows only (on the
    TensorFlow backend; the gradients of the others are dense). Moments of a
    row decay only when it is touched; the bias correction counts global
    steps. Dense weights move as in `keras.optimizers.Adam`.

    A table is a variable whose attribute `row_sparse` is true, as
    `muse_keras.layers.IdEmbedding` sets it. Tables have their own learning
    rate, and no weight decay, which would move all rows. Moments of a table
    whose rows are divided among replicas are divided in the same way; its
    gradients cannot be clipped by a norm.

    Args:
        learning_rate: float or schedule, for dense weights.
        table_learning_rate: float or schedule, for tables. None: the same as
            `learning_rate`.
        beta_1: float, decay of the first moment.
        beta_2: float, decay of the second moment.
        epsilon: float, added to the root of the second moment.
        weight_decay: float, decoupled, for dense weights only, or None.
        clipnorm: float, largest norm of each gradient, or None.
        clipvalue: float, largest entry of each gradient, or None.
        global_clipnorm: float, largest norm of all gradients, or None.
        name: str.
        **kwargs: see `keras.optimizers.Optimizer`. `use_ema`,
            `loss_scale_factor` and `gradient_accumulation_steps` are refused:
            they work on whole tables.

    Example:
    >>> from muse_keras.optimizers import RowSparseAdam
    >>> optimizer = RowSparseAdam(2e-4, table_learning_rate=2e-3)
    >>> optimizer.get_config()["table_learning_rate"]
    0.002
    """

    def __init__(
        self,
        learning_rate: Any = 2e-4,
        table_learning_rate: Any = 2e-3,
        beta_1: float = 0.9,
        beta_2: float = 0.999,
        epsilon: float = 1e-7,
        weight_decay: float | None = None,
        clipnorm: float | None = None,
        clipvalue: float | None = None,
        global_clipnorm: float | None = None,
        name: str = "row_sparse_adam",
        **kwargs: Any,
    ) -> None:
        for argument in _DENSE_ARGUMENTS:
            if kwargs.get(argument):
                raise ValueError(
                    f"`{argument}` works on whole tables and is not "
                    f"supported. Received: {argument}={kwargs[argument]}"
                )
        super().__init__(
            learning_rate=learning_rate,
            weight_decay=weight_decay,
            clipnorm=clipnorm,
            clipvalue=clipvalue,
            global_clipnorm=global_clipnorm,
            name=name,
            **kwargs,
        )
        if isinstance(table_learning_rate, dict):
            table_learning_rate = keras.saving.deserialize_keras_object(
                table_learning_rate
            )
        self.table_learning_rate = table_learning_rate
        self.beta_1 = number("beta_1", beta_1, "[0, 1)")
        self.beta_2 = number("beta_2", beta_2, "[0, 1)")
        self.epsilon = number("epsilon", epsilon, "[0, inf)")
        self._is_table: list[bool] = []

    def build(self, variables: list[Any]) -> None:
        """Make both moments of every variable.

        Args:
            variables: list of `keras.Variable`.
        """
        if self.built:
            return
        super().build(variables)
        self._is_table = [
            bool(getattr(variable, "row_sparse", False))
            for variable in variables
        ]
        self._first_moments, self._second_moments = (
            self.add_optimizer_variables(
                variables, ["first_moment", "second_moment"]
            )
        )
        for moments in (self._first_moments, self._second_moments):
            for variable, moment in zip(variables, moments, strict=True):
                moment.row_shards = getattr(variable, "row_shards", None)
        is_divided = any(moment.row_shards for moment in self._first_moments)
        if is_divided and (self.clipnorm or self.global_clipnorm):
            raise ValueError(
                "`clipnorm` and `global_clipnorm` need whole gradients, and no "
                "replica has those of tables whose rows are divided. Received: "
                f"clipnorm={self.clipnorm}, "
                f"global_clipnorm={self.global_clipnorm}"
            )

    def apply(self, grads: Any, trainable_variables: Any = None) -> None:
        """Move all variables; see `keras.optimizers.Optimizer.apply`.

        Replicas exchange the rows that they touched, each once.
        """
        if replica_count() > 1:
            grads = [_sum_rows(g) if _is_slices(g) else g for g in grads]
        super().apply(grads, trainable_variables)

    def second_moment(self, variable: Any) -> Any:
        """Return the second moment of a variable.

        A table row was touched if and only if this is not all zero there.

        Args:
            variable: `keras.Variable` that the optimizer was built with.
        """
        return self._second_moments[self._index_of(variable)]

    def update_step(
        self, gradient: Any, variable: Any, learning_rate: Any
    ) -> None:
        """Move one variable.

        Args:
            gradient: tensor, or `tf.IndexedSlices` on TensorFlow.
            variable: variable, or the backend's own.
            learning_rate: scalar, for dense weights.
        """
        index = self._index_of(variable)
        first = self._first_moments[index]
        second = self._second_moments[index]
        if not self._is_table[index]:
            gradient = ops.cast(_densify(gradient), variable.dtype)
            state = (variable, first, second)
            if keras.backend.backend() == "tensorflow":
                self._apply_adam(gradient, state, learning_rate)
                return
            for target, value in zip(
                state, self._adam(gradient, *state, learning_rate), strict=True
            ):
                self.assign(target, value)
            return
        rate = self._table_rate(learning_rate)
        if _is_slices(gradient):
            self._update_rows(gradient, variable, first, second, rate)
            return
        gradient = ops.cast(gradient, variable.dtype)
        state = (variable, first, second)
        touched = _touched(gradient)
        for target, value in zip(
            state, self._adam(gradient, *state, rate), strict=True
        ):
            self.assign(
                target, ops.where(touched, value, ops.convert_to_tensor(target))
            )

    def get_config(self) -> dict[str, Any]:
        """Return the constructor's arguments."""
        config = super().get_config()
        rate = self.table_learning_rate
        if isinstance(rate, keras.optimizers.schedules.LearningRateSchedule):
            rate = keras.saving.serialize_keras_object(rate)
        config.update(
            {
                "table_learning_rate": rate,
                "beta_1": self.beta_1,
                "beta_2": self.beta_2,
                "epsilon": self.epsilon,
            }
        )
        return config

    def _table_rate(self, learning_rate: Any) -> Any:
        """Return the current learning rate of tables."""
        if self.table_learning_rate is None:
            return learning_rate
        if callable(self.table_learning_rate):
            return self.table_learning_rate(self.iterations)
        return self.table_learning_rate

    def _adam(
        self,
        gradient: Any,
        weight: Any,
        first: Any,
        second: Any,
        learning_rate: Any,
    ) -> tuple[Any, Any, Any]:
        """Return new values of the weight and its moments."""
        dtype = gradient.dtype
        step = ops.cast(self.iterations + 1, dtype)
        correction_1 = 1.0 - ops.power(ops.cast(self.beta_1, dtype), step)
        correction_2 = 1.0 - ops.power(ops.cast(self.beta_2, dtype), step)
        rate = ops.cast(learning_rate, dtype)
        rate = rate * ops.sqrt(correction_2) / correction_1
        first = first + (gradient - first) * (1.0 - self.beta_1)
        second = second + (gradient * gradient - second) * (1.0 - self.beta_2)
        weight = weight - rate * first / (ops.sqrt(second) + self.epsilon)
        return weight, first, second

    def _apply_adam(
        self, gradient: Any, state: tuple[Any, Any, Any], rate: Any
    ) -> None:
        """Do what `_adam` does in one op of TensorFlow.

        A ranker has dozens of small weights: twenty ops for each cost more
        than their arithmetic.
        """
        import tensorflow as tf

        dtype = gradient.dtype
        step = ops.cast(self.iterations + 1, dtype)
        weight, first, second = (_native(variable) for variable in state)
        tf.raw_ops.ResourceApplyAdam(
            var=weight.handle,
            m=first.handle,
            v=second.handle,
            beta1_power=ops.power(ops.cast(self.beta_1, dtype), step),
            beta2_power=ops.power(ops.cast(self.beta_2, dtype), step),
            lr=ops.cast(rate, dtype),
            beta1=ops.cast(self.beta_1, dtype),
            beta2=ops.cast(self.beta_2, dtype),
            epsilon=ops.cast(self.epsilon, dtype),
            grad=gradient,
        )

    def _update_rows(
        self, gradient: Any, variable: Any, first: Any, second: Any, rate: Any
    ) -> None:
        """Move the rows of a `tf.IndexedSlices` and no other."""
        import tensorflow as tf

        gradient = _sum_rows(gradient)
        rows = gradient.indices
        values = tf.cast(gradient.values, variable.dtype)
        touched = _touched(values)
        targets = (_native(variable), _native(first), _native(second))
        old = tuple(tf.gather(target, rows) for target in targets)
        new = self._adam(values, old[0], old[1], old[2], rate)
        for target, before, after in zip(targets, old, new, strict=True):
            after = tf.where(touched, after, before)
            target.scatter_update(tf.IndexedSlices(after, rows))

    def _clip(self, gradients: list[Any]) -> list[Any]:
        """Clip; sparse gradients by their rows, summed first."""
        if not (self.clipnorm or self.clipvalue or self.global_clipnorm):
            return gradients
        summed = [_sum_rows(g) if _is_slices(g) else g for g in gradients]
        clipped = super()._clip(
            [g.values if _is_slices(g) else g for g in summed]
        )
        return [
            _with_values(old, new) if _is_slices(old) else new
            for old, new in zip(summed, clipped, strict=True)
        ]

    def _is_shared(self, variable: Any) -> bool:
        """Tell whether all replicas hold the same rows."""
        return not self._first_moments[self._index_of(variable)].row_shards

    def _decays(self, variable: Any) -> bool:
        """Tell whether weight decay applies: never to tables."""
        if self._is_table[self._index_of(variable)]:
            return False
        return super()._decays(variable)


def _native(variable: Any) -> Any:
    if isinstance(variable, keras.Variable):
        return variable.value
    return variable


def _is_slices(gradient: Any) -> bool:
    if keras.backend.backend() != "tensorflow":
        return False
    import tensorflow as tf

    return isinstance(gradient, tf.IndexedSlices)


def _densify(gradient: Any) -> Any:
    return ops.convert_to_tensor(gradient) if _is_slices(gradient) else gradient


def _sum_rows(gradient: Any) -> Any:
    """Return `tf.IndexedSlices` with each row once."""
    import tensorflow as tf

    rows, position = tf.unique(tf.reshape(gradient.indices, (-1,)))
    values = tf.math.unsorted_segment_sum(
        gradient.values, position, tf.shape(rows)[0]
    )
    return tf.IndexedSlices(values, rows, gradient.dense_shape)


def _with_values(slices: Any, values: Any) -> Any:
    """Return `tf.IndexedSlices` of the same rows with other values."""
    import tensorflow as tf

    return tf.IndexedSlices(values, slices.indices, slices.dense_shape)


def _touched(gradient: Any) -> Any:
    """Return bool (rows, 1, ...), True where a row's gradient is not zero."""
    axes = tuple(range(1, len(gradient.shape)))
    return ops.any(ops.not_equal(gradient, 0), axis=axes, keepdims=True)
