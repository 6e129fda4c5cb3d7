"""Synthetic users, items and clicks in exactly the raw layout.

Items belong to latent styles inside categories; users keep a few interests
for good and pass through others. What a user clicks depends on how well the
candidate's latent style agrees with the interests behind the user's past,
recent and far, on its category, and on the user. Item vectors are noisy int8
views of the latent style. No formula of a ranking model occurs here (no
retrieval, no similarity tiers), so beating a baseline on this data means
something; `dataset.json` tells the GAUC of the true probabilities.

Item noise comes from a counter-based hash, so latents are recomputed where
needed instead of stored, and users are made in chunks: memory is about 40
bytes per item plus one chunk, whatever the number and length of histories.
"""

from __future__ import annotations

import contextlib
import dataclasses
import os
import pathlib
import time
from collections.abc import Callable, Iterator
from typing import Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa

from muse_tools.datasets import (
    dataset_dir,
    raw_tables,
    search_tables,
    synth_search,
    validation,
)
from muse_tools.datasets.arrow_lists import list_array, ranges
from muse_tools.datasets.synth_items import (
    CITIES_PER_PROVINCE,
    STYLES_PER_CATEGORY,
    Catalogue,
    public_ids,
)
from muse_tools.datasets.synth_users import (
    PHASES,
    PROFILE_SIZES,
    click_logits,
    make_candidates,
    make_timelines,
    make_users,
)

__all__ = ["GENERATOR_VERSION", "MAX_HISTORY", "Options", "generate"]

GENERATOR_VERSION = 2
MAX_HISTORY = 100_000

Progress = Callable[[str, float], None]
"""Called with a stage's name and the share of all work done (0 to 1)."""

_Floats = npt.NDArray[np.float64]
_Ints = npt.NDArray[np.int64]

_EMPTY_HISTORIES = 0.01
_NAMES = pa.schema(
    [("item_id", pa.int64()), ("name", pa.string()), ("category", pa.string())]
)

_CHUNK_POSITIONS = 1 << 20
_CHUNK_USERS = 1 << 14
_CHUNK_ITEMS = 1 << 15


@dataclasses.dataclass(frozen=True)
class Options:
    """What determines the output.

    Attributes:
        users: Users, all of them in train.
        items: Items.
        history: Longest history, up to 100,000.
        seed: Seed of every random choice.
        candidates: Impressions per user and split.
        click_rate: Expected share of clicks.
        test_users: Share of users with test impressions.
        new_items: Share of items that occur only as test candidates.
        missing_embeddings: Share of items without a vector, mostly rare.
        padded_users: Share of short histories with zeros in front.
        broken: Broken rows of each kind to add.
        search_events: Searches that led to a purchase; 0 leaves out them and
            the item content.
    """

    users: int = 10_000
    items: int = 50_000
    history: int = 1_000
    seed: int = 0
    candidates: int = 11
    click_rate: float = 0.137
    test_users: float = 0.3
    new_items: float = 0.05
    missing_embeddings: float = 0.1
    padded_users: float = 0.1
    broken: int = 0
    search_events: int = 20_000

    def __post_init__(self) -> None:
        """Checks every value."""
        for name, least, most in (
            ("users", 10, 1 << 40),
            ("items", 100, 1 << 31),
            ("history", 1, MAX_HISTORY),
            ("seed", 0, 1 << 62),
            ("candidates", 1, 1000),
            ("broken", 0, 1 << 20),
            ("search_events", 0, 1 << 34),
        ):
            value = getattr(self, name)
            if not least <= value <= most:
                raise ValueError(
                    f"{name}: expected {least:,} to {most:,}. Received: {value}"
                )
        for name, top in (
            ("click_rate", 0.9),
            ("test_users", 1.0),
            ("new_items", 0.5),
            ("missing_embeddings", 0.5),
            ("padded_users", 1.0),
        ):
            value = getattr(self, name)
            if not 0 <= value <= top:
                raise ValueError(
                    f"{name}: expected 0 to {top}. Received: {value}"
                )
        if not self.click_rate or not self.test_users:
            raise ValueError(
                "click_rate: expected it and test_users to be above 0. "
                f"Received: {self.click_rate} and {self.test_users}"
            )


