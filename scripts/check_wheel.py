"""Builds both wheels, installs `muse-keras` alone, and runs layers of it.

The wheels and their source archives come into build/wheels (`make wheels`).
Makes an environment with nothing but `muse-keras` and PyTorch (Keras and NumPy
come with the wheel), and there, from another folder, imports every public
module, trains a model for a step, and saves and reloads it:

    .venv/bin/python scripts/check_wheel.py --python python3.11

Packages, PyTorch's build too, are those that pip is configured for.
"""

from __future__ import annotations

import argparse
import pathlib
import shutil
import subprocess
import sys
import tempfile
import zipfile

from fresh_install import ROOT, copied_checkout, environment

TORCH = "torch==2.13.0"
USE = """
import importlib, importlib.util, os, sys
os.environ["KERAS_BACKEND"] = "torch"
import keras
import numpy as np
import muse_keras
from muse_keras.layers import SimTier
from muse_keras.losses import ImpressionCrossentropy
from muse_keras.models import MUSE
from muse_keras.optimizers import RowSparseAdam

assert "site-packages" in muse_keras.__file__, muse_keras.__file__
for name in ("tensorflow", "jax", "pandas", "pydantic", "yaml"):
    assert importlib.util.find_spec(name) is None, f"{name} is installed"
for name in muse_keras.__all__:
    module = importlib.import_module(f"muse_keras.{name}")
    for public in module.__all__:
        getattr(module, public)
assert (importlib.resources.files("muse_keras") / "py.typed").is_file()

counts = SimTier(4, scale="count", learnable=False)(np.array([[-1.0, 0.1, 1]]))
assert keras.ops.convert_to_numpy(counts).tolist() == [[1, 0, 1, 1]]
brand = ("brand",)
items = {"brand": 4, "price": 3}
model = MUSE(20, {"age": 3}, items, brand, brand, k=3, vector_dim=8)
ones = np.ones((2, 2), "int32")
inputs = {
    "user_features": np.ones((2, 1), "int32"),
    "behavior_rows": np.ones((2, 5), "int32"),
    "behavior_features": np.ones((2, 5, 1), "int32"),
    "behavior_mask": np.ones((2, 5), bool),
    "candidate_rows": ones,
    "candidate_features": np.ones((2, 2, 2), "int32"),
    "candidate_matches": np.ones((2, 2, 1), "float32"),
}
model.compile(RowSparseAdam(), ImpressionCrossentropy())
model.fit(inputs, ones.astype("float32"), verbose=0)
model.save("model.keras")
again = keras.saving.load_model("model.keras")
scores = [keras.ops.convert_to_numpy(m(inputs)) for m in (model, again)]
assert np.array_equal(*scores) and np.isfinite(scores).all()
"""


def main() -> None:
    """Parses the arguments, and checks."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument(
        "--python", default=sys.executable, help="interpreter to install for"
    )
    parser.add_argument(
        "--build-only", action="store_true", help="do not install them"
    )
    arguments = parser.parse_args()
    into = ROOT / "build" / "wheels"
    shutil.rmtree(into, ignore_errors=True)
    into.mkdir(parents=True)
    with tempfile.TemporaryDirectory() as name:
        folder = pathlib.Path(name)
        source = copied_checkout(folder)
        wheels = [build(source / part, into) for part in (".", "muse_keras")]
        print("\n".join(str(wheel.relative_to(ROOT)) for wheel in wheels))
        if arguments.build_only:
            return
        python = environment(arguments.python, folder, str(wheels[-1]), TORCH)
        subprocess.run([python, "-c", USE], cwd=folder, check=True)
    print(f"{wheels[-1].name} works with Keras, NumPy and PyTorch alone.")


def build(source: pathlib.Path, into: pathlib.Path) -> pathlib.Path:
    """Builds the source archive, and the wheel from it; returns the wheel."""
    archive = into / backend("build_sdist", source, into)
    # From the archive, which must therefore hold all that is needed.
    with tempfile.TemporaryDirectory() as name:
        shutil.unpack_archive(archive, name)
        (unpacked,) = pathlib.Path(name).iterdir()
        wheel = into / backend("build_wheel", unpacked, into)
    tops = {
        entry.partition("/")[0] for entry in zipfile.ZipFile(wheel).namelist()
    }
    packages = {top for top in tops if not top.endswith(".dist-info")}
    expected = {"muse_keras"}
    if wheel.name.startswith("muse_tensorflow"):
        expected |= {"muse_tools", "schemas", "serving", "tfx_pipeline"}
    if packages != expected:
        raise SystemExit(f"{wheel.name} holds {packages}, not {expected}")
    return wheel


def backend(hook: str, source: pathlib.Path, into: pathlib.Path) -> str:
    """Calls the build backend as `python -m build` would; returns the file.

    But without a new environment: setuptools and wheel are among the locked
    packages, and nothing is downloaded.
    """
    code = "import sys; from setuptools import build_meta as b; "
    code += f"print(b.{hook}(sys.argv[1]))"
    command = [sys.executable, "-c", code, str(into)]
    done = subprocess.run(command, cwd=source, capture_output=True, text=True)
    if done.returncode:
        raise SystemExit(f"{hook} of {source} failed:\n{done.stderr}")
    return done.stdout.splitlines()[-1]


if __name__ == "__main__":
    main()
