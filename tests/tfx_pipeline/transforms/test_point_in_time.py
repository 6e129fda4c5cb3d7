"""No feature of an impression depends on what happens at its time or later."""

from __future__ import annotations

import numpy as np
import pyarrow as pa
from hypothesis import given, settings
from hypothesis import strategies as st

from schemas.ranking_schema import RankingSchema
from tfx_pipeline.transforms import event_histories, requests

HOUR = 3600
DAY = 24 * HOUR
DECLARED = RankingSchema.model_validate(
    {
        "name": "shop",
        "labels": {"click": {}, "order": {}},
        "weight": "importance",
        "features": {
            "user": {"age": {"type": "float"}},
            "item": {"category": {}, "tags": {"many": 2}},
            "context": {"hour": {"time": "hour"}},
            "candidate": {"position": {"training_only": True}},
            "behavior": {
                "category": {},
                "tags": {},
                "action": {},
                "dwell": {"type": "float", "buckets": 4},
                "since": {"time": "since"},
            },
            "matches": ["category", "tags"],
        },
        "log": {
            "known_time": "arrived",
            "train": ["1970-01-01", "1970-01-02"],
            "eval": ["1970-01-03", "1970-01-04"],
            "timezone": "Asia/Kolkata",
        },
    }
)
TIMES = st.one_of(st.integers(0, 3 * DAY), st.integers(HOUR, HOUR + 5))
EVENTS = st.lists(st.tuples(st.integers(1, 2), TIMES, TIMES), max_size=8)


def events_of(rows):
    """Events: user, time and lateness; features differ between all rows."""
    count = len(rows)
    users, times, late = np.array(rows, np.int64).reshape(-1, 3).T
    each = np.arange(1, count + 1)
    return pa.RecordBatch.from_pydict(
        {
            "user_id": users,
            "item_id": each + 100,
            "time": times,
            "known_time": times + late % 7,
            "position": each,
            "behavior_category": each + 200,
            "behavior_tags": pa.FixedSizeListArray.from_arrays(
                pa.array(np.arange(2 * count)), 2
            ),
            "behavior_action": each + 300,
            "behavior_dwell": (each / 2).astype(np.float32),
        }
    )


def requests_of(events, shown, as_of, delay, most=50):
    """Requests and, of each, the second that ends its history."""
    log = DECLARED.log.model_copy(
        update={"as_of": as_of, "delay_s": delay, "max_history": most}
    )
    declared = DECLARED.model_copy(update={"log": log})
    users, times = np.array(shown, np.int64).T
    each = np.arange(len(shown))
    samples = pa.RecordBatch.from_pydict(
        {
            "user_id": users,
            "item_id": each + 1,
            "click": each % 2,
            "label_order": each % 2,
            "weight": np.ones(len(each), np.float32),
            "time": times,
            "position": each,
            "candidate_position": each,
            "item_category": each,
            "item_tags": pa.FixedSizeListArray.from_arrays(
                pa.array(np.arange(2 * len(each))), 2
            ),
            "popularity": each,
        }
    )
    known = pa.RecordBatch.from_pydict(
        {
            "user_id": [1, 2],
            "user_age": pa.array([3.0, 4.0], pa.float32()),
            "position": [0, 1],
        }
    )
    histories = event_histories.EventHistories(
        events,
        np.asarray(events["user_id"]) - 1,
        log,
        event_histories.since_features(declared),
    )
    batches = requests.build_requests(
        samples, known, users - 1, 2, declared, histories
    )
    ends, _ = event_histories.request_ends(samples, users - 1, log)
    rows = [row for batch in batches for row in batch.to_pylist()]
    return [(row, ends[row["candidate_item_ids"][0] - 1]) for row in rows]


@settings(max_examples=200, deadline=None)
@given(
    events=EVENTS,
    later=EVENTS,
    planted=TIMES,
    shown=st.lists(st.tuples(st.integers(1, 2), TIMES), min_size=1, max_size=6),
    as_of=st.sampled_from(["request", "day"]),
    delay=st.sampled_from([0, 1, HOUR]),
)
def test_later_events_change_no_request(
    events, later, planted, shown, as_of, delay
):
    """Events are planted from a second on: requests until then stay."""
    before = requests_of(events_of(events), shown, as_of, delay)
    later = [
        (user, planted + more, late)
        for user, more, late in [(1, 0, 0), (2, 0, 0), *later]
    ]
    after = requests_of(events_of([*events, *later]), shown, as_of, delay)
    for (one, end), (other, _) in zip(before, after, strict=True):
        assert one.keys() == other.keys()
        if end <= planted:
            assert one == other
        elif end > max(time + late % 7 for _, time, late in later):
            # What was planted before the end is seen.
            assert one["behavior_item_ids"] != other["behavior_item_ids"]


@settings(max_examples=100, deadline=None)
@given(
    events=EVENTS,
    shown=st.lists(st.tuples(st.integers(1, 2), TIMES), min_size=1, max_size=6),
    as_of=st.sampled_from(["request", "day"]),
    delay=st.sampled_from([0, 1, HOUR]),
)
def test_every_behavior_was_known_before_the_end(events, shown, as_of, delay):
    found = requests_of(events_of(events), shown, as_of, delay, most=3)
    for row, end in found:
        places = np.array(row["behavior_item_ids"], int) - 101
        (user,) = row["user_id"]
        now = end + delay
        for place in places:
            whose, time, late = events[place]
            assert whose == user and time + late % 7 < end
        ages = [float(now - events[place][1]) for place in places]
        assert row["behavior_since"] == ages
        assert row["behavior_action"] == (places + 301).tolist()
        assert row["behavior_category"] == (places + 201).tolist()
        assert row["behavior_dwell"] == ((places + 1) / 2).tolist()
        tags = [(2 * place, 2 * place + 1) for place in places.tolist()]
        assert row["behavior_tags"] == [tag for pair in tags for tag in pair]
