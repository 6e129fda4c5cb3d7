"""The page of a comparison shows all of it, and nothing else."""

from __future__ import annotations

import asyncio
import copy
import json
import pathlib
import re
import typing

import numpy as np
import pytest

from muse_tools.compare.impressions import Impressions
from muse_tools.compare.results import (
    GroupTable,
    Interval,
    Results,
    Table,
    VectorsRow,
    VectorsTable,
)
from muse_tools.compare.view import comparison_view, headline
from muse_tools.pages.blocks import Chart
from muse_tools.report import comparison_page
from tests import browser
from tests.muse_tools.pages.page import Page, self_contained

ROOT = pathlib.Path(__file__).resolve().parents[3]
CHROMIUM = browser.find()
STORED = json.loads(
    (ROOT / "docs" / "results" / "compare_quick.json").read_text()
)


def interval(value=0.01, low=-0.02, high=0.03, by_seed=(0.0, 0.02)):
    return {
        "value": value,
        "lower": low,
        "upper": high,
        "by_seed": list(by_seed),
        "spread": 0.0141,
    }


VECTORS = {
    "requests": 12,
    "all_requests": 345,
    "impressions": 678,
    "seed": 91,
    "k": 50,
    "tier_edges": [-1.0, -0.5, 0.0, 0.5, 1.0],
    "percentiles": [1, 50, 99],
    "clicks_repeated": 0.512,
    "others_repeated": 0.0234,
    "scores": {"same item": interval(0.61), "same category": interval(0.55)},
    "rows": [
        {
            "embeddings": name,
            "random_pairs": [0.111, shift, 0.999],
            "tiers": [0.0, 0.0, 0.25, 0.75],
            "same_item": 0.071,
            "equal_vector": 0.033,
            "scores": {
                "highest cosine": interval(0.6 + shift, 0.59, 0.75),
                "top tier": interval(0.58 + shift, 0.55, 0.74),
            },
        }
        for name, shift in (("base", 0.0123), ("noise:2", 0.0456))
    ],
}


def stored(change=lambda data: None, **values):
    """The committed results, with the data set changed."""
    found = copy.deepcopy(STORED)
    (data,) = found["data_sets"].values()
    data["vectors"] = copy.deepcopy(VECTORS)
    change(data)
    return Results.model_validate({**found, **values})


def the_data(results):
    (data,) = results.data_sets.values()
    return data


def words(results):
    return " ".join(
        " ".join(Page(comparison_page.render(results)).text).split()
    )


def test_page_is_well_formed_and_self_contained():
    self_contained(comparison_page.render(stored()))


def test_every_table_of_the_schema_has_a_title_and_a_place():
    def every(model):
        return typing.get_args(model.model_fields["name"].annotation)

    def change(data):
        tables = {table["name"]: table for table in data["tables"]}
        groups = {group["name"]: group for group in data["groups"]}
        some = copy.deepcopy(next(iter(groups.values())))
        for name in every(Table):
            assert name in tables
        data["groups"] = [
            groups.get(name, {**some, "name": name})
            for name in every(GroupTable)
        ]

    page = Page(comparison_page.render(stored(change)))
    for name in (*every(Table), *every(GroupTable)):
        assert f"set1-{name}" in page.ids
        (table,) = page.under[f"set1-{name}"]
        assert len(table) > 2
        # Known by a name of its own, not by that of the file.
        assert name not in [text.strip() for text in page.text]


def signed(value):
    return f"{value:+.4f}"


def test_rows_of_the_tables_are_those_stored():
    results = stored()
    page = Page(comparison_page.render(results))
    data = the_data(results)
    for table in data.tables:
        ((_, *shown),) = page.under[f"set1-{table.name}"]
        assert len(shown) == len(table.rows)
        for row, cells in zip(table.rows, shown, strict=True):
            assert cells[1].startswith(
                f"{row.gauc.value:.4f} [{row.gauc.lower:.4f}, "
                f"{row.gauc.upper:.4f}]"
            )
            expected = "baseline"
            if row.baseline is not None:
                found = row.difference
                expected = (
                    f"{signed(found.value)} [{signed(found.lower)}, "
                    f"{signed(found.upper)}]"
                )
            assert cells[2].startswith(expected)
            assert cells[3:8] == [
                f"{row.auc:.4f}",
                f"{row.log_loss:.4f}",
                f"{row.calibration:.3f}",
                f"{row.parameters:,} ({row.parameters_without_tables:,})",
                f"{row.train_seconds:.0f} s",
            ]
    for groups in data.groups:
        ((head, *shown),) = page.under[f"set1-{groups.name}"]
        for group, cells in zip(groups.groups, shown, strict=True):
            bounds, users, _, impressions, _ = cells[0].split()
            assert group.name.endswith(f" {bounds}")
            assert (users, impressions) == (
                f"({group.users:,}",
                f"{group.impressions:,}",
            )
            for name, gain in group.gain.items():
                cell = cells[head.index(f"{name} gains")]
                assert cell.startswith(signed(gain.value))


