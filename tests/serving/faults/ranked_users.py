"""Users with known histories, and what a right answer for them is."""

from __future__ import annotations

import numpy as np

from serving.client import RankRequest
from serving.client.ranking import RankingRequest, RankingResult
from serving.stores import open_store
from tests.serving import toy_muse, toy_store

CANDIDATES = [1, 2, 40, 60]
PROFILE = [1, 2, 3, 4, 5]
USERS = range(10101, 10121)
NEVER_ASKED = 10119, 10120


def history(user: int) -> RankRequest:
    items = np.arange(1, 2 + user % 50)
    return RankRequest(
        user,
        CANDIDATES,
        items,
        toy_store.user(PROFILE),
        {"category": items % 7},
    )


def no_history(user: int, profile: list[int]) -> RankRequest:
    return RankRequest(user, CANDIDATES, user=toy_store.user(profile))


def fill(url: str, users=USERS) -> None:
    """Makes these the users of a store."""
    with open_store(url, toy_store.LAYOUT) as store:
        store.delete_many(store.user_ids())
        for user in users:
            request = history(user)
            store.append(
                user,
                request.behavior_item_ids,
                request.behaviors,
                request.user,
            )


def check(answer: RankingResult, user: int) -> None:
    """The scores are those of the whole history, or of none at all."""
    assert answer.candidate_item_ids.tolist() == CANDIDATES
    if answer.path == "unranked":
        assert not len(answer.click_probability)
        return
    scores = answer.click_probability
    if answer.path in ("cached", "full", "shortened"):
        right = [history(user)]
    else:  # the profile may have been read in time, and the history not
        right = [no_history(user, [0] * 5), no_history(user, PROFILE)]
    assert any(
        np.allclose(scores, toy_muse.expected_score(request), rtol=1e-5)
        for request in right
    ), (answer.path, scores)


def ask(client, user: int, **changes) -> RankingResult:
    answer = client.rank(RankingRequest(user, CANDIDATES, **changes))
    check(answer, user)
    return answer
