"""CSV and JSON lines: the same rows as from Parquet, and what goes wrong."""

import csv
import datetime
import gzip
import json
import os
import pathlib

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from muse_tools.datasets import (
    csv_rows,
    fingerprints,
    json_rows,
    raw_tables,
    text_tables,
)
from muse_tools.datasets.errors import DataError
from schemas.ranking_schema import RankingSchema

BIG = 2**62 + 1
DECLARED = RankingSchema.model_validate(
    {
        "name": "films",
        "user": "userId",
        "item": {"column": "movieId", "type": "string"},
        "labels": {
            "like": {"column": "rating", "at_least": 4},
            "seen": {"column": "watched"},
        },
        "weight": "importance",
        "features": {
            "item": {
                "genres": {"type": "string", "many": 3, "separator": "|"},
                "year": None,
                "price": {"type": "float"},
                "look": {"type": "vector", "dim": 2, "separator": " "},
            },
            "context": {"device": {"type": "string"}},
        },
        "log": {
            "tables": {"impressions": "ratings", "events": "ratings"},
            "time": "timestamp",
            "event_time": "timestamp",
            "train": ["2026-01-01", "2026-01-02"],
            "eval": ["2026-01-03", "2026-01-04"],
        },
    }
)
MOMENT = datetime.datetime(2026, 1, 1, 10, 0, 5)
RATINGS = [
    {
        "userId": BIG + i,
        "movieId": f"00{i}",
        "rating": [5, 3.5, None, 4][i % 4],
        "watched": i % 2,
        "importance": 0.5 * i,
        "device": ["NA", "ph,one", 'a "b"', ""][i % 4],
        "timestamp": 1_760_000_000 + i,
        "other": "x",
    }
    for i in range(9)
]
MOVIES = [
    {"movieId": "000", "genres": "A|B", "year": 1999, "price": 2.5},
    {"movieId": "001", "genres": "", "year": None, "price": None},
    {"movieId": "002", "genres": "Größe\nx", "year": 7, "price": 1},
]
MOVIES = [{**row, "look": "1 0.5"} for row in MOVIES]


def text_of(rows, ending, delimiter=","):
    """Returns rows as text."""
    if ending.startswith(".jsonl"):
        return "".join(json.dumps(row) + "\n" for row in rows)
    made = []

    class Lines:
        write = staticmethod(made.append)

    writer = csv.DictWriter(Lines, [*rows[0]], delimiter=delimiter)
    writer.writeheader()
    writer.writerows(rows)
    return "".join(made)


def write(path, rows, delimiter=","):
    path.parent.mkdir(parents=True, exist_ok=True)
    ending = text_tables.ending_of(path)
    data = rows if isinstance(rows, str) else text_of(rows, ending, delimiter)
    raw = data.encode(errors="surrogateescape")
    path.write_bytes(gzip.compress(raw) if ending.endswith(".gz") else raw)


def read(folder, name):
    table = raw_tables.RawTables.open(folder, declared=DECLARED)[name]
    table.check()
    return pa.Table.from_batches(table.iter_batches())


@pytest.fixture
def expected(tmp_path):
    """The same rows, read from Parquet."""
    folder = tmp_path / "parquet"
    folder.mkdir()
    for name, rows in (("ratings", RATINGS), ("items", MOVIES)):
        pq.write_table(pa.Table.from_pylist(rows), folder / f"{name}.parquet")
    return {
        name: read(folder, name)
        for name in ("impressions", "events", "item_features")
    }


@pytest.mark.parametrize("ending", text_tables.ENDINGS)
def test_rows_are_those_of_parquet(tmp_path, expected, ending):
    folder = tmp_path / "text"
    delimiter = "\t" if "tsv" in ending else ";"
    write(folder / f"ratings{ending}", RATINGS, delimiter)
    write(folder / f"items{ending}", MOVIES, delimiter)
    for name, rows in expected.items():
        assert read(folder, name).equals(rows), name
    assert BIG in read(folder, "impressions")["user_id"].to_pylist()


@pytest.mark.parametrize("ending", [".csv", ".jsonl"])
def test_many_blocks_are_as_one(tmp_path, expected, ending, monkeypatch):
    folder = tmp_path / "text"
    write(folder / f"ratings{ending}", RATINGS)
    write(folder / f"items{ending}", MOVIES)
    for module in (csv_rows, json_rows):
        monkeypatch.setattr(module, "BLOCK_BYTES", 300)
    for name in ("impressions", "events"):
        assert read(folder, name).equals(expected[name])
    (path,) = raw_tables.RawTables.open(folder, declared=DECLARED)[
        "events"
    ].paths
    assert pq.ParquetFile(path).metadata.num_row_groups > 1


