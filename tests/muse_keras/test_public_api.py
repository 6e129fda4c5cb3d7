"""The public names, and what importing them costs."""

import doctest
import importlib
import subprocess
import sys
from importlib.util import find_spec
from pathlib import Path

import keras
import pytest

import muse_keras

ROOT = Path(__file__).parents[2]
MODULES = sorted(f"muse_keras.{name}" for name in muse_keras.__all__)
sys.path.insert(0, str(ROOT / "scripts"))
import public_api  # noqa: E402


def test_names_and_signatures_are_those_written_down():
    """After a deliberate change: .venv/bin/python scripts/public_api.py."""
    written = public_api.FILE.read_text(encoding="utf-8").splitlines()
    found = list(public_api.lines())
    # Not a plain comparison: a failure lists the changes alone.
    assert [line for line in written if line not in set(found)] == []
    assert [line for line in found if line not in set(written)] == []


def test_a_changed_default_would_be_noticed(monkeypatch):
    before = set(public_api.lines())
    layer = muse_keras.layers.SimTier
    monkeypatch.setattr(
        layer, "__init__", lambda self, num_tiers=10, **kwargs: None
    )
    assert set(public_api.lines()) ^ before
    assert "muse_keras.layers.SimTier(num_tiers=10, **kwargs)" in set(
        public_api.lines()
    )


def test_the_package_lists_its_parts():
    assert set(muse_keras.__all__) <= set(dir(muse_keras))
    assert muse_keras.layers.GSUTopK.__name__ == "GSUTopK"
    with pytest.raises(AttributeError, match="no attribute 'nothing'"):
        _ = muse_keras.nothing


def test_serialised_names_are_stable():
    for _, name, value in public_api.public_objects():
        registered = keras.saving.get_registered_object(f"muse_keras>{name}")
        assert registered in (value, None)
    for name in ("GSUTopK", "MUSE", "DIN", "RowSparseAdam", "GroupAUC"):
        assert keras.saving.get_registered_object(f"muse_keras>{name}")


def loaded_after(statement: str) -> set[str]:
    code = (
        f"{statement}\nimport sys\n"
        "print(' '.join(m for m in sys.modules if '.' not in m))"
    )
    result = subprocess.run(
        [sys.executable, "-c", code],
        cwd=ROOT,
        capture_output=True,
        text=True,
        check=True,
        timeout=120,
    )
    return set(result.stdout.split())


def test_the_item_table_needs_neither_keras_nor_a_backend():
    loaded = loaded_after("from muse_keras.tables import ItemTable")
    assert "numpy" in loaded
    assert not loaded & {"keras", "tensorflow", "torch", "jax"}


def test_other_backends_do_not_import_tensorflow():
    if keras.backend.backend() == "tensorflow":
        pytest.skip("TensorFlow is the backend")
    loaded = loaded_after(
        "import muse_keras.layers, muse_keras.models, muse_keras.metrics\n"
        "import muse_keras.optimizers, muse_keras.losses, muse_keras.callbacks"
    )
    assert "tensorflow" not in loaded


# Shown on PyTorch alone.
WITH_TORCH = {"read_state_dict"}


def test_examples_in_docstrings_run():
    tried, output = set(), []
    finder = doctest.DocTestFinder(recurse=False)
    for _, name, value in public_api.public_objects():
        if name in WITH_TORCH and not find_spec("torch"):
            continue
        source = importlib.import_module(value.__module__)
        for test in finder.find(value, name, module=source):
            if not test.examples:
                continue
            runner = doctest.DocTestRunner()
            runner.run(test, out=output.append)
            tried.add(name)
    assert not output, "".join(output)
    assert len(tried) >= 30
