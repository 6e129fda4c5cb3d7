"""Fresh items on the client's side: arguments, the file, and following it."""

from __future__ import annotations

import decimal
import pathlib
import shutil
import threading
import types

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from serving.client import (
    FreshItems,
    InvalidArgumentError,
    ModelMetadata,
    MuseClient,
    RequestError,
    Signature,
    SignatureError,
    TensorSpec,
    UnavailableError,
    UpsertResult,
    VersionStatus,
)
from serving.client.item_file import read_item_file
from serving.client.testing import MockTransport
from serving.client.upserts import joined_result
from tests.serving.kinds_schema import SCHEMA

FEATURES = dict.fromkeys(("category", "city", "province"), "int64")


def write(path: pathlib.Path, columns: dict) -> pathlib.Path:
    pq.write_table(pa.table(columns), path)
    return path


def floats(rows: list) -> pa.Array:
    return pa.array(rows, pa.list_(pa.float32()))


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"item_ids": []}, "at least one id"),
        ({"item_ids": [1, 0]}, "not contain 0.*position 1"),
        ({"item_ids": [1.5, 2]}, "whole numbers"),
        ({"embedding": [[1.0], [np.nan]]}, "be finite.*row 1"),
        ({"embedding": [[1.0]]}, "one row for each of 2 items"),
        ({"embedding": [1.0, 2.0]}, "one row for each"),
        ({"embedding": [[1.0], ["x"]]}, "array of numbers"),
        ({"embedding": [[1.0], [1.0, 2.0]]}, "array of numbers"),
        ({"features": [5, 6]}, "`features` must map names"),
        ({"features": {"city": [1]}}, r"\['city'\]` must be as long .* 2"),
        ({"features": {"city": [1, b"a"]}}, r"\['city'\]` must be a finite"),
    ],
)
def test_wrong_arguments_are_named(change: dict, words: str) -> None:
    good = {"item_ids": [1, 2], "embedding": [[1.0], [2.0]]}
    transport = MockTransport()
    with MuseClient("t", transport) as client:
        with pytest.raises(RequestError, match=words):
            client.upsert_items(**good | change)
    assert not transport.calls


def test_answers_are_joined() -> None:
    answers = [
        {
            "row": np.array([n]),
            "stored": np.array([True]),
            "used": np.array([n]),
            "capacity": np.array([9]),
            "load_id": np.array([10 + n]),
        }
        for n in (1, 2)
    ]
    result = joined_result(answers, 2)
    assert (result.row.tolist(), result.used, result.capacity) == ([1, 2], 2, 9)
    assert result.load_id == 11  # What the first one took is forgotten.


def test_good_rows_and_reasons(tmp_path: pathlib.Path) -> None:
    inf, nan = float("inf"), float("nan")
    rows = [
        (1, [1.0, 2.0], 5),
        (None, [1.0, 2.0], 5),
        (0, [1.0, 2.0], 5),
        (2, None, 5),
        (3, [1.0], 5),
        (4, [1.0, nan], 5),
        (5, [1.0, -inf], 5),
        (6, [0.0, 0.0], 5),
        (7, [1.0, None], 5),
        (-8, [3.0, 4.0], None),
        (1, [5.0, 6.0], 6),
        (1, [nan, 6.0], 7),
    ]
    ids, vectors, categories = zip(*rows, strict=True)
    file = write(
        tmp_path / "a.parquet",
        {
            "item_id": pa.array(ids, pa.int64()),
            "embedding": floats(vectors),
            "category_id": pa.array(categories, pa.int32()),
            "note": [str(n) for n in range(len(rows))],
        },
    )
    found = read_item_file(file, 2, FEATURES)
    # The bad last row of item 1 does not hide the good one before it.
    assert found.item_ids.tolist() == [-8, 1]
    assert found.embedding.tolist() == [[3, 4], [5, 6]]
    assert {k: v.tolist() for k, v in found.features.items()} == {
        "category": [0, 6]
    }
    assert found.superseded == 1
    assert found.rejected == {
        "item_id is null": 1,
        "item_id is 0, which means padding": 1,
        "embedding is null": 1,
        "embedding has 1 numbers, not 2": 1,
        "embedding has NaN or infinity": 4,
        "embedding is zero": 1,
    }
    assert len(found.item_ids) + found.superseded + sum(
        found.rejected.values()
    ) == len(rows)
    rejected = pq.read_table(tmp_path / "a.rejected.parquet").to_pydict()
    assert rejected["note"] == ["1", "2", "3", "4", "5", "6", "7", "8", "11"]
    assert rejected["reason"][2] == "embedding is null"
    # The next good file leaves no rejected rows of before.
    write(file, {"item_id": [9], "embedding": floats([[1.0, 1.0]])})
    assert read_item_file(file, 2, FEATURES).rejected == {}
    assert [p.name for p in tmp_path.iterdir()] == ["a.parquet"]


