"""Tables in layouts of their own, from Parquet to Examples and messages."""

from __future__ import annotations

import json

import apache_beam as beam
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq
import pytest
from tfx.types import standard_artifacts
from typer.testing import CliRunner

from muse_tools.cli.data import app
from muse_tools.datasets import inspection
from muse_tools.datasets.errors import DataError
from tests.tfx_pipeline import own_layouts
from tests.tfx_pipeline.own_layouts import BARE, LAYOUTS, NEWS
from tests.tfx_pipeline.transforms.test_request_join import (
    in_any_order,
    read_examples,
)
from tfx_pipeline.components.request_example_gen import RequestExampleGen

pytestmark = pytest.mark.tf


def write_examples(folder, max_candidates=3, allowed=1.0):
    """Runs RequestExampleGen on the tables in a folder."""
    artifact = standard_artifacts.Examples()
    artifact.uri = str(folder / "examples")
    RequestExampleGen.test_call(
        artifact,
        raw_dir=str(folder),
        raw_fingerprint="",
        rejected_dir=str(folder / "rejected"),
        max_candidates=max_candidates,
        max_rejected_fraction=allowed,
        join_partitions=2,
        beam_pipeline=beam.Pipeline(),
    )


def examples_of(folder):
    return {
        split: read_examples(folder / "examples" / f"Split-{split}")
        for split in own_layouts.SPLITS
    }


@pytest.mark.parametrize("where", ["", "raw"])
@pytest.mark.parametrize("name", LAYOUTS)
def test_the_join_equals_one_in_plain_python(tmp_path, name, where):
    layout = LAYOUTS[name]
    tables = own_layouts.make(layout, seed=len(where))
    own_layouts.write(tmp_path / "raw", layout, tables)
    if not where:  # The declaration lies above the tables.
        (tmp_path / "raw/schema.yaml").rename(tmp_path / "schema.yaml")
    write_examples(tmp_path)
    wanted, rejected, counts = own_layouts.join(layout, tables, 3)
    found = examples_of(tmp_path)
    for split in own_layouts.SPLITS:
        assert len(wanted[split]) > 5
        assert in_any_order(found[split]) == in_any_order(wanted[split])
    # Rows that cannot be used are written as they were read.
    rows = []
    for path in (tmp_path / "rejected").glob("*.parquet"):
        table = path.stem.rpartition("-")[0]
        columns = layout.columns(table.replace("eval_", "test_"))
        found = pq.read_table(path)
        assert set(columns) < set(found.column_names)
        if layout is not BARE:
            assert not {"user_id", "item_id", "click"} & {*found.column_names}
        for row in found.to_pylist():
            own = {column: row[column] for column in columns}
            rows.append((table, row["reason"], own))
    assert in_any_order(rows) == in_any_order(rejected)
    assert json.loads((tmp_path / "rejected/counts.json").read_text()) == counts
    reasons = {reason for _, reason, _ in rejected}
    assert reasons >= {
        "null",
        "id is 0 (missing)",
        "label is not 0 or 1",
        "duplicate user row",
        "duplicate item row",
        "no item row",
        "no user row",
    }
    assert ("lists of a history of unequal length" in reasons) == bool(
        layout.lists[1:]
    )


def test_literal_examples(tmp_path):
    """One request written out, so that oracle and join cannot both err."""
    user = {"reader": 4, "age_band": 31, "country": 49, "subscription": None}
    user |= {
        "read_articles": [8, 9],
        "read_sources": [70, 71],
        "read_subjects": [6, None],
    }
    good = {**user, "read_subjects": [6, 5]}
    sample = {"reader": 4, "article": 8, "opened": 1}
    tables = {
        "train_samples": [sample, {**sample, "article": 9, "opened": 0}],
        "test_samples": [sample],
        "train_user_features": [user, good],
        "test_user_features": [good],
        "item_features": [
            {"article": 8, "subject": 6, "source": 70},
            {"article": 9, "subject": None, "source": 71},
        ],
        "scl_embedding_int8_p90": [{"article": 8, "embedding": [1.0] * 128}],
    }
    own_layouts.write(tmp_path, NEWS, tables)
    write_examples(tmp_path)
    assert examples_of(tmp_path)["train"] == [
        {
            "user_id": [4],
            "user_age": [31],
            "user_country": [49],
            "user_plan": [0],
            "behavior_item_ids": [8, 9],
            "behavior_source": [70, 71],
            "behavior_topic": [6, 5],
            "candidate_item_ids": [8, 9],
            "candidate_topic": [6, 0],
            "candidate_source": [70, 71],
            "candidate_popularity": [1, 1],
            "clicks": [1, 0],
        }
    ]
    (rejected,) = (tmp_path / "rejected").glob("*.parquet")
    assert rejected.name == "train_user_features-0.parquet"
    assert pq.read_table(rejected).to_pylist() == [
        {**user, "position": 0, "reason": "null"}
    ]


