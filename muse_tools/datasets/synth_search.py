"""Item content and searches of the synthetic data.

Every item has a style and a few fine attributes, such as color or material.
Its image and its text are views of style and attributes under strong nuisance,
such as the photographer's studio or the seller's manner of writing. A query is
a view of the wanted style and attributes with its own nuisance. The item of
the wanted style that has the wanted attributes is bought; items that differ in
an attribute are clicked but not bought.

Views are linear and lossy: an image shows some attributes well and others
poorly, and a text does the reverse. No formula of a model occurs here.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from typing import Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa

from muse_tools.datasets import search_tables
from muse_tools.datasets.arrow_lists import (
    Ints,
    Mask,
    list_array,
    list_of,
    ranges,
    rank_in_group,
)
from muse_tools.datasets.synth_items import (
    Catalog,
    hash_noise,
    mix,
    public_ids,
)

MODALITIES = {"image": 64, "text": 64}
"""Width of the vectors of each modality."""

ATTRIBUTES = 4
VALUES = 5
"""Number of attributes of an item, and of values of each attribute."""

SECONDS = (1_600_000_000, 30 * 86_400)
"""Start and length of the period of the searches."""

_Floats = npt.NDArray[np.float32]

# How well each modality shows each attribute.
_SHOWS = {"image": (0.5, 0.5, 0.2, 0.2), "text": (0.2, 0.2, 0.5, 0.5)}
_NUISANCE_WIDTH = 12
_NUISANCE = {"item": 0.9, "query": 0.9}
_GRAIN = {"item": 0.5, "query": 0.6}
_INTENT_SPREAD = 0.35
_MISSING = 0.05
_NOTHING = 0.02
_IMAGE_ONLY, _TEXT_ONLY = 0.5, 0.3
_MISMATCH = 2.5
_MAX_CLICKS = 4
_SHELF = 256
_CHUNK = 1 << 12
_ITEM_SALT, _QUERY_SALT = 16, 32


def _vector_fields(table: str) -> list[tuple[str, pa.DataType]]:
    return [
        (search_tables.vector_column(table, name), list_of(pa.float32()))
        for name in MODALITIES
    ]


CONTENT_SCHEMA = pa.schema(
    [
        (search_tables.ITEM_ID, pa.int64()),
        *_vector_fields(search_tables.ITEM_CONTENT),
    ]
)
EVENT_SCHEMA = pa.schema(
    [
        (search_tables.QUERY_ID, pa.int64()),
        (search_tables.TIME, pa.int64()),
        *_vector_fields(search_tables.SEARCH_EVENTS),
        (search_tables.PURCHASED_ITEM_ID, pa.int64()),
        (search_tables.CLICKED_ITEM_IDS, list_of(pa.int64())),
    ]
)


@dataclasses.dataclass(frozen=True)
class Events:
    """Searches in order of time."""

    time: Ints
    style: Ints
    wanted: Ints  # Attributes, (E, A).
    purchased: Ints
    # Items not bought, of all events; `offsets` (E + 1,) delimit events.
    clicked: Ints
    offsets: Ints


def attributes(item: Ints, catalog: Catalog) -> Ints:
    """Returns the attributes (N, A) of items, each in [0, VALUES)."""
    key = np.uint64((catalog.salt << 32) | 1)
    counter = item.astype(np.uint64)[:, None] * np.uint64(ATTRIBUTES)
    state = mix(counter + np.arange(ATTRIBUTES, dtype=np.uint64) + key)
    return (state % np.uint64(VALUES)).astype(np.int64)


class Views:
    """Maps styles and attributes to the vectors of each modality."""

    def __init__(self, catalog: Catalog) -> None:
        """Draws the fixed maps from latents to views."""
        self._catalog = catalog
        rng = np.random.default_rng([catalog.seed, 5])
        dim = catalog.style_vectors.shape[1]
        self._style, self._attribute, self._nuisance = {}, {}, {}
        for name, width in MODALITIES.items():
            self._style[name] = rng.normal(0, width**-0.5, (dim, width)).astype(
                np.float32
            )
            values = rng.normal(0, width**-0.5, (ATTRIBUTES, VALUES, width))
            shows = np.reshape(_SHOWS[name], (ATTRIBUTES, 1, 1))
            self._attribute[name] = (values * shows).astype(np.float32)
            directions, _ = np.linalg.qr(
                rng.normal(size=(width, _NUISANCE_WIDTH))
            )
            self._nuisance[name] = (
                directions.T * _NUISANCE_WIDTH**-0.5
            ).astype(np.float32)

    def of_items(self, item: Ints) -> dict[str, _Floats]:
        """Returns vectors of items, float32 (N, width); zeros for none."""
        return self._views(
            self._catalog.latents(item),
            attributes(item, self._catalog),
            item,
            "item",
            self._missing(item),
        )

    def of_queries(
        self, event: Ints, style: Ints, wanted: Ints
    ) -> dict[str, _Floats]:
        """Returns vectors of queries, float32 (N, width); zeros for none."""
        vectors = self._catalog.style_vectors
        noise = hash_noise(event, self._salt(_QUERY_SALT))
        latents = vectors[style] + noise * np.float32(
            _INTENT_SPREAD * vectors.shape[1] ** -0.5
        )
        source = _uniform(event, self._salt(_QUERY_SALT + 1))
        missing = {
            "text": source < _IMAGE_ONLY,
            "image": (source >= _IMAGE_ONLY)
            & (source < _IMAGE_ONLY + _TEXT_ONLY),
        }
        return self._views(latents, wanted, event, "query", missing)

    def have_content(self, item: Ints) -> Mask:
        """Returns whether each item has an image or a text, bool (N,)."""
        missing = self._missing(item)
        return ~(missing["image"] & missing["text"])

    def _missing(self, item: Ints) -> dict[str, Mask]:
        source = _uniform(item, self._salt(_ITEM_SALT + 1))
        nothing = source >= 1 - _NOTHING
        return {
            "image": (source < _MISSING) | nothing,
            "text": ((source >= _MISSING) & (source < 2 * _MISSING)) | nothing,
        }

    def _salt(self, number: int) -> int:
        return self._catalog.salt + number

    def _views(
        self,
        latents: _Floats,
        values: Ints,
        index: Ints,
        side: str,
        missing: dict[str, Mask],
    ) -> dict[str, _Floats]:
        first = _ITEM_SALT if side == "item" else _QUERY_SALT
        views = {}
        for number, (name, width) in enumerate(MODALITIES.items()):
            view = latents @ self._style[name]
            for attribute in range(ATTRIBUTES):
                view += self._attribute[name][attribute][values[:, attribute]]
            noise = hash_noise(index, self._salt(first + 2 + 2 * number))
            nuisance = noise[:, :_NUISANCE_WIDTH] @ self._nuisance[name]
            view += np.float32(_NUISANCE[side]) * nuisance
            grain = hash_noise(index, self._salt(first + 3 + 2 * number))
            view += np.float32(_GRAIN[side] * width**-0.5) * grain[:, :width]
            view[missing[name]] = 0
            views[name] = view
        return views


def _uniform(index: Ints, salt: int) -> npt.NDArray[np.float64]:
    state = mix(index.astype(np.uint64) + np.uint64((salt << 36) | (1 << 35)))
    return (state >> np.uint64(11)).astype(np.float64) / 2.0**53


def make_events(count: int, catalog: Catalog, views: Views) -> Events:
    """Draws searches with the items that were bought and clicked.

    Items that are new in test or lack content are excluded. The wanted style
    and attributes are those of an item drawn by popularity. One of at most 256
    items of the style is bought; the probability grows with its popularity and
    with the wanted attributes that it has. The next ones drawn are clicked.
    """
    rng = np.random.default_rng([catalog.seed, 6])
    time = np.sort(rng.integers(0, SECONDS[1], count)) + SECONDS[0]
    able = ~catalog.is_new & views.have_content(np.arange(catalog.size))
    meant = np.zeros(count, np.int64)
    open_ones = np.arange(count)
    while len(open_ones):
        meant[open_ones] = catalog.draw(
            np.full(len(open_ones), -1), rng.random(len(open_ones)), new=False
        )
        open_ones = open_ones[~able[meant[open_ones]]]
    values = attributes(np.arange(catalog.size), catalog).astype(np.int8)
    parts = [
        _choose(meant[begin : begin + _CHUNK], values, able, catalog, rng)
        for begin in range(0, count, _CHUNK)
    ]
    purchased, clicked, clicks = (
        np.concatenate(p) for p in zip(*parts, strict=True)
    )
    return Events(
        time,
        catalog.style[meant].astype(np.int64),
        values[meant].astype(np.int64),
        purchased,
        clicked,
        np.r_[0, np.cumsum(clicks)],
    )


def _choose(
    meant: Ints,
    values: npt.NDArray[np.int8],
    able: Mask,
    catalog: Catalog,
    rng: np.random.Generator,
) -> tuple[Ints, Ints, Ints]:
    """Returns items bought (E,), all items clicked, and their number (E,)."""
    style = catalog.style[meant]
    first, stop = catalog.start[style], catalog.start[style + 1]
    start = meant - rng.integers(0, _SHELF, len(meant))
    start = np.clip(start, first, np.maximum(first, stop - _SHELF))
    lengths = np.minimum(stop - start, _SHELF)
    event = np.repeat(np.arange(len(meant)), lengths)
    item = ranges(start, lengths)
    event, item = event[able[item]], item[able[item]]
    lacking = (values[item] != values[meant][event]).sum(1)
    # Exponential races: the smallest key is drawn first.
    weight = catalog.rank_share[item] ** -0.5 * np.exp(-_MISMATCH * lacking)
    key = rng.standard_exponential(len(item)) / weight
    order = np.argsort(event + key / (1 + key))
    event, item = event[order], item[order]
    place = rank_in_group(event)
    allowed = rng.integers(0, _MAX_CLICKS + 1, len(meant))
    clicked = (place > 0) & (place <= allowed[event])
    clicks = np.bincount(event[clicked], minlength=len(meant))
    return item[place == 0], item[clicked], clicks


def content_rows(item: Ints, catalog: Catalog, views: Views) -> pa.RecordBatch:
    """Returns rows of ``item_content`` for the items that have content."""
    item = item[views.have_content(item)]
    vectors = views.of_items(item)
    return batch(
        [
            catalog.ids(item),
            *(search_tables.float_lists(v) for v in vectors.values()),
        ],
        CONTENT_SCHEMA,
    )


def batch(columns: Sequence[Any], schema: pa.Schema) -> pa.RecordBatch:
    """Returns a batch of columns, which are in the order of a schema."""
    arrays = [
        column if isinstance(column, pa.Array) else pa.array(column, field.type)
        for column, field in zip(columns, schema, strict=True)
    ]
    return pa.RecordBatch.from_arrays(arrays, schema=schema)


def event_rows(
    events: Events, event: Ints, catalog: Catalog, views: Views
) -> pa.RecordBatch:
    """Returns rows of ``search_events``."""
    vectors = views.of_queries(event, events.style[event], events.wanted[event])
    bounds = events.offsets[event[0] : event[-1] + 2]
    clicked = catalog.ids(events.clicked[bounds[0] : bounds[-1]])
    return batch(
        [
            public_ids(event, 5, catalog.seed),
            events.time[event],
            *(search_tables.float_lists(v) for v in vectors.values()),
            catalog.ids(events.purchased[event]),
            list_array(clicked, bounds - bounds[0], pa.int64()),
        ],
        EVENT_SCHEMA,
    )
