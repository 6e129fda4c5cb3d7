"""The formulas in NumPy, written without looking at the layers."""

import math
from fractions import Fraction
from typing import Any

import keras
import numpy as np


def cosine(left: np.ndarray, right: np.ndarray) -> np.float32:
    """One cosine of integer codes, rounded to float32 like the layer's."""
    left, right = left.astype(np.int64), right.astype(np.int64)
    norms = np.float32(np.sqrt(left @ left)) * np.float32(
        np.sqrt(right @ right)
    )
    return np.clip(np.float32(left @ right) / norms, *np.float32([-1, 1]))


def exact_cosine(left: np.ndarray, right: np.ndarray) -> np.float64:
    """One cosine of integer codes in float64, equal for equal fractions."""
    left, right = left.astype(np.int64), right.astype(np.int64)
    dot = int(left @ right)
    squared = Fraction(dot * dot, int(left @ left) * int(right @ right))
    return np.float64(math.copysign(math.sqrt(squared), dot))


def top_k(candidates, behaviors, mask, k):
    """Search request by request, candidate by candidate."""
    # What the layer promises for codes on the backend.
    exact = keras.backend.backend() == "tensorflow"
    measure = exact_cosine if exact else cosine
    batch, count, _ = candidates.shape
    similarities = np.zeros((batch, count, k), np.float32)
    indices = np.zeros((batch, count, k), np.int32)
    found = np.zeros((batch, count, k), bool)
    for b in range(batch):
        for c in range(count):
            vector = candidates[b, c]
            ranked = sorted(
                (-measure(vector, behavior), position)
                for position, behavior in enumerate(behaviors[b])
                if mask[b, position] and behavior.any() and vector.any()
            )[:k]
            for place, (negative, position) in enumerate(ranked):
                similarities[b, c, place] = -negative
                indices[b, c, place] = position
                found[b, c, place] = True
    return similarities, indices, found


def tier_counts(similarities, mask, num_tiers):
    """Histogram value by value, against float32 edges."""
    edges = [
        np.float32(-1.0 + 2.0 * n / num_tiers) for n in range(num_tiers + 1)
    ]
    counts = np.zeros((*similarities.shape[:-1], num_tiers), np.float32)
    for place in np.ndindex(similarities.shape):
        if not mask[place]:
            continue
        value = np.float32(similarities[place])
        tier = 0
        while tier < num_tiers - 1 and value >= edges[tier + 1]:
            tier += 1
        counts[(*place[:-1], tier)] += 1.0
    return counts


def silu(x):
    return x / (1.0 + np.exp(-x))


def identity(x):
    return x


def sigmoid(x):
    return 1.0 / (1.0 + np.exp(-x))


def attention(
    target,
    behaviors,
    kernels,
    mask,
    heads=1,
    activation=identity,
    similarities=None,
    gamma=None,
    scale=1.0,
):
    """(SA-)TA of one candidate: target (E,), behaviors (K, E)."""
    query, key, value = (
        activation(x.astype(np.float64) @ kernel.astype(np.float64))
        for x, kernel in zip(
            (target, behaviors, behaviors), kernels, strict=True
        )
    )
    size, width = query.size // heads, value.shape[-1] // heads
    outputs, weights = [], []
    for head in range(heads):
        part = slice(head * size, (head + 1) * size)
        logits = key[:, part] @ query[part] / np.sqrt(size)
        if similarities is not None:
            r = similarities.astype(np.float64) * scale
            g = gamma[:, head]
            logits = g[0] * logits + g[1] * r + g[2] * logits * r
        weight = np.zeros(len(mask))
        if mask.any():
            real = np.exp(logits[mask] - logits[mask].max())
            weight[mask] = real / real.sum()
        outputs.append(weight @ value[:, head * width : (head + 1) * width])
        weights.append(weight)
    return np.concatenate(outputs), np.stack(weights)


def dice(x, alpha, mean, variance, epsilon):
    gate = sigmoid((x - mean) / np.sqrt(variance + epsilon))
    return gate * x + (1.0 - gate) * alpha * x


