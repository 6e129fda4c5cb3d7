"""Weights of the published PyTorch implementation."""

import os
from collections.abc import Callable, Iterator, Mapping
from typing import Any

import numpy as np
import numpy.typing as npt

from muse_keras.compat.published_muse import PublishedMUSE

_Array = npt.NDArray[np.float32]
_Arrays = dict[str, _Array]
# A variable, and what turns a published array into its value.
_Target = tuple[Any, Callable[[_Array], Any]]
_Weight = tuple[tuple[int, ...], list[_Target]]

# Trained for an auxiliary loss, and not part of the model.
_IGNORED = ("fc_tower_aux.",)
_TAU_1 = "uni_att_v2.cosine_tau1"
# The features after which the published tables are named: of the user, and of
# items, of which behaviors have the first.
_USER = ("129_1", "130_1", "130_2", "130_3", "130_4", "130_5")
_ITEM = ("151_2_180", "213", "214")


def read_state_dict(path: str | os.PathLike[str]) -> _Arrays:
    """Read a `.pt` file of tensors, without running any code in it.

    Needs PyTorch, on whatever backend Keras runs.

    Args:
        path: the file, written by `torch.save` of a state dict or of a dict
            of state dicts.

    Returns:
        dict of dotted names to float32 arrays.

    Raises:
        ImportError: if PyTorch is not installed.
        pickle.UnpicklingError: if the file holds more than tensors.

    Example:
    >>> import os, tempfile, torch
    >>> from muse_keras.compat import read_state_dict
    >>> path = os.path.join(tempfile.mkdtemp(), "dense.pt")
    >>> torch.save({"uni_att_v2": {"cosine_tau2": torch.ones(3, 1)}}, path)
    >>> read_state_dict(path)["uni_att_v2.cosine_tau2"].shape
    (3, 1)
    """
    try:
        import torch
    except ImportError as error:
        raise ImportError(
            "Reading a .pt file needs PyTorch; without it, give "
            "`load_published_weights` a mapping of names to arrays"
        ) from error
    return _flat(torch.load(path, map_location="cpu", weights_only=True))


def load_published_weights(
    model: PublishedMUSE,
    dense: Mapping[str, Any],
    embeddings: Mapping[str, Any] | None = None,
) -> None:
    """Fill a model with weights of the published PyTorch implementation.

    Nothing is written unless all names and shapes fit. The logits' scale,
    which the published attentions lack, is folded into the weights: into the
    query of the short-term attention and into the gammas of the long-term
    one. The model computes what the published one does; trained further, it
    is another parameterization of the same functions.

    Args:
        model: `PublishedMUSE`, of the checkpoint's sizes.
        dense: mapping of names to arrays or tensors, flat with dots or nested
            as the published file is: `realtime_att`, `uni_att_v2`,
            `all_seq_image_res` and `fc_tower`.
        embeddings: mapping of the tables' names, such as
            "embedding_layers.150_2_180.weight", or None to leave the tables
            as they are. Row 0 is the unknown id, row i + 1 the i-th id of the
            feature map, which the item table must list in the same order.

    Raises:
        ValueError: names are missing or unknown, or shapes do not fit; the
            message lists all of them.

    Example:
    >>> from muse_keras.compat import PublishedMUSE, load_published_weights
    >>> model = PublishedMUSE(100, {"age": 9}, {"category": 9})
    >>> try:
    ...     load_published_weights(model, {"fc_tower.surplus": [1.0]})
    ... except ValueError as error:
    ...     print(str(error).splitlines()[-1])
    unexpected: fc_tower.surplus
    """
    values = _flat(dense)
    expected = _dense_weights(model)
    if embeddings is not None:
        values |= _with_prefix(_flat(embeddings))
        expected |= _tables(model)
    _check(values, expected)
    for name, (_, targets) in expected.items():
        for variable, convert in targets:
            variable.assign(convert(values[name]))


def _transposed(factor: np.float32) -> Callable[[_Array], Any]:
    """Return a function that transposes and scales."""
    return lambda array: array.T * factor


