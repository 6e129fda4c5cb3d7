"""Wrong usage ends with 2 and names the option; nothing is done before."""

from __future__ import annotations

import pathlib

import pytest
import typer
from typer.testing import CliRunner

from muse_tools.cli import output, rank
from muse_tools.cli.commands import app

RANK = "rank --user 1 --candidates 1 --data nowhere "
STORE = "--store lmdb:none "


def run(*arguments: str):
    return CliRunner().invoke(app, arguments, env={"COLUMNS": "200"})


@pytest.mark.parametrize(
    ("command", "part"),
    [
        (RANK + "--target foo", "host:port"),
        (RANK + "--target=", "host:port"),
        (RANK + "--transport rest --target host", "host:port"),
        (RANK + "--transport rest --target host:0", "host:port"),
        (RANK + "--transport rest --target http://host:x", "host:port"),
        (RANK + "--transport rest --target=", "host:port"),
        (RANK + "--timeout -1", "--timeout"),
        (RANK + "--timeout nan", "--timeout"),
        (RANK + "--target-key-file key", "go together"),
        (RANK + "--candidates=", "--candidates"),
        (RANK + "--candidates 9223372036854775808", "--candidates"),
        ("items push nowhere --target foo", "host:port"),
        ("serve --model-base-path x --port 99999", "--port"),
        ("serve --model-base-path x --rest-port -2", "--rest-port"),
        ("serve --model-base-path x --ranking-port 99999", "--ranking-port"),
        ("serve --model-base-path x --store lmdb:s", "--with-ranking"),
        ("serve --model-base-path x --with-ranking --store s", "lmdb:/path"),
        ("service --store s", "lmdb:/path"),
        ("service --store redis://host:x/0", "--store"),
        ("service --target foo", "HOST:PORT"),
        ("service --target=", "HOST:PORT"),
        ("service --deadline-ms -1", "--deadline-ms"),
        ("service --port 99999", "--port"),
        ("store delete " + STORE, "--users-file"),
        ("store get --store redis://me:pw@host:99999/0 --user 1", "port of 0"),
        ("store get --timeout 0 --user 1 " + STORE, "--timeout"),
        ("store rows --target foo " + STORE, "HOST:PORT"),
        ("store load --data x --target foo " + STORE, "HOST:PORT"),
        (
            "store append --user 1 --items 1 --behavior x " + STORE,
            "NAME=VALUES",
        ),
        ("store append --user 1 --items= " + STORE, "--items"),
        ("pipeline run --set nope", "section.key=value"),
        ("pipeline status --set =1", "section.key=value"),
        ("report nowhere --set nope", "section.key=value"),
        ("data synth --out out --users 0", "--users"),
    ],
)
def test_it_is_said(
    command: str,
    part: str,
    tmp_path: pathlib.Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.chdir(tmp_path)
    done = run(*command.split())
    assert done.exit_code == 2, done.output
    assert part in done.output and "pw" not in done.output
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize(
    "command", ["data synth", "data complete-journey", "demo"]
)
def test_a_file_is_no_folder_to_write_to(
    command: str, tmp_path: pathlib.Path
) -> None:
    file = tmp_path / "file"
    file.touch()
    done = run(*command.split(), "--out", str(file))
    assert done.exit_code == 2
    assert "'--out'" in done.output and f"'{file}' is a file" in done.output
    assert not file.read_bytes()


@pytest.mark.parametrize(
    "command", ["service", "serve --model-base-path x --with-ranking"]
)
def test_a_service_makes_no_store(command: str, tmp_path: pathlib.Path) -> None:
    done = run(*command.split(), "--store", f"lmdb:{tmp_path}/slip")
    assert done.exit_code == 1
    assert done.output.count("\n") == 1
    assert f"no behavior store in {tmp_path}/slip; make one" in done.output
    assert not list(tmp_path.iterdir())


def test_an_exit_is_no_error(capsys):
    """As of `pipeline run --fail-unless-pushed`, after its verdict."""
    with pytest.raises(typer.Exit) as ended, output.one_line_errors():
        raise typer.Exit(1)
    assert ended.value.exit_code == 1
    assert capsys.readouterr().err == ""


@pytest.mark.parametrize(
    ("command", "part"),
    [
        ("rank --request nowhere.json", "--request nowhere.json: No such file"),
        ("items push nowhere.parquet", "the columns item_id, embedding and"),
        ("serve --model-base-path nowhere", "/<number>/saved_model.pb"),
        ("serve --model-config-file nowhere", "protobuf of ModelServerConfig"),
        ("data inspect nowhere", "muse data complete-journey --out DIR"),
        ("data import-joined nowhere --out x", "holds train/, test/ and"),
        ("store get --user 1 --store lmdb:nowhere", "muse store load --data"),
        ("store get --user 1 --store redis://127.0.0.1:1/0", "server running"),
    ],
)
def test_what_is_missing_is_named_with_what_to_do(command, part):
    done = run(*command.split())
    assert done.exit_code == 1 and part in done.stderr
    assert done.stderr.count("\n") == 1


def test_ids_of_a_narrow_table_are_whole(monkeypatch, capsys):
    monkeypatch.setenv("COLUMNS", "60")
    ids = [-8868933425064123456, 9223372036854775807]
    rank._print_table(
        "User",
        [
            {"rank": 1, "item_id": item, "name": "a b " * 9, "attention": 0.5}
            for item in ids
        ],
    )
    shown = capsys.readouterr().out
    assert all(str(item) in shown for item in ids)
