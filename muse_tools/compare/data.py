"""Prepares the data that all cells of a data set share, by the pipeline."""

from __future__ import annotations

import os
import pathlib
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np
import numpy.typing as npt
import tensorflow as tf
import tensorflow_transform as tft

from muse_keras.tables import ItemTable
from muse_keras.tensorflow import request_features
from muse_tools.compare import keys
from muse_tools.compare.config import (
    BASE_EMBEDDINGS,
    MADE,
    CompareConfig,
    DataSetConfig,
    noise_level,
)
from muse_tools.compare.impressions import Impressions
from muse_tools.compare.plan import Prepared
from muse_tools.datasets.arrow_lists import find_sorted
from muse_tools.datasets.raw_tables import RawTables
from schemas.settings_file import ConfigError
from serving.export.encodings import index_sizes
from serving.files import locked
from tfx_pipeline import config as pipeline_config
from tfx_pipeline import features, learned_values
from tfx_pipeline.training import input_fn

Report = Callable[[str], None]

_BATCH = 64
_NODES = ("Transform", "ItemTableGen")
_NOISE_SEED = 20251207
_NOISE_VERSION = 2
_IMPRESSIONS_VERSION = 2


def prepare(config: CompareConfig, name: str, report: Report) -> Prepared:
    """Makes or finds the inputs of the cells of a data set.

    Examples, Transform and item vectors come from the pipeline's components,
    or from its cache if nothing changed. Concurrent processes wait for one
    another.

    Raises:
        ConfigError: if the configuration does not fit the data.
        DataError: if raw tables are missing.
    """
    chosen = config.data_sets[name]
    pipeline = pipeline_config.load_config(chosen.pipeline, chosen.overrides)
    folder = config.root / "data" / name
    with locked(pipeline.root / ".compare.lock"):
        made = _make_raw(chosen, pipeline, report)
        wanted: list[str] = [pipeline.item_embeddings]
        wanted += [one for one in config.embeddings if one in MADE]
        tables: dict[str, pathlib.Path] = {}
        examples = graph = pathlib.Path()
        # The pipeline's own kind is made last, so that it is the newest in ML
        # Metadata.
        for kind in dict.fromkeys(reversed(wanted)):
            report(f"{name}: preparing examples and {kind} item vectors")
            examples, graph, tables[kind] = _run_pipeline(
                pipeline, kind, report
            )
        with locked(folder / ".lock"):
            return _derived(
                config,
                folder,
                pipeline,
                {**tables, BASE_EMBEDDINGS: tables[pipeline.item_embeddings]},
                examples,
                graph,
                made,
                report,
            )


def _make_raw(
    chosen: DataSetConfig,
    pipeline: pipeline_config.PipelineConfig,
    report: Report,
) -> dict[str, Any]:
    """Makes the raw tables if necessary; returns their description."""
    from muse_tools.datasets import complete_journey, dataset_dir, synth

    directory = pathlib.Path(pipeline.data.raw_dir)
    if chosen.source == "raw":
        return dataset_dir.read_description(directory)
    module: Any = {"complete_journey": complete_journey, "synthetic": synth}[
        chosen.source
    ]
    try:
        options = module.Options(**chosen.options)
    except TypeError as error:
        raise ConfigError(
            f"data_sets: options of {chosen.source}: {error}"
        ) from error
    made, reused = module.generate(directory, options)
    report(f"{directory} {'found' if reused else 'written'}")
    return made


def _run_pipeline(
    pipeline: pipeline_config.PipelineConfig, kind: str, report: Report
) -> tuple[pathlib.Path, pathlib.Path, pathlib.Path]:
    """Returns transformed Examples, transform graph and item table."""
    # TFX is slow to import and only needed here.
    from tfx_pipeline.components.artifacts import TABLE_DIR
    from tfx_pipeline.runs import lineage, runner

    config = pipeline.model_copy(update={"item_embeddings": kind})
    runner.run(config, report, _NODES)
    return (
        lineage.latest_output(config, "Transform", "transformed_examples"),
        lineage.latest_output(config, "Transform", "transform_graph"),
        lineage.latest_output(config, "ItemTableGen", "item_table") / TABLE_DIR,
    )


