"""Every test that the page of faults names is there."""

from __future__ import annotations

import pathlib
import re

ROOT = pathlib.Path(__file__).parents[2]


def test_named_tests_exist() -> None:
    text = (ROOT / "docs" / "faults.md").read_text()
    file = ""
    named = 0
    for path, test in re.findall(
        r"`((?:\w+/)*test_\w+\.py)?(?:::(\w+))?`", text
    ):
        file = path or file
        if not (path or test):
            continue
        source = (ROOT / "tests" / "serving" / file).read_text()
        assert not test or f"def {test}(" in source, (file, test)
        named += 1
    assert named > 25