def _sigmoid(logits: _Floats) -> _Floats:
    return 0.5 * (1.0 + np.tanh(0.5 * logits))


def _chunks(total: _Ints) -> Iterator[slice]:
    """Cuts users into runs of bounded positions; at least one user each."""
    begin = 0
    ends = np.cumsum(total)
    while begin < len(total):
        base = ends[begin - 1] if begin else 0
        stop = int(np.searchsorted(ends, base + _CHUNK_POSITIONS, "right"))
        stop = min(max(stop, begin + 1), begin + _CHUNK_USERS, len(total))
        yield slice(begin, stop)
        begin = stop


def _calibrate(logits: _Floats, click_rate: float) -> float:
    """Returns the bias that gives the wanted mean probability."""
    low, high = -30.0, 30.0
    for _ in range(60):
        middle = (low + high) / 2
        if float(_sigmoid(logits + middle).mean()) > click_rate:
            high = middle
        else:
            low = middle
    return (low + high) / 2


def _user_gauc(
    clicked: npt.NDArray[np.bool_], scores: _Floats
) -> tuple[float, int]:
    """Returns the sum of AUC x impressions over users, and impressions."""
    positive = clicked[:, :, None] & ~clicked[:, None, :]
    wins = (scores[:, :, None] > scores[:, None, :]) & positive
    pairs = positive.sum((1, 2))
    usable = pairs > 0
    auc = wins.sum((1, 2))[usable] / pairs[usable]
    width = clicked.shape[1]
    return float(auc.sum() * width), int(usable.sum() * width)


def _sample_rows(
    user_ids: _Ints, item_ids: _Ints, clicked: npt.NDArray[np.bool_]
) -> pa.RecordBatch:
    one_hot = np.stack([~clicked, clicked], axis=1).astype(np.int8)
    return pa.RecordBatch.from_arrays(
        [
            list_array(
                one_hot.reshape(-1), np.arange(len(one_hot) + 1) * 2, pa.int8()
            ),
            pa.array(user_ids),
            pa.array(item_ids),
        ],
        schema=raw_tables.SCHEMAS[raw_tables.TRAIN_SAMPLES],
    )


def _user_rows(
    user_ids: _Ints,
    profiles: _Ints,
    items: _Ints,
    categories: _Ints,
    lengths: _Ints,
    padding: _Ints,
) -> pa.RecordBatch:
    """Builds user rows; `padding` zeros go in front of each history."""
    offsets = np.r_[0, np.cumsum(lengths + padding)]
    at = ranges(offsets[:-1] + padding, lengths)
    lists = []
    for values in (items, categories):
        padded = np.zeros(offsets[-1], np.int64)
        padded[at] = values
        lists.append(list_array(padded, offsets, pa.int64()))
    return pa.RecordBatch.from_arrays(
        [pa.array(user_ids), *(pa.array(p) for p in profiles.T.copy()), *lists],
        schema=raw_tables.SCHEMAS[raw_tables.TRAIN_USER_FEATURES],
    )


def generate(
    out: str | os.PathLike[str],
    options: Options | None = None,
    progress: Progress | None = None,
) -> tuple[dict[str, Any], bool]:
    """Writes synthetic raw tables.

    Args:
        out: Output directory; gets ``raw/*.parquet``, ``names.parquet`` and
            ``dataset.json``. An equal complete output is reused.
        options: What to make.
        progress: Called as the work goes on.

    Returns:
        The content of ``dataset.json``, and whether it was there already.

    Raises:
        DataError: ``OUTPUT_EXISTS``.
    """
    options = options or Options()
    parameters = dataclasses.asdict(options)
    found = dataset_dir.reusable(out, parameters, GENERATOR_VERSION)
    if found is not None:
        return found, True
    started = time.monotonic()
    description: dict[str, Any] = {
        "name": "synthetic",
        "generator_version": GENERATOR_VERSION,
        "parameters": parameters,
    }
    tell = progress or (lambda stage, share: None)
    with dataset_dir.staged(out, description) as staging:
        _generate(staging, options, description, tell)
        description["seconds"] = round(time.monotonic() - started, 1)
    tell("done", 1.0)
    return description, False


