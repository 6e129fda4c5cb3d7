"""Features of other types and widths, times, and the declaration."""

from __future__ import annotations

import json
import re
import time

import numpy as np
import pytest
import yaml
from typer.testing import CliRunner

from muse_tools.cli.store import app
from schemas import ranking_schema
from schemas.hashing import stable_id
from serving.stores import Kind, Layout, open_store
from serving.stores.records import Codec
from tests.serving.toy_store import LAYOUT

KINDS = Layout(
    {
        "height": Kind("float32"),
        "tags": Kind("int64", 2),
        "taste": Kind("float32", 2),
    },
    {"price": Kind("float32")},
    times=True,
)


@pytest.mark.parametrize(
    ("arguments", "text"),
    [
        ({"times": None}, "item_ids and times: .*Received: 1 and 0"),
        ({"times": [1, 2]}, "item_ids and times: .*Received: 1 and 2"),
        ({"times": [1.5]}, "times: expected a flat list of whole numbers"),
        ({"times": [1_700_000_000_000]}, "seconds since 1970. .*000000000"),
        ({"behaviors": {"price": ["x"]}}, r"\['price'\]: expected numbers"),
        ({"behaviors": {"price": [True]}}, r"\['price'\]: expected numbers"),
        ({"behaviors": {"price": [1e39]}}, r"\['price'\]: expected numbers"),
        ({"behaviors": {"price": [1.0, 2.0]}}, "Received: 1 and 2"),
        ({"behaviors": {"price": [[1.0]]}}, "a number each.*shape .1, 1."),
        ({"user": {"height": "tall"}}, r"user\['height'\]: expected numbers"),
        ({"user": {"taste": [1.0]}}, r"user\['taste'\]: expected 2 numbers"),
        ({"user": {"tags": [1, 2, 3]}}, r"user\['tags'\]: expected at most 2"),
        ({"user": {"tags": [0.5]}}, r"user\['tags'\]: expected a flat list"),
    ],
)
def test_wrong_values_are_told_by_name(store_url, arguments, text):
    with open_store(store_url, KINDS, timeout=20) as store:
        with pytest.raises(ValueError, match=text) as told:
            store.append(1, [5], **{"times": [70], **arguments})
        assert "\n" not in str(told.value) and store.read(1) is None
        # None is missing, as a value that is left out.
        store.append(1, [5], {"price": [None]}, {"height": None}, [70])
        found = store.read(1)
        assert np.isnan(found.behaviors["price"]).all()
        assert np.isnan(found.user["height"]) and found.times.tolist() == [70]


def test_events_are_as_small_as_their_values():
    plain = Codec(LAYOUT)
    assert (plain.header_bytes, plain.event_bytes) == (80, 20)
    kinds = Codec(KINDS)
    assert kinds.event_bytes == 8 + 8 + 4 + 4
    assert kinds.header_bytes == 40 + 2 * 8 + 3 * 4


LOG = """
name: shop
user: {column: uid, type: string}
features:
  user:
    city: {type: string}
    tags: {many: 3}
    taste: {type: vector, dim: 2}
  item: {category: , brand: }
  context: {hour: {time: hour}}
  behavior:
    category:
    brand: paid_brand
    price: {type: float, buckets: 4}
    age: {time: since}
log: {train: [2026-03-01, 2026-03-02], eval: [2026-03-03, 2026-03-03]}
"""


def declared(text=LOG):
    return ranking_schema.RankingSchema.model_validate(yaml.safe_load(text))


def test_the_store_has_the_declaration(store_url):
    """What the item table has, or times give, is not stored."""
    layout = Layout.of(declared())
    assert layout.user == {
        "city": Kind(),
        "tags": Kind("int64", 3),
        "taste": Kind("float32", 2),
    }
    assert layout.behaviors == {"brand": Kind(), "price": Kind("float32")}
    assert layout.times
    open_store(store_url, layout, timeout=20).close()
    with open_store(store_url, timeout=20) as store:
        assert store.layout == layout
        assert store.layout.declared == declared()
        assert store.layout.digest == declared().digest()
    assert declared().digest().encode() in layout.record()


