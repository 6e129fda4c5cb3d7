"""The example of docs/export.md runs, on the small world."""

import pathlib
import re

import pytest

from tests.serving.export.world import World, make_requests, to_example

PAGE = pathlib.Path(__file__).parents[3] / "docs" / "export.md"
BLOCK = re.compile(r"^```python\n(.*?)^```", re.M | re.S)


@pytest.mark.once
def test_example_of_the_page(
    world: World,
    tmp_path: pathlib.Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "transform_graph").symlink_to(world.transform_output)
    requests = make_requests(world.item_table, 2, seed=3)
    names = {
        "model": world.model,
        "item_table": world.item_table,
        "learned": world.vocabularies,
        "examples": [to_example(request) for request in requests],
    }
    code = "".join(BLOCK.findall(PAGE.read_text(encoding="utf-8")))
    exec(compile(code, "export.md", "exec"), names)  # noqa: S102
    assert (tmp_path / "models/muse/1/saved_model.pb").is_file()
    assert names["export"].manifest["total_bytes"] > 0
    summary, problems = capsys.readouterr().out.splitlines()[-2:]
    assert "of variables" in summary
    assert problems == "[]"