@pytest.mark.parametrize("logical", [False, True])
def test_columns_of_the_raw_tables(
    tmp_path: pathlib.Path, logical: bool
) -> None:
    codes = [[127, -127, 0], [1, 2, 3], [0, 0, 0]]
    columns = {
        "205": [5, 6, 7],
        "205_c": pa.array(codes, pa.list_(pa.int8())),
        "206": [3, 4, 4],
        "213": [8, 9, 9],
        "214": [1, 2, 2],
    }
    if logical:
        names = (
            "item_id",
            "item_vector",
            *(f"item_{name}" for name in FEATURES),
        )
        columns = dict(zip(names, columns.values(), strict=True))
    file = write(tmp_path / "a.parquet", columns)
    found = read_item_file(file, 3, FEATURES)
    assert np.rint(127 * found.embedding).tolist() == codes[:2]
    assert {k: v.tolist() for k, v in found.features.items()} == {
        "category": [3, 4],
        "city": [8, 9],
        "province": [1, 2],
    }
    assert found.rejected == {"embedding is zero": 1}


@pytest.mark.parametrize("column", ["item_brand", "brand", "brand_id"])
def test_features_by_declared_name(tmp_path: pathlib.Path, column: str) -> None:
    columns = {"item_id": [5], "embedding": [[1.0]], column: [8], "other": [9]}
    file = write(tmp_path / "a.parquet", columns)
    found = read_item_file(file, 1, dict.fromkeys(("brand", "color"), "int64"))
    assert {k: v.tolist() for k, v in found.features.items()} == {"brand": [8]}


@pytest.mark.parametrize(
    ("columns", "words"),
    [
        ({"id": [1]}, "must be named item_id or 205"),
        ({"item_id": [1]}, "must be named embedding"),
        (
            {"item_id": [b"a"], "embedding": [[1.0]]},
            "ids must be integers.*Received: binary",
        ),
        ({"item_id": [1.5], "embedding": [[1.0]]}, "ids must be integers"),
        ({"item_id": [2.0**53], "embedding": [[1.0]]}, r"floats below 2\^53"),
        (
            {"item_id": [decimal.Decimal("1.5")], "embedding": [[1.0]]},
            "ids must be integers.*Received: decimal",
        ),
        (
            {"item_id": pa.array([2**63], "uint64"), "embedding": [[1.0]]},
            "fit in int64.*Received: uint64",
        ),
        ({"item_id": [1], "embedding": [1.0]}, "list of floats or int8"),
        ({"item_id": [1], "embedding": [["a"]]}, "list of floats or int8"),
    ],
)
def test_a_file_of_another_kind_is_refused(
    tmp_path: pathlib.Path, columns: dict, words: str
) -> None:
    with pytest.raises(ValueError, match=words):
        read_item_file(write(tmp_path / "a.parquet", columns), 1, FEATURES)


def test_no_file_no_parquet_no_rows(tmp_path: pathlib.Path) -> None:
    with pytest.raises(FileNotFoundError, match="no such file; expected"):
        read_item_file(tmp_path / "a.parquet", 1, FEATURES)
    for content in (b"", b"PAR1 is not all", b"PAR1 \4\0\0\0\4\0\0\0PAR1"):
        (tmp_path / "a.parquet").write_bytes(content)
        with pytest.raises(ValueError, match="a.parquet: is not a Parquet"):
            read_item_file(tmp_path / "a.parquet", 1, FEATURES)
    fixed = pa.array([[1.0]], pa.list_(pa.float64(), 1))
    write(tmp_path / "a.parquet", {"item_id": [1], "embedding": fixed})
    assert read_item_file(
        tmp_path / "a.parquet", 1, FEATURES
    ).embedding.tolist() == [[1]]
    none = {"item_id": pa.array([], pa.int64()), "embedding": floats([])}
    write(tmp_path / "a.parquet", none)
    assert read_item_file(
        tmp_path / "a.parquet", 1, FEATURES
    ).item_ids.shape == (0,)


