"""The signature `upsert_items`: add or replace items while the model serves.

TensorFlow Serving offers no atomicity across variables. Therefore a row is
written only once: each item takes an unused slot of the table, whose number
comes from a counter that one op reads and advances under a lock. The vector,
the norm and the features are written first, the id last. A reader that finds
the id finds a whole item; a reader that does not finds the previous item.
"""

import tensorflow as tf

from muse_keras.tables.fresh_rows import last_of_equal, sort_ids
from muse_keras.tables.multimodal_embedding_table import (
    MultimodalEmbeddingTable,
)
from schemas.columns import Features
from serving.export.item_features import ItemFeatures
from serving.export.request import (
    Specs,
    as_declared,
    as_long_as,
    item_inputs,
    require,
    with_rank,
)
from serving.export.saving import Untracked

Tensors = dict[str, tf.Tensor]

# The counter-based generator whose counter numbers the slots, and the step of
# the counter for each number drawn.
_PHILOX = 1
_STEP = 256
# Largest code of a component.
_LARGEST = 127.0
# Largest distance of a component times 127 from a whole number in int8 codes.
_NEARLY_WHOLE = 1e-3


class ItemUpsert(tf.Module):
    """Adds items to a table or replaces them."""

    def __init__(
        self,
        table: MultimodalEmbeddingTable,
        item_features: ItemFeatures,
        features: Features,
    ) -> None:
        super().__init__(name="item_upsert")
        self._table = Untracked(table)
        self._features = item_features
        # Names of inputs by the features they hold.
        self._names = {field: f"item_{field}" for field in features.item}
        self.inputs: Specs = {
            "item_ids": tf.TensorSpec([None], tf.int64, name="item_ids"),
            "embedding": tf.TensorSpec([None, None], tf.float32, "embedding"),
            **item_inputs(features),
        }
        # State of the generator: two words of the counter and a key.
        self.counter = tf.Variable(
            tf.zeros([3], tf.int64), trainable=False, name="counter"
        )
        self.load_id = tf.Variable(
            tf.zeros([], tf.int64), trainable=False, name="load_id"
        )

    def __call__(self, **inputs: tf.Tensor) -> Tensors:
        """Add or replace items. `inputs` are raw values; 0 and NaN = missing.

        Returns `row` int64 (N,), the item's row; `stored` bool (N,), False if
        the table already holds the item with these values, or if the same id
        occurs again later in the call; `used` and `capacity` int64 (N,), the
        numbers of slots; `load_id` int64 (N,), drawn once for each load of the
        version. If it changes, the items stored before are lost.
        """
        table = self._table.object
        inputs = _checked(
            with_rank(inputs, self.inputs), self.inputs, table.dim
        )
        ids, codes = inputs["item_ids"], quantize(inputs["embedding"])
        encoded = self._features.encoded(
            {field: inputs[name] for field, name in self._names.items()}
        )
        now = table.lookup(ids)
        stored = _is_last(ids) & ~self._is_there(now, codes, encoded)
        chosen = tf.where(stored)
        slots = self._take_slots(chosen)

        def of_chosen(values: tf.Tensor) -> tf.Tensor:
            return tf.gather_nd(values, chosen)

        known = tf.cast(table.lookup_known(of_chosen(ids)), tf.int64)
        written = table.write_slots(slots, of_chosen(codes), known)
        written += self._features.write(
            slots + (table.num_items + 1),
            {field: of_chosen(values) for field, values in encoded.items()},
        )
        with tf.control_dependencies(written):
            published = table.publish_slots(slots, of_chosen(ids))
        with tf.control_dependencies([published]):
            every = tf.ones_like(ids)
            return {
                "row": tf.cast(table.lookup(ids), tf.int64),
                "stored": tf.identity(stored),
                "used": every * self._used(),
                "capacity": every * table.spare_rows,
                "load_id": every * self._drawn_load_id(tf.size(ids) > 0),
            }

    def _is_there(
        self, rows: tf.Tensor, codes: tf.Tensor, encoded: Tensors
    ) -> tf.Tensor:
        """Return whether each item already has this vector and features."""
        vectors = self._table.object.vectors(rows)
        same = (rows > 0) & tf.reduce_all(tf.equal(vectors, codes), axis=1)
        for field, values in self._features.stored(rows).items():
            equal = tf.equal(values, encoded[field])
            if equal.shape.rank > 1:
                equal = tf.reduce_all(equal, axis=1)
            same &= equal
        return same

    def _take_slots(self, chosen: tf.Tensor) -> tf.Tensor:
        """Return one slot for each chosen item, or fail if too few are left.

        A call that fails this check takes no slot. Concurrent calls may
        together request more slots than are left; then some slots stay empty.
        """
        count = tf.shape(chosen, tf.int64)[0]
        used = self._used()
        with tf.control_dependencies([self._require_room(used, count)]):
            before = tf.raw_ops.RngReadAndSkip(
                resource=self.counter.handle,
                alg=_PHILOX,
                delta=tf.cast(count, tf.uint64),
            )[0]
        first = before // _STEP
        with tf.control_dependencies([self._require_room(first, count)]):
            return tf.range(count) + first

    def _require_room(self, used: tf.Tensor, count: tf.Tensor) -> tf.Operation:
        capacity = self._table.object.spare_rows
        return require(
            tf.equal(count, 0) | (used + count <= capacity),
            "`item_ids`: no room for these items. Export a new version with "
            "them, or with a larger `export.fresh_items`. Capacity, used and "
            "needed:",
            tf.constant(capacity, tf.int64),
            tf.minimum(used, capacity),
            count,
        )

    def _drawn_load_id(self, has_items: tf.Tensor) -> tf.Tensor:
        """Return the number of this load, int64 (), drawn with the first items.

        It is not drawn in the warmup before the export. If first calls run
        concurrently, the number of the last one is kept.
        """
        now = self.load_id.read_value()
        # The raw op with seeds 0 draws a new number in every process, whatever
        # seed was set during tracing.
        drawn = tf.raw_ops.RandomUniformInt(
            shape=tf.constant([], tf.int32),
            minval=tf.constant(1, tf.int64),
            maxval=tf.constant(tf.int64.max, tf.int64),
            seed=0,
            seed2=0,
        )
        return self.load_id.assign(
            tf.where((now == 0) & has_items, drawn, now), read_value=True
        )

    def _used(self) -> tf.Tensor:
        return self.counter.read_value()[0] // _STEP


