"""The item table artifact: what is written is what is read, or an error."""

import hashlib
import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from muse_keras.tables import ItemTable, array_blocks
from muse_keras.tables.array_blocks import read_blocks
from muse_keras.tables.table_files import map_members

INT64 = np.iinfo(np.int64)
INT64S = st.integers(INT64.min, INT64.max)


def parts(ids: list[int], dim: int = 3) -> dict[str, Any]:
    """Return the arguments of a good `ItemTable.write`."""
    rng = np.random.default_rng(0)
    count = len(ids)
    return {
        "item_ids": np.array(ids, np.int64),
        "codes": rng.integers(-127, 128, (count, dim)).astype(np.int8),
        "features": {
            name: rng.integers(-9, 9, count)
            for name in ("category", "city", "province")
        },
        "source": "test",
    }


def test_rows_belong_to_their_ids(tmp_path: Path) -> None:
    given_parts = parts([5, INT64.min, -2, INT64.max, 1])
    table = ItemTable.write(tmp_path / "t", **given_parts)
    assert table.num_items == 5 and table.dim == 3
    assert (np.diff(table.item_ids.astype(object)) > 0).all()
    assert not table.codes[0].any()
    for i, item in enumerate(given_parts["item_ids"]):
        row = int(table.rows(item))
        assert table.item_ids[row - 1] == item
        np.testing.assert_array_equal(table.codes[row], given_parts["codes"][i])
        for name, values in given_parts["features"].items():
            assert table.features[name][row] == values[i]
    for name in given_parts["features"]:
        assert table.features[name][0] == 0
        assert table.features[name].shape == (6,)


@settings(max_examples=60, deadline=None)
@given(
    ids=st.lists(INT64S.filter(bool), min_size=1, unique=True),
    queries=st.lists(INT64S),
)
def test_rows_equal_a_dictionary(
    tmp_path_factory: pytest.TempPathFactory,
    ids: list[int],
    queries: list[int],
) -> None:
    table = ItemTable.write(
        tmp_path_factory.mktemp("t") / "table", **parts(ids)
    )
    expected = {item: row + 1 for row, item in enumerate(sorted(ids))}
    asked = [*ids, *queries, 0, INT64.min, INT64.max]
    rows = table.rows(asked)
    assert rows.dtype == np.int32
    assert rows.tolist() == [expected.get(item, 0) for item in asked]


def test_rows_keep_the_shape(tmp_path: Path) -> None:
    table = ItemTable.write(tmp_path / "t", **parts([3, 4]))
    assert table.rows(np.zeros((2, 0, 3), np.int64)).shape == (2, 0, 3)
    assert table.rows(4).shape == ()
    assert table.rows([]).tolist() == []
    assert table.rows(np.array([[3], [4]], np.int8)).tolist() == [[1], [2]]


@pytest.mark.parametrize("ids", [[1.0], ["1"], [True], [2**63]])
def test_rows_refuse_what_is_not_int64(tmp_path: Path, ids: list[Any]) -> None:
    table = ItemTable.write(tmp_path / "t", **parts([3, 4]))
    with pytest.raises(ValueError, match="`ids`"):
        table.rows(np.array(ids))


def test_inverse_norms(tmp_path: Path) -> None:
    given_parts = parts([1, 2, 3, 4], dim=128)
    given_parts["codes"][2] = 0
    given_parts["codes"][3] = -128
    table = ItemTable.write(tmp_path / "t", **given_parts)
    inverse = table.inverse_norms()
    assert inverse.dtype == np.float32
    assert inverse[0] == 0 and inverse[3] == 0
    norms = np.sqrt((table.codes[[1, 2, 4]].astype(np.float64) ** 2).sum(1))
    np.testing.assert_allclose(inverse[[1, 2, 4]], 1 / norms, rtol=1e-7)


