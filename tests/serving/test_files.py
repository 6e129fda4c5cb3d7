"""Folders and files that appear whole, and the newest version."""

from __future__ import annotations

import json
import pathlib

import pytest

from serving import files


def test_a_folder_is_replaced_when_it_is_complete(
    tmp_path: pathlib.Path,
) -> None:
    target = tmp_path / "deep" / "folder"
    for text in ("first", "second"):
        with files.replaced_folder(target) as fresh:
            assert not list(fresh.iterdir())
            (fresh / text).write_text(text)
            assert not (target / text).exists()
        assert [path.name for path in target.iterdir()] == [text]
    with pytest.raises(KeyError), files.replaced_folder(target) as fresh:
        (fresh / "third").write_text("third")
        raise KeyError
    assert [path.name for path in target.iterdir()] == ["second"]
    assert [path.name for path in target.parent.iterdir()] == ["folder"]


def test_what_a_killed_process_left_is_not_taken(
    tmp_path: pathlib.Path,
) -> None:
    target = tmp_path / "folder"
    with files.replaced_folder(target) as fresh:
        place = fresh
    place.mkdir()
    (place / "half").write_text("half")
    with files.replaced_folder(target) as fresh:
        (fresh / "whole").write_text("whole")
    assert [path.name for path in target.iterdir()] == ["whole"]


def test_the_newest_version_has_the_highest_number(
    tmp_path: pathlib.Path,
) -> None:
    assert files.newest_version(tmp_path / "missing") is None
    assert files.newest_version(tmp_path) is None
    for name in ("9", "10", ".11.tmp", "latest", "010", str(2**63)):
        (tmp_path / name).mkdir()
    (tmp_path / "12").write_text("a file is no version")
    assert files.find_versions(tmp_path) == {
        9: str(tmp_path / "9"),
        10: str(tmp_path / "10"),
    }
    assert files.newest_version(tmp_path) == tmp_path / "10"


def test_json_has_null_for_numbers_it_cannot_write(
    tmp_path: pathlib.Path,
) -> None:
    file = tmp_path / "new" / "values.json"
    files.write_json(
        file, {"b": (1.5, float("nan")), "a": float("inf")}, sort_keys=True
    )
    assert json.loads(file.read_text()) == {"a": None, "b": [1.5, None]}
    assert file.read_text().index('"a"') < file.read_text().index('"b"')
    assert [path.name for path in file.parent.iterdir()] == ["values.json"]