def adam(weight, gradients, rate, sparse, beta_1=0.9, beta_2=0.999, eps=1e-7):
    """Weights after each dense gradient; sparse: untouched rows stay."""
    weight = weight.astype(np.float64)
    first, second = np.zeros_like(weight), np.zeros_like(weight)
    for step, gradient in enumerate(gradients, 1):
        gradient = gradient.astype(np.float64)
        rows = (
            np.flatnonzero(np.any(gradient != 0, axis=1))
            if sparse
            else slice(None)
        )
        first[rows] = beta_1 * first[rows] + (1 - beta_1) * gradient[rows]
        second[rows] = (
            beta_2 * second[rows] + (1 - beta_2) * gradient[rows] ** 2
        )
        corrected = rate * np.sqrt(1 - beta_2**step) / (1 - beta_1**step)
        weight[rows] -= corrected * first[rows] / (np.sqrt(second[rows]) + eps)
    return weight, first, second


def group_auc(labels, scores, groups, weights):
    """Every pair of every group."""
    total, mass = 0.0, 0.0
    for group in set(groups.tolist()):
        mine = np.flatnonzero(groups == group)
        clicks = [i for i in mine if labels[i] == 1 and weights[i] > 0]
        others = [i for i in mine if labels[i] == 0 and weights[i] > 0]
        if not clicks or not others:
            continue
        won = pairs = 0.0
        for i in clicks:
            for j in others:
                pair = weights[i] * weights[j]
                pairs += pair
                if scores[i] > scores[j]:
                    won += pair
                elif scores[i] == scores[j]:
                    won += 0.5 * pair
        weight = weights[mine].sum()
        total += weight * won / pairs
        mass += weight
    return total / mass if mass else float("nan")


def named(inputs: Any, group: str, sizes: dict[str, Any], *place: int):
    """Values of a group's features at a place, by name."""
    found, start = {}, 0
    for name, size in sizes.items():
        width = size[1] if isinstance(size, tuple) else 1
        found[name] = inputs[group][place][start : start + width]
        start += width
    return found