@pytest.mark.parametrize(
    "ids",
    [
        pa.array([7.0, None, float("nan")], pa.float64()),
        pa.array([decimal.Decimal(7), None, None]),
        pa.array([7, None, None], pa.uint64()),
    ],
    ids=lambda column: str(column.type),
)
def test_whole_numbers_of_any_type_are_ids(tmp_path, ids) -> None:
    columns = {"item_id": ids, "embedding": [[1.0]] * 3, "category_id": ids}
    found = read_item_file(write(tmp_path / "a.parquet", columns), 1, FEATURES)
    assert found.item_ids.tolist() == [7]
    assert found.features["category"].tolist() == [7]
    assert found.rejected == {"item_id is null": 2}


def test_types_of_newer_writers(tmp_path: pathlib.Path) -> None:
    """Arrays of polars, and list views, are lists like all others."""
    folder = pathlib.Path(__file__).parents[2] / "muse_tools/datasets/foreign"
    file = tmp_path / "a.parquet"
    shutil.copy(folder / "polars_array.parquet", file)
    found = read_item_file(file, 128, FEATURES)
    codes = np.arange(384).reshape(3, 128) % 100
    assert np.rint(127 * found.embedding).tolist() == codes.tolist()
    # It has no vectors, but can be read.
    shutil.copy(folder / "arrow_list_views.parquet", file)
    with pytest.raises(ValueError, match="must be named item_id or 205"):
        read_item_file(file, 128, FEATURES)


def test_columns_of_every_kind_go_to_the_model(tmp_path: pathlib.Path) -> None:
    from schemas.hashing import stable_id

    columns = {
        "item_id": ["a", None, "b"],
        "embedding": [[1.0], [2.0], [3.0]],
        "category": pa.array(["tea", "x", None]).dictionary_encode(),
        "price": pa.array([2, 3, None], pa.int32()),
        "item_tags": [[5, 6], [1], None],
        "look": [[1.0, 2.0, 3.0], [1.0, 2.0, 3.0], None],
    }
    one, two = (-1,), (-1, -1)
    inputs = {
        "item_ids": TensorSpec("int64", one),
        "embedding": TensorSpec("float", two),
        "item_category": TensorSpec("int64", one),
        "item_price": TensorSpec("float", one),
        "item_tags": TensorSpec("int64", two),
        "item_look": TensorSpec("float", two),
    }
    names = ("row", "stored", "used", "capacity", "load_id")
    signatures = {
        "upsert_items": lambda i: dict.fromkeys(names, i["item_ids"] * 0)
    }

    class Served(MockTransport):
        def send(self, call, seconds):
            answer = super().send(call, seconds)
            if isinstance(answer, ModelMetadata):
                outputs = {"embedding": TensorSpec("float", (-1, 1))}
                embed = Signature({}, outputs)
                known = {**answer.signatures, "embed": embed}
                return ModelMetadata("muse", 1, known)
            return answer

    transport = Served(signatures, inputs={"upsert_items": inputs})
    file = write(tmp_path / "a.parquet", columns)
    with MuseClient("t", transport, schema=SCHEMA) as client:
        report = FreshItems(file).push(client)
    assert report.rejected == {"item_id is null": 1}
    nan = np.nan
    want = {
        "item_ids": [stable_id("item_id", "a"), stable_id("item_id", "b")],
        "embedding": [[1], [3]],
        "item_category": [stable_id("item_category", "tea"), 0],
        "item_price": [2, nan],
        "item_tags": [[5, 6], [0, 0]],
        "item_look": [[1, 2, 3], [nan, nan, nan]],
    }
    sent = transport.calls[-1].inputs
    assert set(sent) == set(want)
    for name, values in want.items():
        dtype = np.float32 if inputs[name].dtype == "float" else np.int64
        assert sent[name].dtype == dtype
        np.testing.assert_array_equal(sent[name], np.array(values, dtype))


