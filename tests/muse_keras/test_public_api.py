"""The public names, and what importing them costs."""

import doctest
import importlib
import inspect
import re
import subprocess
import sys
from importlib.util import find_spec
from pathlib import Path

import keras
import pytest

import muse_keras
from muse_keras import _registration

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


def test_serialized_names_are_stable():
    for _, name, value in public_api.public_objects():
        registered = keras.saving.get_registered_object(f"muse_keras>{name}")
        assert registered in (value, None)
    for name in ("GSUTopK", "MUSE", "DIN", "RowSparseAdam", "GroupAUC"):
        assert keras.saving.get_registered_object(f"muse_keras>{name}")


def test_keras_is_told_of_every_class():
    registered = {
        name.partition(">")[2]
        for name in keras.saving.get_custom_objects()
        if name.startswith("muse_keras>")
    }
    assert set(_registration.CLASSES) == registered


@pytest.mark.parametrize(
    "imports",
    [
        "import keras, muse_keras",
        pytest.param(
            "import muse_keras\nfrom importlib.util import find_spec\n"
            "find_spec('keras')\nimport keras",
            marks=pytest.mark.tf,  # The order of imports knows no backend.
        ),
    ],
)
def test_a_saved_model_loads_after_the_import_of_the_package(imports, tmp_path):
    path = tmp_path / "model.keras"
    muse_keras.models.DIN(9, {"age": 3}, {"brand": 4}, vector_dim=8).save(path)
    printed = output_of(
        f"{imports}\nimport sys\n"
        "assert 'muse_keras.models' not in sys.modules\n"
        f"print(type(keras.models.load_model({str(path)!r})).__name__)"
    )
    assert printed.split() == ["DIN"]


def test_the_version_is_that_of_the_package():
    printed = output_of("import muse_keras\nprint(muse_keras.__version__)")
    assert re.fullmatch(r"\d+\.\d+\.\d+\n", printed)
    setup = (ROOT / "setup.py").read_text(encoding="utf-8")
    assert "_version.py" in setup and printed.strip() not in setup


def test_a_preset_tells_of_all_its_arguments():
    for cls in (muse_keras.models.MUSE, muse_keras.compat.PublishedMUSE):
        _, *names = inspect.signature(cls.__init__).parameters
        assert list(inspect.signature(cls).parameters) == names
        for name in names:
            assert re.search(rf"^    \**{name}: ", cls.__doc__, re.M), name
    base = inspect.signature(muse_keras.models.BaseRanker.__init__).parameters
    for cls in (muse_keras.models.MUSE, muse_keras.compat.PublishedMUSE):
        for name, given in inspect.signature(cls).parameters.items():
            if name in base:
                assert given.default == base[name].default, name


def output_of(code: str) -> str:
    result = subprocess.run(
        [sys.executable, "-c", code],
        cwd=ROOT,
        capture_output=True,
        text=True,
        check=True,
        timeout=120,
    )
    return result.stdout


def loaded_after(statement: str) -> set[str]:
    code = (
        f"{statement}\nimport sys\n"
        "print(' '.join(m for m in sys.modules if '.' not in m))"
    )
    return set(output_of(code).split())


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


@pytest.mark.skipif(
    keras.backend.backend() == "jax", reason="the same code as on PyTorch"
)
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