def _derived(
    config: CompareConfig,
    folder: pathlib.Path,
    pipeline: pipeline_config.PipelineConfig,
    tables: dict[str, pathlib.Path],
    examples: pathlib.Path,
    graph: pathlib.Path,
    made: dict[str, Any],
    report: Report,
) -> Prepared:
    """Writes shorter histories, changed vectors and the impressions."""
    splits = {
        split: str(examples / f"Split-{split}" / "*")
        for split in (features.TRAIN_SPLIT, features.EVAL_SPLIT)
    }
    digests = {
        split: keys.files_digest(
            sorted(map(pathlib.Path, tf.io.gfile.glob(pattern)))
        )
        for split, pattern in splits.items()
    }
    output = tft.TFTransformOutput(str(graph))
    declared = RawTables.open(pipeline.data.raw_dir).declared
    learned = learned_values.read_learned(output, declared.features)
    sizes = index_sizes(declared.features, learned)
    spec = output.transformed_feature_spec()
    digests["vocabularies"] = keys.digest(
        {name: values.tolist() for name, values in learned.items()}
    )
    files = {split: {0: pattern} for split, pattern in splits.items()}
    lengths = [
        length
        for length in config.history_lengths
        if length < pipeline.transform.max_history
    ]
    if len(lengths) < len(config.history_lengths):
        raise ConfigError(
            "`history_lengths` must be below transform.max_history, "
            f"{pipeline.transform.max_history}. "
            f"Received: {list(config.history_lengths)}"
        )
    for length in lengths:
        for split, pattern in splits.items():
            target = folder / f"{split}-{length}-{digests[split]}.gz"
            if not target.exists():
                report(f"Keeping the {length} newest behaviors of {split}")
                write_shorter(
                    [pattern],
                    spec,
                    length,
                    {
                        name: (
                            sizes[f"item_{name}"],
                            declared.features.item[name].many,
                        )
                        for name in declared.features.matches
                    },
                    target,
                )
            files[split][length] = str(target)
    base = ItemTable.open(tables[BASE_EMBEDDINGS])
    for name in config.embeddings:
        if name in tables:
            continue
        made_of = keys.digest([_table_digest(base), _NOISE_VERSION])
        target = folder / f"{name.replace(':', '-')}-{made_of}"
        if not target.exists():
            report(f"Making item vectors {name}")
            changed_vectors(base, name, target)
        tables[name] = target
    for name, table in tables.items():
        digests[f"items/{name}"] = _table_digest(ItemTable.open(table))
    both = keys.digest(
        [digests["train"], digests["eval"], _IMPRESSIONS_VERSION]
    )
    impressions = folder / f"impressions-{both}.npz"
    if not impressions.exists():
        report("Reading the impressions that are scored")
        read_impressions([splits["train"]], [splits["eval"]], spec).save(
            impressions
        )
    digests["impressions"] = both
    return Prepared(
        transform_graph=str(graph),
        train_files=files[features.TRAIN_SPLIT],
        eval_files=files[features.EVAL_SPLIT],
        item_tables={name: str(table) for name, table in tables.items()},
        impressions=str(impressions),
        digests=digests,
        settings={
            "model": pipeline.model.model_dump(mode="json"),
            "trainer": pipeline.trainer.model_dump(mode="json"),
            "schema": declared.model_dump(mode="json"),
        },
        max_history=pipeline.transform.max_history,
        description={
            "source": made.get("name", "raw tables"),
            "declaration": {
                "name": declared.name,
                "digest": declared.digest(),
                "labels": ", ".join(declared.labels),
            },
            "parameters": made.get("parameters", {}),
            "splits": made.get("splits", {}),
            "item_embeddings": pipeline.item_embeddings,
        },
    )


def _table_digest(table: ItemTable) -> str:
    return keys.digest(table.manifest["files"])


def changed_vectors(
    base: ItemTable, name: str, target: pathlib.Path
) -> ItemTable:
    """Writes an item table with worse vectors.

    ``noise:SIGMA`` adds a Gaussian vector of expected length SIGMA to each unit
    vector; the cosine to the original is about 1 / sqrt(1 + SIGMA^2). Equal
    vectors get equal noise, so they stay equal. ``item_noise:SIGMA`` draws the
    noise for each item, so items with equal content become distinguishable.
    ``random`` replaces the vectors; equal vectors stay equal. Items without a
    vector still have none.
    """
    codes = np.asarray(base.codes[1:])
    units = codes * base.inverse_norms()[1:, None].astype(np.float64)
    generator = np.random.default_rng(_NOISE_SEED)
    noise = generator.standard_normal(units.shape) / np.sqrt(base.dim)
    own = noise_level(name, "item_noise")
    if own is None:
        rows = np.ascontiguousarray(codes).view(f"V{base.dim}").reshape(-1)
        _, first, equal = np.unique(
            rows, return_index=True, return_inverse=True
        )
        noise = noise[first[equal.reshape(-1)]]
    level = own or noise_level(name)
    vectors = noise if level is None else units + level * noise
    vectors /= np.linalg.norm(vectors, axis=1, keepdims=True)
    vectors[base.inverse_norms()[1:] == 0] = 0
    return ItemTable.write(
        target,
        base.item_ids,
        np.trunc(127 * vectors).astype(np.int8),
        {key: values[1:] for key, values in base.features.items()},
        source=f"{base.manifest['source']} {name}",
    )


