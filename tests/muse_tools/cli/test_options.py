"""Options of all commands: one name for one thing, and help that helps."""

from __future__ import annotations

import re
import subprocess
import sys

import pytest
import typer.main
from typer.testing import CliRunner

from muse_keras._version import __version__
from muse_tools.cli.commands import app
from muse_tools.datasets.options import CompleteJourneyOptions, SyntheticOptions


def commands():
    def walk(command, words):
        # Newer typer brings a click of its own: no isinstance.
        if not hasattr(command, "commands"):
            yield " ".join(words), command
            return
        for name, child in command.commands.items():
            yield from walk(child, [*words, name])

    return dict(walk(typer.main.get_command(app), []))


COMMANDS = commands()


def test_one_spelling_for_one_option():
    spelled: dict[str, set[str]] = {}
    for command in COMMANDS.values():
        for parameter in command.params:
            if parameter.param_type_name == "option":
                name = max(parameter.opts, key=len)
                spelled.setdefault(name, set()).add(
                    " ".join(sorted([*parameter.opts, parameter.name]))
                )
    assert {"--target", "--rest-port", "--model", "--config"} <= set(spelled)
    # The parameter may have another name, such as as_json.
    several = {n for n, found in spelled.items() if len(found) > 1}
    assert not several, {name: spelled[name] for name in several}
    for old in (
        *("--rest-api-port", "--rest_api_port", "--model-name"),
        *("--model-target", "--poll-seconds"),
    ):
        assert old not in spelled


@pytest.mark.parametrize("name", COMMANDS)
def test_help_has_an_example(name):
    for option in ("-h", "--help"):
        done = CliRunner().invoke(
            app, [*name.split(), option], env={"COLUMNS": "500"}
        )
        assert done.exit_code == 0, done.output
    text = " ".join(done.output.split())
    assert (
        f"muse {name}" in text.partition("Options:")[0].partition("xample")[2]
    )


@pytest.mark.parametrize(
    "name",
    [
        *("bench", "compare", "demo", "explore", "items push", "pipeline run"),
        *("report", "serve", "store load", "store rows"),
        *(name for name in COMMANDS if name.startswith("data ")),
    ],
)
def test_help_of_a_heavy_command_says_how_long(name):
    text = " ".join(COMMANDS[name].help.split())
    assert re.search(
        r"\d+ (seconds|minutes)|minutes .* hours|an hour"
        r"|time grows with|once TensorFlow|as long as",
        text,
        re.I,
    ), text


def test_version():
    done = CliRunner().invoke(app, ["--version"])
    assert (done.exit_code, done.output) == (0, f"muse {__version__}\n")


@pytest.mark.parametrize(
    ("name", "options"),
    [
        ("data synth", SyntheticOptions()),
        ("data complete-journey", CompleteJourneyOptions()),
    ],
)
def test_defaults_are_those_of_the_generator(name, options):
    defaults = {p.name: p.default for p in COMMANDS[name].params}
    for field, value in vars(options).items():
        if isinstance(value, tuple):
            value = "-".join(map(str, value))
        assert defaults[field] == value


@pytest.mark.parametrize(
    ("arguments", "part"),
    [
        (["explore", "--data", "nowhere"], "NO_DIRECTORY"),
        (["serve", "--model-base-path", "nowhere"], "nowhere"),
        (["report", "nowhere"], "NO_SUCH_RUN"),
        (["compare", "--config", "compare.yaml"], "data.raw_dir: expected"),
    ],
)
def test_what_is_missing_is_found_before_tensorflow(arguments, part, tmp_path):
    (tmp_path / "compare.yaml").write_text(
        "name: x\noutput_dir: out\ndata_sets: {d: {pipeline: pipeline.yaml}}\n"
    )
    (tmp_path / "pipeline.yaml").write_text(
        "name: x\noutput_dir: out\ndata: {raw_dir: gone}\n"
    )
    program = (
        "import sys\n"
        "from muse_tools.cli import main\n"
        "try:\n    main.run()\n"
        "finally:\n    print({'tensorflow', 'tfx'} & set(sys.modules))"
    )
    done = subprocess.run(
        [sys.executable, "-c", program, *arguments],
        capture_output=True,
        text=True,
        env={"PYTHONPATH": ":".join(sys.path), "PATH": "/usr/bin:/bin"},
        cwd=tmp_path,
    )
    assert done.returncode == 1, done.stderr
    assert done.stdout == "set()\n" and part in done.stderr
