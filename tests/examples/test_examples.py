"""Each file in `examples/` runs, on the one backend named here."""

import pathlib
import re
import runpy

import keras
import pytest

ROOT = pathlib.Path(__file__).resolve().parents[2]
FOLDER = ROOT / "examples"
# A reader of files is no example of layers: tests/own_data runs it.
HELPERS = {"sample_data.py", "mind_reader.py"}
# File: its backend in the tests, and what it must print.
EXAMPLES = {
    "add_to_functional_model.py": ("tensorflow", ["ids alone", "multimodal"]),
    "torch_data_loader.py": ("torch", ["epoch 1"]),
    "jax_training_step.py": ("jax", ["step 60"]),
    "muse_on_your_arrays.py": ("torch", ["click: ", "most similar:"]),
    "fine_tune_saved_model.py": ("torch", ["as loaded", "fine-tuned"]),
    "mixed_precision_and_int8.py": ("torch", ["mixed_bfloat16", "int8 tower"]),
}
HERE = [
    name
    for name, (backend, _) in EXAMPLES.items()
    if backend == keras.backend.backend()
]


def test_every_example_is_run_somewhere():
    files = {path.name for path in FOLDER.glob("*.py")} - HELPERS
    assert files == set(EXAMPLES)


@pytest.mark.parametrize("name", EXAMPLES)
def test_the_header_says_how_to_run_it(name):
    text = (FOLDER / name).read_text(encoding="utf-8")
    backend = re.search(r"KERAS_BACKEND=(\w+) python examples/(\S+)", text)
    assert backend and backend[2] == name


def run(name, monkeypatch, capsys):
    """Runs an example as a script, in this process: imports cost seconds."""
    monkeypatch.syspath_prepend(str(FOLDER))
    runpy.run_path(str(FOLDER / name), run_name="__main__")
    return capsys.readouterr().out


def numbers(text, label):
    """All numbers that stand after a label, in order."""
    return [float(found) for found in re.findall(rf"{label} (\d\.\d+)", text)]


@pytest.mark.parametrize("name", HERE)
def test_example(name, monkeypatch, capsys):
    output = run(name, monkeypatch, capsys)
    for expected in EXAMPLES[name][1]:
        assert expected in output
    CLAIMS[name](output)


def multimodal_is_better(output):
    before, after = numbers(output, "AUC")
    assert after > before + 0.1


def it_learns(output):
    found = numbers(output, "AUC")
    assert found[-1] > 0.75


def it_learns_both_labels(output):
    assert len(numbers(output, "AUC")) == 2
    assert min(numbers(output, "AUC")) > 0.75


def fine_tuning_helps(output):
    before, after = numbers(output, "log loss")
    assert after < before - 0.02
    assert "item embeddings unchanged: True" in output


def scores_stay(output):
    rows = [
        line.split()
        for line in output.splitlines()
        if re.search(r"\d\.\d{4}$", line)
    ]
    sizes = [int(row[-3].replace(",", "")) for row in rows]
    aucs = [float(row[-2]) for row in rows]
    changes = [float(row[-1]) for row in rows]
    assert len(rows) == 3 and changes[0] == 0.0
    assert sizes[2] < sizes[0] / 3
    assert all(0.0 < change < 0.05 for change in changes[1:])
    assert all(abs(value - aucs[0]) < 0.01 for value in aucs)


CLAIMS = {
    "add_to_functional_model.py": multimodal_is_better,
    "torch_data_loader.py": it_learns,
    "jax_training_step.py": it_learns,
    "muse_on_your_arrays.py": it_learns_both_labels,
    "fine_tune_saved_model.py": fine_tuning_helps,
    "mixed_precision_and_int8.py": scores_stay,
}