def _generate(
    staging: pathlib.Path,
    options: Options,
    description: dict[str, Any],
    tell: Progress,
) -> None:
    tell("making items", 0.0)
    catalogue = Catalogue(
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
    bias = _pilot_bias(options, catalogue)
    splits: dict[str, dict[str, float]] = {
        split: dict.fromkeys(
            ("users", "impressions", "clicks", "behaviors", "gauc", "weight"),
            0,
        )
        for split in raw_tables.SPLITS
    }
    raw = staging / "raw"
    with contextlib.ExitStack() as stack:
        writers = {
            name: stack.enter_context(
                raw_tables.TableWriter(raw / f"{name}.parquet", schema)
            )
            for name, schema in raw_tables.SCHEMAS.items()
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
                catalogue,
                writers,
                splits,
            )
        tell("writing items", 0.8)
        names = stack.enter_context(
            raw_tables.TableWriter(staging / "names.parquet", _NAMES)
        )
        embedded = _write_items(catalogue, writers, names)
        description["broken"] = _add_broken_rows(options, catalogue, writers)
    if options.search_events:
        tell("writing searches", 0.9)
        description["search"] = _write_searches(
            raw, options, catalogue, description["broken"]
        )
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
        "categories": catalogue.num_categories,
        "new_in_test": int(catalogue.is_new.sum()),
        "with_embedding": embedded,
    }


def _history_lengths(options: Options, rng: np.random.Generator) -> _Ints:
    """Draws train history lengths: most long, a tail of short ones."""
    drawn = rng.lognormal(np.log(options.history), 0.8, options.users)
    lengths = np.minimum(drawn, options.history).astype(np.int64)
    lengths[rng.random(options.users) < _EMPTY_HISTORIES] = 0
    return lengths


def _pilot_bias(options: Options, catalogue: Catalogue) -> float:
    """Finds the common bias on pilot users that are not written."""
    rng = np.random.default_rng([options.seed, 3])
    users = make_users(4096, catalogue, rng)
    shown = make_candidates(
        users, options.candidates, PHASES - 1, False, catalogue, rng
    )
    logits = click_logits(
        users,
        rng.random(4096) >= _EMPTY_HISTORIES,
        shown,
        PHASES - 1,
        np.arange(4096),
        catalogue,
        rng,
    )
    return _calibrate(logits, options.click_rate)


def _make_chunk(
    number: int,
    part: slice,
    lengths: _Ints,
    extra: _Ints,
    in_test: npt.NDArray[np.bool_],
    bias: float,
    options: Options,
    catalogue: Catalogue,
    writers: dict[str, raw_tables.TableWriter],
    splits: dict[str, dict[str, float]],
) -> None:
    """Makes and writes one chunk of users."""
    rng = np.random.default_rng([options.seed, 4, number])
    index = np.arange(part.start, part.stop)
    user_ids = public_ids(index, 0, options.seed)
    users = make_users(len(index), catalogue, rng)
    timeline = make_timelines(users, lengths, extra, catalogue, rng)
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
            users, options.candidates, phase, split == "test", catalogue, rng
        )
        logits = bias + click_logits(
            users, ends > 0, shown, phase, index, catalogue, rng
        )
        clicked = rng.random(logits.shape) < _sigmoid(logits)
        if not chosen.any():
            continue
        items = timeline[ranges((starts + ends - kept)[chosen], kept[chosen])]
        writers[f"{split}_user_features"].write(
            _user_rows(
                user_ids[chosen],
                users.profiles[chosen],
                catalogue.ids(items),
                catalogue.categories(items),
                kept[chosen],
                padding[chosen],
            )
        )
        flat = shown[chosen].reshape(-1)
        writers[f"{split}_samples"].write(
            _sample_rows(
                np.repeat(user_ids[chosen], options.candidates),
                catalogue.ids(flat),
                clicked[chosen].reshape(-1),
            )
        )
        gauc, weight = _user_gauc(clicked[chosen], logits[chosen])
        found = splits[split]
        found["users"] += int(chosen.sum())
        found["impressions"] += int(clicked[chosen].size)
        found["clicks"] += int(clicked[chosen].sum())
        found["behaviors"] += int(kept[chosen].sum())
        found["gauc"] += gauc
        found["weight"] += weight


