"""The report says what its numbers say."""

import copy
import json

import numpy as np
import pytest

from muse_tools.report import writer
from muse_tools.report.collect import paired_difference
from serving.files import write_json
from tests.muse_tools.pages.page import Page, self_contained


def model(gauc, curve=True):
    rows = [
        {
            "bucket": bucket,
            "gauc": gauc + shift,
            "gauc_lower": gauc + shift - 0.02,
            "gauc_upper": gauc + shift + 0.02,
        }
        for bucket, shift in (("0-99", -0.03), ("100-299", 0.01))
    ]
    return {
        "gauc": gauc,
        "gauc_lower": gauc - 0.01,
        "gauc_upper": gauc + 0.01,
        "gauc_users": 40.0,
        "auc": 0.7,
        "log_loss": 0.3,
        "calibration": 1.1,
        "click_rate": 0.09,
        "impressions": 1234.0,
        **{
            f"{name}{end}": value + shift
            for name, value in (
                ("ndcg_10", 0.51),
                ("mrr", 0.42),
                ("recall_10", 0.63),
                ("normalized_entropy", 0.94),
            )
            for end, shift in (("", 0), ("_lower", -0.03), ("_upper", 0.03))
        },
        "calibration_error": 0.0021,
        "reliability": [
            {
                "predicted": 0.05,
                "observed": gauc / 10,
                "lower": 0.02,
                "upper": 0.09,
                "impressions": 60,
            },
            {
                "predicted": 0.2,
                "observed": 0.25,
                "lower": 0.2,
                "upper": 0.31,
                "impressions": 61,
            },
        ],
        "origins": [
            {
                "component": "RankerTrainer",
                "execution": 11,
                "finished": "2026-01-01",
                "code": "c0de",
                "data": "da7a",
                "place": "some/data",
                "parameters": {"seed": 17, "note": "<i>"},
            }
        ],
        "slices": {"history_length": rows, "item_popularity": rows},
        "curve": {"steps": [5, 15, 25], "loss": [0.6, 0.4, 0.3], "total": 30},
        "settings": {"model": {"type": "muse"}, "note": "<script>x</script>"},
        "run": {"trainable_weights": 12345, "seconds": 6.0},
        "pushed_to": "17",
        "not_pushed": "",
        "verdict": f"GAUC {gauc:.4f}; not pushed: below evaluator.min_gauc 0.9",
        "serving": {"verdict": "64 requests replayed"},
    }


FOUND = {
    "pipeline": "a <b> pipeline",
    "models": {"din": model(0.61), "muse": model(0.64)},
    "difference": {"value": 0.03, "lower": 0.01, "upper": 0.05},
    "tiers": {
        "clicked": [1.0] * 20,
        "not_clicked": [2.0] * 20,
        "attention": [None] * 17 + [0.5, 1.25, 2.0],
    },
    "summary": {
        "train": {
            "requests": 4321,
            "impressions": 54321,
            "click_rate": 0.0912,
            "mean_history": 345.67,
            "median_history": 301.4,
            "longest_history": 1000,
        }
    },
    "example": {
        "user_id": 7,
        "history": 33,
        "recent": ["Milk & honey"],
        "candidates": [{"name": "Cheese <i>", "click_probability": 0.421}],
        "retrieved": [
            {
                "name": "Loaf",
                "similarity": 0.912,
                "attention": 0.25,
                "times": 2,
                "ago": 4,
            }
        ],
    },
    "embeddings": {
        "source": "learned",
        "coverage": {
            "candidates": {"total": 200, "with_vector": 197},
            "behaviors": {"total": 1000, "with_vector": 913},
        },
        "evaluation": {
            "queries": 321,
            "held_out_events": 400,
            "items": 7654,
            "ks": [1, 10],
            "methods": {
                name: {
                    scope: {
                        k: {"value": v, "lower": v - 0.01, "upper": v + 0.01}
                        for k, v in (("1", value), ("10", value + shift))
                    }
                    for scope, shift in (("all", 0.2), ("same_category", 0.3))
                }
                for name, value in (
                    ("tower", 0.512),
                    ("tower without bank", 0.478),
                    ("tower without hard negatives", 0.466),
                    ("raw modality cosine", 0.222),
                    ("random", 0.011),
                )
            },
        },
        "run": {
            "events": 2345,
            "variants": {
                "tower": {
                    "held_out": {
                        "mean_pairwise_cosine": 0.123,
                        "min_dimension_variance": 0.0021,
                    }
                }
            },
        },
        "report": {
            "items": 7654,
            "with_vector": 7600,
            "int8": {"queries": 10, "k": 50, "recall": 0.9876},
        },
    },
    "matching": {
        "num_items": 7654,
        "clicks": 4321,
        "users": 765,
        "recall": {
            "matching": {
                "10": {"recall": 0.234, "low": 0.222, "high": 0.247},
                "100": {"recall": 0.391, "low": 0.377, "high": 0.402},
            },
            "random": {"10": {"recall": 0.001}, "100": {"recall": 0.013}},
        },
    },
    "ranked": {
        "model_version": "17",
        "user_id": 7,
        "history_length": 2345,
        "num_candidates": 100,
        "candidates_from": "matching",
        "path": "cached",
        "deadline_ms": 300.0,
        "total_ms": 14.04,
        "stages": [
            {
                "name": name,
                "start_ms": start,
                "duration_ms": duration,
                "outcome": "ok",
            }
            for name, start, duration in (
                ("store_read", 0.0, 0.6),
                ("prefetch", 0.6, 6.31),
                ("matching", 2.0, 5.9),
                ("rank_cached", 8.0, 6.0),
            )
        ],
        "requests": 15,
        "cached": 14,
        "slowest_ms": 16.81,
        "top": [
            {"item_id": 3, "name": "Tea <b>", "click_probability": 0.3837},
            {"item_id": 4, "name": "Salt", "click_probability": None},
        ],
    },
    "data": {
        "requests": {"read/train_samples": 1234567},
        "items": {"items": 99},
        "source": {"policy": {"negatives": "by popularity"}},
    },
    "executions": [
        {
            "component": "Evaluator",
            "state": "COMPLETE",
            "finished": "2026-01-01",
            "output": "x",
        }
    ],
    "versions": {"python": "3.10"},
}


