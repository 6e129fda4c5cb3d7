"""Logging as JSON lines."""

from __future__ import annotations

import json
import logging
import sys
import time

from serving.client.ranking import RankingRequest, RankingResult

_requests = logging.getLogger("serving.ranking_service.requests")


class JsonLines(logging.Formatter):
    """Formats a record as one line of JSON."""

    def format(self, record: logging.LogRecord) -> str:
        """Returns time (UTC), level, logger, message and `fields` as JSON."""
        line = {
            "time": time.strftime(
                "%Y-%m-%dT%H:%M:%S", time.gmtime(record.created)
            )
            + f".{int(record.msecs):03d}Z",
            "level": record.levelname.lower(),
            "logger": record.name,
            "message": record.getMessage(),
            **getattr(record, "fields", {}),
        }
        if record.exc_info:
            line["exception"] = self.formatException(record.exc_info)
        return json.dumps(line, ensure_ascii=False)


def log_to_stderr() -> None:
    """Writes all logs of the process to stderr as JSON lines."""
    handler = logging.StreamHandler(sys.stderr)
    handler.setFormatter(JsonLines())
    logging.basicConfig(level=logging.INFO, handlers=[handler], force=True)


def log_request(request: RankingRequest, result: RankingResult) -> None:
    """Logs one line about an answered request."""
    if not _requests.isEnabledFor(logging.INFO):
        return
    _requests.info(
        "ranked",
        extra={
            "fields": {
                "request_id": result.request_id,
                "user_id": request.user_id,
                "path": result.path,
                "candidates": len(result.candidate_item_ids),
                "candidates_from": result.candidates_from,
                "history_length": result.history_length,
                "generation": result.generation,
                "deadline_ms": request.deadline_ms,
                "total_ms": round(result.total_ms, 3),
                "stages": [
                    {
                        "name": stage.name,
                        "start_ms": round(stage.start_ms, 3),
                        "duration_ms": round(stage.duration_ms, 3),
                        "outcome": stage.outcome,
                    }
                    for stage in result.stages
                ],
            }
        },
    )