class Ranker:
    """A ranker's inference from its weights, one candidate at a time."""

    def __init__(self, model: Any, codes: np.ndarray) -> None:
        self.model = model
        self.codes = codes
        self.weights = {
            variable.path.split("/", 1)[1]
            if variable.path.startswith(model.name + "/")
            else variable.path: np.asarray(model_value(variable), np.float64)
            for variable in model.weights
            if "table/" not in variable.path
        }

    def embedding(self, name: str, index: Any, start: int = 0) -> np.ndarray:
        """Of an index, or the mean of those of many that are not 0."""
        table = self.weights[f"{name}_embedding/embeddings"]
        given = [i for i in np.atleast_1d(index) if i] or [0]
        return sum(table[start + i] for i in given) / len(given)

    def item(self, row: int, features: dict[str, Any]) -> np.ndarray:
        """The id, then the features that behaviors have."""
        return np.concatenate(
            [
                self.embedding("item", row),
                *(
                    self.embedding(name, features[name])
                    for name in self.model.behavior_features
                ),
            ]
        )

    def candidate(self, inputs: dict[str, np.ndarray], b: int, c: int):
        sizes = self.model.item_sizes
        features = named(inputs, "candidate_features", sizes, b, c)
        return self.item(inputs["candidate_rows"][b, c], features)

    def behavior(self, inputs: dict[str, np.ndarray], b: int, i: int):
        model = self.model
        sizes = {n: model.item_sizes[n] for n in model.behavior_features}
        sizes |= model.behavior_sizes
        features = named(inputs, "behavior_features", sizes, b, i)
        embedded = self.item(inputs["behavior_rows"][b, i], features)
        for name in model.behavior_sizes:
            embedded = embedded + self.embedding(name, features[name])
        return embedded

    def kernels(self, part: str):
        return [
            self.weights[f"{part}/attention/{name}_kernel"]
            for name in ("query", "key", "value")
        ]

    def tiers(self, part: str, similarities, mask):
        counts = tier_counts(similarities, mask, self.model.num_tiers)
        return np.log1p(counts) * self.weights[f"{part}/sim_tier/tier_weights"]

    def logit(self, inputs: dict[str, np.ndarray], b: int, c: int) -> Any:
        model = self.model
        rows = inputs["behavior_rows"][b]
        real = np.flatnonzero(inputs["behavior_mask"][b])
        row = inputs["candidate_rows"][b, c]
        own = named(inputs, "candidate_features", model.item_sizes, b, c)
        context = named(inputs, "context_features", model.context_sizes, b, c)
        context |= dict.fromkeys(model.training_only, 0)
        target = self.item(row, own)
        vector = self.codes[row]
        recent = real[::-1][: model.recent]
        embedded = np.array(
            [self.behavior(inputs, b, i) for i in recent]
        ).reshape(-1, target.size)
        has = np.array(
            [bool(vector.any() and self.codes[rows[i]].any()) for i in recent],
            bool,
        )
        near = np.array(
            [
                cosine(vector, self.codes[rows[i]]) if has[n] else 0.0
                for n, i in enumerate(recent)
            ],
            np.float32,
        )
        short, _ = attention(
            target,
            embedded,
            self.kernels("short_term"),
            np.ones(len(recent), bool),
            activation=silu,
        )
        users, start = [], 0
        values = named(inputs, "user_features", model.user_sizes, b)
        for name, size in model.user_sizes.items():
            users.append(self.embedding("user", values[name], start))
            start += size[0] if isinstance(size, tuple) else size
        nothing = np.zeros((b + 1, c + 1, 0))
        features = [
            *users,
            inputs.get("user_numbers", np.zeros((b + 1, 0)))[b],
            embedded.mean(axis=0) if len(recent) else 0.0 * target,
            target,
            *[
                self.embedding(name, index)
                for name, index in own.items()
                if name not in model.behavior_features
            ],
            inputs.get("candidate_numbers", nothing)[b, c],
            *[self.embedding(*one) for one in context.items()],
            inputs.get("context_numbers", nothing)[b, c],
            *[
                [np.log1p(inputs["candidate_matches"][b, c, place])]
                for place in range(len(model.matches))
            ],
            self.tiers("short_term", near, has),
            short,
        ]
        if type(model).__name__ == "MUSE":
            features += self.long_term(inputs, b, target, vector)
        x = np.concatenate(features)
        for number in range(1, len(model.hidden_units) + 1):
            dense, dice_name = f"tower/dense_{number}", f"tower/dice_{number}"
            x = x @ self.weights[f"{dense}/kernel"]
            x = x + self.weights[f"{dense}/bias"]
            x = dice(
                x,
                self.weights[f"{dice_name}/alpha"],
                self.weights[f"{dice_name}/moving_mean"],
                self.weights[f"{dice_name}/moving_variance"],
                1e-3,
            )
        x = x @ self.weights["tower/logit/kernel"]
        x = x + self.weights["tower/logit/bias"]
        return x if len(model.labels) > 1 else float(x[0])

    def long_term(self, inputs, b, target, vector):
        rows = inputs["behavior_rows"][b]
        similarities, indices, found = top_k(
            vector[None, None],
            self.codes[rows][None],
            inputs["behavior_mask"][b][None],
            self.model.k,
        )
        similarities, indices, found = (
            part[0, 0] for part in (similarities, indices, found)
        )
        embedded = np.array([self.behavior(inputs, b, i) for i in indices])
        unit = "exact_search_unit"
        attended, _ = attention(
            target,
            embedded,
            self.kernels(unit),
            found,
            activation=silu,
            similarities=similarities,
            gamma=self.weights[f"{unit}/attention/gamma"],
            scale=self.weights[f"{unit}/attention/similarity_scale"],
        )
        return [self.tiers(unit, similarities, found), attended]


def model_value(variable: Any) -> np.ndarray:
    from keras import ops

    return ops.convert_to_numpy(variable)