@pytest.mark.parametrize(
    ("old", "new", "told"),
    [
        ("name: shop", "name: other", ""),
        ("hour: {time: hour}", "query: {type: string}", ""),
        ("    city: {type: string}\n", "", ""),
        ("city: {type: string}", "city: ", "user_city: .*texts.* has int64"),
        ("many: 3", "many: 4", "user_tags: .* of 3; the model has int64 of 4"),
        ("dim: 2", "dim: 5", "user_taste: .*float32 of 2;"),
        (
            "uid, type: string",
            "uid",
            "user_id: .*texts .int64, hashed as user_id.; .* int64",
        ),
        ("paid_brand", "paid_brand\n    way: ", "behavior_way: .* none; "),
        ("{time: since}", "{}", "behavior_age: .*since, request, UTC; "),
        ("log: {", "log: {action: what, keep: [buy], ", "actions kept: .* buy"),
        (
            "item: {category: , brand: }",
            "item: {category: {type: string}, brand: }",
            "",
        ),
        ("log: {", "log: {timezone: Asia/Tokyo, ", "hour, .*Asia/Tokyo"),
    ],
)
def test_differences_of_declarations_name_the_feature(old, new, told):
    store, model = Layout.of(declared()), declared(LOG.replace(old, new, 1))
    assert model.digest() != declared().digest()
    found = store.difference(Layout.of(model), "the model")
    assert re.search(told, found) if told else found == ""
    assert store.difference(store, "itself") == ""


def test_a_store_of_some_actions_does_not_fit_a_model_of_all():
    kept = LOG.replace("log: {", "log: {action: what, keep: [buy], ")
    store, model = Layout.of(declared(kept)), Layout.of(declared())
    found = store.difference(model, "the model")
    assert "actions kept: the store keeps buy; the model has all" in found


def test_texts_that_are_hashed_as_others_are_a_difference():
    """A behavior's text has the hash of the item feature of its name."""
    own = LOG.replace("    category:\n", "    brand_text: {type: string}\n")
    model = own.replace(
        "brand: }", "brand: , brand_text: {type: string}}"
    ).replace("brand_text: {type: string}\n", "brand_text: text_then\n")
    found = Layout.of(declared(own)).difference(
        Layout.of(declared(model)), "the model"
    )
    assert "hashed as behavior_brand_text" in found
    assert "hashed as item_brand_text" in found


def run(*arguments: str):
    return CliRunner().invoke(app, list(arguments))


def test_texts_are_hashed_as_declared(store_url):
    """By the store, and by the commands: appended, shown and deleted."""
    with open_store(store_url, Layout.of(declared()), timeout=20) as store:
        store.append("5", [7], {"brand": 2}, {"city": "rome"}, [70])
        found = store.read("5")
        assert found.user_id == stable_id("user_id", "5") and found.times == 70
        assert found.user["city"] == stable_id("user_city", "rome")
        assert store.read(5) is None
        with pytest.raises(ValueError, match="user_id: expected a text"):
            store.read("")
        for arguments in (([7, "tea"],), ([7], {"brand": ["x"]})):
            with pytest.raises(ValueError, match="expected a (whole|flat)"):
                store.append("5", *arguments, times=[1])
    options = ("--store", store_url, "--user", "5")
    append = ("append", *options, "--items", "8,9", "--behavior")
    done = run(
        *append, "price=0.5,", "--times", "80,90", "--user-feature",
        "taste=1,-2", "--user-feature", "tags=4,6",
    )  # fmt: skip
    assert done.stdout == "user 5: 3 events\n", done.output
    shown = json.loads(run("get", *options, "--last", "2", "--json").stdout)
    assert shown["user"] == {"city": 0, "tags": [4, 6, 0], "taste": [1, -2]}
    assert shown["newest"] == {
        "item_ids": [9, 8],
        "times": [90, 80],
        "behaviors": {"brand": [0, 0], "price": [None, 0.5]},
    }
    lines = run("get", *options, "--last", "1").stdout.splitlines()
    assert lines[1] == "item 9, time 90, brand 0, price None"
    done = run(*append, "price=cheap,1")
    assert done.exit_code == 1 and "price: expected numbers" in done.stderr
    # Without --times, events happen now.
    before = int(time.time())
    assert run("append", *options, "--items", "3").exit_code == 0
    with open_store(store_url, timeout=20) as store:
        assert before <= store.read("5").times[-1] <= time.time()
    done = run("stats", "--store", store_url).stdout
    assert (
        "user features: city, tags (int64 of 3), taste (float32 of 2)" in done
    )
    assert f"declaration: shop, {declared().digest()}" in done
    assert run("delete", *options).stdout == "1 of 1 users deleted\n"
