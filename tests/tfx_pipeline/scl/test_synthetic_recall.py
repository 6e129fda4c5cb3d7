"""The tower on searches of the synthetic generator."""

from __future__ import annotations

import pytest

from benchmarks import scl

pytestmark = pytest.mark.tf


@pytest.mark.once
def test_the_tower_beats_the_raw_content_clearly(tmp_path):
    found = scl.recalls(tmp_path, 3, scl.QUICK, ablations=False)
    tower, raw, random = (
        {k: found[name]["all"][k] for k in ("1", "10")}
        for name in ("tower", "raw modality cosine", "random")
    )
    assert tower["10"] > raw["10"] + 0.15
    assert tower["1"] > raw["1"] + 0.1
    assert random["10"] < 0.05