def test_blocks_do_not_show(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    given_parts = parts(list(range(1, 40)))
    whole = ItemTable.write(tmp_path / "a", **given_parts)
    monkeypatch.setattr(array_blocks.blocks, "__defaults__", (7,))
    pieces = ItemTable.write(tmp_path / "b", **given_parts)
    assert whole.manifest == pieces.manifest
    np.testing.assert_array_equal(whole.inverse_norms(), pieces.inverse_norms())
    repeated = given_parts | {"item_ids": np.array([*range(1, 39), 8])}
    with pytest.raises(ValueError, match="8 more than once"):
        ItemTable.write(tmp_path / "c", **repeated)


def in_parts(given: dict[str, Any], places: list[list[int]]) -> list[Any]:
    """Return the arguments of `write` for the items at some places."""
    return [
        given
        | {name: given[name][some] for name in ("item_ids", "codes")}
        | {"features": {n: v[some] for n, v in given["features"].items()}}
        for some in places
    ]


def test_joined_tables_are_one_table(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    given = parts([7, -3, INT64.max, 2, INT64.min, 5, -9])
    given["features"] |= {
        "price": np.linspace(0, 1, 7),
        "tags": np.arange(14).reshape(7, 2),
    }
    schema = {"name": "shop", "version": 1, "digest": "0123"}
    whole = ItemTable.write(tmp_path / "whole", **given, schema=schema)
    monkeypatch.setattr(array_blocks.blocks, "__defaults__", (2,))
    folders = [tmp_path / name for name in "abc"]
    # Of any order within a part.
    pieces = in_parts(given, [[6, 4], [1], [2, 0, 3, 5]])
    for folder, piece in zip(folders, pieces, strict=True):
        ItemTable.write(folder, **piece)
    joined = ItemTable.join(tmp_path / "t", folders, "test", schema)
    assert joined.manifest == whole.manifest
    assert joined.rows(given["item_ids"]).tolist() == [6, 3, 7, 4, 1, 5, 2]


def test_parts_that_do_not_fit_are_refused(tmp_path: Path) -> None:
    given = parts([1, 2, 3])
    for name, piece in zip(
        "abc", in_parts(given, [[0], [1], [2]]), strict=True
    ):
        ItemTable.write(tmp_path / name, **piece)
    other = parts([9])
    other["features"]["city"] = np.zeros(1, np.float32)
    ItemTable.write(tmp_path / "other", **other)

    def join(names: str) -> None:
        folders = [tmp_path / name for name in names.split()]
        ItemTable.join(tmp_path / "t", folders, "test")

    for names, message in (
        ("", "at least one table"),
        ("a c b", "ids must be above 3, the last of .*c. Received: 2"),
        ("a a", "ids must be above 1"),
        ("a other", "expected the columns of .*'city': .'int64'"),
    ):
        with pytest.raises(ValueError, match=message):
            join(names)
    codes = bytearray((tmp_path / "b" / "scl_int8.npy").read_bytes())
    codes[-1] ^= 1
    (tmp_path / "b" / "scl_int8.npy").write_bytes(codes)
    with pytest.raises(ValueError, match="SHA-256 differs"):
        join("a b c")
    assert not (tmp_path / "t").exists()


def test_features_of_every_type_and_width(tmp_path: Path) -> None:
    features = {
        "tags": np.array([[7, 8], [1, 0], [3, 0]]),
        "price": np.array([1.5, np.nan, -2.0]),
        "look": np.array([[1, 2, 3], [4, 5, 6], [np.nan] * 3], np.float32),
    }
    schema = {"name": "shop", "version": 1, "digest": "0123"}
    table = ItemTable.write(
        tmp_path / "t",
        **parts([9, -4, 7]) | {"features": features, "schema": schema},
    )
    assert table.manifest["schema"] == schema
    nan = np.nan
    for name, dtype, wanted in (
        ("tags", np.int64, [[0, 0], [1, 0], [3, 0], [7, 8]]),
        ("price", np.float32, [nan, nan, -2.0, 1.5]),
        ("look", np.float32, [[nan] * 3, [4, 5, 6], [nan] * 3, [1, 2, 3]]),
    ):
        assert table.features[name].dtype == dtype
        np.testing.assert_array_equal(table.features[name], wanted)


def test_writing_is_deterministic(tmp_path: Path) -> None:
    given_parts = parts([9, -4, 7])
    first = ItemTable.write(tmp_path / "a", **given_parts).manifest
    order = [2, 0, 1]
    shuffled = given_parts | {
        "item_ids": given_parts["item_ids"][order],
        "codes": given_parts["codes"][order],
        "features": {k: v[order] for k, v in given_parts["features"].items()},
    }
    assert ItemTable.write(tmp_path / "b", **shuffled).manifest == first


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"item_ids": np.array([1, 0])}, "`item_ids` must not contain 0"),
        ({"item_ids": np.array([7, 7])}, "`item_ids` must be unique.*7"),
        ({"item_ids": np.array([[1, 2]])}, "`item_ids` must be one-dim"),
        ({"item_ids": np.zeros(0, np.int64)}, "`item_ids`.*not empty"),
        ({"item_ids": np.array([1.0, 2.0])}, "`item_ids` must be integers"),
        ({"codes": np.zeros((2, 3))}, "`codes` must be int8"),
        ({"codes": np.zeros((3, 3), np.int8)}, "`codes` must have shape"),
        ({"codes": np.zeros((2, 0), np.int8)}, "`codes` must have shape"),
        (
            {
                "features": {
                    "category": np.zeros(2, int),
                    "city": np.zeros(3, int),
                    "province": np.zeros(2, int),
                }
            },
            r"`features\['city'\]` must have shape \(2,\)",
        ),
        (
            {"features": {"look": np.zeros((2, 3, 4))}},
            r"`features\['look'\]` must have shape \(2,\) or \(2, width\)",
        ),
    ],
)
def test_write_names_what_is_wrong(
    tmp_path: Path, change: dict[str, Any], message: str
) -> None:
    with pytest.raises(ValueError, match=message):
        ItemTable.write(tmp_path / "t", **parts([1, 2]) | change)
    assert list(tmp_path.iterdir()) == []


