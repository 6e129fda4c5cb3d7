"""Variables that a SavedModel makes anew, and never reads from a checkpoint.

A cache of gigabytes starts empty: saving its zeros would only make the export
larger and its loading slower. Its variables are ordinary ones to TensorFlow,
so that each loaded copy of a version has its own, in whichever way it is
loaded; only the checkpoint does not know them. They are filled with zeros by
the initialisation that every loader runs after it has restored the rest:
`tf.saved_model.load`, a session, and TensorFlow Serving.
"""

from collections.abc import Sequence

import tensorflow as tf

from muse_keras.tensorflow import internals


def unsaved_zeros(name: str, shape: Sequence[int]) -> tf.Variable:
    """Return an int64 variable of zeros that no checkpoint holds."""
    variable = tf.Variable(
        tf.zeros(shape, tf.int64), trainable=False, name=name
    )
    internals.keep_out_of_checkpoints(variable)
    return variable


class ZeroFill(tf.saved_model.experimental.TrackableResource):
    """Fills variables with zeros when a SavedModel is loaded."""

    def __init__(self, variables: Sequence[tf.Variable]) -> None:
        self._filled = list(variables)
        super().__init__()

    def _create_resource(self) -> tf.Tensor:
        """Return a handle that nothing uses: loaders ask for one."""
        return tf.raw_ops.VarHandleOp(
            dtype=tf.int64, shape=[], shared_name="zero_fill"
        )

    def _initialize(self) -> None:
        """Fill the variables."""
        for variable in self._filled:
            variable.assign(tf.zeros(variable.shape, variable.dtype))
