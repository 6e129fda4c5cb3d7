"""Trains the SCL tower and its ablations."""

from __future__ import annotations

import pathlib
import shutil
import time
from collections.abc import Mapping, Sequence
from typing import Any

import keras
import numpy as np
import numpy.typing as npt
import tensorflow as tf

from muse_keras import callbacks
from muse_keras.layers import SCLTower
from muse_keras.models import SCL
from muse_tools.datasets import raw_tables, validation
from muse_tools.datasets.errors import DataError
from muse_tools.datasets.item_content import ItemContent
from serving.files import write_json
from tfx_pipeline import config as config_lib
from tfx_pipeline.scl import embedding, evaluation, export, search_dataset
from tfx_pipeline.training import checkpoints, devices, records
from tfx_pipeline.transforms import arrow_batches

CURVES_FILE = "training.jsonl"
EVALUATION_FILE = "evaluation.json"
MODEL_FILE = "model.keras"
RUN_FILE = "run.json"

_CHECK_STEPS = 50

TOWER = "tower"
VARIANTS: Mapping[str, Mapping[str, Any]] = {
    TOWER: {},
    "tower without bank": {"bank_size": 0},
    "tower without hard negatives": {"hard_negatives": 0},
}
"""Trained variants and the settings that each one changes."""


class Widths:
    """Widths of the modalities of queries, items and towers.

    A shared tower takes the modalities of both. `both` has the modalities that
    queries and items share, with the same width.

    Raises:
        DataError: there is no event, or a shared tower would need two widths
            of a modality.
    """

    def __init__(
        self, files: Sequence[str], content: ItemContent, shared: bool
    ) -> None:
        self.queries = search_dataset.query_modalities(files)
        self.items = dict(content.modalities)
        self.query_tower, self.item_tower = self.queries, self.items
        self.both = tuple(
            name
            for name in sorted(self.queries.keys() & self.items.keys())
            if self.queries[name] == self.items[name]
        )
        if shared:
            self.query_tower = self.item_tower = (
                search_dataset.tower_modalities(self.queries, self.items)
            )


def run(
    config: config_lib.SCLConfig,
    content: ItemContent,
    *,
    train_files: Sequence[str],
    eval_files: Sequence[str],
    raw_dir: str,
    checkpoint_dir: pathlib.Path,
    run_dir: pathlib.Path,
    model_dir: pathlib.Path,
) -> None:
    """Trains the tower and its ablations, evaluates and exports them.

    ``run_dir`` receives curves, records, recall and the Keras model, and
    ``model_dir`` the SavedModel. ``checkpoint_dir`` is removed at the end.

    Raises:
        DataError: there are too few events.
        CollapsedError: the embeddings collapse.
    """
    run_dir.mkdir(parents=True, exist_ok=True)
    widths = Widths(train_files, content, config.shared_tower)
    embedders: dict[str, embedding.Embedder] = {}
    trained: dict[str, dict[str, Any]] = {}
    model: keras.Model = None
    for name, change in variants(config).items():
        variant = config.model_copy(update=dict(change))
        start = time.monotonic()
        strategy = devices.choose_strategy()
        # Variants have the same seed and order, and differ only in a setting.
        keras.utils.set_random_seed(config.seed)
        with strategy.scope():
            made = build_model(variant, widths)
        curve = _curve_file(name)
        train(
            made,
            train_files,
            content,
            widths,
            variant,
            strategy=strategy,
            checkpoint_dir=checkpoint_dir / _slug(name),
            curves_path=run_dir / curve,
            name=name,
        )
        trained[name] = {
            "seconds": round(time.monotonic() - start, 1),
            "curve": curve,
            "held_out": _measure(made, variant, eval_files, content, widths),
        }
        embedders[name] = export.model_embedder(made)
        model = model or made
    if widths.both:
        embedders["raw modality cosine"] = embedding.raw_modalities(widths.both)
    embedders["random"] = embedding.by_chance(
        config.seed, raw_tables.EMBEDDING_DIM
    )
    held_out = evaluation.read_held_out(
        eval_files, content, widths.queries, config.evaluated_queries
    )
    found = evaluation.evaluate(
        embedders, held_out, content, item_categories(raw_dir, content), run_dir
    )
    write_json(run_dir / EVALUATION_FILE, found)
    write_json(
        run_dir / RUN_FILE,
        {
            "items": len(content),
            "events": records.count_records(train_files),
            "query_modalities": widths.queries,
            "item_modalities": widths.items,
            "trainable_weights": checkpoints.count_weights(model),
            "variants": trained,
        },
    )
    model.save(run_dir / MODEL_FILE)
    export.export_saved_model(
        model_dir,
        model,
        query_widths=widths.query_tower,
        item_widths=widths.item_tower,
    )
    shutil.rmtree(checkpoint_dir, ignore_errors=True)


def variants(
    config: config_lib.SCLConfig,
) -> dict[str, Mapping[str, Any]]:
    """Returns the variants to train: the tower and effective ablations."""
    used = {
        "bank_size": config.bank_size,
        "hard_negatives": _hard_negatives(config),
    }
    return {
        name: change
        for name, change in VARIANTS.items()
        if name == TOWER
        or (config.ablations and any(used[key] for key in change))
    }


