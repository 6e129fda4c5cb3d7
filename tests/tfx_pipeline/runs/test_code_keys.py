"""The cache notices other code of exactly the components that use it."""

from __future__ import annotations

import importlib.metadata
import json
import os
import pathlib
import re
import shutil
import subprocess
import sys
import textwrap

import pytest

from schemas.ranking_schema import preset
from tfx_pipeline.runs import code_keys

pytestmark = pytest.mark.tf

_ROOT = pathlib.Path(__file__).parents[3]
TFX_OWN = {"StatisticsGen", "ImportSchemaGen"}
VALIDATORS = {"ServingValidator", "MatchingServingValidator"}


@pytest.fixture(scope="module")
def modules(tmp_path_factory):
    """The modules that `mark` finds, by component, of two whole graphs."""
    from tfx_pipeline import config as config_lib
    from tfx_pipeline import pipeline

    found = {}

    def note(names):
        noted.append(names)
        return "0"

    for source in ("learned", "text_svd"):
        graph = pipeline.create_pipeline(
            config_lib.PipelineConfig(
                output_dir=str(tmp_path_factory.mktemp("output")),
                data=config_lib.DataConfig(raw_dir="tfx_pipeline.d/raw"),
                item_embeddings=source,
            ),
            declared=preset("taobao_mm"),
            schema_path="schema.pbtxt",
            schema_fingerprint="s",
            raw_fingerprint="r",
            search_fingerprints=dict.fromkeys(
                ("item_content", "search_events", "item_features"), "t"
            ),
        )
        for node in graph.components:
            noted = []
            with pytest.MonkeyPatch.context() as patch:
                patch.setattr(code_keys, "key", note)
                code_keys.mark([node])
            if noted:
                found[node.id] = noted[0]
    return found


def ours(modules):
    return {
        name: needed for name, needed in modules.items() if name not in TFX_OWN
    }


def keys(modules, root=_ROOT):
    code_keys.key.cache_clear()
    return {
        name: code_keys.key(needed, root) for name, needed in modules.items()
    }


def test_every_component_has_a_key(modules):
    found = keys(modules)
    assert {"Transform", "Evaluator", "AtomicPusher", "TextEmbedder"} <= set(
        found
    )
    # One class has one key, whatever the id of the node.
    assert found["AtomicPusher"] == found["MatchingPusher"]
    assert found["ServingValidator"] == found["MatchingServingValidator"]
    # Components of TFX alone have the key of its version.
    own = [found[name] for name in ours(modules)]
    assert len(set(own)) == len(own) - 2


def test_parameters_name_modules(modules):
    assert "tfx_pipeline.preprocessing" in modules["Transform"]
    assert {
        "tfx_pipeline.evaluation.extractors",
        "tfx_pipeline.evaluation.ranking_metrics",
    } < set(modules["Evaluator"])


@pytest.fixture(scope="module")
def project(tmp_path_factory):
    root = tmp_path_factory.mktemp("project")
    for package in code_keys.PACKAGES:
        shutil.copytree(
            _ROOT / package,
            root / package,
            ignore=shutil.ignore_patterns("__pycache__"),
        )
    return root


@pytest.fixture(scope="module")
def before(modules, project):
    return keys(ours(modules), project)


def changed(modules, project, before, path, text):
    original = path.read_text()
    assert text != original
    path.write_text(text)
    try:
        after = keys(ours(modules), project)
    finally:
        path.write_text(original)
    return {name for name in before if after[name] != before[name]}


