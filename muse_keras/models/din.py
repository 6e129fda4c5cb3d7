"""DIN: the newest behaviours only."""

from collections.abc import Sequence
from typing import Any

from muse_keras._export import muse_keras_export
from muse_keras.models.base_ranker import BaseRanker


@muse_keras_export()
class DIN(BaseRanker):
    """Target attention over the newest behaviours, without a long history.

    The baseline: the same embeddings, short-term part and tower as `MUSE`.
    `explain` tells about the newest behaviours (K = `recent`).

    Reference: DIN, arXiv 1706.06978; as a baseline in MUSE,
    arXiv 2512.07216.

    See `BaseRanker` for arguments, inputs and outputs.
    """

    def __init__(
        self,
        num_items: int,
        profile_sizes: Sequence[int],
        category_size: int,
        city_size: int,
        province_size: int,
        **kwargs: Any,
    ) -> None:
        """Set the arguments; see the class."""
        super().__init__(
            num_items,
            profile_sizes,
            category_size,
            city_size,
            province_size,
            **kwargs,
        )
        self.assemble()
