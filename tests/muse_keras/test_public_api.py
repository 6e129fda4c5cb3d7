"""The public names, and what importing them costs."""

import doctest
import importlib
import inspect
import subprocess
import sys
from pathlib import Path

import keras
import pytest

import muse_keras

ROOT = Path(__file__).parents[2]
NAMES = {
    "muse_keras.callbacks": {"CollapseGuard", "CollapsedError"},
    "muse_keras.layers": {
        "Dice",
        "GSUResult",
        "GSUTopK",
        "IdEmbedding",
        "MemoryBank",
        "SCLTower",
        "SemanticAwareTargetAttention",
        "SimTier",
        "TargetAttention",
    },
    "muse_keras.losses": {
        "CosineTripletLoss",
        "ImpressionCrossentropy",
        "InfoNCE",
    },
    "muse_keras.metrics": {
        "Calibration",
        "EmbeddingSpread",
        "GroupAUC",
        "PerGroupAUC",
        "per_group_auc",
    },
    "muse_keras.models": {
        "BaseRanker",
        "BehaviorSearch",
        "CosineSearch",
        "DIN",
        "ExactSearchUnit",
        "MUSE",
        "SCL",
        "SemanticExactSearchUnit",
    },
    "muse_keras.optimizers": {"RowSparseAdam"},
    "muse_keras.tables": {
        "ItemTable",
        "MultimodalEmbeddingTable",
        "gather_rows",
    },
}


@pytest.mark.parametrize("module", NAMES)
def test_names(module):
    found = importlib.import_module(module)
    assert set(found.__all__) == NAMES[module]
    for name in NAMES[module]:
        assert inspect.getdoc(getattr(found, name)), name


def test_the_package_lists_its_parts():
    assert {f"muse_keras.{name}" for name in muse_keras.__all__} == set(NAMES)
    assert set(muse_keras.__all__) <= set(dir(muse_keras))
    assert muse_keras.layers.GSUTopK.__name__ == "GSUTopK"
    with pytest.raises(AttributeError, match="no attribute 'nothing'"):
        _ = muse_keras.nothing


def test_serialised_names_are_stable():
    for module in NAMES:
        for name in NAMES[module]:
            value = getattr(importlib.import_module(module), name)
            registered = keras.saving.get_registered_object(
                f"muse_keras>{name}"
            )
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


def test_examples_in_docstrings_run():
    tried = 0
    for module in NAMES:
        package = importlib.import_module(module)
        for name in package.__all__:
            value = getattr(package, name)
            source = importlib.import_module(value.__module__)
            finder = doctest.DocTestFinder(recurse=False)
            for test in finder.find(value, name, module=source):
                if not test.examples or module == "muse_keras.tables":
                    continue
                output: list[str] = []
                runner = doctest.DocTestRunner()
                runner.run(test, out=output.append)
                assert not runner.failures, "".join(output)
                tried += 1
    assert tried >= 12
