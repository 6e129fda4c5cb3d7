"""A shop's logs with every kind of feature, made by known probabilities.

The log-odds of each label are a sum of one term per feature, so that what a
model has learned of a feature can be held against its term.
"""

from __future__ import annotations

import collections
import dataclasses
import datetime
import json
import pathlib
import zoneinfo

import numpy as np
import pyarrow as pa
import pyarrow.csv
import pyarrow.parquet as pq

SCHEMA = """
name: shop
user: {column: uid, type: string}
item: {column: sku, type: string}
labels:
  click: clicked
  order: {column: ordered, loss_weight: 0.5}
weight: weight
features:
  user:
    segment: {type: string}
    income: {type: float, buckets: 8}
    age: {type: float}
    spend: {type: float, log: true}
    interests: {type: string, many: 3, separator: "|"}
    taste: {type: vector, dim: 3, separator: " "}
  item:
    category: {type: string}
    seller: {type: string, hashed: 64}
    price: {type: float, log: true}
    tags: {type: string, many: 3}
  context:
    device: {type: string}
    hour: {time: hour}
  candidate:
    discount: {type: float}
    position: {training_only: true}
  behavior:
    action: {column: kind, type: string}
    ago: {time: since}
    dwell: {type: float, buckets: 8}
    category:
  matches: [category]
vectors: {column: vector, separator: " "}
log:
  time: shown_at
  request: {column: visit, type: string}
  event_time: at
  action: kind
  keep: [click, order]
  max_history: 12
  timezone: Europe/Berlin
  train: [2026-03-21, 2026-03-27]
  eval: [2026-03-28, 2026-03-29]
"""
ZONE = zoneinfo.ZoneInfo("Europe/Berlin")
START = datetime.datetime(2026, 3, 21, tzinfo=ZONE)
FIRST_OF_EVAL = datetime.datetime(2026, 3, 28, tzinfo=ZONE)
DAY = 86_400
MAX_HISTORY = 12
CANDIDATES = 6
STYLES = 8
# Share of values that are missing.
MISSING = 0.1
# Standard deviation and sign of each term in the log-odds of a click, and of
# an order.
WEIGHTS = {
    "segment": (0.6, 0.6),
    "income": (0.6, -0.3),
    "age": (0.6, 0.3),
    "spend": (-0.6, 0.3),
    "interests": (0.6, 0.3),
    "taste": (0.6, -0.3),
    "category": (0.6, 0.3),
    "seller": (0.6, -0.3),
    "price": (-0.6, -0.6),
    "tags": (0.6, 0.3),
    "device": (0.6, 0.3),
    "hour": (0.6, -0.3),
    "discount": (0.6, 0.6),
    "position": (-0.6, -0.3),
    "action": (0.6, 0.6),
    "ago": (-0.6, 0.3),
    "dwell": (0.6, 0.3),
    "matches": (0.6, 0.3),
    "similarity": (0.6, 0.6),
}
BIAS = {"click": -0.5, "order": -1.5}

Columns = dict[str, np.ndarray]


@dataclasses.dataclass
class Shop:
    """Tables as columns, and the truth of each impression."""

    tables: dict[str, dict[str, list]]
    terms: Columns
    """By feature: mean 0, deviation 1; 0 where the feature is missing."""

    is_eval: np.ndarray

    def log_odds(self, label: str, position: bool = False) -> np.ndarray:
        """Returns the true log-odds, without the position unless asked for."""
        place = list(BIAS).index(label)
        return BIAS[label] + sum(
            weights[place] * self.terms[name]
            for name, weights in WEIGHTS.items()
            if position or name != "position"
        )


def sigmoid(values: np.ndarray) -> np.ndarray:
    return 1 / (1 + np.exp(-values))


def make(seed: int = 0, num_users: int = 2000, num_items: int = 2000) -> Shop:
    """Makes all tables; requests of the last two days are the eval split."""
    rng = np.random.default_rng(seed)
    users, of_users = _users(rng, num_users)
    items, of_items, codes, units = _items(rng, num_items)
    moments = rng.integers(0, 9 * DAY - 3600, (num_users, 2))
    events = _events(rng, moments, codes)
    histories = collections.defaultdict(list)
    for event in events:
        if event["kind"] != "view":
            histories[event["user"]].append(event)
    rows, terms = [], []
    known_in_training = int(0.8 * num_items)
    for user, number in np.ndindex(moments.shape):
        seconds = int(moments[user, number])
        time = _moment(seconds)
        later = time >= FIRST_OF_EVAL
        past = [e for e in histories[user] if e["at"] < seconds]
        past = past[-MAX_HISTORY:]
        row, term = _request(rng, past, seconds)
        row |= {"visit": f"{user}-{number}", "user": user, "later": later}
        candidates = num_items if later else known_in_training
        shown = rng.choice(candidates, CANDIDATES, replace=False)
        seen = [event["item"] for event in past]
        for position, item in enumerate(shown, 1):
            same = codes["category"][seen] == codes["category"][item]
            discount = _maybe(rng, round(float(rng.normal(20, 8)), 1))
            rows.append({**row, "item": item, "shown_at": time})
            rows[-1] |= {"position": position, "discount": discount}
            terms.append(
                {
                    **{name: values[user] for name, values in of_users.items()},
                    **{name: values[item] for name, values in of_items.items()},
                    **term,
                    "discount": np.nan if discount is None else discount,
                    "position": position,
                    # A missing category is -1 and shared by none.
                    "matches": min(
                        4, (same & (codes["category"][item] >= 0)).sum()
                    ),
                    "similarity": (units[seen] @ units[item] > 0.4).any(),
                }
            )
    return _sampled(rng, rows, terms, {"users": users, **items}, events)


