"""Folders in layouts of others: declared by guess, loaded, inspected."""

import csv
import datetime
import json
import random

import pyarrow as pa
import pyarrow.csv as pa_csv
import pyarrow.parquet as pq
import pytest

from muse_tools.datasets import csv_rows, first_declaration, inspection
from muse_tools.datasets.errors import DataError
from schemas import ranking_schema

START = 1_772_323_200  # March 1, 2026
DAY = 86_400


def write_csv(path, header, rows):
    with path.open("w", newline="", encoding="utf-8") as file:
        csv.writer(file).writerows([header, *rows])


def movies(folder, days=28, users=60):
    """The layout of MovieLens."""
    rng = random.Random(1)
    genres = ["Comedy", "Drama", "Film-Noir", "Sci-Fi"]
    write_csv(
        folder / "movies.csv",
        ["movieId", "title", "genres"],
        [
            (
                n,
                f"Movie, the {n}th (19{n % 90 + 10})",
                "|".join(rng.sample(genres, rng.choice([1, 2]))),
            )
            for n in range(1, 81)
        ],
    )
    write_csv(
        folder / "ratings.csv",
        ["userId", "movieId", "rating", "timestamp"],
        [
            (
                user,
                movie,
                rng.randrange(1, 11) / 2,
                START + rng.randrange(days * DAY),
            )
            for user in range(1, users + 1)
            for movie in rng.sample(range(1, 81), 10)
        ],
    )


def events(folder):
    """Event logs with texts as ids, in JSON lines and Parquet."""
    rng = random.Random(2)
    skus = [f"sku-{n}" for n in range(60)]
    at = datetime.datetime(2026, 3, 1, tzinfo=datetime.timezone.utc)
    shown, done = [], []
    for page in range(150):
        when = at + datetime.timedelta(minutes=rng.randrange(10 * 1440))
        device = rng.choice(["phone", "desktop"])
        user = f"u{rng.randrange(40)}"
        for position, sku in enumerate(rng.sample(skus, 4)):
            shown.append(
                {
                    "uid": user,
                    "sku": sku,
                    "page": f"page-{page}",
                    "shown_at": when.isoformat(),
                    "clicked": int(rng.random() < 0.3),
                    "ordered": int(rng.random() < 0.1),
                    "device": device,
                    "position": position,
                    "discount": rng.random(),
                }
            )
            done.append(
                {
                    "uid": user,
                    "sku": sku,
                    "at": when.isoformat(),
                    "kind": rng.choice(["click", "order", "view"]),
                    "dwell": rng.random() * 100,
                }
            )
    for name, rows in (("impressions", shown), ("events", done)):
        (folder / name).mkdir()
        for i in range(2):
            (folder / name / f"part-{i}.jsonl").write_text(
                "".join(json.dumps(row) + "\n" for row in rows[i::2])
            )
    pq.write_table(
        pa.table(
            {
                "sku": skus,
                "brand": [f"b{i % 7}" for i in range(60)],
                "price": [rng.random() * 9 for _ in skus],
                "tags": [rng.sample(["x", "y", "z"], 2) for _ in skus],
                "name": [f"The thing number {i}" for i in range(60)],
            }
        ),
        folder / "catalogue.parquet",
    )
    pq.write_table(
        pa.table(
            {
                "sku": skus,
                "embedding": [[rng.random() for _ in range(128)] for _ in skus],
            }
        ),
        folder / "embeddings.parquet",
    )
    pq.write_table(
        pa.table(
            {
                "uid": [f"u{i}" for i in range(40)],
                "age": [rng.random() * 60 for _ in range(40)],
                "country": [f"c{i % 4}" for i in range(40)],
            }
        ),
        folder / "people.parquet",
    )


def bookshop(folder):
    """Books and customers have dates, and ``isbn`` does not say "item"."""
    rng = random.Random(5)
    write_csv(
        folder / "books.csv",
        ["isbn", "title", "genre", "published"],
        [
            (
                f"978-{n}",
                f"The book, vol. {n}",
                f"g{n % 5}",
                f"19{n + 10}-07-11",
            )
            for n in range(80)
        ],
    )
    write_csv(
        folder / "customers.csv",
        ["customer_no", "country", "joined"],
        [(f"C{n}", f"c{n % 3}", f"20{n % 9 + 10}-03-01") for n in range(40)],
    )

    def row(*more):
        at = START + rng.randrange(20 * DAY)
        return (f"C{rng.randrange(40)}", f"978-{rng.randrange(80)}", at, *more)

    write_csv(
        folder / "shown.csv",
        ["customer_no", "isbn", "shown_at", "bought", "stars"],
        [row(rng.randrange(2), rng.randrange(6)) for _ in range(600)],
    )
    write_csv(
        folder / "orders.csv",
        ["customer_no", "isbn", "ordered_at", "order_no"],
        [row(n) for n in range(400)],
    )


