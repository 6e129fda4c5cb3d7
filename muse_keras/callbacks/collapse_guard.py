"""A callback that stops training when the embeddings have collapsed."""

import math
from typing import Any

import keras

from muse_keras._ops.checks import integer, number


class CollapsedError(RuntimeError):
    """Embeddings have become alike, or stopped being numbers."""


class CollapseGuard(keras.callbacks.Callback):
    """Raise `CollapsedError` when item vectors no longer differ.

    Reads what `models.SCL` reports (see `metrics.EmbeddingSpread`), the
    validation's measures too if there are any. A measure that is not a number
    is a collapse as well.

    Args:
        max_mean_cosine: float, the highest mean cosine of pairs allowed.
        min_variance: float, the lowest variance of any dimension allowed;
            `1 / dim` is that of vectors spread evenly.
        patience: int, how many checks in a row may fail before the next
            failure raises.
        every: int, batches between checks of the training's measures; 0:
            check at the end of each epoch only, which always happens.

    Example:
    >>> from muse_keras.callbacks import CollapseGuard
    >>> guard = CollapseGuard(max_mean_cosine=0.9, patience=0)
    >>> guard.on_epoch_end(
    ...     0, {"mean_pairwise_cosine": 0.999}
    ... )  # doctest: +ELLIPSIS
    Traceback (most recent call last):
        ...
    muse_keras.callbacks.collapse_guard.CollapsedError: The embeddings ...
    """

    def __init__(
        self,
        max_mean_cosine: float = 0.9,
        min_variance: float = 1e-5,
        patience: int = 1,
        every: int = 0,
    ) -> None:
        super().__init__()
        self.max_mean_cosine = number(
            "max_mean_cosine", max_mean_cosine, "(-1, 1)"
        )
        self.min_variance = number("min_variance", min_variance, "[0, inf)")
        self.patience = integer("patience", patience, minimum=0)
        self.every = integer("every", every, minimum=0)
        self.failed = 0

    def on_train_begin(self, logs: dict[str, Any] | None = None) -> None:
        """Forget earlier failures."""
        self.failed = 0

    def on_train_batch_end(
        self, batch: int, logs: dict[str, Any] | None = None
    ) -> None:
        """Check every so many batches."""
        if self.every and (batch + 1) % self.every == 0:
            self._check(f"batch {batch + 1}", logs)

    def on_epoch_end(
        self, epoch: int, logs: dict[str, Any] | None = None
    ) -> None:
        """Check the epoch."""
        self._check(f"epoch {epoch + 1}", logs)

    def _check(self, when: str, logs: dict[str, Any] | None) -> None:
        """Count a failure, and raise after the last that is allowed."""
        problem = self._problem(logs or {})
        self.failed = self.failed + 1 if problem else 0
        if self.failed > self.patience:
            raise CollapsedError(
                f"The embeddings have collapsed at {when}: {problem}. Try a "
                "lower learning rate, a smaller triplet weight, or check that "
                "queries and items have different content."
            )

    def _problem(self, logs: dict[str, Any]) -> str | None:
        for prefix in ("", "val_"):
            for name in ("loss", "info_nce"):
                value = float(logs.get(prefix + name, 0.0))
                if not math.isfinite(value):
                    return f"{prefix + name} is {value}"
            name = f"{prefix}mean_pairwise_cosine"
            value = float(logs.get(name, -1.0))
            if not value <= self.max_mean_cosine:
                return f"{name} is {value:.4f}, limit {self.max_mean_cosine}"
            name = f"{prefix}min_dimension_variance"
            value = float(logs.get(name, math.inf))
            if not value >= self.min_variance:
                return f"{name} is {value:.3g}, limit {self.min_variance}"
        return None
