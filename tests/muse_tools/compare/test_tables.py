"""Tables and claims of hand-made cells, against oracles and by design."""

import pathlib

import numpy as np
import pydantic
import pytest
import yaml

from muse_tools.compare import claims, groups, tables
from muse_tools.compare.grid import Column, Method, sections
from muse_tools.compare.results import Interval
from muse_tools.compare.scores import Judge, Term
from tests.muse_tools.compare import worlds
from tests.tfx_pipeline.evaluation import metric_oracles
from tfx_pipeline.config import ModelConfig
from tfx_pipeline.evaluation import bootstrap
from tfx_pipeline.evaluation.bootstrap import resampled_means

DIN, MUSE = Column(Method("din")), Column(Method("muse"))
SAMPLES = 200


@pytest.fixture(scope="module")
def shown():
    return worlds.impressions()


@pytest.fixture(scope="module")
def judge(shown):
    cells = {
        (column, seed): worlds.stored(shown, quality, seed)
        for column, quality in ((DIN, 0.2), (MUSE, 2.0))
        for seed in (1, 2)
    }
    return Judge(shown, cells, groups.masks(shown, (5,), (3,)), SAMPLES)


def oracle_users(shown, scores, mask=None):
    """Returns user -> (AUC, impressions), from pairs."""
    mask = np.ones(len(shown.clicks), bool) if mask is None else mask
    found = {}
    for user in np.unique(shown.user_ids):
        mine = mask & (shown.user_ids == user)
        value = metric_oracles.auc(
            shown.clicks[mine].tolist(), scores[mine].tolist()
        )
        if value is not None:
            found[user] = (value, int(mine.sum()))
    return found


def oracle_interval(values, weights):
    """Percentiles of weighted means of users drawn with replacement."""
    rng = np.random.default_rng(0)
    values, weights = np.array(values), np.array(weights, float)
    means = []
    for _ in range(SAMPLES):
        drawn = rng.integers(0, len(values), len(values))
        means.append(np.average(values[drawn], weights=weights[drawn]))
    return np.quantile(means, [0.025, 0.975])


def test_gauc_and_difference_with_intervals(shown, judge):
    by_cell = {
        key: oracle_users(shown, cell.scores)
        for key, cell in judge.cells.items()
    }
    users = sorted(by_cell[DIN, 1])
    # The user with clicks only is not among them.
    assert -20 not in users
    weights = [by_cell[DIN, 1][user][1] for user in users]

    def mean_auc(column):
        return np.array(
            [
                np.mean([by_cell[column, s][user][0] for s in (1, 2)])
                for user in users
            ]
        )

    found = judge.difference([Term(1, MUSE)], (1, 2))
    assert found.value == pytest.approx(
        np.average(mean_auc(MUSE), weights=weights), abs=1e-6
    )
    seeds = [metric_oracles.weighted(by_cell[MUSE, s].values()) for s in (1, 2)]
    assert found.by_seed == pytest.approx(seeds, abs=1e-6)
    assert found.spread == pytest.approx(np.std(seeds, ddof=1), abs=1e-6)
    low, high = oracle_interval(mean_auc(MUSE), weights)
    assert (found.lower, found.upper) == pytest.approx((low, high), abs=1e-6)

    found = judge.difference([Term(1, MUSE), Term(-1, DIN)], (1, 2))
    change = mean_auc(MUSE) - mean_auc(DIN)
    assert found.value == pytest.approx(
        np.average(change, weights=weights), abs=1e-6
    )
    low, high = oracle_interval(change, weights)
    assert (found.lower, found.upper) == pytest.approx((low, high), abs=1e-6)


def test_gauc_within_a_group(shown, judge):
    for name, mask in (
        ("activity 0-4", shown.history < 5),
        ("popularity 3+", shown.popularity >= 3),
    ):
        seeds = [
            metric_oracles.weighted(
                oracle_users(shown, judge.cells[MUSE, s].scores, mask).values()
            )
            for s in (1, 2)
        ]
        found = judge.difference([Term(1, MUSE, name)], (1, 2))
        assert found.by_seed == pytest.approx(seeds, abs=1e-6)
        assert judge.size(name) == mask.sum()


