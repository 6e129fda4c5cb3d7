"""What `muse data inspect` says of the search tables."""

import json

import pyarrow.parquet as pq
import pytest
from typer.testing import CliRunner

from muse_tools.cli.data import app
from muse_tools.datasets import inspection

RUNNER = CliRunner()


def run(*arguments):
    return RUNNER.invoke(app, [str(a) for a in arguments])


def rows(folder, name):
    return pq.read_table(folder / "raw" / f"{name}.parquet").to_pylist()


def test_sections_against_a_plain_count(synthetic):
    out, made = synthetic
    found = inspection.inspect(out)
    assert found["ok"]
    content, events = (
        found["search"][name] for name in ("item_content", "search_events")
    )
    for name, section in found["search"].items():
        assert section["rejected"] == made["broken"][name]
        assert section["read"] == section["accepted"] + sum(
            section["rejected"].values()
        )
    accepted = [
        row
        for row in rows(out, "item_content")[: content["accepted"]]
        if row["item_id"]
    ]
    assert content["modalities"] == {
        name: {
            "width": 64,
            "present": pytest.approx(
                sum(r[f"{name}_vector"] is not None for r in accepted)
                / len(accepted),
                abs=1e-6,
            ),
        }
        for name in ("image", "text")
    }
    features = {r["205"] for r in rows(out, "item_features")}
    ids = {r["item_id"] for r in accepted}
    assert content["items_with_content"] == pytest.approx(
        len(features & ids) / len(features), abs=1e-6
    )
    good = rows(out, "search_events")[: events["accepted"]]
    clicked = [r["clicked_item_ids"] for r in good]
    assert events["clicks_without_purchase"] == sum(map(len, clicked))
    assert events["events_without_clicks"] == clicked.count([])
    assert events["first_time"] == min(r["time"] for r in good)
    assert events["last_time"] == max(r["time"] for r in good)
    assert events["dropped_clicks"] == {}


def test_the_summary_for_people(synthetic):
    out, made = synthetic
    done = run("inspect", out)
    assert done.exit_code == 0
    count = made["search"]["items_with_content"]
    assert f"= {count:,} accepted + 21 rejected" in done.stdout
    assert "image (width 64, present " in done.stdout
    assert "3 purchased item without content" in done.stdout
    json.loads(run("inspect", out, "--json").stdout)


def test_problems_are_told(synthetic, tmp_path):
    out, _ = synthetic
    raw = tmp_path / "raw"
    raw.mkdir()
    for path in (out / "raw").iterdir():
        (raw / path.name).symlink_to(path)
    content, events = (
        raw / f"{name}.parquet" for name in ("item_content", "search_events")
    )
    events.unlink()
    assert inspection.inspect(tmp_path)["ok"]  # text alone is of use
    table = pq.read_table(out / "raw" / "search_events.parquet")
    pq.write_table(table.drop(["time"]), events)
    found = inspection.inspect(tmp_path)
    assert [p["code"] for p in found["problems"]] == ["MISSING_COLUMN"]
    assert list(found["search"]) == ["item_content"]
    pq.write_table(table.slice(0, 0), events)
    found = inspection.inspect(tmp_path)
    assert [p["code"] for p in found["problems"]] == ["EMPTY_TABLE"]
    pq.write_table(table, events)
    content.unlink()
    found = inspection.inspect(tmp_path)
    assert [p["code"] for p in found["problems"]] == ["MISSING_TABLE"]
    assert "item_content" in found["problems"][0]["message"]
    pq.write_table(
        pq.read_table(out / "raw" / "item_content.parquet").slice(
            len(rows(out, "item_content")) - 3
        ),
        content,
    )
    found = inspection.inspect(tmp_path)
    assert [p["code"] for p in found["problems"]] == ["NO_USABLE_ROWS"]
    assert "text_vector holds no vector" in found["problems"][0]["message"]


def test_tables_without_searches_have_no_section(raw_dir):
    assert inspection.inspect(raw_dir)["search"] == {}