def test_folders_shards_and_patterns(tmp_path, expected):
    for form in ("folder", "shards", "pattern"):
        folder = tmp_path / form
        declared = DECLARED
        for i, rows in enumerate((RATINGS[:4], RATINGS[4:])):
            ending = (".csv", ".jsonl.gz")[i]
            place = {
                "folder": f"ratings/part-{i}{ending}",
                "shards": f"ratings-{i}{ending}",
                "pattern": f"log_2026_{i}{ending}",
            }[form]
            write(folder / place, rows)
        if form == "pattern":
            log = declared.log.model_copy(
                update={"tables": dict.fromkeys(declared.log.tables, "log_*")}
            )
            declared = declared.model_copy(update={"log": log})
        tables = raw_tables.RawTables.open(folder, declared=declared)
        for name in ("impressions", "events"):
            found = pa.Table.from_batches(tables[name].iter_batches())
            assert found.equals(expected[name]), (form, name)


def test_partitions_are_columns(tmp_path):
    rows = [{k: v for k, v in r.items() if k != "device"} for r in RATINGS]
    for device in ("phone", "tv"):
        write(tmp_path / "ratings" / f"device={device}" / "a.csv", rows)
    devices = read(tmp_path, "impressions")["context_device"]
    assert len(devices.unique()) == 2 and devices.null_count == 0


@pytest.mark.parametrize("ending", [".csv", ".jsonl"])
@pytest.mark.parametrize(
    ("texts", "seconds"),
    [
        (["2026-01-01 10:00:05", "2026-01-01T10:00:05.75"], 0),
        (["2026-01-01T10:00:05Z", "2026-01-01T12:00:05.5+02:00"], 0),
        (["2026-01-01", "2026-01-01"], -36_005),
        (["2026-01-01 10:00:05", "2026-01-01T12:00:05+02"], 0),
        (["2026-01-01T10:00:05Z", "2026-01-01T10:00:05"], 0),
    ],
)
def test_times_are_moments(tmp_path, ending, texts, seconds):
    rows = [
        {**row, "timestamp": text}
        for row, text in zip(RATINGS, texts, strict=False)
    ]
    write(tmp_path / f"ratings{ending}", rows)
    moment = MOMENT.replace(tzinfo=datetime.timezone.utc).timestamp()
    times = read(tmp_path, "events")["time"].to_pylist()
    assert times == [int(moment) + seconds] * 2


@pytest.mark.parametrize("ending", [".csv", ".jsonl"])
def test_times_without_a_zone_are_in_that_of_the_log(tmp_path, ending):
    """Also beside times with a zone, and as clocks go back."""
    log = DECLARED.log.model_copy(update={"timezone": "Europe/Berlin"})
    declared = DECLARED.model_copy(update={"log": log})
    texts = {
        "2026-03-01T12:00:00": 11,
        "2026-03-01T12:00:00Z": 12,
        "2026-03-01": -1,
        "2026-10-25T02:30:00": 0.5,
        "2026-10-25T01:30:00.5Z": 1.5,
    }
    rows = [{**RATINGS[0], "timestamp": text} for text in texts]
    write(tmp_path / f"ratings{ending}", rows)
    tables = raw_tables.RawTables.open(tmp_path, declared=declared)
    (batch,) = tables["events"].iter_batches()
    days = [datetime.datetime.fromisoformat(f"{t[:10]}+00:00") for t in texts]
    assert batch["time"].to_pylist() == [
        int(day.timestamp() + hours * 3600)
        for day, hours in zip(days, texts.values(), strict=True)
    ]


@pytest.mark.parametrize("ending", [".csv", ".jsonl"])
def test_labels_may_be_true_and_false(tmp_path, ending):
    rows = [{**row, "watched": bool(row["watched"])} for row in RATINGS]
    write(tmp_path / f"ratings{ending}", rows)
    found = read(tmp_path, "impressions")["label_seen"].to_pylist()
    assert found == [row["watched"] for row in RATINGS]