def quantize(vectors: tf.Tensor) -> tf.Tensor:
    """Return int8 codes of float32 vectors (N, D).

    Vectors are scaled to unit length and coded as `trunc(127 * v)`, as in the
    item table. Vectors that consist of whole codes divided by 127, such as the
    output of `embed`, are used unchanged.
    """
    scaled = vectors * _LARGEST
    whole = tf.round(scaled)
    is_code = tf.abs(scaled - whole) < _NEARLY_WHOLE
    is_code &= tf.abs(whole) <= _LARGEST
    # Codes of a short vector are 0, but the vector is not zero.
    is_zero = tf.reduce_all(tf.equal(whole, 0.0), axis=1, keepdims=True)
    is_coded = tf.reduce_all(is_code, axis=1, keepdims=True) & ~is_zero
    # In float64, the sum of squares of any float32 is finite.
    wide = tf.cast(vectors, tf.float64)
    norms = tf.norm(wide, axis=1, keepdims=True)
    unit = tf.math.divide_no_nan(wide, norms)
    fresh = tf.clip_by_value(_LARGEST * unit, -_LARGEST, _LARGEST)
    return tf.where(is_coded, tf.cast(whole, tf.int8), tf.cast(fresh, tf.int8))


def _checked(inputs: Tensors, specs: Specs, dim: int) -> Tensors:
    ids, embedding = inputs["item_ids"], inputs["embedding"]
    shapes = {name: tf.shape(value) for name, value in inputs.items()}
    numbers = {
        name: value
        for name, value in inputs.items()
        if value.dtype.is_floating and name != "embedding"
    }
    checks = [
        *as_long_as("item_ids", shapes),
        *(
            require(
                tf.logical_not(tf.reduce_any(tf.math.is_inf(value))),
                f"`{name}` must be finite, or NaN where it is missing. "
                "Received infinity at:",
                tf.where(tf.math.is_inf(value)),
            )
            for name, value in numbers.items()
        ),
        require(
            tf.equal(shapes["embedding"][1], dim),
            f"`embedding` must have shape [N, {dim}]. Received shape:",
            shapes["embedding"],
        ),
        require(
            tf.reduce_all(tf.not_equal(ids, 0)),
            "`item_ids` must not contain 0, which means padding. Received 0 "
            "at position:",
            tf.where(tf.equal(ids, 0)),
        ),
        require(
            tf.reduce_all(tf.math.is_finite(embedding)),
            "`embedding` must be finite. Received NaN or infinity at:",
            tf.where(tf.logical_not(tf.math.is_finite(embedding))),
        ),
    ]
    checked = as_declared(inputs, specs, checks)
    checked["embedding"] = tf.ensure_shape(checked["embedding"], [None, dim])
    return checked


def _is_last(ids: tf.Tensor) -> tf.Tensor:
    ordered, order = sort_ids(ids)
    last = last_of_equal(ordered, order, ids, missing=-1)
    return tf.equal(last, tf.range(tf.size(ids, tf.int64)))
