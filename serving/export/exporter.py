"""Write a trained ranker as a SavedModel that unmodified TensorFlow serves."""

import contextlib
import dataclasses
import math
import os
import re
import tempfile
from collections.abc import Collection, Mapping, Sequence
from pathlib import Path
from types import MappingProxyType
from typing import Any

import numpy as np
import numpy.typing as npt
import tensorflow as tf

from muse_keras._keras_internals import flattened_layers
from muse_keras._ops.rows import raw_variable, table_rows
from muse_keras.layers import IdEmbedding
from muse_keras.models import BaseRanker
from muse_keras.tables import ItemTable, row_files
from muse_keras.tables.array_blocks import release_pages
from muse_keras.tables.device_shards import spread_rows
from muse_keras.tables.row_shards import is_held
from muse_keras.tensorflow import has_int8_products, int8_products
from schemas.columns import Features
from schemas.ranking_schema import RankingSchema
from serving.export import manifest as manifests
from serving.export import warmup
from serving.export.encodings import check_learned, model_arguments
from serving.export.feature_names import features_of, prefixed, tensor_names
from serving.export.ranking_module import RankingModule
from serving.export.saving import (
    TableFiles,
    declare_inputs,
    place_variables,
)
from serving.export.user_cache import UserCacheConfig
from serving.files import find_versions, write_json

# These are only in the Examples for training and evaluation, as are the other
# labels and the features that only training uses.
UNSERVED_FEATURES = ("clicks", "weights", "candidate_popularity")


@dataclasses.dataclass(frozen=True)
class Export:
    """An exported version: its folder and the content of `muse_export.json`."""

    path: Path
    manifest: Mapping[str, Any]

    def memory_summary(self) -> str:
        """Return one line about the memory of the variables."""
        variables = self.manifest["variables"]
        largest = sorted(variables, key=lambda name: -variables[name]["bytes"])
        parts = ", ".join(
            f"{name} {_readable(variables[name]['bytes'])}"
            for name in largest[:3]
        )
        total = _readable(self.manifest["total_bytes"])
        summary = f"{total} of variables ({parts}, ...)"
        cache = self.manifest.get("user_cache")
        if cache:
            summary += (
                f"; {_readable(cache['bytes'])} of it for the histories of "
                f"{cache['users']:,} users of up to {cache['max_length']:,} "
                "behaviors"
            )
        return summary


TARGETS = ("any", "cpu")