def leaves(value, path=()):
    """Gives the paths of all numbers and texts."""
    if isinstance(value, dict):
        for key, inner in value.items():
            yield from leaves(inner, (*path, key))
    elif isinstance(value, list):
        for index, inner in enumerate(value):
            yield from leaves(inner, (*path, index))
    elif value is not None:
        yield path


def kind(path):
    """The path without the places in lists and the name of the data."""
    parts = ["*" if isinstance(part, int) else part for part in path]
    return tuple(parts[2:] if parts[0] == "data_sets" else parts)


def another(value):
    if isinstance(value, bool):
        return not value
    if isinstance(value, str):
        return {"confirmed": "not confirmed", "done": "failed"}.get(
            value, "confirmed" if "confirm" in value else f"{value}~"
        )
    return value + 7 if isinstance(value, int) else value + 0.0789


# Names by which the page finds its own words, what has only one value, and
# what is drawn for several seeds (see below).
SILENT = {"schema_version", "id", "by_seed"}


def test_whatever_changes_in_the_results_changes_the_page():
    found = stored().model_dump(mode="json")
    before = comparison_page.render(stored())
    shown, hidden = set(), set()
    for path in leaves(found):
        this = kind(path)
        if this in shown or SILENT & set(this) or this[-1] == "name":
            continue
        if this[0] == "vectors" and this[-1] == "spread":
            continue  # Nothing is trained there: there are no seeds.
        inner = found
        for part in path[:-1]:
            inner = inner[part]
        old = inner[path[-1]]
        if old == "cannot be tested on this data":
            continue
        inner[path[-1]] = another(old)
        after = comparison_page.render(Results.model_validate(found))
        inner[path[-1]] = old
        (shown if after != before else hidden).add(this)
    # Shown in one place at least: a table of methods has no vectors.
    assert hidden <= shown, hidden - shown
    assert len(shown) > 100


def test_seeds_are_drawn_where_there_are_several():
    def change(data):
        row = data["tables"][0]["rows"][1]
        row["seeds"] = [1, 2, 3]
        row["difference"] = interval(0.01, -0.02, 0.03, (0.0, 0.02, 0.01))

    assert 'class="seed"' not in comparison_page.render(stored())
    text = comparison_page.render(stored(change))
    assert text.count('class="seed"') == 3
    assert "± 0.0141" in text
    assert "each seed alone" in words(stored(change))


def test_what_is_missing_is_said():
    def change(data):
        methods, gsu = data["tables"][:2]
        row = methods["rows"][-1]
        row.update(
            dict.fromkeys(
                ("gauc", "difference", "auc", "log_loss", "calibration")
                + ("parameters", "parameters_without_tables", "train_seconds")
            ),
            missing=[1],
        )
        for number in (gsu["rows"][0]["gauc"], gsu["rows"][1]["difference"]):
            number.update(value=None, lower=None, upper=None, by_seed=[None])
        gsu["rows"][2]["difference"].update(lower=None, upper=None)
        data["cells"][3].update(
            status="failed", reason="out of <memory>", gauc=None
        )

    page = Page(comparison_page.render(stored(change)))
    (methods,) = page.under["set1-overall"]
    assert methods[-1][1:3] == ["missing seed 1", "–"]
    (gsu,) = page.under["set1-gsu"]
    assert gsu[1][1] == "–" and gsu[2][2] == "–"
    name = the_data(stored()).cells[3].name
    said = words(stored(change))
    assert f"{name}: failed: out of <memory>" in said
    number = len(the_data(stored()).cells)
    assert f"1 of {number} trainings are missing" in said
    assert "missing: seed 1" in said


