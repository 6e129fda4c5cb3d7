"""The examples of docs/stores.md run."""

import pathlib
import re

PAGE = pathlib.Path(__file__).parents[3] / "docs" / "stores.md"
BLOCK = re.compile(r"^```python\n(.*?)^```", re.M | re.S)


def test_example_of_the_page(tmp_path, capsys):
    store, kinds = BLOCK.findall(PAGE.read_text(encoding="utf-8"))
    assert "/var/lib/muse/store" in store
    store = store.replace("/var/lib/muse/store", str(tmp_path / "store"))
    for code in (store, kinds):
        exec(compile(code, "stores.md", "exec"), {})  # noqa: S102
    assert capsys.readouterr().out == (
        "[12, 13] [0, 1] {'age': 30, 'city': 0}\n"
        "Kind(dtype='float32', width=1)\n"
    )
