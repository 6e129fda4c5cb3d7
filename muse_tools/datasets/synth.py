"""Generates synthetic users, items and clicks in the raw layout.

Items belong to latent styles inside categories; users have a few permanent
interests and several temporary ones. A click depends on the similarity of the
candidate's latent style to the interests behind the user's recent and distant
past, on the candidate's category, and on the user. Item vectors are noisy int8
views of the latent style. The generator uses no formula of a ranking model (no
retrieval, no similarity tiers), so that it favors none; `dataset.json` holds
the GAUC of the true probabilities.

Item noise comes from a counter-based hash, so latents are recomputed instead of
stored, and users are generated in chunks: memory is about 40 bytes per item
plus one chunk, for any number and length of histories.
"""

from __future__ import annotations

import collections
import contextlib
import dataclasses
import functools
import os
import pathlib
from collections.abc import Iterator
from typing import Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa

from muse_tools.datasets import (
    dataset_dir,
    raw_tables,
    search_tables,
    synth_broken,
    synth_search,
)
from muse_tools.datasets.arrow_lists import Ints, Mask, ranges
from muse_tools.datasets.dataset_dir import Progress
from muse_tools.datasets.options import SyntheticOptions as Options
from muse_tools.datasets.raw_rows import (
    TAOBAO_MM,
    item_rows,
    sample_rows,
    user_rows,
    vector_rows,
)
from muse_tools.datasets.synth_items import (
    CITIES_PER_PROVINCE,
    STYLES_PER_CATEGORY,
    Catalog,
    public_ids,
)
from muse_tools.datasets.synth_users import (
    PHASES,
    calibrated_bias,
    click_logits,
    make_candidates,
    make_timelines,
    make_users,
    sigmoid,
    user_gauc,
)
from muse_tools.datasets.table_writer import TableWriter

GENERATOR_VERSION = 2

_Floats = npt.NDArray[np.float64]
_Splits = dict[str, collections.defaultdict[str, float]]

_EMPTY_HISTORIES = 0.01
_NAMES = pa.schema(
    [("item_id", pa.int64()), ("name", pa.string()), ("category", pa.string())]
)

_CHUNK_POSITIONS = 1 << 20
_CHUNK_USERS = 1 << 14
_CHUNK_ITEMS = 1 << 15


def _chunks(total: Ints) -> Iterator[slice]:
    """Yields runs of at least one user with a bounded number of positions."""
    begin = 0
    ends = np.cumsum(total)
    while begin < len(total):
        base = ends[begin - 1] if begin else 0
        stop = int(np.searchsorted(ends, base + _CHUNK_POSITIONS, "right"))
        stop = min(max(stop, begin + 1), begin + _CHUNK_USERS, len(total))
        yield slice(begin, stop)
        begin = stop


def _item_chunks(count: int) -> Iterator[Ints]:
    for begin in range(0, count, _CHUNK_ITEMS):
        yield np.arange(begin, min(begin + _CHUNK_ITEMS, count))


def _padded_users(
    user_ids: Ints,
    profiles: Ints,
    items: Ints,
    categories: Ints,
    lengths: Ints,
    padding: Ints,
) -> pa.RecordBatch:
    """Builds user rows; `padding` zeros go in front of each history."""
    offsets = np.r_[0, np.cumsum(lengths + padding)]
    lists = np.zeros((2, offsets[-1]), np.int64)
    lists[:, ranges(offsets[:-1] + padding, lengths)] = items, categories
    return user_rows(user_ids, profiles.T.copy(), lists[0], lists[1:], offsets)


def generate(
    out: str | os.PathLike[str],
    options: Options | None = None,
    progress: Progress | None = None,
) -> tuple[dict[str, Any], bool]:
    """Writes synthetic raw tables, see `dataset_dir.make`."""
    options = options or Options()
    return dataset_dir.make(
        out,
        "synthetic",
        GENERATOR_VERSION,
        dataclasses.asdict(options),
        functools.partial(_write, options),
        progress,
    )