def test_one_method_only():
    def change(data):
        data["tables"] = [data["tables"][0]]
        data["tables"][0]["rows"] = data["tables"][0]["rows"][:1]
        data.update(groups=[], claims=[], vectors=None, description={})

    page = self_contained(comparison_page.render(stored(change)))
    assert not any("forest" in a.get("class", "") for _, a in page.tags)
    (table,) = page.under["set1-overall"]
    assert [row[0] for row in table] == ["method", "DIN"]


def test_no_table_at_all():
    def change(data):
        data.update(tables=[], groups=[], claims=[], vectors=None, cells=[])
        data["impressions"] = data["clicks"] = 0

    self_contained(comparison_page.render(stored(change)))


def test_names_are_escaped():
    evil = """<b x='1'>"&</b>"""

    def change(data):
        for table in data["tables"]:
            for row in table["rows"]:
                row.update(name=evil, baseline=evil, gsu=evil, esu=evil)
                row["embeddings"] = evil
        for table in data["groups"]:
            table["baseline"] = evil
            for group in table["groups"]:
                group["gain"] = {evil: next(iter(group["gain"].values()))}
                group["gauc"] = {evil: next(iter(group["gauc"].values()))}
                group["name"] = f"{table['name']} {evil}"
        for claim in data["claims"]:
            claim["text"] = claim["reason"] = evil
            for contrast in claim["contrasts"]:
                contrast["name"] = evil
        for cell in data["cells"]:
            cell.update(name=evil, status="failed", reason=evil)
        for row in data["vectors"]["rows"]:
            row["embeddings"] = evil
        data["description"] = {evil: evil, "splits": {evil: {evil: evil}}}

    changed = stored(change, name=evil, command=evil, versions={evil: evil})
    changed.data_sets[evil] = the_data(changed)
    page = self_contained(comparison_page.render(changed))
    assert "b" not in {tag for tag, _ in page.tags}
    assert evil in "".join(page.text)


def test_claims_say_verdict_numbers_and_reason():
    said = words(stored())
    for claim in the_data(stored()).claims:
        assert f"{claim.status.capitalize()}. {claim.text}" in said
        if claim.status != "confirmed":
            assert claim.reason[1:] in said
        for one in claim.contrasts:
            found = one.difference
            assert (
                f"{one.name} {signed(found.value)} [{signed(found.lower)}, "
                f"{signed(found.upper)}]" in said
            )
    assert "Confirmed: every difference has its 95 % interval" in said


@pytest.mark.parametrize(
    ("low", "high", "expected"),
    [
        (0.001, 0.02, "MUSE is above DIN: +0.0100 [+0.0010, +0.0200]"),
        (-0.02, -0.001, "MUSE is below DIN"),
        (-0.02, 0.001, "No difference shown between MUSE and DIN"),
    ],
)
def test_headline_is_honest(low, high, expected):
    def change(data):
        data["tables"][0]["rows"][-1]["difference"].update(
            value=0.01, lower=low, upper=high
        )

    lines = "\n".join(headline(stored(change)))
    assert expected in lines and expected in words(stored(change))
    statuses = [claim.status for claim in the_data(stored()).claims]
    counted = [
        f"{statuses.count(status)} {status}"
        for status in ("confirmed", "not confirmed")
    ]
    assert f"Claims of the paper: {', '.join(counted)}" in lines


def test_curves_have_a_point_for_each_length_and_each_noise():
    charts = {
        block.title: block
        for block in comparison_view(stored())
        if isinstance(block, Chart)
    }
    tables = {table.name: table.rows for table in the_data(stored()).tables}
    for title, rows in (
        ("GAUC over the length of the history", tables["history"]),
        (
            "GAUC over the noise in the item vectors",
            [
                row
                for row in tables["representation"]
                if row.embeddings == "base"
                or row.embeddings.startswith("noise:")
            ],
        ),
    ):
        found = {
            (line.name, point.y, point.lower, point.upper)
            for line in charts[title].lines
            for point in line.points
        }
        assert found == {
            (row.name, row.gauc.value, row.gauc.lower, row.gauc.upper)
            for row in rows
        }