def _sampled(rng, rows, terms, tables, events) -> Shop:
    """Draws the labels; half of what was not clicked is not logged."""
    scaled = {name: _scaled([one[name] for one in terms]) for name in WEIGHTS}
    shop = Shop(tables, scaled, np.array([row["later"] for row in rows]))
    labels = {
        label: rng.random(len(rows)) < sigmoid(shop.log_odds(label, True))
        for label in BIAS
    }
    always = shop.is_eval | labels["click"]
    kept = np.flatnonzero(always | (rng.random(len(rows)) < 0.5))
    shop.terms = {name: values[kept] for name, values in scaled.items()}
    shop.is_eval = shop.is_eval[kept]
    chosen = [rows[place] for place in kept]
    same = ("visit", "shown_at", "device", "discount", "position")
    tables["impressions"] = {
        "uid": [f"user {row['user']}" for row in chosen],
        "sku": [f"sku-{row['item']}" for row in chosen],
        **{name: [row[name] for row in chosen] for name in same},
        "clicked": labels["click"][kept].astype(int).tolist(),
        "ordered": labels["order"][kept].tolist(),
        "weight": np.where(always, 1.0, 2.0)[kept].tolist(),
    }
    tables["events"] = {
        "uid": [f"user {event['user']}" for event in events],
        "sku": [f"sku-{event['item']}" for event in events],
        "at": [_moment(event["at"]) for event in events],
        "kind": [event["kind"] for event in events],
        "dwell": [event["dwell"] for event in events],
    }
    return shop


def _users(rng, count: int):
    """Returns the table, and what each feature does, not yet scaled."""
    segment, by_segment = _texts(
        rng, ["new", "casual", "regular", "loyal", "lapsed"], count
    )
    income = _numbers(rng, rng.normal(40, 12, count))
    age = _numbers(rng, rng.uniform(18, 80, count))
    spend = _numbers(rng, rng.lognormal(3, 1.5, count))
    hobbies = ["art", "golf", "music", "sea", "ski", "tea"]
    interests, by_interests = _lists(rng, hobbies, count)
    taste = rng.normal(size=(count, 3)).round(3)
    taste[rng.random(count) < MISSING] = np.nan
    table = {
        "uid": [f"user {n}" for n in range(count)],
        "segment": segment,
        "income": _or_none(income),
        "age": _or_none(age),
        "spend": _or_none(spend),
        "interests": ["|".join(one) for one in interests],
        "taste": [
            None if np.isnan(one[0]) else " ".join(map(str, one))
            for one in taste
        ],
    }
    # The middle half buys more: buckets can say so, and no line.
    middle = np.where(np.isnan(income), np.nan, np.abs(income - 40) < 8)
    return table, {
        "segment": by_segment,
        "income": middle,
        "age": age,
        "spend": np.log1p(spend),
        "interests": by_interests,
        "taste": taste @ [1.0, -1.0, 0.5],
    }


def _items(rng, count: int):
    """Returns tables, effects, categories and styles, and unit vectors."""
    category, by_category = _texts(rng, list("abcdefgh"), count)
    seller, by_seller = _texts(rng, [f"seller {n}" for n in range(12)], count)
    price = _numbers(rng, rng.lognormal(2, 1, count))
    words = ["eco", "fair", "gift", "new", "sale", "top"]
    tags, by_tags = _lists(rng, words, count)
    style = rng.integers(STYLES, size=count)
    centers = rng.normal(size=(STYLES, 128))
    vectors = centers[style] + 0.5 * rng.normal(size=(count, 128))
    skus = [f"sku-{n}" for n in range(count)]
    tables = {
        "items": {
            "sku": skus,
            "category": category,
            "seller": seller,
            "price": _or_none(price),
            "tags": tags,
        },
        "vectors": {
            "sku": skus,
            "vector": [" ".join(f"{v:.3f}" for v in one) for one in vectors],
        },
    }
    effects = {
        "category": by_category,
        "seller": by_seller,
        "price": np.log1p(price),
        "tags": by_tags,
    }
    places = [-1 if one is None else ord(one) - ord("a") for one in category]
    codes = {"category": np.array(places), "style": style}
    norms = np.linalg.norm(vectors, axis=1, keepdims=True)
    return tables, effects, codes, vectors / norms


