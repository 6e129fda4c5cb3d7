"""What the join's counters must satisfy."""

from __future__ import annotations

import pytest

from muse_tools.datasets.errors import DataError
from tfx_pipeline.components.request_example_gen import check_counts

pytestmark = pytest.mark.tf

FOLDER = "/somewhere/rejected"
GOOD = {
    "read/train_samples": 1000,
    "joined/train_impressions": 990,
    "rejected/train_samples/null": 7,
    "rejected/train_samples/no user row": 3,
    "rejected/train_user_features/null": 500,
    "read/eval_samples": 10,
    "joined/eval_impressions": 10,
}


def test_counts_that_add_up_pass():
    check_counts(GOOD, 0.01, FOLDER)


@pytest.mark.parametrize(
    ("changes", "code", "texts"),
    [
        (
            {"joined/train_impressions": 989},
            "LOST_ROWS",
            ["train: 1,000 impressions read, 989 joined and 10 rejected"],
        ),
        (
            {"joined/eval_impressions": 11},
            "LOST_ROWS",
            ["eval: 10 impressions read, 11 joined and 0 rejected"],
        ),
        (
            {
                "joined/eval_impressions": 0,
                "rejected/eval_samples/no user row": 8,
                "rejected/eval_samples/no item row": 2,
            },
            "EMPTY_SPLIT",
            [
                "eval: none of 10 impressions could be joined: "
                "8 no user row, 2 no item row.",
                "muse data inspect",
            ],
        ),
        (
            {"read/eval_samples": 0, "joined/eval_impressions": 0},
            "EMPTY_SPLIT",
            ["eval: none of 0 impressions could be joined."],
        ),
        (
            {
                "joined/train_impressions": 989,
                "rejected/train_samples/null": 8,
            },
            "TOO_MANY_REJECTED",
            [
                "train: 11 of 1,000 impressions rejected "
                "(8 null, 3 no user row); at most 1.00% allowed.",
                "/somewhere/rejected",
                "data.max_rejected_fraction",
            ],
        ),
    ],
)
def test_what_is_wrong_is_named(changes, code, texts):
    with pytest.raises(DataError) as info:
        check_counts({**GOOD, **changes}, 0.01, FOLDER)
    assert info.value.code == code
    for text in texts:
        assert text in str(info.value)
    assert "\n" not in str(info.value)
