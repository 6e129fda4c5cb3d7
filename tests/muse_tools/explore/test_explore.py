"""The explorer's JSON against formulas, and against the model's layers."""

from __future__ import annotations

import http.client
import json
import os
import signal
import urllib.error
import urllib.request

import numpy as np
import pytest

from tests.muse_tools.explore import world


def get(url, path, headers=None):
    """Status and JSON of an answer."""
    request = urllib.request.Request(url + path, headers=headers or {})
    try:
        with urllib.request.urlopen(request) as answer:
            return answer.status, json.load(answer)
    except urllib.error.HTTPError as error:
        with error:
            return error.code, json.load(error)


def index_of(kind):
    """Vocabulary index of a raw category."""
    known = world.VOCABULARIES["item_category"].tolist()
    if kind == 0:
        return 0
    return known.index(kind) + 1 if kind in known else len(known) + 1


class Oracle:
    """What should be found, from the model's weights, in plain loops."""

    def __init__(self, explored, user):
        row = explored.users[user]
        self.table = explored.table
        self.items = row["items"]
        self.kinds = [index_of(kind) for kind in row["categories"]]
        self.counts = list(range(len(self.items)))[-world.MAX_HISTORY :]
        embeddings = {
            name: np.asarray(layer.embeddings).astype(np.float64)
            for name, layer in (
                ("item", explored.model.item_embedding),
                ("category", explored.model.feature_embeddings["category"]),
            )
        }
        self.embed = lambda item, kind: np.concatenate(
            [embeddings["item"][self.row(item)], embeddings["category"][kind]]
        )

    def row(self, item):
        ids = self.table.item_ids.tolist()
        return ids.index(item) + 1 if item in ids else 0

    def kind_of(self, item):
        return index_of(self.table.features["category"][self.row(item)])

    @staticmethod
    def cosine(a, b):
        a, b = np.asarray(a, np.float64), np.asarray(b, np.float64)
        norm = np.linalg.norm(a) * np.linalg.norm(b)
        return float(a @ b / norm) if norm else 0.0

    def similarity(self, item, position):
        codes = self.table.codes
        return self.cosine(
            codes[self.row(item)], codes[self.row(self.items[position])]
        )

    def id_cosine(self, item, position):
        return self.cosine(
            self.embed(item, self.kind_of(item)),
            self.embed(self.items[position], self.kinds[position]),
        )

    def sim_hard(self, item):
        kind = self.kind_of(item)
        found = [p for p in self.counts if kind and self.kinds[p] == kind]
        return found[::-1][: world.K]

    def sim_soft(self, item):
        order = sorted(
            self.counts, key=lambda p: (-round(self.id_cosine(item, p), 9), p)
        )
        return order[: world.K]

    def muse(self, item):
        with_vector = [
            p
            for p in self.counts
            if self.table.codes[self.row(self.items[p])].any()
            and self.table.codes[self.row(item)].any()
        ]
        order = sorted(
            with_vector, key=lambda p: (-round(self.similarity(item, p), 9), p)
        )
        return order[: world.K]


@pytest.mark.parametrize("user", [world.LONG, world.BIG, world.EMPTY])
def test_lists_are_those_of_the_formulas(explored, url, user):
    oracle = Oracle(explored, user)
    filled = dict.fromkeys(("model", "sim_hard", "sim_soft"), 0)
    for item in explored.users[user]["shown"]:
        _, found = get(url, f"api/explain?user={user}&item={item}")
        positions = {
            key: [row["position"] for row in rows]
            for key, rows in found["lists"].items()
        }
        assert positions == {
            "model": oracle.muse(item),
            "sim_hard": oracle.sim_hard(item),
            "sim_soft": oracle.sim_soft(item),
        }
        for key, rows in found["lists"].items():
            filled[key] += len(rows)
            for row in rows:
                place = row["position"]
                value = oracle.similarity(item, place)
                assert row["similarity"] == pytest.approx(value, abs=1e-6)
                assert row["item_id"] == str(oracle.items[place])
                assert row["ago"] == len(oracle.items) - place
                assert set(row["also"]) == {
                    other
                    for other in positions
                    if other != key and place in positions[other]
                }
        for row in found["lists"]["sim_soft"]:
            value = oracle.id_cosine(item, row["position"])
            assert row["id_cosine"] == pytest.approx(value, abs=1e-6)
        for pair, count in found["common"].items():
            one, other = pair.split("+")
            both = set(positions[one]) & set(positions[other])
            assert count == len(both)
        assert found["counted"] == len(oracle.counts)
        assert found["user_id"] == str(user)
    if user == world.EMPTY:
        assert not any(filled.values())
    if user == world.LONG:
        assert all(filled.values())


