"""The examples of pages about serving run, on the toy model."""

from __future__ import annotations

import pathlib
import re

import numpy as np
import pytest

from serving.client import RankRequest
from tests.serving import toy_muse

pytestmark = pytest.mark.tf

DOCS = pathlib.Path(__file__).parents[2] / "docs"
PAGE = DOCS / "serving.md"
BLOCK = re.compile(r"^```python\n(.*?)^```", re.M | re.S)


def test_examples_of_the_page(muse, muse_base, capsys):
    server, client = BLOCK.findall(PAGE.read_text(encoding="utf-8"))
    assert "/models/muse" in server and "127.0.0.1:8500" in client
    server = server.replace('"/models/muse", port=0', (
        f'"{muse_base}", port=0, rest_api_port=0'
    ))  # fmt: skip
    exec(compile(server, "serving.md", "exec"), {})  # noqa: S102
    target, url = capsys.readouterr().out.split()
    assert re.fullmatch(r"127\.0\.0\.1:\d+", target)
    assert url.startswith("http://127.0.0.1:")
    client = client.replace("127.0.0.1:8500", muse.grpc)
    names: dict = {}
    exec(compile(client, "serving.md", "exec"), names)  # noqa: S102
    request = names["request"]
    assert isinstance(request, RankRequest)
    np.testing.assert_allclose(
        names["result"].click_probability,
        toy_muse.expected_score(request),
        rtol=1e-5,
    )


def names_of(page, written, ours):
    """Runs the examples of a page; returns the names that they leave."""
    text = (DOCS / page).read_text(encoding="utf-8")
    assert written in text
    code = "".join(BLOCK.findall(text)).replace(written, ours)
    names: dict = {}
    exec(compile(code, page, "exec"), names)  # noqa: S102
    return names


def test_examples_of_the_clients(muse):
    names = names_of("clients.md", "http://127.0.0.1:8501", muse.rest)
    np.testing.assert_allclose(
        names["by_rest"].click_probability,
        toy_muse.expected_score(names["request"]),
        rtol=1e-5,
    )


def test_example_of_the_user_cache(muse, capsys):
    names = names_of("user-cache.md", "127.0.0.1:8500", muse.grpc)
    assert names["result"].cache_hit
    request = RankRequest(7, candidate_item_ids=[21, 22], **names["history"])
    np.testing.assert_allclose(
        names["result"].click_probability,
        toy_muse.expected_score(request),
        rtol=1e-5,
    )
    kept, _, cache = capsys.readouterr().out.splitlines()
    assert kept == "True 3" and cache.startswith("[3] ")
