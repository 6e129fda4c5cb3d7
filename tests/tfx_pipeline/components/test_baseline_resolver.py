"""The baseline is the last blessed model that is not the candidate."""

from __future__ import annotations

import pytest
from tfx.types import standard_artifacts

from tfx_pipeline.components import baseline_resolver

pytestmark = pytest.mark.tf


def model(number, kind=""):
    artifact = standard_artifacts.Model()
    artifact.id = number
    # Models that are no rankers, matching and SCL, have no type.
    if kind:
        artifact.set_string_custom_property("model_type", kind)
    return artifact


def blessing(number, of, blessed):
    artifact = standard_artifacts.ModelBlessing()
    artifact.id = number
    artifact.set_int_custom_property("current_model_id", of)
    artifact.set_int_custom_property("blessed", int(blessed))
    return artifact


def resolve(models, blessings, candidate, kinds=None):
    kinds = kinds or dict.fromkeys([*models, candidate], "muse")
    found = baseline_resolver.LastOtherBlessedModel().resolve_artifacts(
        None,
        {
            "model": [model(number, kinds[number]) for number in models],
            "model_blessing": blessings,
            "candidate": [model(candidate, kinds[candidate])],
        },
    )
    assert [artifact.id for artifact in found["candidate"]] == [candidate]
    return [
        [artifact.id for artifact in found[key]]
        for key in ("model", "model_blessing")
    ]


def test_the_first_model_has_no_baseline():
    assert resolve([1], [], 1) == [[], []]


def test_a_model_is_not_compared_with_itself():
    assert resolve([1], [blessing(10, 1, True)], 1) == [[], []]


def test_the_newest_other_blessed_model():
    blessings = [
        blessing(10, 1, True),
        blessing(11, 2, True),
        blessing(12, 3, False),
        blessing(13, 4, True),
    ]
    assert resolve([3, 1, 4, 2], blessings, 4) == [[2], [11]]
    assert resolve([3, 1, 4, 2, 5], blessings, 5) == [[4], [13]]
    # An older model again, from the cache.
    assert resolve([1, 2, 3, 4], blessings, 1) == [[4], [13]]


def test_only_models_of_the_same_type():
    blessings = [blessing(10 + number, number, True) for number in range(1, 5)]
    kinds = {1: "muse", 2: "din", 3: "twin", 4: "", 5: "muse", 6: "miss"}
    assert resolve([1, 2, 3, 4, 5], blessings, 5, kinds) == [[1], [11]]
    assert resolve([1, 2, 3, 4, 6], blessings, 6, kinds) == [[], []]
