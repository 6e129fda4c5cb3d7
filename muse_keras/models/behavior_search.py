"""The interface of long-term searches, and the cosine search."""

from typing import Any

import keras

from muse_keras._export import muse_keras_export
from muse_keras.layers.gsu_top_k import GSUResult, GSUTopK
from muse_keras.models.views import BehaviorView, CandidateView


class BehaviorSearch(keras.layers.Layer):
    """Chooses the K behaviours that the exact search unit will see.

    A subclass implements `call`. It says by two class attributes what it
    looks at, so that a ranker gathers nothing in vain: `needs_vectors` for
    multimodal codes, `needs_embeddings` for trained id and category
    embeddings of the whole history.

    The similarities in its result are what the exact search unit models:
    multimodal cosines of what was found, whatever it was found by.

    Args:
        k: int, behaviours kept for each candidate.
        **kwargs: see `keras.layers.Layer`.

    Call arguments:
        candidates: `CandidateView`.
        behaviors: `BehaviorView`.

    Output shape:
        `GSUResult` of three tensors `(B, C, K)`.
    """

    needs_vectors = False
    needs_embeddings = False

    def __init__(self, k: int = 50, **kwargs: Any) -> None:
        """Set the arguments; see the class."""
        kwargs.setdefault("autocast", False)
        super().__init__(**kwargs)
        self.k = k

    def build(
        self, candidates_shape: Any = None, behaviors_shape: Any = None
    ) -> None:
        """Make nothing: most searches have no weights."""
        self.built = True

    def call(
        self, candidates: CandidateView, behaviors: BehaviorView
    ) -> GSUResult:
        """Return the behaviours found for every candidate."""
        raise NotImplementedError

    def compute_output_spec(
        self, candidates: CandidateView, behaviors: BehaviorView
    ) -> GSUResult:
        """Return the shapes and dtypes of `call`'s result."""
        shape = (*tuple(candidates.rows.shape), self.k)
        return GSUResult(
            keras.KerasTensor(shape, "float32"),
            keras.KerasTensor(shape, "int32"),
            keras.KerasTensor(shape, "bool"),
        )

    def get_config(self) -> dict[str, Any]:
        """Return the constructor's arguments."""
        config = super().get_config()
        config["k"] = self.k
        return config


@muse_keras_export()
class CosineSearch(BehaviorSearch):
    """The K behaviours of the highest multimodal cosine: MUSE's search.

    Reference: MUSE, arXiv 2512.07216.

    Args:
        k: int, behaviours kept for each candidate.
        **kwargs: see `keras.layers.Layer`.
    """

    needs_vectors = True

    def __init__(self, k: int = 50, **kwargs: Any) -> None:
        """Set the arguments; see the class."""
        super().__init__(k=k, **kwargs)
        self.top_k = GSUTopK(k, name="gsu_top_k")

    def call(
        self, candidates: CandidateView, behaviors: BehaviorView
    ) -> GSUResult:
        """Search; see `GSUTopK`."""
        return self.top_k(
            candidates.vectors,
            behaviors.vectors,
            behaviors.mask,
            behaviors.inverse_norms,
        )