def journey(folder):
    """Purchases of households, and offers that they took or not."""
    rng = random.Random(3)
    products = [*range(1001, 1081)]
    write_csv(
        folder / "products.csv",
        ["product_id", "manufacturer_id", "department", "product_category"],
        [(p, p % 9 + 1, f"d{p % 3}", f"c{p % 12}") for p in products],
    )
    write_csv(
        folder / "demographics.csv",
        ["household_id", "age", "income", "kids_count"],
        [(h, f"{h % 5}0-{h % 5}9", f"{h % 4}0K", h % 3) for h in range(1, 41)],
    )

    def moment():
        at = datetime.datetime(2026, 2, 1)
        at += datetime.timedelta(seconds=rng.randrange(20 * DAY))
        return at.strftime("%Y-%m-%d %H:%M:%S")

    write_csv(
        folder / "transactions.csv",
        [
            "household_id",
            "basket_id",
            "product_id",
            "quantity",
            "sales_value",
            "transaction_timestamp",
        ],
        [
            (
                rng.randrange(1, 41),
                rng.randrange(10**9, 10**10),
                rng.choice(products),
                rng.randrange(1, 4),
                round(rng.random() * 20, 2),
                moment(),
            )
            for _ in range(800)
        ],
    )
    write_csv(
        folder / "offers_shown.csv",
        ["household_id", "product_id", "bought", "shown_at"],
        [
            (
                rng.randrange(1, 41),
                rng.choice(products),
                rng.randrange(2),
                moment(),
            )
            for _ in range(600)
        ],
    )


def ready_made(folder):
    """Histories as lists, for each split."""
    rng = random.Random(4)
    items = [*range(1, 41)]
    for split in ("train", "test"):
        pq.write_table(
            pa.table(
                {
                    "bought": [rng.randrange(2) for _ in range(200)],
                    "household_id": [rng.randrange(1, 31) for _ in range(200)],
                    "product_id": [rng.choice(items) for _ in range(200)],
                    "position": [i % 5 + 1 for i in range(200)],
                }
            ),
            folder / f"{split}_samples.parquet",
        )
        lists = [rng.sample(items, 2 + h % 5) for h in range(30)]
        pq.write_table(
            pa.table(
                {
                    "household_id": [*range(1, 31)],
                    "age": [h % 6 for h in range(30)],
                    "history_products": lists,
                    "history_category": [[i % 5 + 1 for i in x] for x in lists],
                    "history_spent": [[i / 2 + 0.25 for i in x] for x in lists],
                }
            ),
            folder / f"{split}_user_features.parquet",
        )
    pq.write_table(
        pa.table(
            {
                "product_id": items,
                "category": [i % 5 + 1 for i in items],
                "department": [f"d{i % 3}" for i in items],
            }
        ),
        folder / "item_features.parquet",
    )
    pq.write_table(
        pa.table(
            {
                "product_id": items,
                "vector": [[rng.random() for _ in range(128)] for _ in items],
            }
        ),
        folder / "scl_embedding_int8_p90.parquet",
    )


