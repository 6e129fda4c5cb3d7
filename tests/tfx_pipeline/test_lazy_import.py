"""Modules that are executed only when their names are read."""

from __future__ import annotations

import importlib
import inspect
import pathlib
import subprocess
import sys

import pytest

from tfx_pipeline.lazy_import import import_on_access


def test_a_module_is_executed_once_and_when_read(
    tmp_path: pathlib.Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    package = tmp_path / "some_package"
    (package / "costly").mkdir(parents=True)
    (package / "__init__.py").write_text("from some_package import costly")
    (package / "costly/__init__.py").write_text(
        "import some_package\nsome_package.done = "
        "getattr(some_package, 'done', 0) + 1\nanswer = 42\n"
    )
    (package / "costly/part.py").write_text("other = 7")
    monkeypatch.syspath_prepend(str(tmp_path))
    monkeypatch.setattr(sys, "meta_path", list(sys.meta_path))
    before = len(sys.meta_path)
    for _ in range(2):
        import_on_access("some_package.costly")
    assert len(sys.meta_path) == before + 1
    some = importlib.import_module("some_package")
    inspect.getmodule(inspect.currentframe())
    part = importlib.import_module("some_package.costly.part")
    assert part.other == 7
    assert not hasattr(some, "done")
    assert some.costly.answer == 42
    assert some.costly.part is part
    with pytest.raises(AttributeError, match="question"):
        _ = some.costly.question
    assert some.done == 1


def test_tfx_is_imported_without_the_client_of_vertex_ai() -> None:
    code = (
        "import sys, tfx_pipeline.pipeline\n"
        "from tfx import v1 as tfx\n"
        "assert 'google.cloud.aiplatform' not in sys.modules\n"
        "print(tfx.extensions.google_cloud_ai_platform.Trainer.__name__)\n"
        "import tfx.v1.extensions.google_cloud_big_query as query\n"
        "assert query.BigQueryExampleGen\n"
        "assert 'google.cloud.aiplatform' in sys.modules\n"
    )
    done = subprocess.run(
        [sys.executable, "-c", code], text=True, capture_output=True
    )
    assert done.returncode == 0, done.stderr
    assert done.stdout == "Trainer\n"
