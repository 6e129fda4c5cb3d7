"""Names and messages of the ranking service; see ranking.proto."""

from __future__ import annotations

from serving.wire.messages import message_class

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
"""How messages begin if UNAVAILABLE means that nothing was done."""

RankRequest = message_class("muse.serving.v1.RankRequest")
RankResponse = message_class("muse.serving.v1.RankResponse")
Stage = message_class("muse.serving.v1.Stage")
AppendEventsRequest = message_class("muse.serving.v1.AppendEventsRequest")
Values = message_class("muse.serving.v1.Values")
Probabilities = message_class("muse.serving.v1.Probabilities")
AppendEventsResponse = message_class("muse.serving.v1.AppendEventsResponse")