def export_saved_model(
    path: str | os.PathLike[str],
    *,
    model: BaseRanker,
    item_table: ItemTable,
    features: Features | None = None,
    learned: Mapping[str, npt.ArrayLike],
    schema: RankingSchema | None = None,
    max_history: int | None = None,
    transform_output: str | os.PathLike[str] | None = None,
    warmup_examples: Sequence[bytes] = (),
    unserved_features: Sequence[str] = UNSERVED_FEATURES,
    source: Mapping[str, str] | None = None,
    target: str = "any",
    user_cache: UserCacheConfig | None = None,
    devices: Sequence[str] = (),
    tables: Mapping[str, Any] = MappingProxyType({}),
) -> Export:
    """Export a ranking model with its item table and its transform graph.

    The signatures are `rank`, `explain` and `embed`; `upsert_items` if the
    model has spare rows for fresh items; `prefetch`, `prefetch_rows`,
    `resolve_items`, `rank_cached` and `user_cache` with a user cache; and
    `serving_default` with `transform_output`. The version is written to a
    temporary folder beside `path` and renamed, so that a server that watches
    the base folder never sees an incomplete version. The item table is saved
    from the model's own variables, without a second copy. Tables that are
    spread over devices, or that the model does not hold, go block by block
    into files of the SavedModel, from which a server reads them; such a
    version is not called here.

    Args:
        path: folder of the version, `<base>/<version>`; see `next_version`.
            It may exist if it is empty.
        model: a built model of `muse_keras.models` (or of the same
            interface), with `model.table` assigned from `item_table`.
        item_table: `ItemTable`; the SavedModel has its features encoded.
        features: declared features of the model. None means that its feature
            names are single categories, also carried for behaviors.
        learned: values learned by Transform, by the names of
            `Features.learned`: raw int64 ids in index order, without 0;
            boundaries of buckets, ascending; mean and scale of numbers.
        schema: the declaration with these features, stored in the manifest.
        max_history: int or None. `rank` and `explain` use the newest
            `max_history` real behaviors, as the Transform graph does.
        transform_output: folder of a `tft.TFTransformOutput`, or None to omit
            `serving_default`.
        warmup_examples: serialized request-grouped Examples; by default, a
            small one is made. Each is replayed with each signature by the
            server, and here unless tables are in files.
        unserved_features: raw features that requests do not carry.
        source: origin of the parts, stored in the manifest.
        target: "any" device, or "cpu": x86-64 processors with 8-bit dot
            products (AVX-512 VNNI, AVX-VNNI), which search long histories
            about one and a half times as fast with this target. Its graph has
            no GPU kernels.
        user_cache: size of the cache of histories on the device, for
            `prefetch` and `rank_cached`; None or 0 users disables it.
        devices: over which devices of a server the rows of the item table and
            of embeddings with as many rows are spread, such as
            `("GPU:0", "GPU:1")`; empty: the server decides.
        tables: rows of trained tables of which `model` holds none (see
            `muse_keras.tables.row_shards.divided_rows`), by the variables'
            paths: arrays, or what slices to them. Vectors of items are read
            from `item_table`.

    Returns:
        `Export`, with the path and the manifest.

    Raises:
        ValueError: if the parts do not match, or a warmup request fails. The
            message names the part.
        FileExistsError: if `path` exists and is not an empty folder.
    """
    version = Path(path)
    _check_version(version)
    _check_target(target)
    _check_devices(devices)
    if features is None:
        features = features_of(model)
    _check_item_features(features, item_table)
    tensor_names(features)
    check_learned(features, learned)
    _check_model(model, features, learned)
    _check_table(model, item_table)

    transform, spec = None, None
    if transform_output is not None:
        unserved = {
            *unserved_features,
            *(f"label_{label}" for label in model.labels),
            *_training_only(features),
        }
        transform, spec = _load_transform(transform_output, unserved)
    module = RankingModule(
        model=model,
        item_table=item_table,
        features=features,
        learned=learned,
        max_history=max_history,
        transform=transform,
        raw_feature_spec=spec,
        user_cache=user_cache,
    )
    in_files = _tables_in_files(model, item_table, tables, bool(devices))
    with (
        int8_products() if target == "cpu" else contextlib.nullcontext(),
        spread_rows(
            [variable for variable, _ in in_files], max(len(devices), 1)
        ) as shards,
    ):
        signatures = module.signatures(shards)
    examples = tuple(warmup_examples) or (
        warmup.example_of(item_table, features),
    )
    requests = list(warmup.requests(examples, signatures, item_table, features))
    if not in_files:
        warmup.run(signatures, requests)
    manifest = {
        **manifests.describe(
            module, model, item_table, signatures, features, learned
        ),
        "schema": manifests.schema_entry(schema) if schema else None,
        "max_history": max_history,
        "target": target,
        "devices": list(devices),
        "source": dict(source or {}),
    }
    version.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(
        prefix=f".export-{version.name}.", dir=version.parent
    ) as temporary:
        folder = Path(temporary) / "model"
        if in_files:
            module.table_files = _write_tables(
                Path(temporary) / "tables", in_files, shards
            )
        # Only training needs gradients, and a server does not train.
        options = tf.saved_model.SaveOptions(
            experimental_custom_gradients=False
        )
        tf.saved_model.save(module, str(folder), signatures, options)
        inputs = {
            name: specs for name, (_, specs) in module.functions().items()
        }
        declare_inputs(folder, inputs)
        place_variables(
            folder,
            {
                shard.name.partition(":")[0]: f"/device:{device}"
                for parts in shards.values()
                for shard, device in zip(parts, devices, strict=bool(devices))
            },
        )
        extra = folder / "assets.extra"
        extra.mkdir()
        manifest["warmup_records"] = warmup.write_requests(
            extra, requests, warmup.MODEL_NAME
        )
        # Labels and features keep the order of the declaration.
        write_json(extra / manifests.FILE_NAME, manifest)
        os.replace(folder, version)
    return Export(version, manifest)