EXPECTED = {
    movies: {
        "user": "userId",
        "item": "movieId",
        "labels": {"click": {"column": "rating", "at_least": 3.5}},
        "features": {
            "item": {"genres": {"type": "string", "many": 2, "separator": "|"}},
            "behavior": {"genres": None},
            "matches": ["genres"],
        },
        "text": "title",
        "log": {
            "tables": {
                "impressions": "ratings",
                "events": "ratings",
                "items": "movies",
            },
            "time": "timestamp",
            "event_time": "timestamp",
            "train": [datetime.date(2026, 3, 1), datetime.date(2026, 3, 26)],
            "eval": [datetime.date(2026, 3, 27), datetime.date(2026, 3, 28)],
        },
    },
    events: {
        "user": {"column": "uid", "type": "string"},
        "item": {"column": "sku", "type": "string"},
        "labels": {"click": "clicked", "ordered": "ordered"},
        "features": {
            "user": {"age": {"type": "float"}, "country": {"type": "string"}},
            "item": {
                "brand": {"type": "string"},
                "price": {"type": "float"},
                "tags": {"type": "string", "many": 2},
            },
            "context": {"device": {"type": "string"}},
            "candidate": {
                "position": {"training_only": True},
                "discount": {"type": "float"},
            },
            "behavior": {
                "brand": None,
                "tags": None,
                "kind": {"type": "string"},
                "dwell": {"type": "float", "buckets": 16},
            },
            "matches": ["brand", "tags"],
        },
        "vectors": "embedding",
        "log": {
            "tables": {
                "users": "people",
                "items": "catalogue",
                "vectors": "embeddings",
            },
            "time": "shown_at",
            "event_time": "at",
            "request": {"column": "page", "type": "string"},
            "action": "kind",
            "train": [datetime.date(2026, 3, 1), datetime.date(2026, 3, 9)],
            "eval": [datetime.date(2026, 3, 10), datetime.date(2026, 3, 10)],
        },
    },
    bookshop: {
        "user": {"column": "customer_no", "type": "string"},
        "item": {"column": "isbn", "type": "string"},
        "labels": {"click": "bought"},
        "features": {
            "user": {"country": {"type": "string"}},
            "item": {"genre": {"type": "string"}},
            "behavior": {
                "genre": None,
                "order_no": {"type": "float", "buckets": 16},
            },
            "matches": ["genre"],
        },
        "text": "title",
        "log": {
            "tables": {
                "impressions": "shown",
                "events": "orders",
                "users": "customers",
                "items": "books",
            },
            "time": "shown_at",
            "event_time": "ordered_at",
            "train": [datetime.date(2026, 3, 1), datetime.date(2026, 3, 18)],
            "eval": [datetime.date(2026, 3, 19), datetime.date(2026, 3, 20)],
        },
    },
    journey: {
        "user": "household_id",
        "item": "product_id",
        "labels": {"click": "bought"},
        "features": {
            "user": {
                "age": {"type": "string"},
                "income": {"type": "string"},
                "kids_count": None,
            },
            "item": {
                "manufacturer_id": None,
                "department": {"type": "string"},
                "product_category": {"type": "string"},
            },
            "behavior": {
                "manufacturer_id": None,
                "department": None,
                "product_category": None,
                "quantity": None,
                "sales_value": {"type": "float", "buckets": 16},
            },
            "matches": ["manufacturer_id", "department", "product_category"],
        },
        "log": {
            "tables": {
                "impressions": "offers_shown",
                "events": "transactions",
                "users": "demographics",
                "items": "products",
            },
            "time": "shown_at",
            "event_time": "transaction_timestamp",
            "train": [datetime.date(2026, 2, 1), datetime.date(2026, 2, 18)],
            "eval": [datetime.date(2026, 2, 19), datetime.date(2026, 2, 20)],
        },
    },
    ready_made: {
        "user": "household_id",
        "item": "product_id",
        "labels": {"click": "bought"},
        "features": {
            "user": {"age": None},
            "item": {"category": None, "department": {"type": "string"}},
            "candidate": {"position": {"training_only": True}},
            "behavior": {
                "category": "history_category",
                "history_spent": {"type": "float", "buckets": 16},
            },
            "matches": ["category"],
        },
        "history": "history_products",
        "vectors": "vector",
    },
}
WITHOUT_VECTORS = (movies, journey)


@pytest.mark.parametrize("make", EXPECTED, ids=lambda make: make.__name__)
def test_from_init_to_inspect(tmp_path, make):
    folder = tmp_path / "shop"
    folder.mkdir()
    make(folder)
    path, text = first_declaration.write(folder)
    assert path == folder / "schema.yaml" and path.read_text() == text
    declared = ranking_schema.load(path)
    expected = {"name": "shop", **EXPECTED[make]}
    assert declared == ranking_schema.RankingSchema.model_validate(expected)
    found = inspection.inspect(folder)
    problems = [p["code"] for p in found["problems"]]
    # Vectors are asked for.
    missing = ["MISSING_TABLE"] * (make is journey)
    assert problems == missing, found["problems"]
    assert ("QUESTION: vectors" in text) == (make is journey)
    for samples in found["samples"].values():
        assert samples["accepted"] == samples["read"] > 0
        assert samples["joined"] == 1