@pytest.fixture
def news(tmp_path):
    """A folder of good tables, and the rows in it."""
    tables = own_layouts.make(NEWS, broken=False)
    own_layouts.write(tmp_path, NEWS, tables)
    return tmp_path, tables


def test_inspection_speaks_the_columns_of_the_data(news):
    folder, tables = news
    found = inspection.inspect(folder)
    assert found["ok"] and found["schema"] == "news"
    columns = found["tables"]["train_user_features"]["columns"]
    assert {column: one["name"] for column, one in columns.items()} == {
        "reader": "user_id",
        "age_band": "user_age",
        "country": "user_country",
        "subscription": "user_plan",
        "read_articles": "behavior_item_ids",
        "read_sources": "behavior_source",
        "read_subjects": "behavior_topic",
        "remark": None,
    }
    assert found["tables"]["item_features"]["unused_columns"] == ["remark"]
    items, users = tables["item_features"], tables["train_user_features"]
    assert found["items"]["missing_values"] == {
        f"item_{feature}": pytest.approx(
            sum(not row[column] for row in items) / len(items), abs=1e-6
        )
        for feature, column in NEWS.item.items()
    }
    assert found["users"]["train"]["missing_values"] == {
        f"user_{feature}": pytest.approx(
            sum(not row[column] for row in users) / len(users), abs=1e-6
        )
        for feature, column in NEWS.user.items()
    }
    opened = sum(row["opened"] for row in tables["train_samples"])
    assert found["samples"]["train"]["clicks"] == opened
    assert found["samples"]["train"]["joined"] == 1


def test_inspection_of_the_least_that_can_be_declared(tmp_path):
    tables = own_layouts.make(BARE, broken=False)
    own_layouts.write(tmp_path, BARE, tables)
    found = inspection.inspect(tmp_path)
    assert found["ok"] and found["schema"] == "bare"
    assert found["users"]["train"]["missing_values"] == {}
    assert found["items"]["missing_values"].keys() == {"item_kind"}


def rewrite(folder, name, change):
    path = folder / f"{name}.parquet"
    pq.write_table(change(pq.read_table(path)), path)


def problems(folder):
    return [
        (one["code"], f"{one['message']} {one['hint']}")
        for one in inspection.inspect(folder)["problems"]
    ]


@pytest.mark.parametrize(
    ("table", "column", "name", "wanted"),
    [
        ("train_samples", "opened", "click", "int64 or bool"),
        ("test_samples", "article", "item_id", "int64"),
        ("train_user_features", "age_band", "user_age", "int64"),
        (
            "test_user_features",
            "read_subjects",
            "behavior_topic",
            "list<int64>",
        ),
        ("item_features", "subject", "item_topic", "int64"),
        ("scl_embedding_int8_p90", "embedding", "item_vector", "list<int8>"),
    ],
)
def test_a_column_that_is_missing_or_of_another_type_is_named(
    news, table, column, name, wanted
):
    folder, _ = news
    path = folder / f"{table}.parquet"
    good = path.read_bytes()
    rewrite(folder, table, lambda rows: rows.drop([column]))
    ((code, text),) = problems(folder)
    assert code == "MISSING_COLUMN" and "schema.yaml" in text
    for part in (
        f"table {table}: column {column} ({name}) is missing",
        f"Expected: {wanted}",
        "remark",
        f"write column {column} as {wanted} into {table}",
    ):
        assert part in text
    with pytest.raises(DataError, match=rf"column {column} \({name}\)"):
        write_examples(folder)

    path.write_bytes(good)

    def to_text(rows):
        place = rows.schema.get_field_index(column)
        values = pa.array(["x"] * len(rows))
        return rows.set_column(place, column, values)

    rewrite(folder, table, to_text)
    ((code, text),) = problems(folder)
    assert code == "WRONG_TYPE"
    assert f"table {table}: column {column} ({name}) has the wrong type" in text
    assert f"Expected: {wanted}. Received: string" in text
    with pytest.raises(DataError, match=rf"column {column} \({name}\)"):
        write_examples(folder)


def values(column, change):
    """Returns what changes each value of a column of a table."""

    def changed(rows):
        place, field = (
            rows.schema.get_field_index(column),
            rows.schema.field(column),
        )
        new = [change(value) for value in rows[column].to_pylist()]
        return rows.set_column(place, field, pa.array(new, field.type))

    return changed