def test_files_are_converted_once(tmp_path, monkeypatch):
    path = tmp_path / "ratings.csv"
    write(path, RATINGS)
    opened = raw_tables.RawTables.open(tmp_path, declared=DECLARED)
    # One file for both tables, as one source has both.
    assert opened["events"].paths == opened["impressions"].paths
    assert opened["events"].sources == (path,)
    (made,) = opened["events"].paths
    assert made.parent == tmp_path / ".muse_parquet"
    before = made.stat().st_mtime_ns
    raw_tables.RawTables.open(tmp_path, declared=DECLARED)
    assert made.stat().st_mtime_ns == before
    write(path, RATINGS[:5])
    assert read(tmp_path, "events").num_rows == 5
    assert not made.exists()
    assert len([*made.parent.iterdir()]) == 1
    other = RankingSchema.model_validate(
        {
            **DECLARED.model_dump(),
            "user": {"column": "userId", "type": "string"},
        }
    )
    raw_tables.RawTables.open(tmp_path, declared=other)["events"].check()
    assert len([*made.parent.iterdir()]) == 2


def test_a_copy_with_the_size_and_time_of_the_file_is_converted(tmp_path):
    path, other = tmp_path / "ratings.csv", tmp_path / "other"
    write(path, RATINGS)
    assert read(tmp_path, "events")["user_id"][0].as_py() == BIG
    other.write_text(path.read_text().replace(str(BIG), str(BIG + 7)))
    os.utime(other, ns=(0, path.stat().st_mtime_ns))
    other.rename(path)
    assert read(tmp_path, "events")["user_id"][0].as_py() == BIG + 7


def test_a_day_whose_midnight_is_skipped_keeps_its_date(tmp_path):
    """Clocks go from 0:00 to 1:00 on 2026-04-24 in Cairo."""
    log = {**DECLARED.log.model_dump(), "timezone": "Africa/Cairo"}
    log |= {"eval": ["2026-04-24", "2026-04-25"]}
    log |= {"train": ["2026-04-20", "2026-04-23"]}
    values = {**DECLARED.model_dump(exclude_defaults=True), "log": log}
    declared = RankingSchema.model_validate(values)
    rows = [{**RATINGS[0], "timestamp": "2026-04-24"}]
    write(tmp_path / "ratings.csv", rows)
    table = raw_tables.RawTables.open(tmp_path, declared=declared)["events"]
    (batch,) = table.iter_batches()
    assert batch["time"].to_pylist() == [declared.log.seconds("eval")[0]]


def test_the_cache_may_lie_elsewhere(tmp_path, monkeypatch):
    write(tmp_path / "data" / "ratings.csv", RATINGS)
    monkeypatch.setenv(text_tables.CACHE_VARIABLE, str(tmp_path / "cache"))
    assert read(tmp_path / "data", "events").num_rows == len(RATINGS)
    assert [p.name for p in (tmp_path / "data").iterdir()] == ["ratings.csv"]
    assert [*(tmp_path / "cache").rglob("*.parquet")]


def test_a_conversion_that_fails_leaves_nothing(tmp_path):
    write(tmp_path / "ratings.csv", text_of(RATINGS, ".csv") + "1,2\n")
    for _ in range(2):
        with pytest.raises(DataError, match="line 11"):
            read(tmp_path, "events")
    assert not [*tmp_path.rglob("*.parquet")]


def test_fingerprints_are_of_the_sources(tmp_path):
    (tmp_path / "schema.yaml").write_text(DECLARED.yaml())
    path = tmp_path / "ratings.csv"
    write(path, RATINGS)
    digests = fingerprints.FileDigests()
    first = fingerprints.raw_fingerprint(str(tmp_path), digests)
    os.utime(path, (1, 1))
    again = fingerprints.FileDigests()
    assert fingerprints.raw_fingerprint(str(tmp_path), again) == first
    write(path, RATINGS[1:])
    assert fingerprints.raw_fingerprint(str(tmp_path), digests) != first


def csv_with(line):
    return text_of(RATINGS, ".csv") + line + "\n"


def json_with(**changes):
    last = json.dumps({**RATINGS[0], **changes})
    return text_of(RATINGS, ".jsonl") + last + "\n"


