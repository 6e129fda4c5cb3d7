import dataclasses
import subprocess
import sys

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from muse_tools.datasets import raw_tables, synth, synth_items, validation
from tests.muse_tools.datasets.conftest import SCHEMAS, SPLITS


def rows(directory, name):
    return pq.read_table(directory / "raw" / f"{name}.parquet")


def accepted(directory, name):
    batches = raw_tables.RawTables.open(directory)[name].iter_batches()
    return pa.Table.from_batches(
        [validation.validate(name, b).good for b in batches]
    )


def clicks_of(labels):
    return np.array([label[1] for label in labels.to_pylist()])


def gauc(users, labels, scores):
    """Impression-weighted mean AUC per user, written from its definition."""
    total = weight = 0.0
    for user in np.unique(users):
        mine = users == user
        positive = scores[mine & (labels == 1)]
        negative = scores[mine & (labels == 0)]
        if len(positive) and len(negative):
            wins = (positive[:, None] > negative).mean()
            ties = (positive[:, None] == negative).mean()
            total += mine.sum() * (wins + ties / 2)
            weight += mine.sum()
    return total / weight


def test_layout_and_sizes(synthetic):
    out, made = synthetic
    raw_tables.RawTables.open(out).check()
    for name, schema in SCHEMAS.items():
        path = out / "raw" / f"{name}.parquet"
        assert str(pq.read_schema(path).remove_metadata()) == str(schema)
    assert made["splits"]["train"]["users"] == 400
    assert made["splits"]["train"]["impressions"] == 400 * 11
    for split in SPLITS:
        users = accepted(out, f"{split}_user_features")
        stripped = validation.strip_padding(
            users.combine_chunks().to_batches()[0]
        )
        lengths = np.array([len(x) for x in stripped.column(6).to_pylist()])
        padded = np.array(
            [len(x) for x in users["behavior_item_ids"].to_pylist()]
        )
        assert lengths.max() == 60 and padded.max() <= 60
        assert (lengths == 0).any() and (padded > lengths).any()
    assert accepted(out, "item_features").num_rows == 2000 + 3


def test_ids_are_distinct_signed_and_never_zero(synthetic):
    out, _ = synthetic
    ids = accepted(out, "item_features")["item_id"].to_numpy()[:2000]
    assert len(np.unique(ids)) == 2000
    assert (ids < 0).any() and (ids > 0).any() and (ids != 0).all()
    counter = np.arange(1 << 16, dtype=np.uint64)
    assert len(np.unique(synth_items.mix(counter))) == 1 << 16


def test_click_rate_and_norms(synthetic):
    out, made = synthetic
    labels = clicks_of(accepted(out, "train_samples")["click"])
    share, error = labels.mean(), 4 * (0.137 * 0.863 / len(labels)) ** 0.5
    assert abs(share - 0.137) < error + 0.02
    codes = np.array(
        accepted(out, "scl_embedding_int8_p90")["item_vector"].to_pylist(),
        np.int8,
    )
    norms = np.linalg.norm(codes.astype(float), axis=1) / 127
    assert abs(norms.mean() - 0.966) < 0.01
    assert len(codes) == made["items"]["with_embedding"]
    assert 0.05 < 1 - len(codes) / 2000 < 0.15


def test_some_items_are_never_seen_in_training(tmp_path):
    options = synth.Options(
        users=300,
        items=1000,
        history=60,
        test_users=1,
        new_items=0.2,
        search_events=0,
    )
    made, _ = synth.generate(tmp_path, options)
    catalog = synth_items.Catalog(
        options.items,
        options.seed,
        options.new_items,
        options.missing_embeddings,
    )
    new = set(catalog.ids(np.flatnonzero(catalog.is_new)).tolist())
    assert len(new) == made["items"]["new_in_test"] > 150
    seen = set(rows(tmp_path, "train_samples")["205"].to_pylist())
    for split in SPLITS:
        users = rows(tmp_path, f"{split}_user_features")
        for items in users["150_2_180"].to_pylist():
            seen |= set(items)
    assert not seen & new
    test = rows(tmp_path, "test_samples")["205"].to_pylist()
    shown = [i in new for i in test]
    assert 0.1 < np.mean(shown) < 0.3
    everything = set(rows(tmp_path, "item_features")["205"].to_pylist())
    assert new < everything


def test_train_history_is_a_prefix_of_test_history(tmp_path):
    options = synth.Options(
        users=60,
        items=500,
        history=50,
        test_users=1,
        padded_users=0,
        search_events=0,
    )
    synth.generate(tmp_path, options)
    train, test = (
        rows(tmp_path, f"{s}_user_features").to_pylist() for s in SPLITS
    )
    grown = 0
    for before, after in zip(train, test, strict=True):
        assert before["129_1"] == after["129_1"]
        old, new = before["150_2_180"], after["150_2_180"]
        if not old:
            assert not new
            continue
        # The newest purchases follow; the oldest fall out of the window.
        assert any(
            old[cut:] == new[: len(old) - cut] for cut in range(len(old))
        )
        grown += len(new) > len(old)
    assert grown


