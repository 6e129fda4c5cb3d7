"""Names in request-grouped Examples, except those of declared features."""

from __future__ import annotations

from schemas.ranking_schema import RankingSchema

TRAIN_SPLIT = "train"
EVAL_SPLIT = "eval"

# Request-grouped Examples.
USER_ID = "user_id"
BEHAVIOR_ITEM_IDS = "behavior_item_ids"
CANDIDATE_ITEM_IDS = "candidate_item_ids"
CANDIDATE_POPULARITY = "candidate_popularity"
CLICKS = "clicks"
WEIGHTS = "weights"

# Examples of search events: prefix of a modality's name, for its vector.
QUERY_PREFIX = "query_"


def labels(declared: RankingSchema) -> list[str]:
    """Returns the names of labels in Examples; the first one is `CLICKS`."""
    return [CLICKS, *list(declared.label_names)[1:]]
