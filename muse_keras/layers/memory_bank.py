"""Memory bank: a queue of the newest keys of the momentum encoder."""

from typing import Any

import keras
import numpy as np
from keras import ops

from muse_keras._export import muse_keras_export
from muse_keras._ops.checks import check_inputs, integer
from muse_keras._ops.ids import check_ids_fit, id_dtype, id_tensor
from muse_keras._ops.replicas import add_state, gather_over_replicas
from muse_keras._ops.rows import assign_rows
from muse_keras._ops.shapes import has_content


@muse_keras_export()
class MemoryBank(keras.layers.Layer):
    """The newest `size` keys with their item ids, first in, first out.

    More negatives than a batch holds, at the price of one matrix product.
    The keys are those of a slowly moving copy of the encoder, so that old and
    new ones are comparable.

    Weights, none of them trained or autocast, all saved: `keys` float32
    (size, dim), zero where nothing was written yet; `ids` (size,);
    `position`, where the next key goes. Under `tf.distribute` every replica
    writes the keys of all replicas in the same order, so that their banks
    are equal.

    Ids are int64 on backends that hold it. On JAX without `jax_enable_x64`
    they are int32: pass rows of an item table there. NumPy ids that would
    be cut raise `ValueError`, here and when a saved bank is loaded.

    Reference: MoCo, arXiv 1911.05722.

    Args:
        size: int, keys kept.
        dim: int, width of a key.
        **kwargs: see `keras.layers.Layer`.

    It is a layer so that its weights are tracked and saved. It is never
    called: `enqueue` writes and `contents` reads.

    Example:
    >>> import numpy as np
    >>> from keras import ops
    >>> from muse_keras.layers import MemoryBank
    >>> bank = MemoryBank(size=3, dim=2)
    >>> for item in (7, 8, 9, 10):
    ...     bank.enqueue(np.array([[1.0, item]], "float32"), np.array([item]))
    >>> keys, ids, mask = bank.contents()
    >>> ops.convert_to_numpy(ids).tolist()
    [10, 8, 9]
    """

    built: bool

    def __init__(self, size: int, dim: int = 128, **kwargs: Any) -> None:
        kwargs.setdefault("trainable", False)
        super().__init__(**kwargs)
        self.size = integer("size", size)
        self.dim = integer("dim", dim)
        self.build()

    def build(self, input_shape: Any = None) -> None:
        """Make the weights; `input_shape` is not used."""
        if self.built:
            return
        self.keys = add_state(self, "keys", (self.size, self.dim))
        self.ids = add_state(self, "ids", (self.size,), id_dtype())
        self.position = add_state(self, "position", dtype="int32")
        self.built = True

    def enqueue(self, keys: Any, ids: Any) -> None:
        """Put keys in the place of the oldest ones.

        Of more keys than the bank holds, the last ones are kept.

        Args:
            keys: float (B, dim).
            ids: integers (B,), the items they belong to.

        Raises:
            ValueError: for NumPy ids that the backend would cut.
        """
        ids = id_tensor(ids, "ids")
        check_inputs(dim=((self.dim,), "D"), keys=(keys, "BD"), ids=(ids, "B"))
        keys = ops.stop_gradient(ops.cast(keys, "float32"))
        keys = gather_over_replicas(keys)[-self.size :]
        ids = gather_over_replicas(ids)[-self.size :]
        # One more than there are keys: the last is the next position.
        rows = ops.arange(0, ops.shape(keys)[0] + 1, dtype="int32")
        rows = ops.mod(rows + self.position, self.size)
        assign_rows(self.keys, rows[:-1], keys)
        assign_rows(self.ids, rows[:-1], ids)
        self.position.assign(rows[-1])

    def contents(self) -> tuple[Any, Any, Any]:
        """Return what is in the bank now.

        Returns:
            Tuple of keys float32 (size, dim), their ids (size,) and a bool
            mask (size,), True = a key that is not the zero vector.
        """
        # Copies, since PyTorch tensors would show later changes.
        keys = ops.copy(ops.convert_to_tensor(self.keys))
        ids = ops.copy(ops.convert_to_tensor(self.ids))
        return keys, ids, has_content(keys)

    def save_own_variables(self, store: Any) -> None:
        """Write the weights by name, ids as int64 from every backend."""
        store["keys"] = ops.convert_to_numpy(self.keys)
        store["ids"] = ops.convert_to_numpy(self.ids).astype(np.int64)
        store["position"] = ops.convert_to_numpy(self.position)

    def load_own_variables(self, store: Any) -> None:
        """Read the weights; raise `ValueError` rather than cut an id."""
        ids = np.asarray(store["ids"])
        check_ids_fit(ids, "ids")
        self.keys.assign(store["keys"])
        self.ids.assign(ids)
        self.position.assign(store["position"])

    def get_config(self) -> dict[str, Any]:
        """Return the constructor's arguments."""
        return {**super().get_config(), "size": self.size, "dim": self.dim}