def test_write_fills_an_empty_directory_but_no_other(tmp_path: Path) -> None:
    ItemTable.write(tmp_path, **parts([1, 2]))
    assert ItemTable.open(tmp_path, verify=True).num_items == 2
    with pytest.raises(FileExistsError, match="never overwritten"):
        ItemTable.write(tmp_path, **parts([3]))
    assert ItemTable.open(tmp_path).num_items == 2


@pytest.mark.parametrize("names", [(), ("brand",), ("shop", "brand", "a")])
def test_features_have_any_names(tmp_path: Path, names: Any) -> None:
    features = {name: [place, -4] for place, name in enumerate(names, 5)}
    given_parts = parts([2, 1]) | {"features": features}
    table = ItemTable.write(tmp_path / "t", **given_parts)
    again = ItemTable.open(tmp_path / "t", verify=True)
    for opened in (table, again):
        assert list(opened.features) == list(names)
        for name, values in features.items():
            assert opened.features[name].tolist() == [0, *values[::-1]]


def test_a_table_written_before_names_were_free_opens(tmp_path: Path) -> None:
    """Version 1 of the format, of which only these names were known."""
    raw = {"category": [70, 30], "city": [1, 2], "province": [4, 3]}
    codes = np.array([[1, 2], [3, 4]], np.int8)
    table = ItemTable.write(tmp_path / "t", [5, -3], codes, raw, "test")
    file = tmp_path / "t" / "item_features.npz"
    before = tmp_path / "before.npz"
    np.savez(before, **{k: [0, *v[::-1]] for k, v in raw.items()})
    before.replace(file)
    manifest = table.manifest
    assert set(manifest) == {
        *("format_version", "num_items", "dim", "scale", "source", "files")
    }
    content = file.read_bytes()
    manifest["files"][file.name] = {
        "bytes": len(content),
        "sha256": hashlib.sha256(content).hexdigest(),
    }
    (tmp_path / "t" / "manifest.json").write_text(json.dumps(manifest))
    opened = ItemTable.open(tmp_path / "t", verify=True)
    assert {k: v.tolist() for k, v in opened.features.items()} == {
        name: [0, *values[::-1]] for name, values in raw.items()
    }


def test_tables_are_read_only(tmp_path: Path) -> None:
    table = ItemTable.write(tmp_path / "t", **parts([1, 2]))
    for array in (table.item_ids, table.codes, table.features["city"]):
        with pytest.raises(ValueError, match="read-only"):
            array[...] = 1


