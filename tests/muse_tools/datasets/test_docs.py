import contextlib
import io
import pathlib
import re
import subprocess
import sys

from typer.testing import CliRunner

from muse_tools.cli.data import app
from muse_tools.datasets import (
    casting,
    complete_journey,
    search_validation,
    synth,
    text_features,
    validation,
)
from tests.muse_tools.datasets.conftest import NAMES, SCHEMAS

ROOT = pathlib.Path(__file__).parents[3]
TEXT = (ROOT / "docs" / "data.md").read_text("utf-8")
DICTIONARY = (ROOT / "schemas" / "README.md").read_text("utf-8")


def test_python_examples_run(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    blocks = re.findall(r"```python\n(.*?)```", TEXT, re.DOTALL)
    assert blocks
    for block in blocks:
        out = io.StringIO()
        with contextlib.redirect_stdout(out):
            exec(compile(block, "docs/data.md", "exec"), {})
        assert "{'null': 2, 'label not one-hot': 2}" in out.getvalue() or (
            "{'label not one-hot': 2, 'null': 2}" in out.getvalue()
        )
        assert "558 read, 554 accepted" in out.getvalue()


def test_commands_exist_with_their_options():
    commands = re.findall(r"`muse data ([^`]+)`", TEXT)
    assert len(commands) >= 4
    for command in commands:
        name, *rest = command.split()
        shown = CliRunner().invoke(app, [name, "--help"])
        assert shown.exit_code == 0
        for option in [w for w in rest if w.startswith("--")]:
            assert option in shown.stdout


def test_reasons_and_fields_are_all_described():
    for reason in validation.REASONS:
        assert f"`{reason}`" in TEXT
    for schema in SCHEMAS.values():
        for field in schema:
            kind = casting.describe(field.type)
            kind = kind.replace("<", "&lt;").replace(">", "&gt;")
            line = f"| `{field.name}` | `{NAMES[field.name]}` | {kind}"
            assert line in DICTIONARY


def test_the_search_tables_are_described():
    text = (ROOT / "docs" / "scl.md").read_text("utf-8")
    for reason in search_validation.REASONS:
        assert f"| `{reason}` |" in text
    for name in (text_features.HASHED_NGRAMS, "sentence:MODEL"):
        assert f"`{name}`" in text
    assert f"{complete_journey.Options().search_events:,} (" in text
    assert f"({synth.Options().search_events:,} by default" in text


def test_importing_the_package_imports_nothing_heavy():
    code = (
        "import sys, tfx_pipeline, muse_tools.datasets, muse_tools.cli.data\n"
        "heavy = {'tensorflow', 'numpy', 'pyarrow', 'pandas', 'sklearn',"
        " 'apache_beam', 'tfx'}\n"
        "sys.exit(str(heavy & set(sys.modules)) if heavy & set(sys.modules)"
        " else 0)\n"
    )
    done = subprocess.run(
        [sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True
    )
    assert done.returncode == 0, done.stderr
