"""The names in a saved ranker's file stay: older files must still load."""

import zipfile
from pathlib import Path

import h5py
import pytest
from ranker_testing.data import SMALL

from muse_keras.compat import PublishedMUSE
from muse_keras.models import DIN, EST, MUSE, FullDIN, SearchRanker

WRITTEN = Path(__file__).with_name("saved_names.txt")
RANKERS = {
    "DIN": lambda: DIN(**SMALL),
    "PublishedMUSE": lambda: PublishedMUSE(**SMALL, k=5),
    "simhash+sdim": lambda: SearchRanker(**SMALL, gsu="simhash", esu="sdim"),
    "MUSE": lambda: MUSE(**SMALL),
    "FullDIN": lambda: FullDIN(**SMALL),
    "EST": lambda: EST(**SMALL, depth=1, width=4),
}


def names(path):
    """Where a file has an array, and how long its axes are in number."""
    with zipfile.ZipFile(path) as archive:
        with archive.open("model.weights.h5") as file:
            found = []
            with h5py.File(file) as weights:
                weights.visititems(
                    lambda name, node: (
                        found.append(f"{name} {node.ndim}")
                        if isinstance(node, h5py.Dataset)
                        else None
                    )
                )
    return sorted(name for name in found if not name.startswith("optimizer/"))


@pytest.mark.parametrize("name", RANKERS)
def test_names_stay(name, tmp_path):
    RANKERS[name]().save(tmp_path / "model.keras")
    lines = WRITTEN.read_text(encoding="utf-8").splitlines()
    written = [
        line.split(": ", 1)[1] for line in lines if line.startswith(f"{name}: ")
    ]
    assert names(tmp_path / "model.keras") == written
