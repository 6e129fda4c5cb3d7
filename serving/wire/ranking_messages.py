"""The messages of the ranking service, without generated code.

The same as serving/wire/ranking.proto, which says what they mean.
"""

from __future__ import annotations

from typing import Any

from serving.wire.descriptors import build_messages

SERVICE = "muse.serving.v1.RankingService"
RANK = f"/{SERVICE}/Rank"
APPEND = f"/{SERVICE}/AppendEvents"
DRAINING = "the ranking service is stopping"
UNRANKED = "no model server ranked the candidates in time"
NOT_SENT = (
    DRAINING,
    "failed to connect to all addresses",
    "DNS resolution failed",
)
"""How an UNAVAILABLE begins when nothing was done: ours, and gRPC's."""

_CLASSES: dict[str, Any] = build_messages(
    "muse.serving.v1",
    {
        "RankRequest": {
            "user_id": "int64 1",
            "candidate_item_ids": "repeated int64 2",
            "num_candidates": "int32 3",
            "deadline_ms": "double 4",
            "request_id": "string 5",
            "sort": "bool 6",
            "top": "int32 7",
        },
        "Stage": {
            "name": "string 1",
            "start_ms": "double 2",
            "duration_ms": "double 3",
            "outcome": "string 4",
        },
        "RankResponse": {
            "candidate_item_ids": "repeated int64 1",
            "click_probability": "repeated float 2",
            "path": "string 3",
            "history_length": "int32 4",
            "generation": "int64 5",
            "cache_hit": "bool 6",
            "stages": "repeated .Stage 7",
            "total_ms": "double 8",
            "request_id": "string 9",
            "candidates_from": "string 10",
        },
        "AppendEventsRequest": {
            "user_id": "int64 1",
            "item_ids": "repeated int64 2",
            "category_ids": "repeated int64 3",
        },
        "AppendEventsResponse": {"appended": "int32 1"},
    },
)

RankRequest = _CLASSES["RankRequest"]
RankResponse = _CLASSES["RankResponse"]
Stage = _CLASSES["Stage"]
AppendEventsRequest = _CLASSES["AppendEventsRequest"]
AppendEventsResponse = _CLASSES["AppendEventsResponse"]