def changed(**values):
    return {**copy.deepcopy(FOUND), **values}


def test_page_is_well_formed_and_self_contained():
    self_contained(writer.render(FOUND))


def test_numbers_of_the_page_are_those_found():
    words = " ".join(Page(writer.render(FOUND)).text)
    for expected in (
        "0.6100",
        "0.6400",
        "0.6300 to 0.6500",
        "12,345",
        "1,234,567",
        "0.421",
        "0.912",
        "Cheese <i>",
        "Milk & honey",
        "64 requests replayed",
        "GAUC 0.6400; not pushed: below evaluator.min_gauc 0.9",
        "MUSE ranks better than DIN by +0.0300",
        "no estimate of MUSE over other searches",
        "which is nearer than the purchased one",
        "7,600 of 7,654 items",
        "candidates 98.5 %",
        "behaviors 91.3 %",
        "98.8 %",
        "recall@10",
        "0.466",
        "0.468 to 0.488",
        "0.812",
        "mean pairwise cosine 0.123",
        "4,321 clicks of 765 users",
        "recall@100",
        "0.377 to 0.402",
        "0.013",
        "2,345 past behaviors, 100 candidates found by candidate generation",
        "14.0 ms of 300 ms",
        "over 1.0 ms before retrieval",
        "median of 15; 14 of them",
        "at 0.6 ms, took 6.3 ms",
        "0.384",
        "Tea <b>",
        "c0de",
        "da7a",
        "some/data",
        "4,321",
        "54,321",
        "9.12 %",
        "345.7",
    ):
        assert expected in words, expected


@pytest.mark.parametrize(
    ("low", "high", "expected"),
    [
        (0.01, 0.05, "better"),
        (-0.05, -0.01, "worse"),
        (-0.01, 0.05, "includes zero"),
        (0.0, 0.05, "includes zero"),
    ],
)
def test_verdict_is_honest(low, high, expected):
    difference = {"value": (low + high) / 2, "lower": low, "upper": high}
    assert expected in writer.verdict(changed(difference=difference))


def test_later_is_said_only_of_data_that_say_so():
    def said(**parameters):
        data = {**FOUND["data"], "source": {"parameters": parameters}}
        words = " ".join(Page(writer.render(changed(data=data))).text)
        later = "later than everything trained on" in words
        assert later != ("the data do not say when" in words)
        return later

    assert said(train_weeks=[42, 49], test_weeks=[50, 53])
    assert not said(train_weeks=[42, 50], test_weeks=[50, 53])
    assert not said(users=3)


def test_a_slice_without_clicks_is_null_and_explained(tmp_path):
    nothing = float("nan")
    found = changed()
    for one in found["models"].values():
        for rows in one["slices"].values():
            rows[0].update(gauc=nothing, gauc_lower=nothing, gauc_upper=nothing)
    page = writer.render(found)
    self_contained(page)
    words = " ".join(Page(page).text)
    assert words.count("clicked impressions there: 0-99.") == 2
    write_json(tmp_path / "report.json", found)

    def refuse(name):
        raise AssertionError(f"{name} is not JSON")

    text = (tmp_path / "report.json").read_text()
    read = json.loads(text, parse_constant=refuse)
    rows = read["models"]["muse"]["slices"]["history_length"]
    assert [row["gauc"] is None for row in rows] == [True, False]