def _tables_in_files(
    model: BaseRanker,
    item_table: ItemTable,
    given: Mapping[str, Any],
    is_spread: bool,
) -> list[tuple[Any, Any]]:
    """Return the tables that are read from files, with their rows.

    These are the tables that the model does not hold, and, if tables are
    spread, all that a lookup by row of an item reads.
    """
    table = model.table
    frozen = {
        table.codes.path: item_table.codes,
        table.inverse_norms.path: item_table.inverse_norms(),
    }
    embeddings = [
        (layer.embeddings, layer.num_rows > table.num_items)
        for layer in flattened_layers(model)
        if isinstance(layer, IdEmbedding)
    ]
    found = []
    for variable, is_of_items in (
        (table.codes, True),
        (table.inverse_norms, True),
        *embeddings,
    ):
        rows = {**given, **frozen}.get(variable.path)
        if is_held(variable):
            if is_spread and is_of_items:
                found.append((variable, raw_variable(variable)))
        elif rows is None:
            raise ValueError(
                f"`tables` must have the rows of {variable.path!r}, which "
                f"`model` does not hold. Received: {', '.join(given)}"
            )
        else:
            _check_rows(variable, rows, is_frozen=variable.path in frozen)
            found.append((variable, rows))
    unused = given.keys() - {variable.path for variable, _ in found}
    if unused or given.keys() & frozen.keys():
        raise ValueError(
            "`tables` must have the trained tables that `model` does not hold "
            f"and no others. Received: {', '.join(given)}"
        )
    return found


def _check_rows(variable: Any, rows: Any, is_frozen: bool) -> None:
    """Raise ValueError for rows that are not those of a table."""
    # Slots of fresh items are no rows of the item table.
    wanted = (table_rows(variable), *variable.shape[1:])
    shape = tuple(getattr(rows, "shape", ()))
    fits = shape[1:] == wanted[1:] and bool(shape)
    if not fits or (shape[0] != wanted[0] and not is_frozen):
        raise ValueError(
            f"`tables[{variable.path!r}]` must be an array of {wanted}. "
            f"Received: shape={shape}"
        )
    dtype = tf.as_dtype(rows.dtype).name
    if dtype != variable.dtype:
        raise ValueError(
            f"`tables[{variable.path!r}]` must be {variable.dtype}. "
            f"Received: dtype={dtype}"
        )


def _write_tables(
    prefix: Path,
    tables: Sequence[tuple[Any, Any]],
    shards: Mapping[str, Sequence[tf.Variable]],
) -> TableFiles:
    """Write tables into files, and return what reads them when served."""
    parts = f"{prefix}.part"
    row_files.write(
        parts,
        (
            row_files.Column(variable.path, 1, 0, rows)
            for variable, rows in tables
        ),
    )
    row_files.merge([parts], str(prefix))
    sizes = {variable.path: rows.shape[0] for variable, rows in tables}
    return TableFiles(prefix, shards, sizes)


def next_version(base: str | os.PathLike[str]) -> Path:
    """Return the folder of the version after the newest one in `base`."""
    return Path(base) / str(max(find_versions(base), default=0) + 1)


def _load_transform(
    folder: str | os.PathLike[str], unserved_features: Collection[str]
) -> tuple[Any, dict[str, Any]]:
    import tensorflow_transform as tft

    from serving.export.transform_graph import TransformGraph

    output = tft.TFTransformOutput(os.fspath(folder))
    spec = {
        name: feature
        for name, feature in output.raw_feature_spec().items()
        if name not in unserved_features
    }
    return TransformGraph(output.transform_savedmodel_dir), spec