def _write(
    options: Options,
    staging: pathlib.Path,
    description: dict[str, Any],
    tell: Progress,
) -> None:
    tell("making items", 0.0)
    catalog = Catalog(
        options.items,
        options.seed,
        options.new_items,
        options.missing_embeddings,
    )
    rng = np.random.default_rng([options.seed, 2])
    lengths = _history_lengths(options, rng)
    extra = np.where(
        lengths > 0, 1 + rng.poisson(0.1 * np.minimum(lengths, 500)), 0
    )
    in_test = rng.random(options.users) < options.test_users
    in_test[0] = True
    bias = _pilot_bias(options, catalog)
    splits: _Splits = {
        split: collections.defaultdict(float) for split in raw_tables.SPLITS
    }
    raw = staging / "raw"
    with contextlib.ExitStack() as stack:
        writers = {
            name: stack.enter_context(
                TableWriter(raw / f"{name}.parquet", schema)
            )
            for name, schema in raw_tables.schemas(TAOBAO_MM).items()
        }
        for number, part in enumerate(_chunks(lengths + extra)):
            tell("making users", 0.05 + 0.75 * part.start / options.users)
            _make_chunk(
                number,
                part,
                lengths[part],
                extra[part],
                in_test[part],
                bias,
                options,
                catalog,
                writers,
                splits,
            )
        tell("writing items", 0.8)
        names = stack.enter_context(
            TableWriter(staging / "names.parquet", _NAMES)
        )
        embedded = _write_items(catalog, writers, names)
        broken = synth_broken.raw_rows(options, catalog)
        for name, by_reason in broken.items():
            for rows in by_reason.values():
                writers[name].write(rows)
    if options.search_events:
        tell("writing searches", 0.9)
        searches = _write_searches(raw, options, catalog, broken)
    description["broken"] = {
        name: dict.fromkeys(by_reason, options.broken)
        for name, by_reason in broken.items()
    }
    if options.search_events:
        description["search"] = searches
    description["splits"] = {
        split: {
            "users": int(found["users"]),
            "impressions": int(found["impressions"]),
            "click_rate": round(found["clicks"] / found["impressions"], 5),
            "mean_history": round(found["behaviors"] / found["users"], 1),
            "gauc_of_true_probabilities": round(
                found["gauc"] / found["weight"], 4
            )
            if found["weight"]
            else None,
        }
        for split, found in splits.items()
    }
    description["items"] = {
        "count": options.items,
        "categories": catalog.num_categories,
        "new_in_test": int(catalog.is_new.sum()),
        "with_embedding": embedded,
    }


def _history_lengths(options: Options, rng: np.random.Generator) -> Ints:
    """Draws lengths of train histories: mostly long, with a short tail."""
    drawn = rng.lognormal(np.log(options.history), 0.8, options.users)
    lengths = np.minimum(drawn, options.history).astype(np.int64)
    lengths[rng.random(options.users) < _EMPTY_HISTORIES] = 0
    return lengths


def _pilot_bias(options: Options, catalog: Catalog) -> float:
    """Calibrates the common bias on users that are not written."""
    rng = np.random.default_rng([options.seed, 3])
    users = make_users(4096, catalog, rng)
    shown = make_candidates(
        users, options.candidates, PHASES - 1, False, catalog, rng
    )
    logits = click_logits(
        users,
        rng.random(4096) >= _EMPTY_HISTORIES,
        shown,
        PHASES - 1,
        np.arange(4096),
        catalog,
        rng,
    )
    return calibrated_bias(logits, options.click_rate)


