"""A block of EST: tokens attend to behaviors, which do not attend."""

from typing import Any

import keras
from keras import ops

from muse_keras._export import muse_keras_export
from muse_keras._ops.checks import check_inputs, integer
from muse_keras._ops.cosine import CosineParts, cosine_matrix, cosine_parts
from muse_keras._ops.docstrings import attributes_of
from muse_keras._ops.top_k import stable_top_k

_MASKED_LOGIT = -1e9
_MASKED = -4.0


@muse_keras_export()
class ESTBlock(keras.layers.Layer):
    """Lightweight cross-attention (LCA) and content sparse attention (CSA).

    Tokens of features N attend to the user's newest behaviors B_u and to the
    behaviors B_c found for their candidate together; behaviors never attend.
    Queries and outputs are projected for each token, keys and values are
    shared by all. Side by side with it, each behavior gets the mean of those
    of its own group that are nearest in content, by weights that are given
    (`content_neighbors`) and have no parameters. A feed-forward network for
    each token and one for all behaviors follow. All is added to what came in,
    after layer norms.

    B_u does not depend on the candidate: it is computed once per request.

    Reference: EST, arXiv 2602.10811.

    Args:
        num_tokens: int, T.
        expansion: int, width of the feed-forward networks over the model's.
        **kwargs: see `keras.layers.Layer`.

    Call arguments:
        tokens: float (B, C, T, W).
        user: float (B, R, W), B_u.
        found: float (B, C, K, W), B_c.
        user_mask: bool (B, R), True = real.
        found_mask: bool (B, C, K), True = found.
        user_near: float (B, R, R), weights of neighbors in B_u.
        found_near: float (B, C, K, K), weights of neighbors in B_c.

    Output shape:
        Tuple of tokens, user and found, of the shapes that were given, and
        float32 attention weights `(B, C, T, R + K)`.

    Example:
    >>> import numpy as np
    >>> from muse_keras.layers import ESTBlock
    >>> ones = lambda *shape: np.ones(shape, "float32")
    >>> tokens, user, found, weights = ESTBlock(num_tokens=2)(
    ...     ones(1, 3, 2, 8), ones(1, 4, 8), ones(1, 3, 5, 8),
    ...     ones(1, 4) > 0, ones(1, 3, 5) > 0, ones(1, 4, 4), ones(1, 3, 5, 5)
    ... )
    >>> tuple(tokens.shape), tuple(weights.shape)
    ((1, 3, 2, 8), (1, 3, 2, 9))
    """

    def __init__(
        self, num_tokens: int, expansion: int = 2, **kwargs: Any
    ) -> None:
        kwargs.setdefault("autocast", False)
        super().__init__(**kwargs)
        self.num_tokens = integer("num_tokens", num_tokens)
        self.expansion = integer("expansion", expansion)
        self.norms = [
            keras.layers.LayerNormalization(
                epsilon=1e-6, dtype=self.dtype_policy, name=name
            )
            for name in ("tokens", "behaviors", "tokens_2", "behaviors_2")
        ]

    def build(self, tokens_shape: Any, *shapes: Any) -> None:
        """Make the projections, the networks and the norms."""
        width = tokens_shape[-1]
        for norm in self.norms:
            norm.build((None, None, width))
        of_token, wide = (self.num_tokens,), self.expansion * width
        for name, shape in (
            ("query", (*of_token, width, width)),
            ("key", (width, width)),
            ("value", (width, width)),
            ("output", (*of_token, width, width)),
            ("token_in", (*of_token, width, wide)),
            ("token_out", (*of_token, wide, width)),
            ("behavior_in", (width, wide)),
            ("behavior_out", (wide, width)),
        ):
            # Of the two last axes alone: a token's kernel is a matrix.
            limit = (6.0 / (shape[-2] + shape[-1])) ** 0.5
            initializer = keras.initializers.RandomUniform(-limit, limit)
            kernel = self.add_weight(
                shape=shape, initializer=initializer, name=f"{name}_kernel"
            )
            setattr(self, f"{name}_kernel", kernel)
        self.built = True

    def call(
        self,
        tokens: Any,
        user: Any,
        found: Any,
        user_mask: Any,
        found_mask: Any,
        user_near: Any,
        found_near: Any,
    ) -> tuple[Any, Any, Any, Any]:
        """Return what comes out; see the class."""
        check_inputs(
            tokens=(tokens, "BCTW", "floats"),
            user=(user, "BRW", "floats"),
            found=(found, "BCKW", "floats"),
            user_mask=(user_mask, "BR"),
            found_mask=(found_mask, "BCK"),
            user_near=(user_near, "BRR", "floats"),
            found_near=(found_near, "BCKK", "floats"),
        )
        tokens, user, found = (
            ops.cast(one, self.compute_dtype) for one in (tokens, user, found)
        )
        norm, of_behaviors, norm_2, of_behaviors_2 = self.norms
        normed, own = of_behaviors(user), of_behaviors(found)
        attended, weights = self._attend(
            norm(tokens), normed, own, user_mask, found_mask
        )
        tokens = tokens + attended
        user = user + ops.matmul(self._cast(user_near), normed)
        found = found + ops.matmul(self._cast(found_near), own)
        hidden = ops.einsum(
            "bctw,twv->bctv", norm_2(tokens), self._cast(self.token_in_kernel)
        )
        tokens = tokens + ops.einsum(
            "bctv,tvw->bctw",
            ops.silu(hidden),
            self._cast(self.token_out_kernel),
        )
        user = user + self._network(of_behaviors_2(user))
        found = found + self._network(of_behaviors_2(found))
        return tokens, user, found, weights

    def compute_output_spec(self, *inputs: Any) -> tuple[Any, ...]:
        """Return the shapes and dtypes of `call`'s result."""
        tokens, user, found = inputs[:3]
        places = (user.shape[1], found.shape[2])
        total = None if None in places else sum(places)
        return (
            *(
                keras.KerasTensor(one.shape, self.compute_dtype)
                for one in (tokens, user, found)
            ),
            keras.KerasTensor((*tokens.shape[:3], total), "float32"),
        )

    def get_config(self) -> dict[str, Any]:
        """Return the constructor's arguments."""
        return {**super().get_config(), **attributes_of(self)}

    def _attend(
        self,
        tokens: Any,
        user: Any,
        found: Any,
        user_mask: Any,
        found_mask: Any,
    ) -> tuple[Any, Any]:
        """Return what tokens attend to, and weights (B, C, T, R + K)."""
        scale = tokens.shape[-1] ** -0.5
        queries = ops.einsum(
            "bctw,twv->bctv", tokens, self._cast(self.query_kernel) * scale
        )
        key, value = self._cast(self.key_kernel), self._cast(self.value_kernel)
        logits = [
            ops.einsum("bctv,brv->bctr", queries, ops.matmul(user, key)),
            ops.einsum("bctv,bckv->bctk", queries, ops.matmul(found, key)),
        ]
        logits = ops.cast(ops.concatenate(logits, axis=-1), "float32")
        # A mask of (B, 1, 1, R) beside one of (B, C, 1, K).
        of_found = ops.expand_dims(ops.cast(found_mask, "float32"), 2)
        of_user = ops.cast(user_mask, "float32")[:, None, None, :]
        of_user = of_user + ops.zeros_like(of_found[..., :1])
        real = ops.concatenate([of_user, of_found], axis=-1)
        weights = ops.softmax(logits + (1.0 - real) * _MASKED_LOGIT) * real
        places = user.shape[1]
        cast = ops.cast(weights, self.compute_dtype)
        attended = ops.einsum(
            "bctr,brv->bctv", cast[..., :places], ops.matmul(user, value)
        ) + ops.einsum(
            "bctk,bckv->bctv", cast[..., places:], ops.matmul(found, value)
        )
        kernel = self._cast(self.output_kernel)
        return ops.einsum("bctv,tvw->bctw", attended, kernel), weights

    def _network(self, behaviors: Any) -> Any:
        hidden = ops.matmul(behaviors, self._cast(self.behavior_in_kernel))
        return ops.matmul(
            ops.silu(hidden), self._cast(self.behavior_out_kernel)
        )

    def _cast(self, value: Any) -> Any:
        return ops.cast(value, self.compute_dtype)


