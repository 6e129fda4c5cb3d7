"""The cache notices other code and other data, and nothing else."""

from __future__ import annotations

import json
import os
import pathlib
import shutil
import subprocess
import sys
import textwrap

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from tfx_pipeline.runs import fingerprints
from tfx_pipeline.runs.source_files import PACKAGES, source_files

_ROOT = pathlib.Path(__file__).parents[3]


def test_every_stage_has_a_fingerprint_of_its_own():
    found = fingerprints.code_fingerprints()
    assert set(found) == set(fingerprints.STAGES)
    assert len(set(found.values())) == len(found)


@pytest.fixture(scope="module")
def project(tmp_path_factory):
    root = tmp_path_factory.mktemp("project")
    for package in PACKAGES:
        shutil.copytree(
            _ROOT / package,
            root / package,
            ignore=shutil.ignore_patterns("__pycache__"),
        )
    return root


@pytest.mark.parametrize(
    ("name", "stages"),
    [
        ("tfx_pipeline/transforms/request_join.py", {"join"}),
        (
            "muse_tools/datasets/validation.py",
            {"join", "items", "content", "scl", "embedder", "trainer"}
            | {"matching", "serving"},
        ),
        ("tfx_pipeline/preprocessing.py", {"transform"}),
        ("tfx_pipeline/training/trainer.py", {"trainer", "serving"}),
        # Work on the ranker does not train the item embeddings again.
        ("muse_keras/models/muse.py", {"trainer", "serving"}),
        ("muse_keras/layers/sim_tier.py", {"trainer", "serving"}),
        ("serving/export/exporter.py", {"trainer", "serving"}),
        ("tfx_pipeline/scl/trainer.py", {"scl"}),
        ("muse_keras/models/scl.py", {"scl", "trainer", "serving"}),
        ("muse_keras/_ops/cosine.py", {"scl", "trainer", "serving"}),
        ("muse_tools/datasets/item_text.py", {"embedder"}),
        ("tfx_pipeline/matching/index.py", {"matching"}),
        # Run by name, in a process of its own.
        ("tfx_pipeline/matching/job.py", {"matching"}),
        ("serving/model_server/app.py", {"serving", "matching"}),
        ("serving/client/wire_rest.py", {"serving", "matching"}),
        ("tfx_pipeline/evaluation/gauc.py", {"evaluator"}),
        (
            "muse_keras/metrics/per_group_auc.py",
            {"trainer", "serving", "evaluator"},
        ),
        # Read, not imported.
        ("serving/export/registered_ops.jsonl", {"serving", "matching"}),
        # Nothing that only runs, shows or configures is in any stage.
        ("tfx_pipeline/config.py", set()),
        ("tfx_pipeline/runs/runner.py", set()),
        ("muse_tools/cli/main.py", set()),
        ("muse_tools/report/writer.py", set()),
    ],
)
def test_code_that_changes_changes_the_stages_that_use_it(
    project, monkeypatch, name, stages
):
    monkeypatch.setattr(fingerprints, "_PROJECT", project)

    def found():
        return {
            stage: fingerprints._of_modules(modules)
            for stage, modules in fingerprints.STAGES.items()
        }

    before = found()
    path = project / name
    text = path.read_bytes()
    path.write_bytes(text + b"#")
    after = found()
    path.write_bytes(text)
    changed = {stage for stage in before if after[stage] != before[stage]}
    assert changed == stages


def test_a_stage_without_its_module_is_an_error(project):
    with pytest.raises(ModuleNotFoundError, match="tfx_pipeline.gone"):
        source_files(project, ["tfx_pipeline.gone"])