QUESTIONS = {
    movies: ["labels: rating is from 0.5 to 5.0"],
    events: [
        "keep: which of click, order, view",
        "train and eval: only the first 300 rows were looked at",
    ],
    bookshop: ["shown.stars is not used. Is it known before the item is"],
    journey: ["vectors: no table has a vector"],
    ready_made: [],
}


@pytest.mark.parametrize("make", QUESTIONS, ids=lambda make: make.__name__)
def test_what_is_not_sure_is_asked(tmp_path, make):
    make(tmp_path)
    text = first_declaration.declare(tmp_path)
    asked = [line for line in text.splitlines() if "# QUESTION: " in line]
    assert len(asked) == len(QUESTIONS[make]), asked
    for part, line in zip(QUESTIONS[make], asked, strict=True):
        assert f"# QUESTION: {part}" in line


def no_items(folder):
    movies(folder)
    (folder / "movies.csv").unlink()


def no_label(folder):
    movies(folder)
    write_csv(
        folder / "ratings.csv",
        ["userId", "movieId", "timestamp"],
        [(u, u % 80 + 1, START + u * 9000) for u in range(1, 99)],
    )


def no_time(folder):
    movies(folder)
    write_csv(
        folder / "ratings.csv",
        ["userId", "movieId", "rating"],
        [(u, u % 80 + 1, u % 5) for u in range(1, 99)],
    )


def one_day(folder):
    movies(folder, days=1)


def more_files(folder):
    movies(folder)
    write_csv(folder / "tags.csv", ["tag", "words"], [(1, 2), (3, 4)])


def more_events(folder):
    bookshop(folder)
    write_csv(
        folder / "page_views.csv",
        ["customer_no", "isbn", "viewed_at"],
        [(f"C{n % 40}", f"978-{n % 80}", START + n) for n in range(400)],
    )


@pytest.mark.parametrize(
    ("make", "part", "loads"),
    [
        (no_items, "items: no table has one row for each item", False),
        (no_label, "labels: no column of ratings holds 0 and 1", True),
        (no_time, "impressions: no table has users, items and a time", False),
        (
            one_day,
            "train and eval: the rows looked at are of one day, 2026-03-01",
            True,
        ),
        (more_files, "tags is not used. What is it?\n", True),
        (
            more_events,
            "page_views is not used. What is it? If it has events too, put "
            "all into files with the same columns and name a pattern",
            True,
        ),
    ],
)
def test_what_is_missing_is_asked(tmp_path, make, part, loads):
    make(tmp_path)
    path, text = first_declaration.write(tmp_path)
    assert f"# QUESTION: {part}" in text
    if loads:
        ranking_schema.load(path)
    else:
        assert text.startswith("# QUESTION: it does not load yet: ")
        with pytest.raises(ranking_schema.ConfigError):
            ranking_schema.load(path)


@pytest.mark.parametrize("kind", ["csv", "jsonl", "parquet"])
def test_a_flag_can_be_a_feature(tmp_path, kind):
    """In CSV by the type that the question names, elsewhere as texts."""
    movies(tmp_path)
    path = tmp_path / f"users.{kind}"
    flags = [("false", "true")[n % 2] for n in range(60)]
    users = {"userId": [*range(1, 61)], "newsletter": flags}
    if kind == "csv":
        write_csv(path, users, zip(*users.values(), strict=True))
    elif kind == "jsonl":
        path.write_text(
            "".join(
                json.dumps({"userId": n, "newsletter": flag}) + "\n"
                for n, flag in enumerate(flags, 1)
            )
        )
    else:
        pq.write_table(pa.table(users), path)
    out, text = first_declaration.write(tmp_path)
    found = "# QUESTION: users.newsletter (bool) is left out" in text
    assert found == (kind == "csv")
    if found:
        assert "In CSV it is a feature with {type: string}" in text
        feature = "  user: {newsletter: {type: string}}\n"
        out.write_text(text.replace("features:\n", "features:\n" + feature))
    assert ranking_schema.load(out).features.user["newsletter"]
    assert inspection.inspect(tmp_path)["problems"] == []


def test_only_the_first_rows_are_read(tmp_path, monkeypatch):
    movies(tmp_path, users=400)
    monkeypatch.setattr(csv_rows, "BLOCK_BYTES", 4000)
    text = first_declaration.declare(tmp_path)
    assert "# QUESTION: train and eval: only the first" in text
    assert "userId" in text and "at_least" in text