WRONG = {
    "values missing": ("ratings.csv", csv_with("1,2"), ["line 11", "2 values"]),
    "too many": ("ratings.csv", csv_with("1," * 8), ["line 11", "9 values"]),
    "not a number": (
        "ratings.csv",
        csv_with("x1,a,5,1,1,d,1760000000,x"),
        ["line 11", "column userId", "'x1'", "int64"],
    ),
    "not a score": (
        "ratings.csv",
        csv_with("1,a,high,1,1,d,1760000000,x"),
        ["line 11", "column rating", "'high'", "double"],
    ),
    "not a time": (
        "ratings.csv",
        csv_with("1,a,5,1,1,d,04.03.2026 12:04,x"),
        ["line 11, column timestamp: '04.03.2026 12:04'", "ISO 8601"],
    ),
    "not a time in JSON": (
        "ratings.jsonl",
        "".join(
            text_of([{**RATINGS[0], "timestamp": moment}], ".jsonl")
            for moment in ("2026-03-04T12:04:00Z", "04.03.2026 12:04")
        ),
        ["line 2, column timestamp: '04.03.2026 12:04'", "ISO 8601"],
    ),
    "quotes that join two lines": (
        "ratings.csv",
        csv_with('1,"a,5,1,1,d,1760000000,x\n2,"b,5,1,1,d,1760000000,x'),
        ["line 12", "expected after"],
    ),
    "no header": ("ratings.csv", "\n", ["no header"]),
    "empty": ("ratings.csv", "", ["no header"]),
    "header twice": ("ratings.csv", "a,b,a\n1,2,3\n", ["line 1", "column a"]),
    "not zipped": ("ratings.csv.gz", None, ["ratings.csv.gz"]),
    "no JSON": (
        "ratings.jsonl",
        text_of(RATINGS, ".jsonl") + '{"userId": \n',
        ["line 10", "not JSON"],
    ),
    "JSON of another type": (
        "ratings.jsonl",
        json_with(userId="x1"),
        ["line 10", "column userId (int64)", "'x1'"],
    ),
    "a text that is a number": (
        "ratings.jsonl",
        json_with(movieId=5),
        ["line 10", "column movieId (string)", "5"],
    ),
    "not UTF-8": (
        "ratings.csv",
        csv_with("1,Gr\udce9,5,1,1,d,1760000000,x"),
        ["UTF"],
    ),
    "no objects": ("ratings.jsonl", "[1, 2]\n", ["line 1", "[1, 2]"]),
    "no rows": ("ratings.jsonl", "", ["no rows"]),
}


@pytest.mark.parametrize("case", WRONG)
def test_what_cannot_be_read_is_one_line(tmp_path, case):
    name, text, parts = WRONG[case]
    path = tmp_path / name
    if text is None:
        path.write_bytes(b"a,b\n1,2\n")
    else:
        write(path, text)
    with pytest.raises(DataError) as info:
        read(tmp_path, "events")
    (line,) = str(info.value).splitlines()
    for part in (str(path), *parts, "Fix: "):
        assert part in line, line


def test_a_missing_column_names_those_there_are(tmp_path):
    for ending in (".csv", ".jsonl"):
        path = tmp_path / f"ratings{ending}"
        rows = [{"userId": 1, "movieId": "a", "when": 5}]
        write(path, rows)
        with pytest.raises(DataError) as info:
            read(tmp_path, "events")
        assert "column timestamp (time) is missing" in str(info.value)
        assert "Received columns: userId, movieId, when." in str(info.value)
        path.unlink()


def test_files_without_a_declaration_lead_to_init(tmp_path):
    with pytest.raises(DataError, match="Fix: write train_samples"):
        raw_tables.RawTables.open(tmp_path)
    write(tmp_path / "ratings.csv", RATINGS)
    init = f"Fix: declare your own files: `muse data init {tmp_path}`; or"
    with pytest.raises(DataError, match=init):
        raw_tables.RawTables.open(tmp_path)


def test_two_forms_of_a_table_are_refused(tmp_path):
    write(tmp_path / "ratings.csv", RATINGS)
    write(tmp_path / "ratings.jsonl", RATINGS)
    with pytest.raises(DataError, match="AMBIGUOUS_TABLE"):
        read(tmp_path, "events")


def test_lists_in_json_are_lists(tmp_path):
    rows = [
        {**MOVIES[0], "genres": ["A", "B"], "look": [1, 0.5]},
        {**MOVIES[1], "genres": [], "look": None},
    ]
    write(tmp_path / "items.jsonl", rows)
    write(tmp_path / "ratings.csv", RATINGS)
    found = read(tmp_path, "item_features")
    assert found["item_look"].to_pylist() == [[1.0, 0.5], None]
    write(tmp_path / "items.jsonl", MOVIES[:2])
    same = read(tmp_path, "item_features")
    assert same["item_genres"].to_pylist() == found["item_genres"].to_pylist()


def test_the_tests_write_files_as_others_do():
    assert pathlib.Path("a.CSV.gz").suffix == ".gz"
    assert text_tables.ending_of(pathlib.Path("a.CSV.gz")) == ".csv.gz"
    assert text_tables.ending_of(pathlib.Path("a.parquet")) == ""