# Records which module imports what, by Python's own import: names that a
# package passes on are followed to where they are made.
_PROGRAM = """
import builtins, importlib, json, sys, types

packages, stages = json.loads(sys.argv[1])
edges = {}
original = builtins.__import__

def ours(name):
    return name.partition(".")[0] in packages

def recorded(name, globals=None, locals=None, fromlist=(), level=0):
    module = original(name, globals, locals, fromlist, level)
    importer = (globals or {}).get("__name__", "")
    if level == 0 and ours(name) and ours(importer):
        to = edges.setdefault(importer, set())
        origin = sys.modules[name]
        if not fromlist or not hasattr(origin, "__path__"):
            to.add(name)
        for item in fromlist or ():
            value = getattr(origin, item, None)
            is_module = isinstance(value, types.ModuleType)
            kind = "__name__" if is_module else "__module__"
            made_in = getattr(value, kind, None) or ""
            if ours(made_in):
                to.add(made_in)
    return module

builtins.__import__ = recorded
found = {}
for stage, modules in stages.items():
    for module in modules:
        importlib.import_module(module)
for stage, modules in stages.items():
    seen, waiting = set(), list(modules)
    while waiting:
        module = waiting.pop()
        if module not in seen:
            seen.add(module)
            waiting += edges.get(module, ())
    found[stage] = sorted(seen)
print(json.dumps(found))
"""


@pytest.mark.tf
@pytest.mark.timeout(400)
def test_what_a_stage_imports_when_it_runs_is_in_its_fingerprint():
    done = subprocess.run(
        [
            sys.executable,
            "-c",
            _PROGRAM,
            json.dumps([PACKAGES, fingerprints.STAGES]),
        ],
        cwd=_ROOT,
        capture_output=True,
        text=True,
        env={**os.environ, "TF_CPP_MIN_LOG_LEVEL": "3"},
    )
    assert done.returncode == 0, done.stderr[-2000:]
    imported = json.loads(done.stdout.splitlines()[-1])
    for stage, modules in fingerprints.STAGES.items():
        counted = set(source_files(_ROOT, modules))
        assert set(modules) < set(imported[stage])
        assert set(imported[stage]) <= counted, stage


def test_imports_inside_functions_and_by_name_are_followed(tmp_path):
    def write(name, text):
        path = tmp_path / "tfx_pipeline" / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(textwrap.dedent(text))

    write("__init__.py", "")
    write(
        "start.py",
        """
        from typing import TYPE_CHECKING
        from tfx_pipeline.many import One
        if TYPE_CHECKING:
            from tfx_pipeline.only_a_type import Type
        def work():
            import tfx_pipeline.inside
            run(["-m", "tfx_pipeline.by_name"])
        """,
    )
    write(
        "many/__init__.py",
        """
        from tfx_pipeline.many.one import One
        from tfx_pipeline.many.two import Two
        """,
    )
    write("many/one.py", "import numpy\nfrom tfx_pipeline import deep\nOne = 1")
    for name in ("many/two", "only_a_type", "inside", "by_name", "deep"):
        write(f"{name}.py", "")
    assert set(source_files(tmp_path, ["tfx_pipeline.start"])) == {
        "tfx_pipeline",
        "tfx_pipeline.by_name",
        "tfx_pipeline.deep",
        "tfx_pipeline.inside",
        "tfx_pipeline.many",
        "tfx_pipeline.many.one",
        "tfx_pipeline.start",
    }


def test_the_file_of_an_encoder_that_is_not_ours(tmp_path, monkeypatch):
    monkeypatch.syspath_prepend(str(tmp_path))
    path = tmp_path / "my_encoder.py"
    path.write_text("def encode(texts): ...")
    first = fingerprints.module_fingerprint("my_encoder")
    path.write_text("def encode(texts): return 1")
    assert fingerprints.module_fingerprint("my_encoder") != first
    with pytest.raises(ModuleNotFoundError):
        fingerprints.module_fingerprint("no_such_encoder")


def write_tables(folder: pathlib.Path) -> pathlib.Path:
    folder.mkdir()
    for name in ("train_samples", "item_features"):
        (folder / f"{name}.parquet").write_bytes(b"abc")
    return folder


