"""Names of the features of request-grouped Examples."""

from __future__ import annotations

TRAIN_SPLIT = "train"
EVAL_SPLIT = "eval"

# Declared names of features, by the group of a model's inputs.
FEATURES: dict[str, tuple[str, ...]] = {
    "user": tuple(f"profile_{i}" for i in range(1, 6)),
    "item": ("category", "city", "province"),
    "behavior": ("category",),
    "matches": ("category",),
}

# Request-grouped Examples.
USER_ID = "user_id"
USER_PROFILE = tuple(f"user_{name}" for name in FEATURES["user"])
BEHAVIOR_ITEM_IDS = "behavior_item_ids"
BEHAVIOR_CATEGORY_IDS = "behavior_category"
CANDIDATE_ITEM_IDS = "candidate_item_ids"
CANDIDATE_FEATURES = tuple(f"candidate_{name}" for name in FEATURES["item"])
CANDIDATE_POPULARITY = "candidate_popularity"
CLICKS = "clicks"

# Examples of search events: before a modality's name, its vector.
QUERY_PREFIX = "query_"