def test_resampled_means_are_weighted_means_of_the_drawn_users():
    rng = np.random.default_rng(3)
    values, weights = rng.random((30, 2)), rng.integers(1, 9, (30, 2)) * 1.0
    generator = np.random.default_rng(0)
    wanted = []
    for _ in range(50):
        drawn = generator.integers(0, 30, 30)
        wanted.append(np.average(values[drawn], 0, weights[drawn]))
    means = resampled_means(values, weights, 50)
    np.testing.assert_allclose(means, wanted)
    for column in range(2):
        np.testing.assert_allclose(
            bootstrap.mean_interval(values[:, column], weights[:, column], 50),
            np.quantile(np.array(wanted)[:, column], [0.025, 0.975]),
        )


def test_a_resample_without_a_group_is_left_out():
    values = np.ones((3, 1))
    weights = np.array([[0.0], [0.0], [2.0]])
    means = resampled_means(values, weights, 100)
    assert np.isnan(means).any()
    np.testing.assert_array_equal(means[np.isfinite(means)], 1.0)


def test_overall_table(judge):
    config = worlds.config(methods=("din", "muse", "twin"))
    (section,) = sections(config)
    found = tables.table(section, judge, 30)
    din, muse, twin = found.rows
    assert [row.name for row in found.rows] == ["DIN", "MUSE", "TWIN"]
    assert din.baseline is None and din.difference is None
    assert muse.baseline == "DIN, vectors base, history 30"
    assert muse.difference == judge.difference(
        [Term(1, MUSE), Term(-1, DIN)], (1, 2)
    )
    assert (muse.gsu, muse.esu) == ("scl_cosine", "sa_ta_simtier")
    # Means over the seeds' 0.51 and 0.52, 2 and 4 seconds.
    assert muse.auc == pytest.approx(0.515)
    assert muse.train_seconds == pytest.approx(3.0)
    # A cell is missing: no half of a mean.
    assert twin.missing == [1, 2]
    assert (twin.gauc, twin.difference, twin.auc) == (None, None, None)
    assert not twin.lists
    shown = judge.impressions
    for place, name in enumerate(("ndcg_10", "mrr", "recall_10")):
        seeds = [
            metric_oracles.mean_of_lists(
                shown.user_ids.tolist(),
                shown.clicks.tolist(),
                judge.cells[MUSE, seed].scores.tolist(),
            )[place]
            for seed in (1, 2)
        ]
        found = muse.lists[name]
        assert found.by_seed == pytest.approx(seeds, abs=1e-6)
        assert found.value == pytest.approx(np.mean(seeds), abs=1e-6)
        assert found.lower < found.value < found.upper or name == "recall_10"


def test_a_row_without_one_of_its_seeds_has_no_numbers(shown):
    cells = {(MUSE, 1): worlds.stored(shown, 1.0, 1)}
    (section,) = sections(worlds.config(methods=("muse",)))
    lame = Judge(shown, cells, {}, SAMPLES)
    (row,) = tables.table(section, lame, 30).rows
    assert row.missing == [2]
    assert row.gauc is None


def test_group_tables(shown, judge):
    activity, popularity, repetition = tables.group_tables(
        worlds.config(), judge
    )
    assert [group.name for group in activity.groups] == [
        "activity 0-4",
        "activity 5+",
    ]
    assert sum(group.impressions for group in popularity.groups) == len(
        shown.clicks
    )
    assert sum(group.users for group in activity.groups) == len(
        oracle_users(shown, judge.cells[MUSE, 1].scores)
    )
    gain = activity.groups[0].gain
    assert set(gain) == {"MUSE"}
    assert gain["MUSE"] == judge.difference(
        [Term(1, MUSE, "activity 0-4"), Term(-1, DIN, "activity 0-4")], (1, 2)
    )


def test_item_vectors_by_group(shown):
    noisy = Column(MUSE.method, "noise:1")
    cells = {
        (column, 1): worlds.stored(shown, quality, 1)
        for column, quality in ((MUSE, 2.0), (noisy, 0.5))
    }
    judge = Judge(shown, cells, groups.masks(shown, (5,), (3,)), SAMPLES)
    config = worlds.config(embeddings=("noise:1", "random"))
    # Nothing finished has all seeds of the overall table.
    (found,) = tables.group_tables(config, judge)
    assert (found.name, found.baseline) == ("repetition_vectors", "MUSE")
    new, again = found.groups
    assert new.impressions == (shown.repeats == 0).sum()
    assert again.impressions == (shown.repeats > 0).sum()
    wanted = metric_oracles.weighted(
        oracle_users(shown, cells[noisy, 1].scores, shown.repeats > 0).values()
    )
    # `random` did not run.
    assert set(again.gauc) == {"MUSE", "MUSE, noise:1"}
    assert again.gauc["MUSE, noise:1"].value == pytest.approx(wanted, abs=1e-6)
    assert again.gain["MUSE, noise:1"].upper < 0


