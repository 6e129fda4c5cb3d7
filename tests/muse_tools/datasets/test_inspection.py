import json

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from typer.testing import CliRunner

from muse_tools.cli.data import app
from muse_tools.datasets import (
    casting,
    inspection,
    raw_tables,
    synth,
    table_writer,
    validation,
)
from muse_tools.datasets.errors import DataError
from tests.muse_tools.datasets.conftest import NAMES, SCHEMAS

RUNNER = CliRunner()


def run(*arguments):
    return RUNNER.invoke(app, [str(a) for a in arguments])


def rows(directory, name):
    return pq.read_table(directory / f"{name}.parquet").to_pylist()


def test_small_tables_against_a_plain_count(raw_dir, tables):
    found = inspection.inspect(raw_dir)
    assert found["ok"] and found["joins"] and not found["problems"]
    users = {
        s: {r["129_1"]: r for r in rows(raw_dir, f"{s}_user_features")}
        for s in raw_tables.SPLITS
    }
    for split in raw_tables.SPLITS:
        samples = rows(raw_dir, f"{split}_samples")
        section = found["samples"][split]
        assert section["read"] == section["accepted"] == len(samples)
        clicks = sum(r["label_0"][1] for r in samples)
        assert section["clicks"] == clicks
        assert section["click_rate"] == round(clicks / len(samples), 6)
        assert section["items"] == len({r["205"] for r in samples})
        assert section["users"] == len({r["129_1"] for r in samples})
        assert section["joined"] == section["candidates_with_embedding"] == 1
        lengths = [len(r["150_2_180"]) for r in users[split].values()]
        history = found["users"][split]["history_length"]
        assert history["max"] == max(lengths)
        assert history["mean"] == pytest.approx(np.mean(lengths), abs=1e-4)
        assert history["p50"] == np.median(lengths)
        assert found["users"][split]["behaviors"] == sum(lengths)
    norms = [
        np.linalg.norm(r["205_c"]) / 127
        for r in rows(raw_dir, "scl_embedding_int8_p90")
    ]
    for name, value in (
        ("min", min(norms)),
        ("max", max(norms)),
        ("mean", np.mean(norms)),
        ("p50", np.sort(norms)[(len(norms) - 1) // 2]),
    ):
        assert found["embeddings"]["norm"][name] == pytest.approx(
            value, abs=1e-4
        )


def test_coverage_counts_occurrences_without_padding(raw_dir, tables):
    vectors = tables["scl_embedding_int8_p90"]
    known = set(vectors["205"].to_pylist()[:4])
    table_writer.write_table(
        raw_dir / "scl_embedding_int8_p90.parquet", vectors.slice(0, 4)
    )
    users = tables["test_user_features"].to_pylist()
    for user in users[:2]:
        for code in ("150_2_180", "151_2_180"):
            user[code] = [0, *user[code], 0]
    table_writer.write_table(
        raw_dir / "test_user_features.parquet",
        pa.Table.from_pylist(users, schema=SCHEMAS["test_user_features"]),
    )
    found = inspection.inspect(raw_dir)
    real = [i for u in users for i in u["150_2_180"] if i]
    section = found["users"]["test"]
    assert section["padding"] == 4 and section["behaviors"] == len(real)
    share = sum(i in known for i in real) / len(real)
    assert section["behaviors_with_embedding"] == round(share, 6)
    candidates = tables["test_samples"]["205"].to_pylist()
    share = sum(i in known for i in candidates) / len(candidates)
    assert found["samples"]["test"]["candidates_with_embedding"] == round(
        share, 6
    )


def test_only_the_first_histories_are_read_if_asked(raw_dir):
    found = inspection.inspect(raw_dir, max_users=2)
    assert found["users"]["train"]["read"] == 2
    assert not found["users"]["train"]["complete"]
    assert found["samples"]["train"]["with_user_row"] == 1  # keys are all read
    everything = inspection.inspect(raw_dir, max_users=0)
    assert everything["users"]["train"]["read"] == 6
    assert everything["users"]["train"]["complete"]


def test_partly_joining_tables_are_told(raw_dir, tables):
    items = tables["item_features"].slice(0, 5)
    table_writer.write_table(raw_dir / "item_features.parquet", items)
    known = set(items["205"].to_pylist())
    found = inspection.inspect(raw_dir)
    candidates = tables["train_samples"]["205"].to_pylist()
    share = sum(i in known for i in candidates) / len(candidates)
    assert found["samples"]["train"]["joined"] == round(share, 6)
    assert found["ok"] and found["joins"]
    assert any("do not join" in note for note in found["notes"])


@pytest.mark.parametrize("split", raw_tables.SPLITS)
@pytest.mark.parametrize(
    ("name", "column", "value", "code", "part"),
    [
        ("samples", "205", 2**40, "NO_JOIN", "item row (0.00% have)"),
        ("samples", "129_1", 2**40, "NO_JOIN", "user row (0.00% have)"),
        ("user_features", "129_1", None, "NO_JOIN", "user row (0.00% have)"),
        ("samples", "label_0", [1, 0], "ONE_LABEL", "none of the"),
        ("samples", "label_0", [0, 1], "ONE_LABEL", "every one of the"),
    ],
)
def test_what_cannot_be_trained_on_is_an_error(
    raw_dir, tables, split, name, column, value, code, part
):
    name = f"{split}_{name}"
    table = tables[name]
    place = table.schema.get_field_index(column)
    new = [value] * len(table)
    if value is None:  # Other users than those of the impressions.
        new = [2**50 + n for n in range(len(table))]
    field = table.schema.field(place)
    table = table.set_column(place, field, pa.array(new, field.type))
    pq.write_table(table, raw_dir / f"{name}.parquet")
    done = run("inspect", raw_dir)
    assert done.exit_code == 1
    (line,) = (x for x in done.stderr.splitlines() if x.startswith("error: "))
    assert f"[{code}]" in line and part in line and f"{split} impr" in line


@pytest.mark.parametrize("all_of_them", [False, True])
def test_vectors_of_another_width_are_named(raw_dir, tables, all_of_them):
    name = raw_tables.EMBEDDINGS
    table = tables[name]
    vectors = table["205_c"].to_pylist()
    short = len(vectors) if all_of_them else 2
    vectors[:short] = [vector[:64] for vector in vectors[:short]]
    field = table.schema.field(1)
    table = table.set_column(1, field, pa.array(vectors, field.type))
    pq.write_table(table, raw_dir / f"{name}.parquet")
    found = inspection.inspect(raw_dir)
    said = f"{validation.EMBEDDING_LENGTH}. Received: lengths 64."
    if all_of_them:
        (problem,) = found["problems"]
        assert said in problem["message"]
        assert "fill shorter ones up with zeros" in problem["hint"]
    else:
        assert found["ok"]
        assert f"{name}: in 2 rows {said}" in found["notes"]


def test_broken_rows_are_counted_and_add_up(synthetic):
    out, made = synthetic
    found = inspection.inspect(out)
    assert found["ok"]
    sections = {
        "train_samples": found["samples"]["train"],
        "train_user_features": found["users"]["train"],
        "item_features": found["items"],
        "scl_embedding_int8_p90": found["embeddings"],
    }
    for name, section in sections.items():
        rejected = sum(section["rejected"].values())
        assert section["read"] == section["accepted"] + rejected
        assert section["read"] == found["tables"][name]["rows"]
        expected = {
            why: n
            for why, n in made["broken"][name].items()
            if why
            not in (validation.NO_ITEM_FEATURES, validation.NO_USER_FEATURES)
        }
        assert section["rejected"] == expected
    assert found["users"]["train"]["duplicate_rows"] == 3
    samples = found["samples"]["train"]
    assert samples["joined"] == round(1 - 6 / samples["accepted"], 6)


def test_command_on_the_real_tables(demo_tables):
    done = run("inspect", demo_tables, "--json")
    assert done.exit_code == 1
    found = json.loads(done.stdout)
    assert found["joins"] is False
    codes = {problem["code"] for problem in found["problems"]}
    assert "NO_JOIN" in codes and codes <= {"NO_JOIN", "ONE_LABEL"}
    assert found["schema"] == "taobao_mm"
    assert {n: t["rows"] for n, t in found["tables"].items()} == dict.fromkeys(
        SCHEMAS, 10
    )
    for name, schema in SCHEMAS.items():
        assert found["tables"][name]["columns"] == {
            f.name: {"name": NAMES[f.name], "type": casting.describe(f.type)}
            for f in schema
        }
    assert found["users"]["test"]["history_length"]["min"] == 351
    assert found["users"]["train"]["history_length"]["p50"] == 1000
    for split in raw_tables.SPLITS:
        labels = [r["label_0"] for r in rows(demo_tables, f"{split}_samples")]
        assert found["samples"][split]["clicks"] == labels.count([0, 1])
    assert 0.95 < found["embeddings"]["norm"]["mean"] < 0.98


def test_more_rejected_rows_than_the_join_allows_are_told(tmp_path):
    from tfx_pipeline.config import DataConfig

    default = DataConfig.model_fields["max_rejected_fraction"].default
    assert inspection.MAX_REJECTED == default
    few = synth.Options(users=100, items=500, history=20, broken=30)
    synth.generate(tmp_path, few)
    (told,) = (
        note
        for note in inspection.inspect(tmp_path)["notes"]
        if "max_rejected_fraction" in note
    )
    # 120 of them.
    assert "9.84% of the 1,220 train impressions" in told


def test_command_on_generated_tables(journey):
    out, _ = journey
    done = run("inspect", out)
    assert done.exit_code == 0 and "The tables join." in done.stdout
    found = json.loads(run("inspect", out, "--json").stdout)
    assert found["dataset"]["name"] == "complete-journey"
    assert found["schema"] == "complete_journey"
    assert set(found["items"]["missing_values"]) == {
        "item_category",
        "item_manufacturer",
        "item_department",
    }
    columns = found["tables"]["item_features"]["columns"]
    assert columns["manufacturer"] == {
        "name": "item_manufacturer",
        "type": "int64",
    }
    made = json.loads((out / "dataset.json").read_text("utf-8"))
    for split in raw_tables.SPLITS:
        assert found["samples"][split]["joined"] == 1
        counts = made["splits"][split]
        assert found["samples"][split]["accepted"] == counts["impressions"]
        assert found["samples"][split]["clicks"] == counts["positives"]
        assert found["users"][split]["history_length"]["mean"] == (
            pytest.approx(counts["history_length"]["mean"], abs=0.06)
        )


@pytest.mark.parametrize("name", list(SCHEMAS))
@pytest.mark.parametrize(
    "kind", ["column", "type", "empty", "cut", "encrypted", "gone"]
)
def test_command_fails_with_a_line_that_names_it(raw_dir, tables, name, kind):
    path = raw_dir / f"{name}.parquet"
    column = SCHEMAS[name].names[-1]
    expected = [f"table {name}"]
    if kind == "column":
        pq.write_table(tables[name].drop([column]), path)
        expected += [column, "MISSING_COLUMN"]
    elif kind == "type":
        index = len(SCHEMAS[name]) - 1
        text = pa.array(["x"] * tables[name].num_rows)
        pq.write_table(tables[name].set_column(index, column, text), path)
        expected += [column, "WRONG_TYPE", "Received: string"]
    elif kind == "empty":
        pq.write_table(tables[name].slice(0, 0), path)
        expected += ["EMPTY_TABLE"]
    elif kind == "cut":
        path.write_bytes(path.read_bytes()[:-9])
        expected += ["UNREADABLE_FILE", path.name]
    elif kind == "encrypted":
        path.write_bytes(b"PARE" + path.read_bytes()[4:-4] + b"PARE")
        expected += ["UNSUPPORTED_FILE", path.name]
    else:
        path.unlink()
        expected += ["MISSING_TABLE"]
    done = run("inspect", raw_dir, "--json")
    assert done.exit_code == 1
    assert not json.loads(done.stdout)["ok"]
    lines = [x for x in done.stderr.splitlines() if x.startswith("error: ")]
    assert len(lines) == 1
    for part in expected:
        assert part in lines[0]
    assert run("inspect", raw_dir).exit_code == 1


def test_no_usable_row_is_a_problem(raw_dir, tables):
    samples = tables["train_samples"]
    broken = pa.array([[1, 1]] * samples.num_rows, samples.schema[0].type)
    table_writer.write_table(
        raw_dir / "train_samples.parquet",
        samples.set_column(0, samples.schema[0], broken),
    )
    done = run("inspect", raw_dir)
    assert done.exit_code == 1
    assert "NO_USABLE_ROWS" in done.stderr and "not one-hot" in done.stderr


def test_usage_errors_have_exit_code_2(tmp_path):
    for arguments in (
        ["inspect"],
        ["complete-journey"],
        ["complete-journey", "--out", tmp_path, "--train-weeks", "x"],
        ["complete-journey", "--out", tmp_path, "--negatives", "0"],
        ["synth", "--out", tmp_path, "--history", "100001"],
        ["synth", "--out", tmp_path, "--seed", "one"],
        ["unknown"],
    ):
        assert run(*arguments).exit_code == 2, arguments
    done = run("synth", "--out", tmp_path, "--history", "100001")
    assert "--history" in done.stderr and "100001" in done.stderr


def test_data_errors_have_exit_code_1(raw_dir, tmp_path):
    (tmp_path / "empty").mkdir()
    for arguments in (
        ["inspect", tmp_path / "nowhere"],
        ["inspect", tmp_path / "empty"],
        ["import-joined", tmp_path / "empty", "--out", tmp_path / "x"],
        ["synth", "--out", raw_dir, "--users", 10, "--items", 100],
    ):
        done = run(*arguments)
        assert done.exit_code == 1, arguments
        lines = [s for s in done.stderr.splitlines() if "error:" in s]
        assert len(lines) == 1 and "Fix:" in lines[0]


def test_every_command_has_help_with_an_example():
    done = run("--help")
    assert done.exit_code == 0
    for name in ("complete-journey", "synth", "inspect", "import-joined"):
        assert name in done.stdout
        done_one = run(name, "--help")
        assert done_one.exit_code == 0
        assert f"Example: muse data {name}" in done_one.stdout


def test_commands_print_counts_and_reuse(tmp_path):
    arguments = ["--users", 30, "--items", 200, "--history", 9]
    arguments += ["--search-events", 200]
    arguments = ["synth", "--out", tmp_path / "x", *arguments]
    done = run(*arguments, "--json")
    assert done.exit_code == 0
    made = json.loads(done.stdout)
    assert not made["reused"] and made["splits"]["train"]["users"] == 30
    done = run(*arguments)
    assert done.exit_code == 0 and done.stdout.startswith("Reused")
    assert "train: users 30, impressions 330, " in done.stdout


def test_unusable_arguments_and_directories(tmp_path):
    with pytest.raises(ValueError, match="max_users: expected 0 or more"):
        inspection.inspect(tmp_path, max_users=-1)
    with pytest.raises(DataError) as error:
        inspection.inspect(tmp_path)
    assert error.value.code == "NO_TABLES"


def test_columns_that_are_not_used_are_named(raw_dir, tables):
    path = raw_dir / "item_features.parquet"
    items = tables["item_features"].append_column("price", pa.array([1.0] * 9))
    items = items.append_column("brand", pa.array(["x"] * 9))
    pq.write_table(items, path)
    found = inspection.inspect(raw_dir)
    assert found["tables"]["item_features"]["unused_columns"] == [
        "price",
        "brand",
    ]
    assert found["tables"]["train_samples"]["unused_columns"] == []
    done = run("inspect", raw_dir)
    assert done.exit_code == 0
    assert "item_features: columns that are not used: price, brand" in (
        done.stdout
    )
    # Of every file, and of the search tables.
    path.rename(raw_dir / "item_features-0.parquet")
    more = tables["item_features"].append_column("stock", pa.array([1] * 9))
    pq.write_table(more, raw_dir / "item_features-1.parquet")
    ids = tables["item_features"]["205"]
    content = {"item_id": ids, "text": ["a"] * 9, "color": ["red"] * 9}
    pq.write_table(pa.table(content), raw_dir / "item_content.parquet")
    events = pa.table(
        {
            "query_id": [1],
            "time": [5],
            "purchased_item_id": ids[:1],
            "clicked_item_ids": pa.array([[]], pa.list_(pa.int64())),
            "query_text": ["a"],
        }
    )
    pq.write_table(events, raw_dir / "search_events-0.parquet")
    events = events.append_column("locale", pa.array(["en"]))
    pq.write_table(events, raw_dir / "search_events-1.parquet")
    notes = inspection.inspect(raw_dir)["notes"]
    assert [note for note in notes if "columns that are not used" in note] == [
        f"{name}: columns that are not used: {columns}."
        for name, columns in (
            ("item_features", "price, brand, stock"),
            ("item_content", "color"),
            ("search_events", "locale"),
        )
    ]


@pytest.mark.parametrize(
    ("content", "events", "ways"),
    [
        ("text", False, "text_svd"),
        ("text", True, "learned or text_svd"),
        ("image_vector", True, "learned"),
        ("image_vector", False, None),
        (None, False, None),
    ],
)
def test_vectors_are_needed_only_where_nothing_makes_them(
    raw_dir, tables, content, events, ways
):
    (raw_dir / "scl_embedding_int8_p90.parquet").unlink()
    ids = tables["item_features"]["205"]
    values = {"text": ["a b"] * 9, "image_vector": [[1.0, 2.0]] * 9}
    if content:
        pq.write_table(
            pa.table({"item_id": ids, content: values[content]}),
            raw_dir / "item_content.parquet",
        )
    if events:
        query = {
            "query_id": [1],
            "time": [5],
            "purchased_item_id": ids[:1],
            "clicked_item_ids": pa.array([[]], pa.list_(pa.int64())),
            f"query_{content}": values[content][:1],
        }
        pq.write_table(pa.table(query), raw_dir / "search_events.parquet")
    found = inspection.inspect(raw_dir)
    assert found["ok"] == bool(ways), found["problems"]
    if ways:
        (note,) = (n for n in found["notes"] if "item_embeddings" in n)
        assert f"item_embeddings: {ways}, which" in note
    else:
        assert [p["code"] for p in found["problems"]] == ["MISSING_TABLE"]


def test_ids_numbered_from_zero_are_told(raw_dir, tables):
    """What pd.factorize makes of users, items, categories and a profile."""
    assert not [n for n in inspection.inspect(raw_dir)["notes"] if "0 is" in n]
    places = {
        "129_1": "user_id",
        "205": "item_id",
        "206": "item_category",
        "130_2": "user_profile_2",
    }
    for name, table in tables.items():
        for column in places:
            if column not in table.column_names:
                continue
            known = sorted(
                {
                    v
                    for t in tables.values()
                    if column in t.column_names
                    for v in t[column].to_pylist()
                }
            )
            codes = [known.index(v) for v in table[column].to_pylist()]
            at = table.schema.get_field_index(column)
            table = table.set_column(at, table.schema.field(at), [codes])
        pq.write_table(table, raw_dir / f"{name}.parquet")
    notes = [n for n in inspection.inspect(raw_dir)["notes"] if "0 is" in n]
    assert len(notes) == len(places)
    for column, text in places.items():
        (note,) = (n for n in notes if f"0 is in use as {text}:" in n)
        assert "add 1 to all of " + column.split(" ")[0] in note


def test_json_has_no_nan(raw_dir, tables):
    """Nothing accepted: shares and quantiles of nothing are null."""
    samples = tables["train_samples"]
    zero = samples.set_column(2, samples.schema[2], [[0] * len(samples)])
    pq.write_table(zero, raw_dir / "train_samples.parquet")
    users = tables["test_user_features"]
    unknown = users.set_column(0, users.schema[0], [[0] * len(users)])
    pq.write_table(unknown, raw_dir / "test_user_features.parquet")
    done = run("inspect", raw_dir, "--json")
    assert done.exit_code == 1

    def refuse(name):
        raise AssertionError(name)

    found = json.loads(done.stdout, parse_constant=refuse)
    assert found["samples"]["train"]["click_rate"] is None
    assert found["users"]["test"]["history_length"] is None
