"""The frozen multimodal item embeddings as weights on the device."""

from typing import Any

import keras
import numpy as np
from keras import ops

from muse_keras._export import muse_keras_export
from muse_keras._keras_internals import keep_arrays
from muse_keras._ops.checks import integer
from muse_keras._ops.docstrings import attributes_of
from muse_keras._ops.ids import backend_holds_int64
from muse_keras.tables.array_blocks import release_pages
from muse_keras.tables.hash_index import build_hash_index, index_sizes
from muse_keras.tables.id_index import (
    hash_ids,
    hashed_rows,
    sorted_rows,
)
from muse_keras.tables.item_ids import rows_of
from muse_keras.tables.item_table import ItemTable
from muse_keras.tables.row_gather import (
    assign_blocks,
    gather_rows,
    scatter_rows,
    shards_of_new,
)


@muse_keras_export()
class MultimodalEmbeddingTable(keras.layers.Layer):
    """Raw 64-bit item ids to rows, and rows to int8 vectors.

    The table is not trained. It keeps raw ids, so that a caller sends ids and
    nothing else, and int8 codes, so that 35 million items of 128 dimensions
    take 4.5 GB. Row 0 stands for padding and for every unknown id; its vector
    is zero. The same rows address other per-item tables, such as trained id
    embeddings (see `gather_rows`).

    Weights, none of them trainable or autocast: `item_ids` int64 (N,),
    sorted; `codes` int8 (N + 1, dim); `inverse_norms` float32 (N + 1,), one
    over the norm of `codes`, 0 for a zero vector. They are zero until
    `assign` fills them: then every id is unknown. On the TensorFlow backend
    also `id_multiplier`, `id_pilots` and `id_slots`, the `HashIndex` of the
    ids (about 6 bytes per item), which is built when ids are assigned; the
    other backends search the sorted ids.

    The JAX backend holds no int64 unless `jax_enable_x64` is set. There ids
    are kept and resolved on the host: `lookup` takes NumPy int64 outside
    `jit` and raises otherwise, rather than cut ids to 32 bits.

    With `spare_rows` F the table can take new items while it serves, on the
    TensorFlow backend. `codes` and `inverse_norms` have F more rows, of slots
    that are written once each; `fresh_ids` int64 (F,) says which id a slot
    holds (0 = none) and `fresh_known_rows` int64 (F,) that id's row among the
    N items, if it has one. An id's row is its last slot's, `N + 1 + slot`, if
    there is one. Rows are written by `write_slots` and seen from
    `publish_slots` on. Slots are not saved in Keras files: a loaded layer has
    them empty.

    Reference: MUSE, arXiv 2512.07216.

    Args:
        num_items: int, number of known items N.
        dim: int, width of a vector.
        spare_rows: int, F, how many items can be added or replaced.
        **kwargs: see `keras.layers.Layer`.

    Call arguments:
        ids: int64 of any shape; 0 is padding. Any int64 value is allowed.

    Input shape:
        `(...)`

    Output shape:
        Tuple of rows `(...)` int32 and codes `(..., dim)` int8. A vector is
        `codes / 127`.

    Example:
    >>> import tempfile
    >>> import numpy as np
    >>> from muse_keras.tables import ItemTable, MultimodalEmbeddingTable
    >>> item_table = ItemTable.write(
    ...     tempfile.mkdtemp(),
    ...     item_ids=np.array([7, -3]),
    ...     codes=np.array([[127, 0], [0, 127]], "int8"),
    ...     features={
    ...         "category": np.array([1, 1]),
    ...         "city": np.array([0, 0]),
    ...         "province": np.array([0, 0]),
    ...     },
    ...     source="example",
    ... )
    >>> table = MultimodalEmbeddingTable.from_item_table(item_table)
    >>> rows, codes = table(np.array([[7, 0, 99]]))
    >>> np.asarray(rows)
    array([[2, 0, 0]], dtype=int32)
    """

    def __init__(
        self,
        num_items: int,
        dim: int = 128,
        spare_rows: int = 0,
        **kwargs: Any,
    ) -> None:
        kwargs.setdefault("trainable", False)
        super().__init__(**kwargs)
        num_items = integer("num_items", num_items)
        spare_rows = integer("spare_rows", spare_rows, minimum=0)
        if num_items + spare_rows >= np.iinfo(np.int32).max:
            raise ValueError(
                "`num_items` and `spare_rows` must add up to less than "
                "2**31 - 1, since rows are int32. Received: "
                f"num_items={num_items}, spare_rows={spare_rows}"
            )
        self.num_items = num_items
        self.dim = integer("dim", dim)
        self.spare_rows = spare_rows
        self.supports_masking = False
        # Keras must not touch ids: it would cut them to int32 under JAX.
        keep_arrays(self)
        self._host_ids: np.ndarray | None = None

    @classmethod
    def from_item_table(
        cls, item_table: ItemTable, **kwargs: Any
    ) -> "MultimodalEmbeddingTable":
        """Return a layer of the right size, filled from an `ItemTable`.

        Args:
            item_table: `ItemTable`.
            **kwargs: passed to the constructor.
        """
        layer = cls(item_table.num_items, item_table.dim, **kwargs)
        layer.assign(item_table)
        return layer

    def build(self, input_shape: Any = None) -> None:
        """Make the weights.

        Args:
            input_shape: not used; the table's size is in the constructor.
        """
        if backend_holds_int64():
            self.item_ids = self._add_frozen(
                "item_ids", (self.num_items,), "int64"
            )
        else:
            self._host_ids = np.zeros(self.num_items, np.int64)
        if keras.backend.backend() == "tensorflow":
            buckets, slots = index_sizes(self.num_items)
            self.id_multiplier = self._add_frozen("id_multiplier", (), "uint64")
            self.id_pilots = self._add_frozen("id_pilots", (buckets,), "uint8")
            self.id_slots = self._add_frozen("id_slots", (slots,), "uint32")
            if self.spare_rows:
                spare = (self.spare_rows,)
                self.fresh_ids = self._add_frozen("fresh_ids", spare, "int64")
                self.fresh_known_rows = self._add_frozen(
                    "fresh_known_rows", spare, "int64"
                )
        rows = self.num_items + 1 + self.spare_rows
        shards = shards_of_new(rows)
        held = -(-rows // shards)
        self.codes = self._add_frozen("codes", (held, self.dim), "int8")
        self.inverse_norms = self._add_frozen(
            "inverse_norms", (held,), "float32"
        )
        if shards > 1:
            from muse_keras.tables.row_shards import divide

            divide(self.codes, rows)
            divide(self.inverse_norms, rows)
        self.built = True

    def assign(self, item_table: ItemTable) -> None:
        """Fill the weights from an item table, block by block.

        Reads the memory-mapped table in pieces and writes them in place: the
        process never holds a second copy.

        Args:
            item_table: `ItemTable` with this layer's `num_items` and `dim`.

        Raises:
            ValueError: if the sizes differ.
        """
        for name in ("num_items", "dim"):
            mine, given = getattr(self, name), getattr(item_table, name)
            if mine != given:
                raise ValueError(
                    f"`item_table.{name}` must be {mine}, as in the layer. "
                    f"Received: {given}"
                )
        self._fill(
            {
                "item_ids": item_table.item_ids,
                "codes": item_table.codes,
                "inverse_norms": item_table.inverse_norms(),
            }
        )

    def fresh_index(self) -> Any:
        """Return a snapshot of the slots in use, or None without any.

        Give it to every `lookup` of a request, so that all of them see the
        same items.
        """
        self._ensure_built()
        if not self._has_slots():
            return None
        from muse_keras.tables import fresh_rows

        return fresh_rows.read_fresh_index(
            self.fresh_ids, lambda ids: hash_ids(self.id_multiplier, ids)
        )

    def lookup(self, ids: Any, fresh_index: Any = None) -> Any:
        """Return the row of every id.

        Args:
            ids: int64 of any shape; any value, 0 is padding.
            fresh_index: what `fresh_index()` returned, to look up several
                tensors in one state; None reads the current state.

        Returns:
            int32 of the same shape; 0 for id 0 and for unknown ids.

        Raises:
            ValueError: on a backend without int64, if `ids` are not NumPy
                int64 (or Python integers) outside a compiled function.
        """
        if not self._has_slots():
            return self.lookup_known(ids)
        self._ensure_built()
        index = self.fresh_index() if fresh_index is None else fresh_index
        return self._indexed_lookup(self._as_ids(ids), index)

    def lookup_known(self, ids: Any) -> Any:
        """Return the row of every id among the N items of the item table.

        As `lookup`, without the items that were added or replaced since.
        """
        self._ensure_built()
        if self._host_ids is not None:
            return self._host_lookup(ids)
        ids = self._as_ids(ids)
        if keras.backend.backend() == "tensorflow":
            return self._indexed_lookup(ids, None)
        return sorted_rows(self.item_ids, ids)

    def known_rows(self, rows: Any) -> Any:
        """Return the rows that the items had when the table was assigned.

        Tables of trained weights have no spare rows: this is the row to read
        there.

        Args:
            rows: int32 of any shape, as `lookup` returns them.

        Returns:
            int32 of the same shape; for a slot the row of its id among the
            table's N items, or 0 if it is not one of them.
        """
        if not self._has_slots():
            return rows
        import tensorflow as tf

        # int64: on a GPU TensorFlow keeps int32 arithmetic on the host.
        rows = tf.cast(rows, tf.int64)
        slots = rows - (self.num_items + 1)
        known = gather_rows(self.fresh_known_rows, slots)
        return tf.cast(tf.where(slots >= 0, known, rows), tf.int32)

    def write_slots(self, slots: Any, codes: Any, known_rows: Any) -> list[Any]:
        """Write vectors into slots that no id names yet (TensorFlow).

        Args:
            slots: int64 (n,), in [0, `spare_rows`), each unused.
            codes: int8 (n, dim).
            known_rows: int64 (n,), rows of the items among the table's N.

        Returns:
            The operations, to run before `publish_slots`.
        """
        import tensorflow as tf

        from muse_keras.tensorflow.code_search import squared_norms

        squares = squared_norms(codes)
        inverse = tf.math.divide_no_nan(tf.ones_like(squares), tf.sqrt(squares))
        rows = slots + (self.num_items + 1)
        return [
            scatter_rows(self.codes, rows, codes),
            scatter_rows(
                self.inverse_norms, rows, tf.cast(inverse, tf.float32)
            ),
            scatter_rows(self.fresh_known_rows, slots, known_rows),
        ]

    def publish_slots(self, slots: Any, ids: Any) -> Any:
        """Let ids be found in slots, which must be wholly written.

        Args:
            slots: int64 (n,).
            ids: int64 (n,), without 0.

        Returns:
            The operation.
        """
        return scatter_rows(self.fresh_ids, slots, ids)

    def vectors(self, rows: Any) -> Any:
        """Return the int8 codes (..., dim) of int32 rows (...)."""
        self._ensure_built()
        return gather_rows(self.codes, rows)

    def inverse_norms_of(self, rows: Any) -> Any:
        """Return float32 1 / norm (...) of the codes of int32 rows (...)."""
        self._ensure_built()
        return gather_rows(self.inverse_norms, rows)

    def call(self, ids: Any) -> tuple[Any, Any]:
        """Return `(rows, codes)` of ids; see the class."""
        rows = self.lookup(ids)
        return rows, self.vectors(rows)

    def compute_output_spec(self, ids: Any) -> tuple[Any, Any]:
        """Return the shapes and dtypes of `call`'s result."""
        shape = tuple(ids.shape)
        return (
            keras.KerasTensor(shape, "int32"),
            keras.KerasTensor((*shape, self.dim), "int8"),
        )

    def get_config(self) -> dict[str, Any]:
        """Return the constructor's arguments."""
        return {**super().get_config(), **attributes_of(self)}

    def save_own_variables(self, store: Any) -> None:
        """Write the weights by name, the ids as int64 on every backend."""
        if self._host_ids is not None:
            store["item_ids"] = self._host_ids
        else:
            store["item_ids"] = ops.convert_to_numpy(self.item_ids)
        rows = self.num_items + 1  # Slots are not saved.
        store["codes"] = ops.convert_to_numpy(self.codes)[:rows]
        store["inverse_norms"] = ops.convert_to_numpy(self.inverse_norms)[:rows]

    def load_own_variables(self, store: Any) -> None:
        """Read the weights written by `save_own_variables`."""
        self._ensure_built()
        self._fill(
            {
                name: store[name]
                for name in ("item_ids", "codes", "inverse_norms")
            }
        )

    def _add_frozen(self, name: str, shape: tuple[int, ...], dtype: str) -> Any:
        """Add a weight that neither training nor mixed precision touches."""
        return self.add_weight(
            shape=shape,
            dtype=dtype,
            initializer="zeros",
            trainable=False,
            autocast=False,
            name=name,
        )

    def _ensure_built(self) -> None:
        if not self.built:
            self.build(None)

    def _fill(self, values: dict[str, Any]) -> None:
        """Write arrays (anything that slices to NumPy) into the weights."""
        self._ensure_built()
        expected = {
            "item_ids": (self.num_items,),
            "codes": (self.num_items + 1, self.dim),
            "inverse_norms": (self.num_items + 1,),
        }
        for name, shape in expected.items():
            if tuple(values[name].shape) != shape:
                raise ValueError(
                    f"`{name}` must have shape {shape}. Received: "
                    f"shape={tuple(values[name].shape)}"
                )
        for name, value in values.items():
            if name == "item_ids" and self._host_ids is not None:
                self._host_ids[...] = value
            else:
                assign_blocks(getattr(self, name), value)
        if keras.backend.backend() == "tensorflow":
            self._index_ids(values["item_ids"])

    def _index_ids(self, item_ids: Any) -> None:
        if not np.any(item_ids):
            return  # Saved before a table was assigned: nothing is known.
        index = build_hash_index(np.asarray(item_ids, np.int64))
        self.id_multiplier.assign(index.multiplier)
        assign_blocks(self.id_pilots, index.pilots)
        assign_blocks(self.id_slots, index.slots)
        release_pages(item_ids)

    def _has_slots(self) -> bool:
        """Tell whether items can be added on this backend."""
        return self.spare_rows > 0 and keras.backend.backend() == "tensorflow"

    def _as_ids(self, ids: Any) -> Any:
        if not keras.ops.is_tensor(ids):
            ids = np.asarray(ids, np.int64)
        return ops.cast(ids, "int64")

    def _indexed_lookup(self, ids: Any, fresh_index: Any) -> Any:
        """Return int32 rows of int64 ids, through the hash index."""
        import tensorflow as tf

        hashes = hash_ids(self.id_multiplier, ids)
        rows = hashed_rows(
            self.item_ids, self.id_pilots, self.id_slots, ids, hashes
        )
        if fresh_index is not None:
            from muse_keras.tables import fresh_rows

            newest = fresh_rows.newest_rows(
                fresh_index,
                tf.reshape(ids, [-1]),
                tf.reshape(hashes, [-1]),
                tf.reshape(rows, [-1]),
                first_row=self.num_items + 1,
            )
            rows = tf.reshape(newest, tf.shape(ids))
        return tf.cast(rows, tf.int32)

    def _host_lookup(self, ids: Any) -> Any:
        """Resolve ids with NumPy, where the backend would cut them."""
        if ops.is_tensor(ids) or isinstance(ids, keras.KerasTensor):
            raise ValueError(
                "`ids` must be a NumPy int64 array outside a compiled "
                f"function: the {keras.backend.backend()} backend holds no "
                "64-bit integers here, so that ids in its tensors may have "
                "been cut. Resolve ids first and pass rows, or enable 64-bit "
                f"types (`jax_enable_x64`). Received: {type(ids)}"
            )
        if self._host_ids is None:
            raise ValueError("`lookup` needs a built layer.")
        return ops.convert_to_tensor(rows_of(self._host_ids, ids))
