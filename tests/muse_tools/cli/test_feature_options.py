"""`muse rank` with features of users, requests and candidates as options."""

from __future__ import annotations

import json
import math
import pathlib

import pytest
import typer
from typer.testing import CliRunner

from muse_tools.cli.feature_options import read_features
from serving.client import TensorSpec
from tests.serving.kinds_schema import SCHEMA

INPUTS = {
    "user_age": TensorSpec("int64", (-1,)),
    "user_income": TensorSpec("float", (-1,)),
    "user_interests": TensorSpec("int64", (-1, 3)),
    "user_taste": TensorSpec("float", (-1, 2)),
    "candidate_offer": TensorSpec("float", (-1, -1)),
    "candidate_badges": TensorSpec("int64", (-1, -1, 2)),
}


def test_values_are_read_by_the_types_of_the_model():
    given = ["age=9007199254740993", "income=1.5", "interests=tea", "a=b=c"]
    assert read_features("--x", "user_", given, INPUTS) == {
        "age": "9007199254740993",
        "income": 1.5,
        "interests": ["tea"],
        "a": "b=c",
    }
    assert read_features("--x", "user_", ["taste=1,2"], INPUTS) == {
        "taste": [1.0, 2.0]
    }
    given = ["offer=1,,2.5", 'badges=[["new"], []]', "other=1,2"]
    assert read_features("--x", "candidate_", given, INPUTS) == {
        "offer": [1.0, None, 2.5],
        "badges": [["new"], []],
        "other": ["1", "2"],
    }


@pytest.mark.parametrize(
    ("text", "part"),
    [
        ("income=much", "income: expected a number. Received: 'much'"),
        ("interests=[1,", "interests: is not JSON"),
    ],
)
def test_wrong_values_name_the_feature(text, part):
    with pytest.raises(typer.BadParameter) as caught:
        read_features("--user-feature", "user_", [text], INPUTS)
    assert part in str(caught.value)


@pytest.mark.tf
def test_rank_with_features_of_every_kind(tmp_path: pathlib.Path):
    from muse_tools.cli import rank as rank_module
    from serving.model_server import ServerConfig, running
    from tests.serving import toy_kinds

    toy_kinds.export_toy_kinds(tmp_path / "model", widths=True)
    schema = tmp_path / "kinds.yaml"
    schema.write_text(SCHEMA.yaml())
    request = tmp_path / "request.json"
    fields = {"user_id": 7, "behavior_item_ids": ["sku-9"]}
    request.write_text(json.dumps(fields))
    app = typer.Typer(pretty_exceptions_enable=False)
    app.command()(rank_module.rank)
    config = ServerConfig(
        model_base_path=str(tmp_path / "model"), port=0, rest_api_port=0
    )
    with running(config) as server:

        def call(*arguments: str):
            target = ["--target", server.grpc_target, "--json"]
            known = ["--request", str(request), "--candidates", "sku-1,sku-2"]
            return CliRunner().invoke(app, [*target, *known, *arguments])

        named = ("--schema", str(schema))
        done = call(
            *named,
            *("--user-feature", "income=1200.5", "--user-feature", "age=3"),
            *("--user-feature", "interests=tea,12", "--context", "device=tv"),
            *("--candidate-feature", "offer=-1,2"),
            *("--candidate-feature", 'badges=[["new"],[]]'),
        )
        assert done.exit_code == 0, done.output
        rows = json.loads(done.stdout)["candidates"]
        assert [row["item_id"] for row in rows] == ["sku-2", "sku-1"]
        clicks = [1 / (1 + math.exp(-offer)) for offer in (2, -1)]
        found = [row["click_probability"] for row in rows]
        assert found == pytest.approx(clicks, rel=1e-5)
        orders = [row["order_probability"] for row in rows]
        assert orders == pytest.approx([c / 2 for c in clicks], rel=1e-5)
        for arguments, part in (
            ((*named, "--context", "hour=3"), "device, load, pages"),
            (
                (*named, "--candidate-feature", "offer=1"),
                "as long as candidate",
            ),
            (("--context", "device=tv"), "ids like 11"),
        ):
            done = call(*arguments)
            assert done.exit_code in (1, 2) and part in done.output, arguments