def test_vectors_are_shown():
    said = words(stored())
    for expected in (
        "each of 678 candidates of 12 held-out requests (of 345, drawn with "
        "seed 91) the 50 behaviors",
        "51.2 % are in the user's history already, of the others 2.3 %",
        "7.1 %",
        "same item (only counted, no vectors) 0.6100",
        "0.6123 [0.5900, 0.7500]",
    ):
        assert expected in said, expected
    # Low tiers that are empty for all vectors are left out.
    tiers = Page(comparison_page.render(stored())).under["set1-vectors"][-1]
    assert tiers == [
        ["retrieved by tier", "from 0", "from 0.5"],
        ["the pipeline's", "25.0 %", "75.0 %"],
        ["noise:2", "25.0 %", "75.0 %"],
    ]
    fields = {*VectorsTable.model_fields, *VectorsRow.model_fields}
    assert fields == {*VECTORS, *VECTORS["rows"][0]}
    assert set(interval()) == set(Interval.model_fields)


def test_training_and_calibration_where_the_cells_are(tmp_path):
    rng = np.random.default_rng(3)
    clicks = (rng.random(400) < 0.3).astype(int)

    def change(data):
        data.update(impressions=400, clicks=int(clicks.sum()))

    results = stored(change)
    keys = {cell.name: cell.key for cell in the_data(results).cells}
    impressions = Impressions(*[clicks] * len(Impressions._fields))
    place = tmp_path / "data" / "complete_journey"
    impressions.save(place / "impressions-a.npz")
    # Of another grid: another number of clicks.
    impressions._replace(clicks=1 - clicks).save(place / "impressions-b.npz")
    assert "training" not in Page(comparison_page.render(results)).ids
    for name, level in (("MUSE", 0.25), ("DIN", 0.5)):
        folder = tmp_path / "cells" / keys[f"{name}, seed 1"]
        folder.mkdir(parents=True)
        (folder / "training.jsonl").write_text(
            "".join(
                json.dumps({"step": step, "loss": level}) + "\n"
                for step in range(1, 100)
            )
        )
        scores = np.full(400, level, np.float32)
        np.savez(folder / "scores.npz", scores=scores)
        (folder / "metrics.json").write_text("{}")
    text = comparison_page.render(results, tmp_path)
    assert "set1-training" in self_contained(text).ids
    training = re.search(r'aria-label="Training loss.*', text)[0]
    heights = {
        color: {pair.split(",")[1] for pair in line.split()}
        for color, line in re.findall(
            r'<g class="color(\d)">.{0,90}<polyline[^>]*points="([^"]+)',
            training,
        )
    }
    # DIN has color 0, MUSE 1, as everywhere; both flat, MUSE below.
    assert all(len(ys) == 1 for ys in heights.values())
    din, muse = (float(heights[color].pop()) for color in "01")
    assert muse > din
    told = re.findall(
        r"<title>MUSE, ([\d.]+): ([\d.]+) ",
        text[text.index('aria-label="Observed over') :],
    )
    assert len(told) == 10
    assert {predicted for predicted, _ in told} == {"0.25"}
    assert np.mean([float(rate) for _, rate in told]) == pytest.approx(
        clicks.mean(), abs=1e-4
    )


@pytest.mark.skipif(CHROMIUM is None, reason="no Chromium on the path")
def test_fits_a_phone_and_needs_no_network(tmp_path):
    asyncio.run(_look(tmp_path))


async def _look(folder):
    path = folder / "page.html"
    path.write_text(comparison_page.render(stored()), encoding="utf-8")
    url = path.as_uri()
    async with browser.opened(CHROMIUM, folder / "profile", url) as page:
        await page.until("document.readyState == 'complete'")
        places = []
        for width, dark in ((390, True), (1200, False)):
            await page.shape(width, 800, dark)
            sizes = "[document.documentElement.scrollWidth, innerWidth]"
            wide, window = await page.value(sizes)
            assert wide <= window
            place = "JSON.stringify([...document.querySelectorAll("
            place += "'.forest li:not(.over):not(.axis)')].map(li => "
            place += "[...li.children].map(e => e.getBoundingClientRect())))"
            places.append(json.loads(await page.value(place)))
            # No text of a picture is smaller than 11 px, none is cut off.
            small = "Math.min(...[...document.querySelectorAll('svg text')]"
            small += ".map(t => t.getBoundingClientRect().height))"
            assert await page.value(small) > 11
        for name, picture, numbers in places[0]:
            assert name["bottom"] <= numbers["top"] + 1
            assert numbers["bottom"] <= picture["top"] + 1
        for name, picture, numbers in places[1]:
            assert name["right"] <= picture["left"]
            assert picture["right"] <= numbers["left"]
        assert page.problems == []
        assert page.requested == [url]