def _write_items(
    catalogue: Catalogue,
    writers: dict[str, raw_tables.TableWriter],
    names: raw_tables.TableWriter,
) -> int:
    """Writes features, vectors and names; returns the number of vectors."""
    embedded = 0
    for begin in range(0, catalogue.size, _CHUNK_ITEMS):
        item = np.arange(begin, min(begin + _CHUNK_ITEMS, catalogue.size))
        ids = catalogue.ids(item)
        city = catalogue.city[item].astype(np.int64)
        writers[raw_tables.ITEM_FEATURES].write(
            pa.RecordBatch.from_arrays(
                [
                    pa.array(ids),
                    pa.array(catalogue.categories(item)),
                    pa.array(public_ids(city, 3, catalogue.seed)),
                    pa.array(
                        public_ids(
                            city // CITIES_PER_PROVINCE, 4, catalogue.seed
                        )
                    ),
                ],
                schema=raw_tables.SCHEMAS[raw_tables.ITEM_FEATURES],
            )
        )
        known = catalogue.has_embedding[item]
        writers[raw_tables.EMBEDDINGS].write(
            _vector_rows(ids[known], catalogue.codes(item[known]))
        )
        embedded += int(known.sum())
        style = catalogue.style[item].tolist()
        category = [s // STYLES_PER_CATEGORY for s in style]
        text = [
            f"Item {i} (category {c}, style {s % STYLES_PER_CATEGORY})"
            for i, c, s in zip(item.tolist(), category, style, strict=True)
        ]
        names.write(
            pa.RecordBatch.from_arrays(
                [
                    pa.array(ids),
                    pa.array(text),
                    pa.array([f"Category {c}" for c in category]),
                ],
                schema=_NAMES,
            )
        )
    return embedded


def _write_searches(
    raw: pathlib.Path,
    options: Options,
    catalogue: Catalogue,
    broken: dict[str, dict[str, int]],
) -> dict[str, int]:
    """Writes item content and searches; returns what there is.

    Args:
        raw: Where to write.
        options: What to make.
        catalogue: Items.
        broken: Gets the broken rows by table and reason.
    """
    views = synth_search.Views(catalogue)
    events = synth_search.make_events(options.search_events, catalogue, views)
    bad_items: dict[str, pa.RecordBatch] = {}
    bad_events: dict[str, pa.RecordBatch] = {}
    if options.broken:
        bad_items = synth_search.broken_content_rows(options.broken, catalogue)
        bad_events = synth_search.broken_event_rows(
            options.broken, events, catalogue
        )
    with raw_tables.TableWriter(
        raw / f"{search_tables.ITEM_CONTENT}.parquet",
        synth_search.content_schema(),
    ) as content:
        for begin in range(0, catalogue.size, _CHUNK_ITEMS):
            item = np.arange(begin, min(begin + _CHUNK_ITEMS, catalogue.size))
            content.write(synth_search.content_rows(item, catalogue, views))
        with_content = content.rows
        for rows in bad_items.values():
            content.write(rows)
    with raw_tables.TableWriter(
        raw / f"{search_tables.SEARCH_EVENTS}.parquet",
        synth_search.event_schema(),
    ) as searches:
        for begin in range(0, options.search_events, _CHUNK_ITEMS):
            chosen = slice(
                begin, min(begin + _CHUNK_ITEMS, options.search_events)
            )
            searches.write(
                synth_search.event_rows(events, chosen, catalogue, views)
            )
        for rows in bad_events.values():
            searches.write(rows)
    for table, bad in (
        (search_tables.ITEM_CONTENT, bad_items),
        (search_tables.SEARCH_EVENTS, bad_events),
    ):
        if bad:
            broken[table] = dict.fromkeys(bad, options.broken)
    return {
        "events": options.search_events,
        "clicks_without_purchase": len(events.clicked),
        "items_with_content": with_content,
    }


def _vector_rows(ids: _Ints, codes: npt.NDArray[np.int8]) -> pa.RecordBatch:
    return pa.RecordBatch.from_arrays(
        [
            pa.array(ids),
            list_array(
                codes.reshape(-1),
                np.arange(len(codes) + 1) * codes.shape[1],
                pa.int8(),
            ),
        ],
        schema=raw_tables.SCHEMAS[raw_tables.EMBEDDINGS],
    )


def _add_broken_rows(
    options: Options,
    catalogue: Catalogue,
    writers: dict[str, raw_tables.TableWriter],
) -> dict[str, dict[str, int]]:
    """Appends `options.broken` rows of every kind; returns what and where."""
    count = options.broken
    if not count:
        return {}
    known = np.arange(count) % min(options.users, catalogue.size)
    users = public_ids(known, 0, options.seed)
    items = catalogue.ids(known)
    unknown = options.users + np.arange(2 * count)
    unequal_users, stranger_users = np.split(
        public_ids(unknown, 0, options.seed), 2
    )
    stranger_items = catalogue.ids(catalogue.size + np.arange(count))
    not_clicked = np.zeros(count, bool)
    samples = raw_tables.SCHEMAS[raw_tables.TRAIN_SAMPLES]
    bad_labels = [[1, 1], [0, 0], [1], [0, 1, 0], []]
    table = "train_samples"
    for label in (
        [bad_labels[i % len(bad_labels)] for i in range(count)],
        [None] * count,
    ):
        writers[table].write(
            pa.RecordBatch.from_arrays(
                [
                    pa.array(label, samples.field(0).type),
                    pa.array(users),
                    pa.array(items),
                ],
                schema=samples,
            )
        )
    writers[table].write(_sample_rows(users, stranger_items, not_clicked))
    writers[table].write(_sample_rows(stranger_users, items, not_clicked))
    table = "train_user_features"
    profiles = np.zeros((count, len(PROFILE_SIZES)), np.int64)
    one = np.ones(count, np.int64)
    none = np.zeros(count, np.int64)
    twice = _user_rows(users, profiles, items, items, one, none)
    writers[table].write(twice)
    unequal = _user_rows(unequal_users, profiles, items, items, one, none)
    columns = list(unequal.columns)
    columns[-1] = list_array(items[:0], np.zeros(count + 1), pa.int64())
    writers[table].write(
        pa.RecordBatch.from_arrays(columns, schema=unequal.schema)
    )
    table = raw_tables.ITEM_FEATURES
    writers[table].write(
        pa.RecordBatch.from_arrays(
            [pa.array(items)] * 4,
            schema=raw_tables.SCHEMAS[table],
        )
    )
    table = raw_tables.EMBEDDINGS
    codes = catalogue.codes(known)
    writers[table].write(_vector_rows(stranger_items, codes[:, :-1]))
    return {
        "train_samples": {
            validation.LABEL_NOT_ONE_HOT: count,
            validation.NULL: count,
            validation.NO_ITEM_FEATURES: count,
            validation.NO_USER_FEATURES: count,
        },
        "train_user_features": {
            validation.DUPLICATE_USER: count,
            validation.UNEQUAL_LISTS: count,
        },
        raw_tables.ITEM_FEATURES: {validation.DUPLICATE_ITEM: count},
        raw_tables.EMBEDDINGS: {validation.EMBEDDING_LENGTH: count},
    }
