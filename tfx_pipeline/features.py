"""Names in request-grouped Examples, besides those of declared features."""

from __future__ import annotations

TRAIN_SPLIT = "train"
EVAL_SPLIT = "eval"

# Request-grouped Examples.
USER_ID = "user_id"
BEHAVIOR_ITEM_IDS = "behavior_item_ids"
CANDIDATE_ITEM_IDS = "candidate_item_ids"
CANDIDATE_POPULARITY = "candidate_popularity"
CLICKS = "clicks"
WEIGHTS = "weights"
# Before the names of labels other than the first, which is the click.
LABEL_PREFIX = "label_"

# Examples of search events: before a modality's name, its vector.
QUERY_PREFIX = "query_"