class FakeServer:
    """A server of one model that forgets, swaps, fails and fills up."""

    def __init__(self, capacity: int = 9) -> None:
        self.version = 1
        self.capacity = capacity
        self.fails: Exception | None = None
        self.items: dict[int, tuple] = {}
        self.used = 0
        self.load_id = 1

    def load(self, version: int) -> None:
        self.version, self.items, self.used = version, {}, 0
        self.load_id += 1

    def status(self) -> list[VersionStatus]:
        if self.fails:
            raise self.fails
        states = [VersionStatus(self.version, "AVAILABLE")]
        return [*states, VersionStatus(self.version + 1, "LOADING")]

    def metadata(self):
        outputs = {"embedding": types.SimpleNamespace(shape=(-1, 1))}
        embed = types.SimpleNamespace(outputs=outputs)
        names = ("item_ids", "embedding", "item_category")
        spec = TensorSpec("int64", (-1,))
        upsert = types.SimpleNamespace(inputs=dict.fromkeys(names, spec))
        return types.SimpleNamespace(
            signatures={"embed": embed, "upsert_items": upsert}
            if self.capacity
            else {"embed": embed}
        )

    def upsert_items(self, item_ids, embedding, features):
        wanted = {
            int(item): (float(vector[0]), int(category))
            for item, vector, category in zip(
                item_ids,
                embedding,
                features.get("category", np.zeros_like(item_ids)),
                strict=True,
            )
        }
        stored = [self.items.get(i) != value for i, value in wanted.items()]
        if self.used + sum(stored) > self.capacity:
            raise InvalidArgumentError("INVALID_ARGUMENT", "no room")
        self.items |= wanted
        self.used += sum(stored)
        return UpsertResult(
            np.zeros(len(stored)),
            np.array(stored),
            self.used,
            self.capacity,
            self.load_id,
        )


def items_file(path: pathlib.Path, values: dict[int, float]) -> FreshItems:
    columns = {
        "item_id": list(values),
        "embedding": floats([[value] for value in values.values()]),
    }
    write(path.with_suffix(".tmp"), columns).replace(path)
    return FreshItems(path)


def test_push_says_what_it_did(tmp_path: pathlib.Path) -> None:
    server = FakeServer()
    items = items_file(tmp_path / "a.parquet", {1: 1.0, 2: 2.0})
    report = items.push(server)
    assert (report.version, report.items, report.stored) == (1, 2, 2)
    assert (report.used, report.capacity) == (2, 9)
    assert items.push(server).stored == 0
    items_file(tmp_path / "a.parquet", {1: 1.0, 2: 3.0})
    assert items.push(server).stored == 1
    with pytest.raises(InvalidArgumentError, match="no room"):
        items.push(FakeServer(capacity=1))
    with pytest.raises(SignatureError, match="export.fresh_items"):
        items.push(FakeServer(capacity=0))


def test_following_replays_what_the_server_lacks(
    tmp_path: pathlib.Path,
) -> None:
    """A script of events; the follower may look once between two."""
    server, errors = FakeServer(), []
    path = tmp_path / "a.parquet"
    values = {1: 1.0, 2: 2.0}
    items = items_file(path, values)
    both = {1: (1.0, 0), 2: (2.0, 0)}
    looks = 0

    class Stop(threading.Event):
        """Acts the script instead of waiting."""

        def wait(self, timeout: float | None = None) -> bool:
            nonlocal looks
            looks += 1
            if looks == 1:
                assert server.items == both
            elif looks == 2:  # Nothing changed, nothing was sent.
                assert len(reports) == 1
                server.load(2)
            elif looks == 3:
                assert server.items == both
                server.load(2)  # Restarted with the same version.
            elif looks == 4:
                assert server.items == both
                server.fails = UnavailableError("UNAVAILABLE", "gone")
                server.load(3)
            elif looks == 5:
                assert errors == [server.fails]
                server.fails = None
            elif looks == 6:
                assert server.items == both
                items_file(path, {n: float(n) for n in range(1, 99)})
            elif looks in (7, 8):  # Refused once, and not sent again.
                assert len(errors) == 2 and "no room" in str(errors[1])
                assert server.items == both
                if looks == 8:
                    items_file(path, {3: 3.0})
            else:
                assert server.items[3] == (3.0, 0)
                self.set()
            return self.is_set()

    reports: list = []
    for report in items.follow(server, stop=Stop(), on_error=errors.append):
        reports.append(report)
    versions = [(report.version, report.stored) for report in reports]
    assert versions == [(1, 2), (2, 2), (2, 1), (3, 2), (3, 1)]
    assert looks == 9