def test_labels_out_of_range_are_counted_and_all_of_them_an_error(news):
    folder, tables = news
    rewrite(folder, "train_samples", values("opened", lambda v: 2 if v else 0))
    rewrite(folder, "test_samples", values("opened", lambda v: 2))
    found = inspection.inspect(folder)
    opened = sum(row["opened"] for row in tables["train_samples"])
    train = found["samples"]["train"]
    assert train["rejected"] == {"label is not 0 or 1": opened}
    codes = {one["code"]: one for one in found["problems"]}
    # Nothing is left of one split, and no click of the other.
    assert codes.keys() == {"NO_USABLE_ROWS", "ONE_LABEL"}
    said = codes["NO_USABLE_ROWS"]
    assert (
        "test_samples: all 70 rows are rejected: 70 label is not 0 or 1"
        in (said["message"])
    )
    assert "make the label 1 where the item was clicked, else 0" in said["hint"]
    with pytest.raises(DataError) as error:
        write_examples(folder, allowed=0.1)
    assert f"{opened} label is not 0 or 1" in error.value.message
    assert error.value.hint.startswith("make the label 1 where")


def test_true_and_false_are_labels(news):
    folder, _ = news

    def flags(rows):
        place = rows.schema.get_field_index("opened")
        clicked = pc.equal(rows["opened"], 1)
        return rows.set_column(place, "opened", clicked)

    before = inspection.inspect(folder)["samples"]
    rewrite(folder, "train_samples", flags)
    after = inspection.inspect(folder)
    assert after["ok"] and after["samples"] == before


@pytest.mark.parametrize("label", ["yes", [0, 1]], ids=["text", "list"])
def test_labels_of_another_type_are_told_what_to_be(news, label):
    folder, _ = news

    def other(rows):
        place = rows.schema.get_field_index("opened")
        return rows.set_column(place, "opened", pa.array([label] * len(rows)))

    rewrite(folder, "train_samples", other)
    ((code, text),) = problems(folder)
    assert code == "WRONG_TYPE" and "column opened (click)" in text
    assert "write opened as int64, 1 where the item was clicked, else 0" in text
    assert "labels.<name>.at_least for scores, labels.<name>.one_hot" in text


def test_numbers_without_a_gap_are_told_with_all_their_columns(news):
    """Values of features are 0 to 4, as pd.factorize numbers them."""
    folder, _ = news
    notes = [n for n in inspection.inspect(folder)["notes"] if "0 is in" in n]
    for name, columns in (
        ("user_age", "age_band"),
        ("item_topic", "subject and read_subjects"),
        ("item_source", "source and read_sources"),
    ):
        (note,) = (n for n in notes if f"0 is in use as {name}:" in n)
        assert note.endswith(f"add 1 to all of {columns}.")


@pytest.mark.parametrize("column", ["read_sources", "read_subjects"])
def test_lists_of_unequal_length_are_counted(news, column):
    folder, tables = news
    rewrite(
        folder,
        "train_user_features",
        values(column, lambda v: v[1:] if len(v) > 1 else v),
    )
    rows = tables["train_user_features"]
    unequal = sum(len(row["read_articles"]) > 1 for row in rows)
    assert 0 < unequal < len(rows)
    found = inspection.inspect(folder)
    assert found["users"]["train"]["rejected"] == {
        "lists of a history of unequal length": unequal
    }
    rewrite(folder, "train_user_features", values(column, lambda v: [*v, 1, 1]))
    ((code, text),) = problems(folder)
    assert code == "NO_USABLE_ROWS"
    assert "write one value of each feature per behavior" in text


def test_a_declaration_that_is_wrong_is_said_before_any_row(news):
    folder, _ = news
    path = folder / "schema.yaml"
    path.write_text(NEWS.text.replace("user: reader", "usr: reader"))
    done = CliRunner().invoke(app, ["inspect", str(folder)])
    assert done.exit_code == 1
    (line,) = done.stderr.splitlines()
    assert line.startswith(f"error: {path}: usr: there is no such key")
    for read in (inspection.inspect, write_examples):
        with pytest.raises(ValueError, match="usr: there is no such key") as e:
            read(folder)
        assert str(path) in str(e.value) and "did you mean user?" in str(
            e.value
        )


def test_tables_of_another_declaration_are_told_apart(news):
    """Without the declaration they are taken for the published ones."""
    folder, _ = news
    path = folder / "schema.yaml"
    path = path.rename(folder / "news.yaml")
    codes = {code for code, _ in problems(folder)}
    assert codes == {"MISSING_COLUMN"}

    def inspect(schema):
        return CliRunner().invoke(
            app, ["inspect", str(folder), "--schema", schema, "--json"]
        )

    found = json.loads(inspect(str(path)).stdout)
    assert found["ok"] and found["schema"] == "news"
    done = inspect("complete_journey")
    assert done.exit_code == 1
    assert "column household_id (user_id) is missing" in done.stderr
    for name, text in (
        ("taobao", "expected complete_journey, taobao_mm. Received: 'taobao'"),
        ("none.yaml", "none.yaml: No such file or directory"),
    ):
        done = inspect(name)
        assert done.exit_code == 1
        (line,) = done.stderr.splitlines()
        assert line.startswith("error: ") and text in line
