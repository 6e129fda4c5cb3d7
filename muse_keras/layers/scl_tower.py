"""Encoder of queries and items for contrastive learning."""

from collections.abc import Mapping, Sequence
from typing import Any

import keras
from keras import ops

from muse_keras._export import muse_keras_export
from muse_keras._ops.checks import check_inputs, integer, integers, number
from muse_keras._ops.cosine import cosine_parts
from muse_keras.layers.residual_mlp import ResidualMLP


@muse_keras_export()
class SCLTower(keras.layers.Layer):
    """Any number of modalities to one unit vector.

    Each modality has a small tower of its own; the results of those that a
    row has are averaged and go through one more network. A missing modality
    is left out of the average, so that a query of text alone is comparable
    with an item of image and text. A row without any becomes the zero vector.

    A modality is a dense vector, whose length does not matter (it is scaled
    to a unit vector first), or anything an encoder of its own turns into
    one: raw images, token ids. All zero (in whatever is given) means that the
    row has no such modality; so does a vector with NaN or infinity.

    Weights exist from construction on, unless an encoder needs to see its
    input first. The output is normalized in float32 under every policy.

    Reference: SCL in arXiv 2407.19467 and MUSE, arXiv 2512.07216.

    Args:
        modalities: mapping of name to width: that of the vector given, or
            of what its encoder returns.
        hidden_units: sequence of int, hidden layers of each tower and of the
            fusion; none: linear maps.
        output_dim: int, width of the result.
        encoders: mapping of modality name to a `keras.Model` or layer that
            returns (B, width), or None. Keras serializes them with the layer.
        dropout: float in [0, 1), after each hidden layer.
        **kwargs: see `keras.layers.Layer`.

    Call arguments:
        features: dict of modality name to float (B, width), or to what the
            modality's encoder takes, batch first. A modality may be left out.
        training: bool.

    Output shape:
        `(B, output_dim)` float32, of length 1 or 0

    Example:
    >>> import numpy as np
    >>> from keras import ops
    >>> from muse_keras.layers import SCLTower
    >>> tower = SCLTower({"image": 3, "text": 2}, output_dim=4)
    >>> features = {
    ...     "image": np.array([[1, 2, 2], [0, 0, 0], [0, 0, 0]], "float32"),
    ...     "text": np.array([[3, 4], [3, 4], [0, 0]], "float32"),
    ... }
    >>> vectors = ops.convert_to_numpy(tower(features))
    >>> np.linalg.norm(vectors, axis=1).round(3)
    array([1., 1., 0.], dtype=float32)
    """

    built: bool

    def __init__(
        self,
        modalities: Mapping[str, int],
        hidden_units: Sequence[int] = (256,),
        output_dim: int = 128,
        encoders: Mapping[str, Any] | None = None,
        dropout: float = 0.0,
        **kwargs: Any,
    ) -> None:
        super().__init__(**kwargs)
        # float16 would overflow on a long vector before it is scaled.
        self.autocast = False
        if not modalities:
            raise ValueError(
                f"`modalities` must not be empty. Received: {modalities}"
            )
        unknown = sorted(set(encoders or {}) - set(modalities))
        if unknown:
            raise ValueError(
                "`encoders` must be of modalities, "
                f"{sorted(modalities)}. Received: {unknown}"
            )
        self.modalities = {
            name: integer(f"modalities[{name!r}]", width)
            for name, width in modalities.items()
        }
        self.hidden_units = integers("hidden_units", hidden_units)
        self.output_dim = integer("output_dim", output_dim)
        self.encoders = dict(encoders) if encoders else None
        self.dropout = number("dropout", dropout, "[0, 1)")
        self.towers = {
            name: self._network(f"{name}_tower") for name in self.modalities
        }
        self.fusion = self._network("fusion")
        if all(encoder.built for encoder in (self.encoders or {}).values()):
            self.build()

    def build(self, features_shape: Any = None) -> None:
        """Build the towers, and encoders that are not built.

        Args:
            features_shape: dict of modality name to shape, or None if all
                encoders are built.
        """
        if self.built:
            return
        shapes = features_shape or {}
        for name, encoder in (self.encoders or {}).items():
            if encoder.built:
                continue
            if name not in shapes:
                raise ValueError(
                    f"The encoder of {name!r} must be built, or see its input "
                    f"in the first call. Received: {sorted(shapes)}"
                )
            encoder.build(tuple(shapes[name]))
        for name, width in self.modalities.items():
            self.towers[name].build((None, width))
        self.fusion.build((None, self.output_dim))
        self.built = True

    def call(self, features: Any, training: bool | None = None) -> Any:
        """Return unit vectors; see the class.

        Raises:
            ValueError: for a modality that the tower does not have, none at
                all, or a width other than the declared one.
        """
        self._check_features(features)
        total, count = 0.0, 0.0
        for name, tower in self.towers.items():
            if name not in features:
                continue
            vectors, present = self._vectors(name, features[name], training)
            weight = ops.cast(ops.expand_dims(present, -1), self.compute_dtype)
            total = total + weight * tower(vectors, training=training)
            count = count + weight
        mean = total / ops.maximum(count, 1.0)
        fused = cosine_parts(self.fusion(mean, training=training))
        unit = fused.vectors / ops.expand_dims(fused.norms, -1)
        return unit * ops.cast(count > 0.0, "float32")

    def compute_output_spec(
        self, features: Any, training: bool | None = None
    ) -> Any:
        """Return the shape and dtype of `call`'s result."""
        self._check_features(features)
        batch = next(iter(features.values())).shape[0]
        return keras.KerasTensor((batch, self.output_dim), "float32")

    def get_config(self) -> dict[str, Any]:
        """Return the constructor's arguments."""
        config = super().get_config()
        encoders = None
        if self.encoders:
            encoders = {
                name: keras.saving.serialize_keras_object(encoder)
                for name, encoder in self.encoders.items()
            }
        config.update(
            {
                "modalities": dict(self.modalities),
                "hidden_units": self.hidden_units,
                "output_dim": self.output_dim,
                "encoders": encoders,
                "dropout": self.dropout,
            }
        )
        return config

    @classmethod
    def from_config(cls, config: dict[str, Any]) -> "SCLTower":
        """Return a tower with new weights from `get_config`'s result."""
        config = dict(config)
        if config.get("encoders"):
            config["encoders"] = {
                name: keras.saving.deserialize_keras_object(encoder)
                for name, encoder in config["encoders"].items()
            }
        return cls(**config)

    def _network(self, name: str) -> ResidualMLP:
        return ResidualMLP(
            self.hidden_units,
            self.output_dim,
            self.dropout,
            dtype=self.dtype_policy,
            name=name,
        )

    def _vectors(
        self, name: str, values: Any, training: bool | None
    ) -> tuple[Any, Any]:
        """Return a modality's scaled vectors (B, width) and bool (B,)."""
        values = ops.convert_to_tensor(values)
        given: Any = True
        if self.encoders and name in self.encoders:
            given = ops.not_equal(values, 0)
            for _ in values.shape[1:]:
                given = ops.any(given, axis=-1)
            values = self.encoders[name](values, training=training)
        self._check_vectors(name, values)
        parts = cosine_parts(values)
        # Entries around 1, as initializers expect, whatever the width.
        scale = self.modalities[name] ** 0.5 / ops.expand_dims(parts.norms, -1)
        vectors = ops.cast(parts.vectors * scale, self.compute_dtype)
        return vectors, ops.logical_and(parts.valid, given)

    def _check_features(self, features: Any) -> None:
        """Raise `ValueError` unless there are features, and known ones."""
        names = set(features)
        if not names or names - set(self.modalities):
            raise ValueError(
                "`features` must be a dict with at least one of "
                f"{sorted(self.modalities)}. Received: {sorted(names)}"
            )
        for name, values in features.items():
            if name not in (self.encoders or {}):
                self._check_vectors(name, values)
        check_inputs(
            **{
                name: (tuple(values.shape)[:1], "B")
                for name, values in features.items()
            }
        )

    def _check_vectors(self, name: str, values: Any) -> None:
        """Raise `ValueError` for vectors of another width than declared."""
        width: tuple[Any, str] = (self.modalities[name],), "W"
        vectors: tuple[Any, str, str] = (values, "BW", "vectors")
        check_inputs(**{f"modalities[{name!r}]": width}, **{name: vectors})