def test_no_number_at_all_is_said_in_words():
    nothing = float("nan")
    found = changed(
        difference=dict.fromkeys(("value", "lower", "upper"), nothing)
    )
    for one in found["models"].values():
        one.update(gauc=nothing, gauc_lower=nothing, gauc_upper=nothing)
    words = " ".join(Page(writer.render(found)).text)
    assert "nan" not in words.lower().split()
    assert "No comparison: no user" in words
    assert "“–” is no number" in words


DECLARED = {
    "name": "a <shop>",
    "digest": "d1635",
    "labels": ["opened", "order"],
    "features": {
        "user": {"age": "buckets"},
        "item": {"topic": "vocabulary"},
        "context": {},
        "candidate": {},
        "behavior": {"topic": "vocabulary"},
    },
    "matches": ["topic"],
}


def test_declared_names_and_other_labels():
    found = changed(declared=DECLARED)
    for one in found["models"].values():
        one["slices"] = {"item_topic": one["slices"]["history_length"]}
        one["labels"] = {
            "order": {**model(0.7), "click_rate": 0.0123},
            "return": {**model(float("nan")), "calibration": float("nan")},
        }
        one["settings"]["schema"] = {
            "features": {"matches": ["topic", "source"]}
        }
    rendered = writer.render(found)
    self_contained(rendered)
    page = Page(rendered)
    words = " ".join(" ".join(page.text).split())
    for expected in (
        "judged by the label opened",
        "behaviors have the candidate's topic, how many its source",
        "Label order",
        "topic of the item",
        "a <shop> digest d1635",
        "opened, order",
        "age (buckets)",
        "0.6900 to 0.7100",
        "1.23 %",
        "impressions of a <shop>",
    ):
        assert expected in words, expected
    assert page.under["slices"][0][0] == [
        "topic of the item",
        "impressions",
        "DIN",
        "MUSE",
    ]
    rows = page.under["models"][1]
    assert [row[:3] for row in rows[1:]] == [
        ["order", "DIN", "0.7000"],
        ["order", "MUSE", "0.7000"],
        ["return", "DIN", "–"],
        ["return", "MUSE", "–"],
    ]
    assert "judged by" not in " ".join(Page(writer.render(FOUND)).text)
    lists = page.under["models"][2]
    assert [row[:2] for row in lists[1:]] == [
        ["opened", "DIN"],
        ["order", "DIN"],
        ["return", "DIN"],
        ["opened", "MUSE"],
        ["order", "MUSE"],
        ["return", "MUSE"],
    ]
    for row in lists[1:]:
        assert row[2:] == [
            "0.5100 0.4800 to 0.5400",
            "0.4200 0.3900 to 0.4500",
            "0.6300 0.6000 to 0.6600",
            "0.9400 0.9100 to 0.9700",
            "0.0021",
        ]


def test_an_evaluation_without_metrics_of_lists_is_shown_without_them():
    found = changed()
    for one in found["models"].values():
        for name in [*one]:
            if name.startswith(("ndcg", "mrr", "recall", "normalized")):
                del one[name]
    text = " ".join(Page(writer.render(found)).text)
    assert "NDCG" not in text
    assert "NDCG@10" in " ".join(Page(writer.render(FOUND)).text)


@pytest.mark.parametrize(
    ("source", "words"),
    [
        ("popular", "that are the most popular ones"),
        ("request", "of the request"),
        ("elsewhere", "from elsewhere"),
    ],
)
def test_where_candidates_come_from(source, words):
    found = changed()
    found["ranked"]["candidates_from"] = source
    text = " ".join(Page(writer.render(found)).text)
    assert f"100 candidates {words}:" in text


def test_page_without_what_may_be_missing():
    one = changed(
        difference=None, tiers=None, example=None, matching=None, ranked=None
    )
    del one["models"]["din"]
    one["models"]["muse"].update(
        slices={}, run=None, pushed_to=None, serving=None
    )
    one["embeddings"] = {
        "source": "imported",
        "coverage": {
            "candidates": {"total": 0, "with_vector": 0},
            "behaviors": {"total": 0, "with_vector": 0},
        },
        "evaluation": None,
        "run": None,
        "report": None,
    }
    one["data"] = {"requests": None, "items": None, "source": None}
    words = " ".join(Page(writer.render(one)).text)
    assert "GAUC 0.6400; not pushed: below evaluator.min_gauc 0.9." in words
    assert "comparison" not in words.lower() and "differ" not in words
    assert "Imported ready-made" in words and "recall@100" not in words