def test_group_names_and_bounds(shown):
    assert groups.names("activity", (1, 3)) == [
        "activity 0",
        "activity 1-2",
        "activity 3+",
    ]
    found = groups.masks(shown, (1, 3), (2,))
    np.testing.assert_array_equal(
        found["activity 1-2"], (shown.history >= 1) & (shown.history < 3)
    )
    np.testing.assert_array_equal(found["popularity 2+"], shown.popularity >= 2)
    np.testing.assert_array_equal(found["repetition 0"], shown.repeats == 0)


@pytest.mark.parametrize(
    ("lower", "by_seed", "wanted"),
    [
        (0.001, [0.02, 0.01], True),
        (-0.001, [0.02, 0.01], False),
        (0.0, [0.02, 0.01], False),
        # The mean is clear, one seed is not.
        (0.001, [0.05, -0.001], False),
        (None, [None], False),
    ],
)
def test_the_rule(lower, by_seed, wanted):
    found = Interval(
        value=0.01, lower=lower, upper=0.03, by_seed=by_seed, spread=None
    )
    assert claims.supports(found) == wanted


def test_claims_of_cells_made_for_them(judge):
    config = worlds.config(embeddings=("noise:1",))
    found = {one.id: one for one in claims.judge_claims(config, judge)}
    assert found["muse_above_din"].status == "confirmed"
    assert found["muse_above_din"].contrasts[0].difference.lower > 0
    for name in ("muse_best", "better_vectors_help", "sa_ta_simtier_best"):
        assert found[name].status == "cannot be tested on this data", name
        assert "cells" in found[name].reason
    assert found["online_gains"].status == "cannot be tested on this data"
    assert len(found) == len(claims.judge_claims(config, judge))


def test_a_claim_may_be_refuted_or_undecided(shown):
    def verdict(muse, din):
        cells = {
            (column, seed): worlds.stored(shown, quality, seed)
            for column, quality in ((DIN, din), (MUSE, muse))
            for seed in (1, 2)
        }
        judge = Judge(shown, cells, groups.masks(shown, (5,), (3,)), SAMPLES)
        found = claims.judge_claims(worlds.config(), judge)
        return {one.id: one for one in found}

    refuted = verdict(0.2, 2.0)["muse_above_din"]
    assert refuted.status == "not confirmed"
    assert "the opposite" in refuted.reason
    # The same scores: the difference is exactly 0.
    same = verdict(1.0, 1.0)
    assert same["muse_above_din"].status == "not confirmed"
    assert "includes 0" in same["muse_above_din"].reason
    assert same["gain_grows_with_activity"].status == "not confirmed"


def test_gain_by_group_is_a_difference_of_differences(shown):
    """MUSE knows the clicks of active users, and no others."""
    good, bad = (worlds.stored(shown, q, 1) for q in (3.0, 0.0))
    scores = np.where(shown.history >= 5, good.scores, bad.scores)
    muse = worlds.StoredCell(scores, good.metrics)
    cells = {
        (column, seed): cell
        for seed in (1, 2)
        for column, cell in ((DIN, bad), (MUSE, muse))
    }
    judge = Judge(shown, cells, groups.masks(shown, (5,), (3,)), SAMPLES)
    found = {one.id: one for one in claims.judge_claims(worlds.config(), judge)}
    claim = found["gain_grows_with_activity"]
    assert claim.status == "confirmed"
    active = judge.difference(
        [Term(1, MUSE, "activity 5+"), Term(-1, DIN, "activity 5+")], (1, 2)
    )
    # Among the others MUSE's scores are DIN's.
    assert claim.contrasts[0].difference.value == pytest.approx(
        active.value, abs=1e-5
    )


def test_stated_claims_name_what_there_is():
    """A wrong name would not fail: its claim "cannot be tested"."""
    stated = yaml.safe_load(
        (pathlib.Path(claims.__file__).parent / "claims.yaml").read_text()
    )
    for part, key in {"methods": "type", "gsu": "gsu", "esu": "esu"}.items():
        field = pydantic.TypeAdapter(ModelConfig.model_fields[key].annotation)
        for claim in stated[part]:
            for name in (*claim["better"], *claim["worse"]):
                field.validate_python(name)