def test_tiers_are_those_of_the_rows(explored):
    oracle = Oracle(explored, world.LONG)
    for item in explored.users[world.LONG]["shown"]:
        found = explored.explorer.explain(world.LONG, item)
        counts = [0] * len(found["tiers"])
        for row in found["lists"]["model"]:
            counts[row["tier"]] += 1
        assert counts == [tier["count"] for tier in found["tiers"]]
        for rows in found["lists"].values():
            for row in rows:
                value = oracle.similarity(item, row["position"])
                tier = found["tiers"][row["tier"]]
                assert tier["low"] - 1e-6 <= value <= tier["high"] + 1e-6
        weights = [row["attention"] for row in found["lists"]["model"]]
        assert sum(weights) == pytest.approx(1.0 if weights else 0.0, abs=1e-5)


def test_searches_agree_with_the_layers():
    from muse_keras.models import (
        BehaviorView,
        CandidateView,
        CategorySearch,
        IdCosineSearch,
    )
    from muse_tools.explore import searches

    rng = np.random.default_rng(0)
    mask = rng.random(30) < 0.8
    kinds = rng.integers(0, 4, 30).astype("int32")
    vectors = rng.normal(size=(30, 5)).astype("float32")
    vectors[20:] = vectors[:10]
    codes = np.ones((1, 30, 4), "int8")
    behaviors = BehaviorView(
        kinds[None],
        mask[None],
        codes,
        vectors[None],
        features={"category": kinds[None]},
    )
    for kind in range(4):
        target = rng.normal(size=5).astype("float32")
        one = np.array([[kind]], "int32")
        candidate = CandidateView(
            one, codes[:, :1], target[None, None], features={"category": one}
        )
        values = searches.cosines(target, vectors)
        for layer, mine in (
            (
                CategorySearch("category", k=7),
                searches.by_category(kind, kinds, mask, 7),
            ),
            (IdCosineSearch(k=7), searches.by_cosine(values, mask, 7)),
        ):
            found = layer.call(candidate, behaviors)
            real = np.asarray(found.mask)[0, 0]
            expected = np.asarray(found.indices)[0, 0][real]
            np.testing.assert_array_equal(mine, expected)


def test_cosine_of_nothing_is_zero():
    from muse_tools.explore import searches

    found = searches.cosines([3, 4], [[0, 0], [6, 8], [-3, -4]])
    np.testing.assert_allclose(found, [0, 1, -1])
    np.testing.assert_array_equal(searches.cosines([0, 0], [[1, 2]]), [0])
    assert not len(searches.cosines([1, 2], np.zeros((0, 2))))


def test_users_are_listed_and_found_by_the_start_of_their_id(url, explored):
    _, found = get(url, "api/users")
    lengths = {u: len(row["items"]) for u, row in explored.users.items()}
    expected = sorted(lengths, key=lambda user: -lengths[user])
    assert found["users"] == [
        {"user_id": str(user), "history_length": lengths[user]}
        for user in expected
    ]
    assert found["total"] == found["listed"] == len(lengths)
    _, found = get(url, "api/users?q=7")
    assert [user["user_id"] for user in found["users"]] == ["7", "71"]


def test_impressions_have_the_scores_of_the_model(explored, url):
    row = explored.users[world.LONG]
    _, found = get(url, f"api/users/{world.LONG}")
    shown = found["impressions"]
    assert found["history_length"] == len(row["items"])
    expected = dict(zip(row["shown"], row["clicked"], strict=True))
    assert {int(one["item_id"]): one["clicked"] for one in shown} == {
        item: bool(click) for item, click in expected.items()
    }
    assert {one["times"] for one in shown} == {1, 2}
    scores = [one["click_probability"] for one in shown]
    assert scores == sorted(scores, reverse=True)
    for one in shown:
        item = int(one["item_id"])
        alone = explored.explorer.explain(world.LONG, item)["candidate"]
        assert alone["click_probability"] == pytest.approx(
            one["click_probability"], abs=1e-5
        )
        place = explored.table.item_ids.tolist().index(item)
        assert one["name"] == alone["name"] == world.name_of(place)