def test_summary_has_the_verdicts_and_the_recall():
    lines = "\n".join(writer.summary_lines(FOUND))
    assert "GAUC 0.6400; not pushed: below evaluator.min_gauc 0.9" in lines
    assert "recall@10 of the purchased item: tower 0.7120, " in lines
    imported = changed(embeddings={"evaluation": None})
    assert "recall" not in " ".join(writer.summary_lines(imported))


@pytest.mark.tf
def test_coverage_counts_occurrences_of_items_with_a_vector(tmp_path):
    from muse_tools.report import summary
    from tests.tfx_pipeline.training import toy_training

    table = toy_training.write_items(tmp_path / "table")
    _, requests = toy_training.write_requests(tmp_path / "requests", 30)
    found = summary.coverage(sorted((tmp_path / "requests").iterdir()), table)
    known = set(np.delete(toy_training.ITEMS, 3).tolist())
    for kind in ("candidates", "behaviors"):
        name = kind.removesuffix("s") + "_item_ids"
        ids = [item for one in requests for item in one[name]]
        assert found[kind] == {
            "total": len(ids),
            "with_vector": sum(item in known for item in ids),
        }


def naive_gauc(users, clicks, scores):
    total = weight = 0.0
    for user in set(users.tolist()):
        mine = users == user
        wins = pairs = 0.0
        for a in scores[mine & (clicks == 1)]:
            for b in scores[mine & (clicks == 0)]:
                wins += 1.0 if a > b else 0.5 if a == b else 0.0
                pairs += 1
        if pairs:
            total += mine.sum() * wins / pairs
            weight += mine.sum()
    return total / weight


def test_paired_difference_against_resampled_users():
    rng = np.random.default_rng(3)
    users = np.repeat(np.arange(40), 8)
    clicks = rng.integers(0, 2, 320)
    good = clicks + rng.normal(size=320)
    bad = 0.3 * clicks + rng.normal(size=320)
    found = paired_difference(users, clicks, good, bad, samples=2000)
    expected = naive_gauc(users, clicks, good) - naive_gauc(users, clicks, bad)
    assert found["value"] == pytest.approx(expected, abs=1e-6)

    rows = [np.flatnonzero(users == user) for user in range(40)]
    draws = []
    for _ in range(150):
        chosen = [rows[user] for user in rng.integers(0, 40, 40)]
        take = np.concatenate(chosen)
        again = np.repeat(np.arange(40), [len(part) for part in chosen])
        draws.append(
            naive_gauc(again, clicks[take], good[take])
            - naive_gauc(again, clicks[take], bad[take])
        )
    low, high = np.quantile(draws, [0.025, 0.975])
    width = high - low
    assert found["lower"] == pytest.approx(low, abs=0.3 * width)
    assert found["upper"] == pytest.approx(high, abs=0.3 * width)


def test_same_model_differs_by_exactly_nothing():
    rng = np.random.default_rng(0)
    users = np.repeat(np.arange(10), 5)
    scores = rng.normal(size=50)
    found = paired_difference(
        users, rng.integers(0, 2, 50), scores, scores, samples=50
    )
    assert found == {"value": 0.0, "lower": 0.0, "upper": 0.0}


def test_recall_chart_shows_every_method_and_its_interval():
    evaluation = FOUND["embeddings"]["evaluation"]
    chart = dict(writer._charts(FOUND))["recall"]
    assert [line.name for line in chart.lines] == list(evaluation["methods"])
    for line in chart.lines:
        at = evaluation["methods"][line.name]["all"]
        assert [(p.y, p.lower, p.upper) for p in line.points] == [
            (v["value"], v["lower"], v["upper"]) for v in at.values()
        ]


def test_title_says_what_was_ranked_and_when():
    source = {"name": "a shop", "parameters": {"test_weeks": [50, 53]}}
    found = changed(data={**FOUND["data"], "source": source})
    words = " ".join(" ".join(Page(writer.render(found)).text).split())
    assert "a <b> pipeline: DIN and MUSE" in words
    assert (
        "Ranked: 1,234 impressions of a shop, of 40 users that count in GAUC, "
        "weeks 50 to 53. Last run: 2026-01-01 UTC." in words
    )


def test_a_model_says_what_it_is_and_why_it_is_not_pushed():
    found = changed()
    found["models"]["din"].update(
        pushed_to=None,
        not_pushed="below evaluator.min_gauc 0.9",
        settings={"model": {"type": "din", "recent": 31}},
    )
    page = Page(writer.render(found))
    words = " ".join(" ".join(page.text).split())
    assert (
        "DIN: target attention over ids and SimTier over the 31 newest" in words
    )
    assert "MUSE: search scl_cosine" in words
    din, muse = page.under["models"][0][1:]
    assert din[-1] == "no: below evaluator.min_gauc 0.9" and muse[-1] == "17"