def _dense_weights(model: PublishedMUSE) -> dict[str, _Weight]:
    """Return shape and targets of each dense weight, by published name."""
    short, long = model.short_attention, model.long_attention
    item = model.target_dim
    # The attention layers here divide logits by this.
    scale = np.sqrt(np.float32(item))
    weights: dict[str, _Weight] = {}
    for name, layer, parts, factor in (
        ("realtime_att.query_fcs", short, ["query"], scale),
        ("realtime_att.fact_fcs", short, ["key", "value"], np.float32(1.0)),
        ("uni_att_v2.query_layers", long, ["query"], np.float32(1.0)),
        ("uni_att_v2.fact_layers", long, ["key"], np.float32(1.0)),
        ("uni_att_v2.value_layers", long, ["value"], np.float32(1.0)),
    ):
        for kind, own, shape in (
            ("weight", "kernel", (item, item)),
            ("bias", "bias", (item,)),
        ):
            targets: list[_Target] = [
                (getattr(layer, f"{part}_{own}"), _transposed(factor))
                for part in parts
            ]
            weights[f"{name}.0.linears.0.{kind}"] = shape, targets
    weights[_TAU_1] = (2, 1), [(long.learned_scale, lambda x: 1.0 / x[0, 0])]
    fused = np.stack([[scale], [np.float32(1.0)], [scale]])
    weights["uni_att_v2.cosine_tau2"] = (
        (3, 1),
        [(long.gamma, lambda array: array * fused)],
    )
    for scope, tiers in (
        ("rt", model.short_tiers),
        ("uni_v2", model.long_tiers),
    ):
        weights[f"all_seq_image_res.{scope}_simtier.emb"] = (
            (1, model.num_tiers, 1),
            [(tiers.tier_weights, np.ravel)],
        )
    tower = model.tower
    for number, (layer, activation) in enumerate(
        zip(tower.dense_layers, tower.activations, strict=True)
    ):
        width, units = layer.kernel.shape
        linear = f"fc_tower.linears.{number}"
        weights |= {
            f"{linear}.weight": (
                (units, width),
                [(layer.kernel, np.transpose)],
            ),
            f"{linear}.bias": ((units,), [(layer.bias, np.asarray)]),
            f"fc_tower.act_layers.{number}.dice_gamma": (
                (1, units),
                [(activation.alpha, np.ravel)],
            ),
        }
    return weights


def _tables(model: PublishedMUSE) -> dict[str, _Weight]:
    """Return shape and target of each table, by published name."""
    behavior = model.behavior_features
    counts = len(model.user_sizes), len(model.item_sizes), len(behavior)
    if counts != (len(_USER), len(_ITEM), 1):
        raise ValueError(
            "The published tables are those of 6 features of users, 3 of items "
            "and 1 of behaviors. Received: a model of "
            f"{' and '.join(map(str, counts))}"
        )
    items = dict.fromkeys((*behavior, *model.item_sizes))
    layers = {
        "150_2_180": model.item_embedding,
        **{
            published: model.feature_embeddings[name]
            for published, name in zip(_ITEM, items, strict=True)
        },
        **dict(zip(_USER, model.user_embeddings, strict=True)),
    }
    return {
        f"embedding_layers.{name}.weight": (
            tuple(layer.embeddings.shape),
            [(layer.embeddings, np.asarray)],
        )
        for name, layer in layers.items()
    }


def _check(values: _Arrays, expected: dict[str, _Weight]) -> None:
    """Raise one `ValueError` that lists everything that does not fit."""
    problems = [
        f"{name} has shape {values[name].shape}, expected {shape}"
        for name, (shape, _) in expected.items()
        if name in values and values[name].shape != shape
    ]
    for title, names in (
        ("missing", expected.keys() - values.keys()),
        ("unexpected", values.keys() - expected.keys()),
    ):
        if names:
            problems.append(f"{title}: {', '.join(sorted(names))}")
    if not problems and values[_TAU_1][0, 0] == 0.0:
        problems.append(f"{_TAU_1}[0] is 0, similarities are divided by it")
    if problems:
        raise ValueError(
            "The weights do not fit the model:\n" + "\n".join(problems)
        )


def _with_prefix(values: _Arrays) -> _Arrays:
    """Return tables named as inside the published model."""
    prefix = "embedding_layers."
    return {
        name if name.startswith(prefix) else prefix + name: value
        for name, value in values.items()
    }


def _flat(values: Mapping[str, Any]) -> _Arrays:
    """Return float32 arrays by dotted names, without what is not needed."""
    return {
        name: array
        for name, array in _walk(values, "")
        if not name.startswith(_IGNORED)
    }


def _walk(
    values: Mapping[str, Any], prefix: str
) -> Iterator[tuple[str, _Array]]:
    """Yield dotted names and arrays of a mapping, nested or not."""
    for key, value in values.items():
        # PyTorch's distributed training prefixes names with "module.".
        name = prefix + str(key).removeprefix("module.")
        if isinstance(value, Mapping):
            yield from _walk(value, f"{name}.")
        else:
            if hasattr(value, "detach"):
                value = value.detach().cpu().float().numpy()
            yield name, np.asarray(value, np.float32)
