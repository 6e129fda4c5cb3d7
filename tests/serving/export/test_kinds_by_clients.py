"""The clients give an exported model of every kind what it declares."""

from __future__ import annotations

import numpy as np
import pytest

from serving.client import (
    CachedRankRequest,
    MuseClient,
    PrefetchRequest,
    RankRequest,
    RequestError,
    make_example,
)

pytest.importorskip("tensorflow")

from tests.serving.export import kinds as toy  # noqa: E402

pytestmark = pytest.mark.once

FEATURES = toy.FEATURES


def fields_of(raw) -> dict:
    """A raw request of the toy as fields of `RankRequest`."""

    def of(group: str, names, first: bool = False) -> dict:
        values = {name: raw[f"{group}_{name}"] for name in names}
        return {n: v[0] if first else v for n, v in values.items()}

    def known(group):
        return [n for n, one in group.items() if not one.training_only]

    carried = [n for n in FEATURES.behavior if n not in FEATURES.of_items]
    return {
        "user_id": int(raw["user_id"][0]),
        "behavior_item_ids": raw["behavior_item_ids"],
        "candidate_item_ids": raw["candidate_item_ids"],
        "user": of("user", FEATURES.user, True),
        "behaviors": of("behavior", carried),
        "context": of("context", known(FEATURES.context), True),
        "candidates": of("candidate", known(FEATURES.candidate)),
    }


@pytest.mark.parametrize("transport", ["grpc", "rest"])
def test_all_ways_give_the_scores_of_the_signature(
    kinds, kinds_server, transport
):
    raw = toy.make_requests(kinds.item_table, 7, seed=3)
    want = kinds.call("rank", **toy.batched(raw))
    fields = [fields_of(one) for one in raw]
    requests = [RankRequest(**one) for one in fields]
    examples = []
    for one, request in zip(raw, requests, strict=True):
        rows = kinds.item_table.rows(one["candidate_item_ids"])
        items = {
            name: toy.known_values(kinds.item_table, name, rows)
            for name in FEATURES.item
        }
        history = kinds.item_table.rows(one["behavior_item_ids"])
        behaviors = {
            name: toy.known_values(kinds.item_table, name, history)
            for name in FEATURES.of_items
        }
        full = RankRequest(
            **{
                **vars(request),
                "behaviors": {**request.behaviors, **behaviors},
            }
        )
        examples.append(make_example(full, items, toy.DECLARED))
    with MuseClient(
        kinds_server[transport], transport, schema=toy.DECLARED
    ) as client:
        client.prefetch(
            [
                PrefetchRequest(
                    r.user_id, r.behavior_item_ids, r.user, r.behaviors
                )
                for r in requests
            ]
        )
        cached = [
            CachedRankRequest(
                r.user_id, r.candidate_item_ids, r.context, r.candidates
            )
            for r in requests
        ]
        answers = {
            "rank": client.rank(requests),
            "explain": client.explain(requests),
            "rank_cached": client.rank_cached(cached),
            "examples": client.predict_examples(examples),
        }
        assert all(one.cache_hit for one in answers["rank_cached"])
        # What is left out is missing, whatever the width.
        bare = RankRequest(5, requests[0].candidate_item_ids)
        assert np.isfinite(client.rank(bare).click_probability).all()
        with pytest.raises(RequestError, match="have 3 numbers"):
            client.rank(RankRequest(5, [6], user={"profile": [1.0]}))
        with pytest.raises(RequestError, match="name features .*'position'"):
            client.rank(RankRequest(5, [6], candidates={"position": [1]}))
    for way, results in answers.items():
        for row, result in enumerate(results):
            count = len(requests[row].candidate_item_ids)
            for label in ("click", "buy"):
                np.testing.assert_allclose(
                    result.probabilities[label],
                    want[f"{label}_probability"][row, :count],
                    atol=1e-5,
                    err_msg=f"{way} {row} {label}",
                )
