"""A declaration with features of every kind."""

from __future__ import annotations

from schemas.ranking_schema import RankingSchema

SCHEMA = RankingSchema.model_validate(
    {
        "name": "kinds",
        "item": {"column": "sku", "type": "string"},
        "labels": {"click": {}, "order": {}},
        "features": {
            "user": {
                "age": {},
                "country": {"type": "string"},
                "income": {"type": "float"},
                "interests": {"many": 3, "type": "string"},
                "taste": {"type": "vector", "dim": 2},
            },
            "item": {
                "category": {"type": "string"},
                "price": {"type": "float"},
                "tags": {"many": 2},
                "look": {"type": "vector", "dim": 3},
            },
            "context": {
                "device": {"type": "string"},
                "load": {"type": "float"},
                "pages": {"many": 2},
            },
            "candidate": {
                "offer": {"type": "float"},
                "shelf": {"hashed": 8},
                "badges": {"many": 2, "type": "string"},
                "angle": {"type": "vector", "dim": 2},
            },
            "behavior": {
                "action": {"type": "string"},
                "dwell": {"type": "float", "buckets": 4},
                "category": {"column": "categories"},
            },
        },
    }
)
