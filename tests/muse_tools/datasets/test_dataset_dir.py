import json

import pytest

from muse_tools.datasets import dataset_dir, raw_tables, table_writer
from muse_tools.datasets.errors import DataError


def write(out, tables, parameters, version=1):
    description = {"parameters": parameters, "generator_version": version}
    with dataset_dir.staged(out, description) as staging:
        for name, table in tables.items():
            table_writer.write_table(staging / "raw" / f"{name}.parquet", table)


def test_reuse_needs_equal_parameters_version_and_files(tmp_path, tables):
    write(tmp_path, tables, {"seed": 1, "weeks": (4, 5)})
    wanted = {"seed": 1, "weeks": (4, 5)}
    found = dataset_dir.reusable(tmp_path, wanted, 1)
    assert found is not None and len(found["files"]) == 6
    assert dataset_dir.reusable(tmp_path, {**wanted, "seed": 2}, 1) is None
    assert dataset_dir.reusable(tmp_path, wanted, 2) is None
    path = tmp_path / "raw" / "item_features.parquet"
    data = path.read_bytes()
    path.write_bytes(data[:-1])
    assert dataset_dir.reusable(tmp_path, wanted, 1) is None
    path.write_bytes(data)
    assert dataset_dir.reusable(tmp_path, wanted, 1)
    (tmp_path / "dataset.json").write_text("{")
    assert dataset_dir.reusable(tmp_path, wanted, 1) is None


@pytest.mark.parametrize("survived", [0, 1])
def test_a_kill_while_moving_is_recovered(
    tmp_path, tables, monkeypatch, survived
):
    """Whatever move is the last one before the kill, a rerun finishes."""
    write(tmp_path, tables, {"seed": 1})
    replace, calls = dataset_dir.os.replace, []

    def dies(source, target):
        if str(tmp_path / "raw") == str(target).rstrip("/") or str(
            target
        ).endswith("dataset.json"):
            calls.append(target)
            if len(calls) > survived:
                raise KeyboardInterrupt
        replace(source, target)

    monkeypatch.setattr(dataset_dir.os, "replace", dies)
    with pytest.raises(KeyboardInterrupt):
        write(tmp_path, tables, {"seed": 2})
    monkeypatch.undo()
    for seed in (1, 2):
        assert dataset_dir.reusable(tmp_path, {"seed": seed}, 1) is None
    write(tmp_path, tables, {"seed": 2})
    assert dataset_dir.reusable(tmp_path, {"seed": 2}, 1)
    assert sorted(p.name for p in tmp_path.iterdir()) == ["dataset.json", "raw"]
    raw_tables.RawTables.open(tmp_path).check()


def test_foreign_tables_in_either_place_are_refused(tmp_path, tables):
    for root in (tmp_path / "a", tmp_path / "b" / "raw"):
        table_writer.write_table(
            root / "item_features.parquet", tables["item_features"]
        )
    for out in (tmp_path / "a", tmp_path / "b"):
        with pytest.raises(DataError) as error:
            write(out, tables, {})
        assert error.value.code == "OUTPUT_EXISTS"
        assert not (out / "dataset.json").exists()


def test_other_files_in_the_directory_are_left_alone(tmp_path, tables):
    (tmp_path / "notes.txt").write_text("mine")
    write(tmp_path, tables, {"seed": 1})
    write(tmp_path, tables, {"seed": 2})
    assert (tmp_path / "notes.txt").read_text() == "mine"
    made = json.loads((tmp_path / "dataset.json").read_text())
    assert made["format"] == dataset_dir.FORMAT
    assert made["parameters"] == {"seed": 2}