def test_broken_rows_are_all_found(synthetic):
    out, made = synthetic
    found: dict = {}
    tables = raw_tables.RawTables.open(out)
    users = accepted(out, "train_user_features")["user_id"].to_numpy()
    items = accepted(out, "item_features")["item_id"].to_numpy()
    unique = {
        "train_user_features": validation.UniqueKeys(
            "user_id", validation.DUPLICATE_USER
        ),
        "item_features": validation.UniqueKeys(
            "item_id", validation.DUPLICATE_ITEM
        ),
    }
    for name in SCHEMAS:
        counts: dict = {}
        for batch in tables[name].iter_batches(batch_rows=97):
            steps = [validation.validate(name, batch)]
            if name in unique:
                steps.append(unique[name].check(steps[-1].good))
            if name == "train_samples":
                for code, keys, reason in (
                    ("item_id", items, validation.NO_ITEM_FEATURES),
                    ("user_id", users, validation.NO_USER_FEATURES),
                ):
                    steps.append(
                        validation.require_keys(
                            steps[-1].good, code, np.unique(keys), reason
                        )
                    )
            rejected = 0
            for step in steps:
                for why, n in step.counts.items():
                    counts[why] = counts.get(why, 0) + n
                    rejected += n
            assert steps[-1].good.num_rows + rejected == batch.num_rows
        if counts:
            found[name] = counts
    assert found == {
        table: rows
        for table, rows in made["broken"].items()
        if table in SCHEMAS
    }
    assert all(n == 3 for t in found.values() for n in t.values())


def test_the_past_tells_what_is_clicked_and_popularity_does_not(tmp_path):
    options = synth.Options(
        users=1500,
        items=4000,
        history=150,
        test_users=1,
        seed=11,
        search_events=0,
    )
    made, _ = synth.generate(tmp_path, options)
    samples = rows(tmp_path, "test_samples")
    users = samples["129_1"].to_numpy()
    labels = clicks_of(samples["label_0"])
    vectors = rows(tmp_path, "scl_embedding_int8_p90")
    unit = {
        i: np.array(v, float) / np.linalg.norm(v)
        for i, v in zip(
            vectors["205"].to_pylist(),
            vectors["205_c"].to_pylist(),
            strict=True,
        )
    }
    none = np.zeros(128)
    histories = {
        r["129_1"]: [i for i in r["150_2_180"] if i]
        for r in rows(tmp_path, "test_user_features").to_pylist()
    }
    counts: dict = {}
    for items in histories.values():
        for item in items:
            counts[item] = counts.get(item, 0) + 1
    means = {
        u: np.mean([unit.get(i, none) for i in items] or [none], axis=0)
        for u, items in histories.items()
    }
    items = samples["205"].to_pylist()
    similar = np.array(
        [
            unit.get(i, none) @ means[u]
            for i, u in zip(items, users.tolist(), strict=True)
        ]
    )
    popular = np.array([counts.get(i, 0) for i in items])
    truth = made["splits"]["test"]["gauc_of_true_probabilities"]
    assert gauc(users, labels, similar) > 0.57
    assert gauc(users, labels, similar) < truth - 0.01
    assert 0.44 < gauc(users, labels, popular) < 0.55
    assert 0.62 < truth < 0.8


def test_seed_decides_everything(tmp_path):
    options = synth.Options(
        users=50, items=300, history=20, seed=1, search_events=200
    )
    made = [
        synth.generate(tmp_path / str(i), o)[0]
        for i, o in enumerate(
            [options, options, dataclasses.replace(options, seed=2)]
        )
    ]
    for name in made[0]["files"]:
        data = [(tmp_path / str(i) / name).read_bytes() for i in range(3)]
        assert data[0] == data[1] != data[2]
    assert synth.generate(tmp_path / "0", options)[1]


def test_long_histories_in_bounded_memory(tmp_path):
    """60 users x up to 100,000 behaviors; 96 MB of ids alone."""
    code = (
        "import resource, sys\n"
        "from muse_tools.datasets import synth\n"
        "base = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss\n"
        "synth.generate(sys.argv[1], synth.Options(users=60, items=1000,"
        " history=100_000, seed=1, search_events=0))\n"
        "peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss\n"
        "sys.stdout.write(str(peak - base))\n"
    )
    done = subprocess.run(
        [sys.executable, "-c", code, str(tmp_path)],
        capture_output=True,
        text=True,
        check=True,
    )
    assert int(done.stdout) * 1024 < 700 << 20
    users = raw_tables.RawTables.open(tmp_path)["train_user_features"]
    lengths = np.concatenate(
        [b.column(6).value_lengths().to_numpy() for b in users.iter_batches()]
    )
    assert lengths.max() == 100_000 and len(lengths) == 60


@pytest.mark.parametrize(
    "wrong",
    [
        {"users": 1},
        {"items": 5},
        {"history": 100_001},
        {"history": 0},
        {"seed": -1},
        {"click_rate": 1.2},
        {"new_items": 0.9},
        {"broken": -1},
    ],
)
def test_wrong_options_name_the_argument(wrong):
    with pytest.raises(ValueError, match=f"^{[*wrong][0]}: expected"):
        synth.Options(**wrong)