def _events(rng, moments, codes) -> list[dict]:
    """Returns events by user and time.

    Each user likes two styles and two categories, orders at a rate and stays
    for a time of their own. Many events of a day before a request make the
    history of some requests fresh.
    """
    events = []
    of_style = [np.flatnonzero(codes["style"] == s) for s in range(STYLES)]
    for user, mine in enumerate(moments):
        styles = rng.choice(STYLES, 2, replace=False)
        liked = np.concatenate([of_style[style] for style in styles])
        wanted = np.isin(codes["category"][liked], rng.integers(0, 8, 2))
        odds = np.where(wanted, 8.0, 1.0)
        times = [mine.min() - rng.integers(2 * DAY, 9 * DAY, 8)]
        times += [at - rng.integers(60, DAY, rng.integers(7)) for at in mine]
        times = np.sort(np.concatenate(times)).tolist()
        items = rng.choice(liked, len(times), p=odds / odds.sum()).tolist()
        orders = rng.random(len(times)) < rng.choice([0.1, 0.5, 0.9])
        dwell = np.exp(rng.normal(3) + 0.3 * rng.normal(size=len(times)))
        for at, item, order, stay in zip(
            times, items, orders, dwell.round(2).tolist(), strict=True
        ):
            kind = "order" if order else "click"
            event = {"user": user, "item": item, "at": at, "dwell": stay}
            events.append({**event, "kind": kind})
            if rng.random() < 0.1:  # Not kept.
                events.append({**event, "at": at + 1, "kind": "view"})
    return events


def _request(rng, past: list[dict], seconds: int):
    """Returns columns of a request, and what its context and history do."""
    devices = {"phone": -1.0, "tablet": 0.0, "desktop": 1.0}
    device = _maybe(rng, list(devices)[rng.integers(3)])
    hour = _moment(seconds).hour
    of_history = {
        "action": [event["kind"] == "order" for event in past],
        "ago": [seconds - event["at"] > 2 * DAY for event in past],
        "dwell": [np.log(event["dwell"]) for event in past],
    }
    return {"device": device}, {
        "device": devices.get(device, np.nan),
        "hour": np.cos(2 * np.pi * (hour - 20) / 24),
        **{n: np.mean(v) if v else np.nan for n, v in of_history.items()},
    }


def _moment(seconds: int) -> datetime.datetime:
    """Returns the time so many seconds after the start."""
    moment = START.timestamp() + seconds
    return datetime.datetime.fromtimestamp(moment, ZONE)


def _scaled(values) -> np.ndarray:
    values = np.array(values, float)
    return np.nan_to_num((values - np.nanmean(values)) / np.nanstd(values))


def _maybe(rng, value):
    return None if rng.random() < MISSING else value


def _numbers(rng, values: np.ndarray) -> np.ndarray:
    return np.where(rng.random(len(values)) < MISSING, np.nan, values.round(2))


def _or_none(values: np.ndarray) -> list:
    return [None if np.isnan(value) else value for value in values.tolist()]


def _texts(rng, names: list[str], count: int):
    """Returns a column of names, some missing, and their effects."""
    codes = rng.integers(len(names), size=count)
    effects = np.linspace(-1, 1, len(names))[codes]
    effects[rng.random(count) < MISSING] = np.nan
    return [
        None if np.isnan(effect) else names[code]
        for code, effect in zip(codes, effects, strict=True)
    ], effects


def _lists(rng, names: list[str], count: int):
    """Returns a column of up to three names each, and their mean effect."""
    effects = np.linspace(-1, 1, len(names))
    chosen = [
        rng.choice(len(names), size, replace=False)
        for size in rng.integers(0, 4, count)
    ]
    return [[names[place] for place in one] for one in chosen], np.array(
        [effects[one].mean() if len(one) else np.nan for one in chosen]
    )


def write(shop: Shop, folder: pathlib.Path) -> None:
    """Writes the tables, in every form of files, and their declaration."""
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "schema.yaml").write_text(SCHEMA, encoding="utf-8")
    for name, columns in shop.tables.items():
        table = pa.table(columns)
        if name in ("users", "vectors"):
            pa.csv.write_csv(table, folder / f"{name}.csv")
        elif name == "events":
            with open(folder / f"{name}.jsonl", "w", encoding="utf-8") as file:
                for row in table.to_pylist():
                    row["at"] = row["at"].isoformat()
                    file.write(json.dumps(row) + "\n")
        else:
            pq.write_table(table, folder / f"{name}.parquet")
