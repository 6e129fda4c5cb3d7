"""The report's learned weights are those of the exported model."""

from __future__ import annotations

import math
import re

import numpy as np
import pytest


def test_weights_of_an_export_are_those_of_the_keras_model(explored):
    from muse_tools.report.weights import learned_weights

    found = learned_weights(explored.folder / "muse" / "3")
    by_path = {v.path: np.asarray(v.value) for v in explored.model.variables}
    for part, layer in (
        ("long-term", "exact_search_unit"),
        ("short-term", "short_term"),
    ):
        (tiers,) = (
            value
            for path, value in by_path.items()
            if layer in path and path.endswith("tier_weights")
        )
        np.testing.assert_array_equal(found["tiers"][part], tiers)
    (gamma,) = (v for p, v in by_path.items() if p.endswith("/gamma"))
    np.testing.assert_array_equal(found["fusion"]["long-term"]["gamma"], gamma)
    scales = [v for p, v in by_path.items() if p.endswith("similarity_scale")]
    assert found["fusion"]["long-term"]["scale"] == (
        pytest.approx(float(scales[0])) if scales else None
    )
    assert list(found["fusion"]) == ["long-term"]


def test_the_sentence_about_attention_holds_in_the_layer():
    from muse_keras.layers import SemanticAwareTargetAttention
    from muse_tools.report.learned import logit, shown_weights

    layer = SemanticAwareTargetAttention(num_heads=2, similarity_scale=4.0)
    # A target of zeros: the ids say nothing.
    call = (
        np.zeros((1, 1, 4), "float32"),
        np.ones((1, 1, 2, 4), "float32"),
        np.array([[[0.9, 0.6]]], "float32"),
    )
    layer(*call)
    layer.gamma.assign([[1.1, 0.9], [1.3, 0.7], [0.8, 1.2]])
    _, scores = layer(*call, return_attention_scores=True)
    weights = {
        "fusion": {
            "long-term": {
                "gamma": np.asarray(layer.gamma.value).tolist(),
                "scale": 4.0,
            }
        }
    }
    (shown,) = shown_weights({"muse": {"learned": weights}, "din": {}})
    (fusion,) = shown["fusions"]
    near, far = np.asarray(scores)[0, 0, 0]
    meaning = fusion["chart"].caption
    times = float(re.search(r"gets ([\d.]+) times", meaning)[1])
    assert times == pytest.approx(near / far, rel=0.01)
    assert "Head 1 of 2" in meaning
    assert [" ".join(map("".join, row)) for row in fusion["table"].rows] == [
        "1 1.100 1.300 0.800 4.00",
        "2 0.900 0.700 1.200 4.00",
    ]
    # And with ids: two of the same score, another similarity.
    a, gamma = 0.5, (1.1, 1.3, 0.8)
    ratio = math.exp(logit(gamma, 4.0, a, 0.9) - logit(gamma, 4.0, a, 0.6))
    assert ratio == pytest.approx(math.exp(4.0 * 0.3 * (1.3 + 0.8 * a)))


def test_pages_show_learned_weights():
    from muse_tools.report import writer
    from tests.muse_tools.pages.page import self_contained
    from tests.muse_tools.report.test_report import FOUND, changed

    assert "Learned weights" not in writer.render(FOUND)
    found = changed()
    found["models"]["muse"]["learned"] = {
        "tiers": {
            "long-term": [1.0, 1.25, 0.875, 1.0],
            "short-term": [1.5] * 4,
        },
        "fusion": {
            "long-term": {"gamma": [[0.5], [1.75], [1.125]], "scale": None}
        },
    }
    page = self_contained(writer.render(found))
    tables = page.under["weights"]
    assert tables[0][3] == ["0", "0.875", "1.500"]
    assert tables[1][1] == ["1", "0.500", "1.750", "1.125", "–"]
    words = " ".join(page.text)
    assert "starts at 1" in words and "s = 1" in words