def content_neighbors(vectors: Any, mask: Any, count: int = 5) -> Any:
    """Return weights of each behavior's nearest others in content.

    Nearest by cosine, of equal ones the first. A behavior without a vector has
    no neighbors and is none.

    Args:
        vectors: int8 or float (B, L, D).
        mask: bool (B, L), True = real.
        count: int, the most neighbors of a behavior.

    Returns:
        float32 (B, L, L); a row has 1 / n at each of n neighbors.
    """
    parts = cosine_parts(ops.stop_gradient(vectors))
    length = vectors.shape[1]
    real = ops.cast(
        ops.logical_and(ops.cast(mask, "bool"), parts.valid), "float32"
    )
    pairs = ops.expand_dims(real, 2) * ops.expand_dims(real, 1)
    pairs = pairs * (1.0 - ops.eye(length))
    cosines = cosine_matrix(
        CosineParts(parts.vectors, parts.norms, None),
        CosineParts(parts.vectors, parts.norms, None),
    )
    scores, places = stable_top_k(
        cosines * pairs + (1.0 - pairs) * _MASKED, min(count, length)
    )
    chosen = ops.cast(scores > _MASKED / 2, "float32")
    # Places as float32: TensorFlow keeps int32 on the host.
    numbers = ops.arange(length, dtype="float32")
    hot = ops.cast(
        ops.expand_dims(ops.cast(places, "float32"), -1) == numbers, "float32"
    )
    weights = ops.sum(hot * ops.expand_dims(chosen, -1), axis=2)
    total = ops.sum(chosen, axis=2, keepdims=True)
    return weights / ops.maximum(total, 1.0)