def build_model(config: config_lib.SCLConfig, widths: Widths) -> keras.Model:
    """Returns an untrained SCL model."""

    def tower(modalities: Mapping[str, int], name: str) -> keras.layers.Layer:
        return SCLTower(
            modalities=dict(modalities),
            hidden_units=config.hidden_units,
            output_dim=raw_tables.EMBEDDING_DIM,
            dropout=config.dropout,
            name=name,
        )

    return SCL(
        query_tower=tower(
            widths.query_tower,
            "tower" if config.shared_tower else "query_tower",
        ),
        item_tower=(
            None
            if config.shared_tower
            else tower(widths.item_tower, "item_tower")
        ),
        bank_size=config.bank_size,
        momentum=config.momentum,
        bank_weight=config.bank_weight,
        temperature=config.temperature,
        triplet_weight=config.triplet_weight if _hard_negatives(config) else 0,
        margin=config.margin,
        name="scl",
    )


def train(
    model: keras.Model,
    files: Sequence[str],
    content: ItemContent,
    widths: Widths,
    config: config_lib.SCLConfig,
    *,
    strategy: tf.distribute.Strategy,
    checkpoint_dir: pathlib.Path,
    curves_path: pathlib.Path,
    name: str = TOWER,
) -> None:
    """Trains a model, from the last checkpoint if there is one.

    Raises:
        ValueError: the devices cannot share a batch evenly.
        DataError: ``FEW_SEARCH_EVENTS``: there are too few for one batch.
        CollapsedError: the embeddings collapse.
    """
    checkpoints.check_batch("scl.batch_events", config.batch_events, strategy)
    events = records.count_records(files)
    steps = events * config.epochs // config.batch_events
    if not steps:
        raise DataError(
            "FEW_SEARCH_EVENTS",
            f"{events:,} search events in {config.epochs} epochs do not make "
            f"one batch of {config.batch_events:,}.",
            "lower scl.batch_events, or give more events.",
        )
    with strategy.scope():
        model.compile(
            optimizer=keras.optimizers.Adam(
                _learning_rate(config.learning_rate, steps)
            ),
            jit_compile=False,
        )
        model.optimizer.build(model.trainable_variables)

    def batches(done: int) -> tf.data.Dataset:
        return search_dataset.search_dataset(
            files,
            content,
            query_widths=widths.queries,
            item_widths=widths.items,
            batch_events=config.batch_events,
            hard_negatives=_hard_negatives(config),
            shuffle=config.shuffle_events,
            epochs=config.epochs,
            seed=config.seed,
            skip_batches=done,
        )

    checkpoints.fit(
        model,
        batches,
        steps,
        directory=checkpoint_dir,
        curve=curves_path,
        checkpoint_steps=config.checkpoint_steps,
        callbacks=[_guard(config)],
        name=name,
    )


def item_categories(
    raw_dir: str, content: ItemContent
) -> npt.NDArray[np.int64]:
    """Returns the category of every item with content, int64 (N,); 0: none.

    The category is the first item feature of the declaration.
    """
    categories = np.zeros(len(content), np.int64)
    tables = raw_tables.RawTables.open(raw_dir)
    name = f"item_{next(iter(tables.declared.features.item))}"
    for batch in tables[raw_tables.ITEM_FEATURES].iter_batches():
        good, _ = validation.validate("item_features", batch)
        ids = arrow_batches.numpy_column(good, raw_tables.ITEM_ID)
        rows = content.rows_of(ids)
        known = rows >= 0
        category = arrow_batches.numpy_column(good, name)
        categories[rows[known]] = category[known]
    return categories


def _measure(
    model: keras.Model,
    config: config_lib.SCLConfig,
    files: Sequence[str],
    content: ItemContent,
    widths: Widths,
) -> dict[str, float]:
    """Returns losses and spread on held-out events, and checks for collapse."""
    measured = model.evaluate(
        search_dataset.search_dataset(
            files,
            content,
            query_widths=widths.queries,
            item_widths=widths.items,
            batch_events=config.batch_events,
            hard_negatives=_hard_negatives(config),
            drop_remainder=False,
        ),
        steps=-(-records.count_records(files) // config.batch_events),
        return_dict=True,
        verbose=0,
    )
    guard = _guard(config)
    guard.patience = 0
    guard.on_epoch_end(
        config.epochs - 1,
        {f"val_{name}": value for name, value in measured.items()},
    )
    return {name: float(value) for name, value in measured.items()}


def _hard_negatives(config: config_lib.SCLConfig) -> int:
    """Returns the hard negatives used per event; 0 if they have no weight."""
    return config.hard_negatives if config.triplet_weight else 0


def _learning_rate(
    highest: float, steps: int
) -> keras.optimizers.schedules.LearningRateSchedule:
    """Returns a rate that rises for a tenth of the steps, then falls to 0."""
    rising = max(1, steps // 10)
    return keras.optimizers.schedules.CosineDecay(
        0.0,
        max(1, steps - rising),
        warmup_target=highest,
        warmup_steps=rising,
    )


def _guard(config: config_lib.SCLConfig) -> callbacks.CollapseGuard:
    return callbacks.CollapseGuard(
        max_mean_cosine=config.max_mean_cosine,
        min_variance=config.min_variance,
        patience=config.collapse_patience,
        every=_CHECK_STEPS,
    )


def _slug(name: str) -> str:
    return name.replace(" ", "_")


def _curve_file(name: str) -> str:
    if name == TOWER:
        return CURVES_FILE
    stem, _, ending = CURVES_FILE.partition(".")
    return f"{stem}-{_slug(name)}.{ending}"