def raw(folder, memory=None):
    digests = fingerprints.FileDigests(memory)
    found = fingerprints.raw_fingerprint(str(folder), digests)
    digests.save()
    return found


def test_raw_fingerprint_notices_other_tables(tmp_path):
    folder = write_tables(tmp_path / "raw")
    seen = {raw(folder)}
    path = folder / "item_features.parquet"
    path.write_bytes(b"abcd")
    seen.add(raw(folder))
    path.write_bytes(b"abce")
    seen.add(raw(folder))
    (folder / "test_samples.parquet").write_bytes(b"x")
    seen.add(raw(folder))
    assert len(seen) == 4


def test_content_counts_not_size_and_time(tmp_path, monkeypatch):
    """The labels of two rows change places; size and times stay."""
    folder = write_tables(tmp_path / "raw")
    memory = tmp_path / "digests.json"
    path = folder / "train_samples.parquet"

    def write(labels):
        table = pa.table({"label_0": pa.array(labels, pa.int64())})
        pq.write_table(table, path, compression="none", use_dictionary=False)
        os.utime(path, ns=(10**18, 10**18))
        return path.stat()

    monkeypatch.setattr(fingerprints, "_FRESH_NS", 0)
    labels = np.arange(1000) % 2
    before = write(labels)
    first = raw(folder, memory)
    assert raw(folder, memory) == first
    labels[[500, 501]] = labels[[501, 500]]
    after = write(labels)
    assert (after.st_size, after.st_mtime_ns) == (
        before.st_size,
        before.st_mtime_ns,
    )
    assert raw(folder, memory) != first
    # The first content again is the first fingerprint again, at any time.
    labels[[500, 501]] = labels[[501, 500]]
    write(labels)
    os.utime(path)
    assert raw(folder, memory) == first


def test_a_file_is_read_once(tmp_path, monkeypatch):
    folder = write_tables(tmp_path / "raw")
    memory = tmp_path / "digests.json"
    read = []
    digest_of = fingerprints.file_fingerprint

    def counted(path):
        read.append(path.name)
        return digest_of(path)

    monkeypatch.setattr(fingerprints, "file_fingerprint", counted)
    monkeypatch.setattr(fingerprints, "_FRESH_NS", 0)
    first = raw(folder, memory)
    assert sorted(read) == ["item_features.parquet", "train_samples.parquet"]
    read.clear()
    assert raw(folder, memory) == first and read == []
    (folder / "item_features.parquet").write_bytes(b"abd")
    assert raw(folder, memory) != first
    assert read == ["item_features.parquet"]


def test_what_changed_a_moment_ago_is_read_again(tmp_path):
    """Two changes may fall into one tick of the file system's clock."""
    folder = write_tables(tmp_path / "raw")
    memory = tmp_path / "digests.json"
    raw(folder, memory)
    assert json.loads(memory.read_text()) == {}


def test_each_table_of_the_embeddings_has_a_fingerprint(tmp_path):
    folder = write_tables(tmp_path / "raw")
    for name in ("item_content", "search_events"):
        (folder / f"{name}.parquet").write_bytes(b"abc")

    def search():
        return fingerprints.search_fingerprints(
            str(folder), fingerprints.FileDigests()
        )

    before = search()
    samples = raw(folder)

    def changed_by(name):
        path = folder / f"{name}.parquet"
        path.write_bytes(path.read_bytes() + b"d")
        after = search()
        return {table for table in after if after[table] != before[table]}

    assert set(before) == {"item_content", "search_events", "item_features"}
    assert changed_by("train_samples") == set()
    samples_after = raw(folder)
    assert samples_after != samples
    assert changed_by("search_events") == {"search_events"}
    assert changed_by("item_content") == {"search_events", "item_content"}
    # And the join does not run again for new searches.
    assert raw(folder) == samples_after