def _check_target(target: str) -> None:
    if target not in TARGETS:
        raise ValueError(
            f"`target` must be one of {TARGETS}. Received: {target!r}"
        )
    if target == "cpu" and not has_int8_products():
        raise ValueError(
            '`target` "cpu" needs a processor with 8-bit dot products '
            "(AVX-512 VNNI or AVX-VNNI) and TensorFlow with oneDNN, to check "
            'the export here. Use "any".'
        )


def _check_devices(devices: Sequence[str]) -> None:
    names = [] if isinstance(devices, str) else list(devices)
    if len(names) != len(devices) or not all(
        re.fullmatch(r"[A-Z_]+:\d+", name) for name in names
    ):
        raise ValueError(
            '`devices` must be a sequence of names such as ("GPU:0", "GPU:1"). '
            f"Received: {devices!r}"
        )


def _check_version(version: Path) -> None:
    """Raise FileExistsError if `version` is not absent or an empty folder."""
    if version.exists() and (not version.is_dir() or any(version.iterdir())):
        raise FileExistsError(
            f"{version} exists and is not an empty folder; export to a new "
            "version."
        )


def _training_only(features: Features) -> list[str]:
    """Return the names of the Examples' features that only training uses."""
    return [
        name
        for group in ("context", "candidate")
        for name, one in prefixed(group, getattr(features, group)).items()
        if one.training_only
    ]


def _check_item_features(features: Features, item_table: ItemTable) -> None:
    """Raise ValueError if features of the table are absent or differ."""
    for name, one in features.item.items():
        if name not in item_table.features:
            raise ValueError(
                f"`item_table` must have the feature {name!r}, which the "
                f"model has. Received: {', '.join(item_table.features)}"
            )
        column = item_table.features[name]
        width = math.prod(column.shape[1:])
        if (column.dtype, width) != (one.dtype, one.raw_width):
            raise ValueError(
                f"`item_table.features[{name!r}]` must be {one.dtype} with "
                f"{one.raw_width} values for each item, as it is declared. "
                f"Received: {column.dtype} with {width}"
            )


def _check_model(
    model: BaseRanker,
    features: Features,
    learned: Mapping[str, npt.ArrayLike],
) -> None:
    for name, expected in model_arguments(features, learned).items():
        given = getattr(model, name)
        if isinstance(expected, tuple):
            given = tuple(given)
        if given != expected or [*_ordered(given)] != [*_ordered(expected)]:
            raise ValueError(
                f"`model.{name}` must be {expected}, as `features` and "
                f"`learned` say. Received: {given}"
            )


def _ordered(value: Any) -> Collection[Any]:
    """Return names in order, since the columns of inputs have an order."""
    return value if isinstance(value, dict) else ()


def _check_table(model: BaseRanker, item_table: ItemTable) -> None:
    table = model.table
    for name in ("num_items", "dim"):
        mine, given = getattr(table, name), getattr(item_table, name)
        if mine != given:
            raise ValueError(
                f"`item_table.{name}` must be {mine}, as in `model.table`. "
                f"Received: {given}"
            )
    sample = np.unique(
        np.linspace(0, item_table.num_items - 1, num=1000).astype(np.int64)
    )
    if not is_held(table.codes):
        return
    rows, codes = (
        np.asarray(one) for one in table(item_table.item_ids[sample])
    )
    # Checked in parts: each item may load a large page of the mapped file.
    for part in np.array_split(np.arange(len(sample)), 50):
        some = sample[part]
        same = np.array_equal(rows[part], some + 1) and np.array_equal(
            codes[part], item_table.codes[some + 1]
        )
        release_pages(item_table.codes)
        if not same:
            raise ValueError(
                "`model.table` does not hold `item_table`. Call "
                "`model.table.assign(item_table)` with the table the model "
                "was trained with."
            )


def _readable(size: int) -> str:
    value = float(size)
    for unit in ("B", "KiB", "MiB"):
        if value < 1024:
            return f"{value:.1f} {unit}"
        value /= 1024
    return f"{value:.1f} GiB"
