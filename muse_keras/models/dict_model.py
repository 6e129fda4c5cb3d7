"""Training with dicts of arrays."""

from collections.abc import Mapping
from typing import Any

from muse_keras._keras_internals import ReplicaBatches


class DictModel(ReplicaBatches):
    """A model whose inputs are a dict.

    A subclass implements `check_inputs`, which sees what is given to `fit`,
    `evaluate` and `predict` before it is cut into batches of tensors.
    """

    def check_inputs(self, inputs: Mapping[str, Any]) -> None:
        """Raise `ValueError` for inputs that would be misread."""
        raise NotImplementedError

    def fit(self, x: Any = None, *args: Any, **kwargs: Any) -> Any:
        """Train; see `keras.Model.fit`.

        Raises:
            ValueError: for arrays in `x` that would be misread, and for
                `class_weight`, which Keras would apply to whole rows.
        """
        if kwargs.get("class_weight") is not None:
            raise ValueError(
                "`class_weight` is not supported, since labels are not one "
                "class a row: give `sample_weight`. Received: "
                f"class_weight={kwargs['class_weight']}"
            )
        self._check(x)
        return super().fit(x, *args, **kwargs)

    def evaluate(self, x: Any = None, *args: Any, **kwargs: Any) -> Any:
        """Measure; see `keras.Model.evaluate` and `fit`."""
        self._check(x)
        return super().evaluate(x, *args, **kwargs)

    def predict(self, x: Any, *args: Any, **kwargs: Any) -> Any:
        """Score; see `keras.Model.predict` and `fit`."""
        self._check(x)
        return super().predict(x, *args, **kwargs)

    def _check(self, x: Any) -> None:
        """Check arrays; a dataset's batches are seen by `call` alone."""
        if isinstance(x, Mapping):
            self.check_inputs(x)