def test_items_are_found_by_name_and_by_id(explored, url):
    _, found = get(url, "api/items?q=tea%20no.%201")
    names = {item["name"] for item in found["items"]}
    places = range(explored.table.num_items)
    assert names == {
        name
        for name in map(world.name_of, places)
        if "tea no. 1" in name.lower()
    }
    item = int(explored.table.item_ids[3])
    _, found = get(url, f"api/items?q={item}")
    assert [one["item_id"] for one in found["items"]] == [str(item)]
    assert get(url, "api/items?q=987654321")[1] == {"items": []}


@pytest.mark.parametrize(
    ("path", "status", "error", "hint"),
    [
        ("api/users/6", 404, "no user 6", "for example 7"),
        ("api/explain?user=6&item=1", 404, "no user 6", "for example 7"),
        ("api/explain?user=7&item=12345", 404, "no item 12345", "by its name"),
        ("api/explain?user=x&item=1", 400, "user must be", "user=1&item=2"),
        ("api/explain?user=7", 400, "item must be", "user=1&item=2"),
        (f"api/users/{1 << 63}", 400, "64 bits", ""),
        ("api/nothing", 404, "Not Found", "open /"),
    ],
)
def test_errors_say_what_to_do(url, path, status, error, hint):
    found, answer = get(url, path)
    assert found == status
    assert error in answer["error"] and hint in answer["hint"]


def test_only_this_machine_is_answered(url):
    assert get(url, "api/about", {"Host": "localhost:1"})[0] == 200
    status, answer = get(url, "api/about", {"Host": "elsewhere.example"})
    assert status == 400 and "elsewhere.example" in answer["error"]


def test_page_is_alone_and_may_fetch_nothing(url):
    host = url.removeprefix("http://").strip("/")
    connection = http.client.HTTPConnection(host)
    connection.request("GET", "/")
    answer = connection.getresponse()
    text = answer.read().decode()
    connection.close()
    policy = answer.headers["Content-Security-Policy"]
    assert "default-src 'none'" in policy
    assert "://" not in text.replace("http://www.w3.org", "")
    assert "prefers-color-scheme: dark" in text


def test_model_and_data_that_are_not_there(explored, tmp_path):
    from muse_tools import explore
    from muse_tools.datasets.errors import DataError

    with pytest.raises(DataError, match="holds no model"):
        explore.ExplainedModel(tmp_path)
    with pytest.raises(DataError, match="NO_TABLES"):
        explore.ExplorerData(tmp_path)
    with pytest.raises(DataError, match="train_user_features"):
        explore.ExplorerData(explored.folder / "data", "train")


def test_without_names_ids_are_shown(explored, tmp_path):
    from muse_tools import explore

    (tmp_path / "raw").symlink_to(explored.folder / "data" / "raw")
    plain = explore.Explorer(explored.loaded, explore.ExplorerData(tmp_path))
    item = explored.users[world.LONG]["shown"][1]
    found = plain.explain(world.LONG, item)["candidate"]
    assert (found["name"], found["category"]) == (f"item {item}", "")
    assert plain.items("tea") == {"items": []}


@pytest.mark.parametrize("host", ["127.0.0.1", "::1", "[::1]"])
def test_it_serves_until_a_signal(explored, host):
    from muse_tools.explore.app import ExplorerApp, serve_until_signal

    seen = []

    def stop(app):
        seen.append(app.url)
        os.kill(os.getpid(), signal.SIGTERM)

    serve_until_signal(ExplorerApp(explored.explorer, host), stop)
    shown = "[::1]" if "::1" in host else host
    assert seen[0].startswith(f"http://{shown}:")
    with pytest.raises(urllib.error.URLError):
        urllib.request.urlopen(seen[0] + "api/about")


def test_the_command_prints_the_address(explored, monkeypatch):
    from typer import testing

    from muse_tools.cli.commands import app
    from muse_tools.explore import app as app_lib

    apps = []

    def serve(served, on_ready):
        apps.append(served)
        on_ready(served)

    monkeypatch.setattr(app_lib, "serve_until_signal", serve)
    folder = explored.folder
    arguments = ["explore", "--port", "8123", "--data", str(folder / "data")]
    good = testing.CliRunner().invoke(
        app, [*arguments, "--model-base-path", str(folder / "muse")]
    )
    assert good.exit_code == 0 and len(apps) == 1
    assert "Explorer: http://127.0.0.1:8123/" in good.output
    bad = testing.CliRunner().invoke(
        app, [*arguments, "--model-base-path", str(folder / "nothing")]
    )
    assert bad.exit_code == 1 and len(apps) == 1
