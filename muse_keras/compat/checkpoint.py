"""Weights of the published PyTorch implementation."""

import os
from collections.abc import Iterator, Mapping
from typing import Any

import numpy as np
import numpy.typing as npt

from muse_keras.compat.published_muse import PublishedMUSE

_Arrays = dict[str, npt.NDArray[np.float32]]

# Trained beside the model for an auxiliary loss, and not part of it.
_IGNORED = ("fc_tower_aux.",)
# Names of tables in the published embeddings' file, after their features.
_ITEM, _CATEGORY, _CITY, _PROVINCE = "150_2_180", "151_2_180", "213", "214"
_PROFILE = ("129_1", "130_1", "130_2", "130_3", "130_4", "130_5")


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
    >>> model = PublishedMUSE(100, (9,), 9, 5, 5, embedding_dim=8)
    >>> try:
    ...     load_published_weights(model, {"fc_tower.surplus": [1.0]})
    ... except ValueError as error:
    ...     print(str(error).splitlines()[-1])
    unexpected: fc_tower.surplus
    """
    values = _flat(dense)
    expected = _dense_shapes(model)
    tables: dict[str, Any] = {}
    if embeddings is not None:
        tables = _tables(model)
        values |= _with_prefix(_flat(embeddings))
        expected |= {
            name: tuple(table.embeddings.shape)
            for name, table in tables.items()
        }
    _check(values, expected)
    _assign_attentions(model, values)
    for scope, tiers in (
        ("rt", model.short_tiers),
        ("uni_v2", model.long_tiers),
    ):
        name = f"all_seq_image_res.{scope}_simtier.emb"
        tiers.tier_weights.assign(values[name].reshape(-1))
    for number, (layer, activation) in enumerate(
        zip(model.tower.dense_layers, model.tower.activations, strict=True)
    ):
        linear = f"fc_tower.linears.{number}"
        layer.kernel.assign(values[f"{linear}.weight"].T)
        layer.bias.assign(values[f"{linear}.bias"])
        gamma = values[f"fc_tower.act_layers.{number}.dice_gamma"]
        activation.alpha.assign(gamma.reshape(-1))
    for name, table in tables.items():
        table.embeddings.assign(values[name])


def _assign_attentions(model: PublishedMUSE, values: _Arrays) -> None:
    """Write both attentions."""
    short, long = model.short_attention, model.long_attention
    # The attention layers here divide logits by this.
    scale = np.sqrt(np.float32(2 * model.embedding_dim))
    for name, source, factor in (
        ("query", "query_fcs", scale),
        ("key", "fact_fcs", 1.0),
        ("value", "fact_fcs", 1.0),
    ):
        weight, bias = _linear(values, f"realtime_att.{source}.0")
        getattr(short, f"{name}_kernel").assign(weight * factor)
        getattr(short, f"{name}_bias").assign(bias * factor)
    for name, source in (
        ("query", "query_layers"),
        ("key", "fact_layers"),
        ("value", "value_layers"),
    ):
        weight, bias = _linear(values, f"uni_att_v2.{source}.0")
        getattr(long, f"{name}_kernel").assign(weight)
        getattr(long, f"{name}_bias").assign(bias)
    long.learned_scale.assign(1.0 / values["uni_att_v2.cosine_tau1"][0, 0])
    gamma = values["uni_att_v2.cosine_tau2"]
    long.gamma.assign(gamma * np.stack([[scale], [1.0], [scale]]))


def _linear(values: _Arrays, name: str) -> tuple[Any, Any]:
    """Return kernel and bias of a projection."""
    linear = f"{name}.linears.0"
    return values[f"{linear}.weight"].T, values[f"{linear}.bias"]


def _dense_shapes(model: PublishedMUSE) -> dict[str, tuple[int, ...]]:
    """Return the names of the dense weights and their shapes."""
    item = 2 * model.embedding_dim
    shapes: dict[str, tuple[int, ...]] = {}
    for name in (
        "realtime_att.query_fcs",
        "realtime_att.fact_fcs",
        "uni_att_v2.query_layers",
        "uni_att_v2.fact_layers",
        "uni_att_v2.value_layers",
    ):
        shapes[f"{name}.0.linears.0.weight"] = (item, item)
        shapes[f"{name}.0.linears.0.bias"] = (item,)
    shapes["uni_att_v2.cosine_tau1"] = (2, 1)
    shapes["uni_att_v2.cosine_tau2"] = (3, 1)
    for scope in ("rt", "uni_v2"):
        shapes[f"all_seq_image_res.{scope}_simtier.emb"] = (
            1,
            model.num_tiers,
            1,
        )
    for number, layer in enumerate(model.tower.dense_layers):
        width, units = layer.kernel.shape
        shapes[f"fc_tower.linears.{number}.weight"] = (units, width)
        shapes[f"fc_tower.linears.{number}.bias"] = (units,)
        shapes[f"fc_tower.act_layers.{number}.dice_gamma"] = (1, units)
    return shapes


def _tables(model: PublishedMUSE) -> dict[str, Any]:
    """Return the embedding layers by their published names."""
    if len(model.profile_embeddings) != len(_PROFILE):
        raise ValueError(
            f"The published tables have {len(_PROFILE)} profile fields, "
            f"{', '.join(_PROFILE)}. Received: a model of "
            f"{len(model.profile_embeddings)}"
        )
    layers = {
        _ITEM: model.item_embedding,
        _CATEGORY: model.category_embedding,
        _CITY: model.city_embedding,
        _PROVINCE: model.province_embedding,
        **dict(zip(_PROFILE, model.profile_embeddings, strict=True)),
    }
    return {
        f"embedding_layers.{name}.weight": layer
        for name, layer in layers.items()
    }


def _check(values: _Arrays, expected: dict[str, tuple[int, ...]]) -> None:
    """Raise one `ValueError` that lists everything that does not fit."""
    problems = [
        f"{name} has shape {values[name].shape}, expected {shape}"
        for name, shape in expected.items()
        if name in values and values[name].shape != shape
    ]
    for title, names in (
        ("missing", expected.keys() - values.keys()),
        ("unexpected", values.keys() - expected.keys()),
    ):
        if names:
            problems.append(f"{title}: {', '.join(sorted(names))}")
    name = "uni_att_v2.cosine_tau1"
    if not problems and values[name][0, 0] == 0.0:
        problems.append(f"{name}[0] is 0, similarities are divided by it")
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
) -> Iterator[tuple[str, npt.NDArray[np.float32]]]:
    """Yield dotted names and arrays of a mapping, nested or not."""
    for key, value in values.items():
        # Distributed training puts "module." before all names.
        name = prefix + str(key).removeprefix("module.")
        if isinstance(value, Mapping):
            yield from _walk(value, f"{name}.")
        else:
            if hasattr(value, "detach"):
                value = value.detach().cpu().float().numpy()
            yield name, np.asarray(value, np.float32)
