"""No answer of a contested cache mixes two histories."""

import pytest

pytest.importorskip("tensorflow")


@pytest.mark.once
def test_no_answer_mixes_histories() -> None:
    from tests.serving.export.cache_stress import stress

    found = stress(operations=4_000)
    assert not found.wrong, found.wrong[:3]
    counts = found.counts
    assert counts["prefetch"] + counts["rank_cached"] == 4_000
    # Users fight for the slots: both outcomes are there.
    assert counts["hit"] > 200 and counts["miss"] > 20, counts