@pytest.mark.parametrize(
    "name",
    ["item_ids.npy", "scl_int8.npy", "item_features.npz", "manifest.json"],
)
def test_open_names_a_missing_or_truncated_file(
    tmp_path: Path, name: str
) -> None:
    ItemTable.write(tmp_path / "t", **parts([1, 2]))
    file = tmp_path / "t" / name
    content = file.read_bytes()
    file.write_bytes(content[:-5])
    with pytest.raises(ValueError, match=name):
        ItemTable.open(tmp_path / "t")
    file.unlink()
    with pytest.raises(FileNotFoundError, match=name):
        ItemTable.open(tmp_path / "t")


@pytest.mark.parametrize("name", ["item_ids.npy", "scl_int8.npy"])
def test_verify_finds_a_changed_byte(tmp_path: Path, name: str) -> None:
    ItemTable.write(tmp_path / "t", **parts([1, 2]))
    file = tmp_path / "t" / name
    content = bytearray(file.read_bytes())
    content[-1] ^= 1
    file.write_bytes(content)
    ItemTable.open(tmp_path / "t")
    with pytest.raises(ValueError, match=f"{name}.*SHA-256"):
        ItemTable.open(tmp_path / "t", verify=True)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"format_version": 2}, "`format_version` must be 1"),
        ({"num_items": 3}, "item_ids.npy: expected int64"),
        ({"dim": 4}, "scl_int8.npy: expected int8"),
        ({"files": {}}, "`files` does not list item_ids.npy"),
    ],
)
def test_open_checks_the_manifest(
    tmp_path: Path, change: dict[str, Any], message: str
) -> None:
    ItemTable.write(tmp_path / "t", **parts([1, 2]))
    file = tmp_path / "t" / "manifest.json"
    file.write_text(json.dumps(json.loads(file.read_text()) | change))
    with pytest.raises(ValueError, match=message):
        ItemTable.open(tmp_path / "t")


def test_memory_mapped_arrays_are_written_alike(tmp_path: Path) -> None:
    given_parts = parts(list(range(-300, 0)) + list(range(1, 400)))
    np.save(tmp_path / "codes.npy", given_parts["codes"])
    mapped = given_parts | {
        "codes": np.load(tmp_path / "codes.npy", mmap_mode="r")
    }
    first = ItemTable.write(tmp_path / "a", **given_parts)
    second = ItemTable.write(tmp_path / "b", **mapped)
    assert first.manifest["files"] == second.manifest["files"]


def test_features_are_mapped_not_read(tmp_path: Path) -> None:
    table = ItemTable.write(tmp_path / "t", **parts([3, 1, 2]))
    with np.load(tmp_path / "t" / "item_features.npz") as stored:
        for name, values in table.features.items():
            assert isinstance(values, np.memmap)
            np.testing.assert_array_equal(values, stored[name])


def test_archives_of_numpy_are_mapped_too(tmp_path: Path) -> None:
    file = tmp_path / "item_features.npz"
    arrays = {"city": np.arange(9), "province": np.array([INT64.min])}
    np.savez(file, **arrays)
    mapped = map_members(file)
    assert list(mapped) == list(arrays)
    for name, values in arrays.items():
        np.testing.assert_array_equal(mapped[name], values)
    np.savez_compressed(file, **arrays)
    with pytest.raises(ValueError, match="city.npy must not be compressed"):
        map_members(file)


@pytest.mark.parametrize("mode", [None, "r", "c", "r+"])
def test_read_blocks_covers_an_array_and_leaves_it(
    tmp_path: Path, mode: Any
) -> None:
    values = np.arange(200_000, dtype=np.int64).reshape(-1, 2)
    np.save(tmp_path / "v.npy", values)
    array = np.load(tmp_path / "v.npy", mmap_mode=mode)
    if mode in ("c", "r+"):
        array[7] = values[7] = -1
    found = np.zeros_like(values)
    for block, rows in read_blocks(array):
        found[block] = rows
    np.testing.assert_array_equal(found, values)
    np.testing.assert_array_equal(array, values)
