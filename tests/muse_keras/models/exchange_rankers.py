"""Write rankers to files on one backend, read those of another.

    exchange_rankers.py FOLDER write|BACKEND...

Run as a program, for a process has one backend; programs that run side by side
wait for each other's files. Of `muse_keras` it imports
what a reader is told to import, before all else: Keras must know every class
that a file names.
"""

import sys
import time
import zlib
from pathlib import Path

import keras
import numpy as np

import muse_keras.models

KNOWN = set(keras.saving.get_custom_objects())

from ranker_testing.data import (  # noqa: E402
    NUM_ITEMS,
    SMALL,
    item_codes,
    ranker_inputs,
)

from muse_keras.compat import PublishedMUSE  # noqa: E402
from muse_keras.losses import ImpressionCrossentropy  # noqa: E402
from muse_keras.metrics import Calibration  # noqa: E402
from muse_keras.models import SearchRanker  # noqa: E402
from muse_keras.optimizers import RowSparseAdam  # noqa: E402
from muse_keras.tables import ItemTable  # noqa: E402

PRESETS = (
    "DIN",
    "EST",
    "FullDIN",
    "MISS",
    "MUSE",
    "SIMHard",
    "SIMSoft",
    "TWIN",
)
PAIRS = (
    ("none", "simtier"),
    ("simhash", "sdim"),
    ("target_attention", "sa_ta"),
)
NAMES = (*PRESETS, "PublishedMUSE", *("+".join(pair) for pair in PAIRS))
IDS = np.arange(1, NUM_ITEMS + 1) * 12345678901
CLOSE = {"rtol": 1e-4, "atol": 1e-5}
PATIENCE = 240.0


def numpy(value):
    return keras.ops.convert_to_numpy(value)


def make(name):
    """An untrained ranker of any name."""
    if name in PRESETS:
        return getattr(muse_keras.models, name)(**SMALL, k=5)
    if name == "PublishedMUSE":
        return PublishedMUSE(**SMALL, k=5)
    gsu, esu = name.split("+")
    return SearchRanker(**SMALL, k=5, gsu=gsu, esu=esu, hash_bits=8)


def requests():
    """Requests by raw ids of 64 bits, which no backend may cut."""
    inputs = ranker_inputs(np.random.default_rng(1))
    ids = np.concatenate([[5], IDS])
    for kind in ("behavior", "candidate"):
        inputs[f"{kind}_item_ids"] = ids[inputs.pop(f"{kind}_rows")]
    return inputs


def state(model):
    """What the optimizer remembers, and where it is."""
    return [numpy(variable) for variable in model.optimizer.variables]


def write(folder):
    """Rankers with weights and moments that no initializer makes."""
    backend = keras.backend.backend()
    zeros = np.zeros(NUM_ITEMS, np.int64)
    table = ItemTable.write(
        folder / f"items_{backend}",
        item_ids=IDS,
        codes=item_codes(np.random.default_rng(2))[1:],
        features=dict.fromkeys(("category", "city", "province"), zeros),
        source="test",
    )
    for name in NAMES:
        # Of its own, so that a new ranker does not change the others.
        rng = np.random.default_rng(zlib.crc32(name.encode()))
        model = make(name)
        model.table.assign(table)
        model.compile(
            RowSparseAdam(1e-2, table_learning_rate=5e-2),
            ImpressionCrossentropy(),
            weighted_metrics=[Calibration(from_logits=True)],
        )
        model.optimizer.build(model.trainable_variables)
        frozen = {id(variable) for variable in model.table.variables}
        for variable in [*model.weights, *model.optimizer.variables]:
            if id(variable) not in frozen and "float" in variable.dtype:
                variable.assign(rng.uniform(0.1, 1.0, variable.shape))
        model.optimizer.iterations.assign(7)
        path = folder / f"{backend}_{name}"
        model.save(path.with_suffix(".keras"))
        scores = numpy(model(requests()))
        np.savez(path.with_suffix(".npz"), *state(model), logits=scores)
    (folder / f"{backend}.written").touch()


def read(folder, backend):
    """Check the files that a backend wrote, or still writes."""
    end = time.monotonic() + PATIENCE
    while not (folder / f"{backend}.written").exists():
        assert time.monotonic() < end, f"{backend} has not written"
        time.sleep(0.05)
    for name in NAMES:
        path = folder / f"{backend}_{name}"
        model = keras.saving.load_model(path.with_suffix(".keras"))
        assert type(model).__name__ in (name, "SearchRanker")
        with np.load(path.with_suffix(".npz")) as written:
            expected = written["logits"]
            moments = [written[f"arr_{i}"] for i in range(len(written) - 1)]
        np.testing.assert_allclose(
            numpy(model(requests())), expected, **CLOSE, err_msg=name
        )
        assert np.ptp(expected) > 1e-3, name
        for ours, theirs in zip(state(model), moments, strict=True):
            np.testing.assert_array_equal(ours, theirs, err_msg=name)
        assert model.optimizer.iterations == 7


def main(folder, *tasks):
    for name in ("TWIN", "RowSparseAdam", "Calibration", "PublishedMUSE"):
        assert f"muse_keras>{name}" in KNOWN
    for task in tasks:
        if task == "write":
            write(Path(folder))
        else:
            read(Path(folder), task)


if __name__ == "__main__":
    main(*sys.argv[1:])