def _make_chunk(
    number: int,
    part: slice,
    lengths: Ints,
    extra: Ints,
    in_test: Mask,
    bias: float,
    options: Options,
    catalog: Catalog,
    writers: dict[str, TableWriter],
    splits: _Splits,
) -> None:
    rng = np.random.default_rng([options.seed, 4, number])
    index = np.arange(part.start, part.stop)
    user_ids = public_ids(index, 0, options.seed)
    users = make_users(len(index), catalog, rng)
    timeline = make_timelines(users, lengths, extra, catalog, rng)
    starts = np.r_[0, np.cumsum(lengths + extra)][:-1]
    everyone = np.ones(len(index), bool)
    for split, chosen, phase, ends in (
        ("train", everyone, PHASES - 1, lengths),
        ("test", in_test, PHASES, lengths + extra),
    ):
        kept = np.minimum(ends, options.history)
        room = options.history - kept
        padding = np.where(
            rng.random(len(index)) < options.padded_users,
            np.minimum(room, 1 + kept // 10),
            0,
        )
        shown = make_candidates(
            users, options.candidates, phase, split == "test", catalog, rng
        )
        logits = bias + click_logits(
            users, ends > 0, shown, phase, index, catalog, rng
        )
        clicked = rng.random(logits.shape) < sigmoid(logits)
        if not chosen.any():
            continue
        items = timeline[ranges((starts + ends - kept)[chosen], kept[chosen])]
        writers[f"{split}_user_features"].write(
            _padded_users(
                user_ids[chosen],
                users.profiles[chosen],
                catalog.ids(items),
                catalog.categories(items),
                kept[chosen],
                padding[chosen],
            )
        )
        flat = shown[chosen].reshape(-1)
        writers[f"{split}_samples"].write(
            sample_rows(
                np.repeat(user_ids[chosen], options.candidates),
                catalog.ids(flat),
                clicked[chosen].reshape(-1),
            )
        )
        gauc, weight = user_gauc(clicked[chosen], logits[chosen])
        for name, more in (
            ("users", chosen.sum()),
            ("impressions", clicked[chosen].size),
            ("clicks", clicked[chosen].sum()),
            ("behaviors", kept[chosen].sum()),
            ("gauc", gauc),
            ("weight", weight),
        ):
            splits[split][name] += more


def _write_items(
    catalog: Catalog,
    writers: dict[str, TableWriter],
    names: TableWriter,
) -> int:
    """Writes features, vectors and names; returns the number of vectors."""
    embedded = 0
    for item in _item_chunks(catalog.size):
        ids = catalog.ids(item)
        city = catalog.city[item].astype(np.int64)
        writers[raw_tables.ITEM_FEATURES].write(
            item_rows(
                ids,
                [
                    catalog.categories(item),
                    public_ids(city, 3, catalog.seed),
                    public_ids(city // CITIES_PER_PROVINCE, 4, catalog.seed),
                ],
            )
        )
        known = catalog.has_embedding[item]
        writers[raw_tables.EMBEDDINGS].write(
            vector_rows(ids[known], catalog.codes(item[known]))
        )
        embedded += int(known.sum())
        style = catalog.style[item].tolist()
        category = [s // STYLES_PER_CATEGORY for s in style]
        text = [
            f"Item {i} (category {c}, style {s % STYLES_PER_CATEGORY})"
            for i, c, s in zip(item.tolist(), category, style, strict=True)
        ]
        names.write(
            pa.record_batch(
                [ids, text, [f"Category {c}" for c in category]], schema=_NAMES
            )
        )
    return embedded


def _write_searches(
    raw: pathlib.Path,
    options: Options,
    catalog: Catalog,
    broken: synth_broken.Rows,
) -> dict[str, int]:
    """Writes item content and searches; adds their broken rows to `broken`."""
    views = synth_search.Views(catalog)
    events = synth_search.make_events(options.search_events, catalog, views)
    content = (
        synth_search.content_rows(item, catalog, views)
        for item in _item_chunks(catalog.size)
    )
    searches = (
        synth_search.event_rows(events, event, catalog, views)
        for event in _item_chunks(options.search_events)
    )
    broken |= synth_broken.search_rows(options.broken, events, catalog)
    written = {}
    for name, schema, parts in (
        (search_tables.ITEM_CONTENT, synth_search.CONTENT_SCHEMA, content),
        (search_tables.SEARCH_EVENTS, synth_search.EVENT_SCHEMA, searches),
    ):
        with TableWriter(raw / f"{name}.parquet", schema) as writer:
            for rows in parts:
                writer.write(rows)
            written[name] = writer.rows
            for rows in broken.get(name, {}).values():
                writer.write(rows)
    return {
        "events": options.search_events,
        "clicks_without_purchase": len(events.clicked),
        "items_with_content": written[search_tables.ITEM_CONTENT],
    }