def write_shorter(
    files: Sequence[str],
    spec: dict[str, Any],
    length: int,
    matches: Mapping[str, tuple[int, int]],
    target: pathlib.Path,
) -> None:
    """Writes requests with only the newest `length` behaviors.

    `matches` maps each matched feature to its number of indices and its number
    of values (0 or 1 for a single one). Matches are counted again, because the
    removed behaviors no longer count.
    """
    target.parent.mkdir(parents=True, exist_ok=True)
    temporary = target.with_name(f".{target.name}.{os.getpid()}")
    with tf.io.TFRecordWriter(str(temporary), options="GZIP") as writer:
        for batch in input_fn.request_dataset(files, spec, _BATCH):
            ids = batch[features.BEHAVIOR_ITEM_IDS]
            keep = request_features.newest_mask(ids, length)
            changed = dict(batch)
            for name, (size, many) in matches.items():
                behaviors, candidates = (
                    tf.reshape(batch[f"{group}_{name}"], [*of.shape, many])
                    if many
                    else batch[f"{group}_{name}"]
                    for group, of in (
                        ("behavior", ids),
                        ("candidate", batch[features.CANDIDATE_ITEM_IDS]),
                    )
                )
                changed[f"candidate_{name}_matches"] = (
                    request_features.feature_matches(
                        behaviors, keep, candidates, size
                    )
                )
            arrays = {name: value.numpy() for name, value in changed.items()}
            kept = keep.numpy()
            real = arrays[features.CLICKS] != input_fn.PADDING
            for row in range(len(kept)):
                writer.write(_request(arrays, row, kept[row], real[row]))
    temporary.replace(target)


def _request(
    arrays: dict[str, npt.NDArray[Any]],
    row: int,
    kept: npt.NDArray[np.bool_],
    real: npt.NDArray[np.bool_],
) -> bytes:
    message = tf.train.Example()
    for name, values in arrays.items():
        chosen = values[row]
        if not name.startswith("user_"):
            things = kept if name.startswith("behavior_") else real
            width = len(chosen) // max(1, len(things))
            chosen = chosen[np.repeat(things, width)]
        feature = message.features.feature[name]
        if values.dtype.kind == "f":
            feature.float_list.value.extend(chosen.tolist())
        else:
            feature.int64_list.value.extend(chosen.tolist())
    return message.SerializeToString()


def read_impressions(
    train_files: Sequence[str],
    eval_files: Sequence[str],
    spec: dict[str, Any],
) -> Impressions:
    """Reads the test impressions in the order in which a cell scores them."""
    shown = [
        batch[features.CANDIDATE_ITEM_IDS].numpy()[
            batch[features.CLICKS].numpy() != input_fn.PADDING
        ]
        for batch in input_fn.request_dataset(train_files, spec, _BATCH)
    ]
    items, counts = np.unique(
        np.concatenate([np.zeros(0, np.int64), *shown]), return_counts=True
    )
    parts: list[tuple[npt.NDArray[np.int64], ...]] = []
    for batch in input_fn.request_dataset(eval_files, spec, _BATCH):
        clicks = batch[features.CLICKS].numpy()
        real = clicks != input_fn.PADDING
        users = batch[features.USER_ID].numpy()[:, :1]
        behaviors = batch[features.BEHAVIOR_ITEM_IDS].numpy()
        shown_items = batch[features.CANDIDATE_ITEM_IDS].numpy()
        candidates = shown_items[real]
        repeats = behaviors[:, None] == shown_items[:, :, None]
        place, known = find_sorted(items, candidates)
        parts.append(
            (
                np.broadcast_to(users, clicks.shape)[real],
                clicks[real],
                np.broadcast_to(
                    (behaviors != 0).sum(axis=1)[:, None], clicks.shape
                )[real],
                np.where(known, np.r_[counts, 0][place], 0),
                repeats.sum(axis=2)[real],
            )
        )
    columns = [np.concatenate(part) for part in zip(*parts, strict=True)]
    return Impressions(*columns)