@pytest.mark.once
@pytest.mark.parametrize(
    ("name", "components"),
    [
        ("tfx_pipeline/transforms/request_join.py", {"RequestExampleGen"}),
        ("tfx_pipeline/preprocessing.py", {"Transform"}),
        ("tfx_pipeline/training/trainer.py", {"RankerTrainer"}),
        # Work on the ranker does not train the item embeddings again.
        ("muse_keras/models/presets.py", {"RankerTrainer"}),
        ("muse_keras/layers/sim_tier.py", {"RankerTrainer"}),
        ("serving/export/exporter.py", {"RankerTrainer"}),
        ("tfx_pipeline/scl/trainer.py", {"SCLTrainer"}),
        ("muse_keras/models/scl.py", {"RankerTrainer", "SCLTrainer"}),
        ("muse_keras/_ops/cosine.py", {"RankerTrainer", "SCLTrainer"}),
        ("muse_tools/datasets/item_text.py", {"ItemEmbedder", "TextEmbedder"}),
        ("tfx_pipeline/components/item_embedder.py", {"ItemEmbedder"}),
        ("tfx_pipeline/matching/index.py", {"MatchingGen"}),
        ("tfx_pipeline/matching/clusters.py", {"MatchingGen"}),
        # Run by name, in a process of its own.
        ("tfx_pipeline/matching/job.py", {"MatchingGen"}),
        ("serving/model_server/app.py", VALIDATORS),
        ("serving/client/wire_rest.py", VALIDATORS),
        (
            "tfx_pipeline/components/atomic_pusher.py",
            {"AtomicPusher", "MatchingPusher"},
        ),
        ("tfx_pipeline/evaluation/ranking_metrics.py", {"Evaluator"}),
        (
            "muse_keras/metrics/per_group_auc.py",
            {"RankerTrainer", "Evaluator"},
        ),
        # Nothing that only runs, shows or configures is in any key.
        ("tfx_pipeline/config.py", set()),
        ("tfx_pipeline/runs/runner.py", set()),
        ("muse_tools/cli/main.py", set()),
        ("muse_tools/report/writer.py", set()),
    ],
)
def test_a_function_body_changes_the_keys_of_what_imports_it(
    modules, project, before, name, components
):
    path = project / name
    text = path.read_text()
    body = text + "\n\ndef _another():\n    return 1\n"
    found = changed(modules, project, before, path, body)
    assert found == components


@pytest.mark.once
def test_words_change_no_key(modules, project, before):
    path = project / "tfx_pipeline/transforms/arrow_batches.py"
    text = path.read_text()
    for words in (
        text.replace('"""', '"""More words: ', 1),
        text.replace("\n    return ", "\n    # Why.\n    return "),
        text.replace('"""\n\nfrom', ' And more."""\n\nfrom', 1),
    ):
        assert not changed(modules, project, before, path, words)
    other = text.replace("lz4", "zstd")
    assert "RequestExampleGen" in changed(modules, project, before, path, other)


# Every data file of the packages, and a module that reads it.
READERS = {
    "muse_tools/compare/claims.yaml": "muse_tools.compare.claims",
    "muse_tools/compare/tables.yaml": "muse_tools.compare.words",
    "muse_tools/datasets/complete_journey.yaml": (
        "muse_tools.datasets.complete_journey"
    ),
    "muse_tools/explore/page.html": "muse_tools.explore.app",
    "muse_tools/pages/base.html.j2": "muse_tools.pages.html",
    "muse_tools/pages/blocks.html.j2": "muse_tools.pages.html",
    "muse_tools/pages/blocks_page.html.j2": "muse_tools.pages.html",
    "muse_tools/report/page.html.j2": "muse_tools.report.writer",
    "serving/export/registered_ops.jsonl": "serving.export.op_compatibility",
    "serving/wire/ranking.proto": "serving.wire.messages",
    "serving/wire/tensorflow.proto": "serving.wire.messages",
    "serving/wire/tensorflow_serving.proto": "serving.wire.messages",
}
# The declaration of the data counts by itself (test_runner.py).
NOT_READ = (
    r"schemas/.*\.(pbtxt|yaml)|serving/tf_serving/.*|.*/(README\.md|LICENSE|py\.typed)"
    r"|muse_keras/pyproject\.toml|tfx_pipeline/Dockerfile"
)