def test_columns_without_values_and_tables_without_rows(tmp_path):
    movies(tmp_path)
    ratings = pa_csv.read_csv(tmp_path / "ratings.csv")
    nothing = pa.nulls(len(ratings))
    lists = pa.array([[]] * len(ratings), pa.list_(pa.null()))
    for name, column in {"note": nothing, "tags": lists}.items():
        ratings = ratings.append_column(name, column)
    (tmp_path / "ratings.csv").unlink()
    pq.write_table(ratings, tmp_path / "ratings.parquet")
    (tmp_path / "later.csv").write_text("userId,movieId,rating,timestamp\n")
    text = first_declaration.declare(tmp_path)
    assert "QUESTION: later has no rows. Where are they?" in text
    assert "impressions: ratings" in text


def test_no_file_is_overwritten(tmp_path):
    movies(tmp_path)
    path, _ = first_declaration.write(tmp_path)
    path.write_text("mine")
    with pytest.raises(DataError, match="--out") as info:
        first_declaration.write(tmp_path)
    assert str(path) in str(info.value) and path.read_text() == "mine"
    other, text = first_declaration.write(tmp_path, tmp_path / "b" / "c.yaml")
    assert other.read_text() == text
    assert sorted(p.name for p in tmp_path.iterdir()) == [
        "b",
        "movies.csv",
        "ratings.csv",
        "schema.yaml",
    ]


def test_a_folder_without_tables(tmp_path):
    (tmp_path / "notes.txt").touch()
    for folder in (tmp_path, tmp_path / "none"):
        with pytest.raises(DataError) as info:
            first_declaration.write(folder)
        assert info.value.code == "NO_TABLES"
        assert not (folder / "schema.yaml").exists()


@pytest.mark.parametrize(
    ("name", "data"),
    [
        ("a.csv", b"id,name\n1,G\xfcnther\n"),
        ("late.csv", b"id,name\n" + b"1,Eva\n" * 9000 + b"2,G\xfcnther\n"),
        ("a.jsonl", b'{"id": 1, "name": "G\xfcnther"}\n'),
    ],
)
def test_a_file_that_is_not_utf_8_is_named(tmp_path, name, data):
    (tmp_path / name).write_bytes(data)
    with pytest.raises(DataError, match=f"{name}.*(utf|UTF)-8.*Fix: ") as info:
        first_declaration.declare(tmp_path)
    assert "\n" not in str(info.value)


@pytest.mark.parametrize(
    ("offset", "asked"),
    [("+01:00", True), ("-0530", True), ("Z", False), ("+00:00", False)],
)
@pytest.mark.parametrize("kind", ["csv", "jsonl"])
def test_an_offset_of_all_times_is_asked_about(tmp_path, offset, asked, kind):
    movies(tmp_path)
    (tmp_path / "ratings.csv").unlink()
    rows = [
        {
            "userId": n % 40,
            "movieId": n % 80 + 1,
            "rating": n % 5,
            "at": f"2026-03-{n % 28 + 1:02}T00:30:00{offset}",
        }
        for n in range(1, 400)
    ]
    if kind == "csv":
        path = tmp_path / "ratings.csv"
        write_csv(path, rows[0], [one.values() for one in rows])
    else:
        lines = [json.dumps(one) + "\n" for one in rows]
        (tmp_path / "ratings.jsonl").write_text("".join(lines))
    text = first_declaration.declare(tmp_path)
    part = f"# QUESTION: timezone: times have the offset {offset}."
    assert (part in text) == asked
    assert "  time: at\n" in text


def test_the_command(tmp_path):
    from typer.testing import CliRunner

    from muse_tools.cli.data import app

    movies(tmp_path)
    done = CliRunner().invoke(app, ["init", str(tmp_path)])
    assert done.exit_code == 0, done.output
    text = (tmp_path / "schema.yaml").read_text()
    assert text in done.output
    *_, edit, inspect, run = done.output.splitlines()
    assert str(tmp_path / "schema.yaml") in edit
    assert inspect.endswith(f"muse data inspect {tmp_path}")
    assert "muse pipeline run --config" in run and "demo" not in run
    assert f"raw_dir: {tmp_path}" in run and "text_svd" in run
    done = CliRunner().invoke(app, ["init", "--help"])
    assert "Example: muse data init" in done.output