def test_every_data_file_has_a_reader(project):
    files = {
        path.relative_to(project).as_posix()
        for path in project.rglob("*")
        if path.is_file() and path.suffix != ".py"
    }
    read = {name for name in files if not re.fullmatch(NOT_READ, name)}
    assert read == set(READERS)


@pytest.mark.once
@pytest.mark.parametrize("name", READERS)
def test_a_data_file_that_is_read_counts(project, name):
    def key():
        code_keys.key.cache_clear()
        return code_keys.key((READERS[name],), project)

    path, before = project / name, key()
    original = path.read_bytes()
    path.write_bytes(original + b"\n")
    try:
        assert key() != before
    finally:
        path.write_bytes(original)
    assert key() == before


@pytest.mark.once
def test_a_data_file_changes_the_keys_of_what_reads_it(
    modules, project, before
):
    path = project / "serving/export/registered_ops.jsonl"
    found = changed(modules, project, before, path, path.read_text() + "\n")
    assert found == VALIDATORS


def test_versions_of_packages_count(modules, monkeypatch):
    before = keys(modules)
    version = importlib.metadata.version
    monkeypatch.setattr(
        importlib.metadata,
        "version",
        lambda name: "9" if name == "lmdb" else version(name),
    )
    assert keys(modules) == before
    monkeypatch.setattr(
        importlib.metadata,
        "version",
        lambda name: "9" if name == "tfx" else version(name),
    )
    after = keys(modules)
    assert all(after[name] != before[name] for name in TFX_OWN)


# Records which module imports what, by Python's own import: names that a
# package passes on are followed to where they are made.
_PROGRAM = """
import builtins, importlib, json, sys, types

packages, components = json.loads(sys.argv[1])
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
for name, modules in components.items():
    for module in modules:
        importlib.import_module(module)
for name, modules in components.items():
    seen, waiting = set(), list(modules)
    while waiting:
        module = waiting.pop()
        if module not in seen:
            seen.add(module)
            waiting += edges.get(module, ())
    found[name] = sorted(seen)
print(json.dumps(found))
"""


@pytest.mark.once
@pytest.mark.timeout(400)
def test_what_a_component_imports_when_it_runs_is_in_its_key(modules):
    wanted = {
        name: [
            module
            for module in needed
            if module.partition(".")[0] in code_keys.PACKAGES
        ]
        for name, needed in modules.items()
    }
    done = subprocess.run(
        [
            sys.executable,
            "-c",
            _PROGRAM,
            json.dumps([code_keys.PACKAGES, wanted]),
        ],
        cwd=_ROOT,
        capture_output=True,
        text=True,
        env={**os.environ, "TF_CPP_MIN_LOG_LEVEL": "3"},
    )
    assert done.returncode == 0, done.stderr[-2000:]
    imported = json.loads(done.stdout.splitlines()[-1])
    for name, needed in wanted.items():
        counted = set(code_keys.closure(_ROOT, needed))
        assert set(imported[name]) <= counted, name


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
    assert set(code_keys.closure(tmp_path, ["tfx_pipeline.start"])) == {
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
    first = code_keys.encoder_digest("my_encoder:encode")
    path.write_text("def encode(texts): return 1")
    assert code_keys.encoder_digest("my_encoder:encode") != first
    with pytest.raises(ModuleNotFoundError):
        code_keys.encoder_digest("no_such_encoder:encode")


def test_the_version_of_what_loads_a_sentence_model(monkeypatch):
    versions = {"sentence_transformers": "1"}
    monkeypatch.setattr(importlib.metadata, "version", versions.__getitem__)
    monkeypatch.setattr(code_keys, "_distributions", dict)
    first = code_keys.encoder_digest("sentence:model")
    versions["sentence_transformers"] = "2"
    assert code_keys.encoder_digest("sentence:model") != first
