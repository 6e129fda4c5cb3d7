"""Names of the features of request-grouped Examples."""

from __future__ import annotations

TRAIN_SPLIT = "train"
EVAL_SPLIT = "eval"

# Request-grouped Examples.
USER_ID = "user_id"
USER_PROFILE = tuple(f"user_profile_{i}" for i in range(1, 6))
BEHAVIOR_ITEM_IDS = "behavior_item_ids"
BEHAVIOR_CATEGORY_IDS = "behavior_category_ids"
CANDIDATE_ITEM_IDS = "candidate_item_ids"
CANDIDATE_FEATURES = (
    "candidate_category",
    "candidate_city",
    "candidate_province",
)
CANDIDATE_POPULARITY = "candidate_popularity"
CLICKS = "clicks"

# Examples of search events: before a modality's name, its vector.
QUERY_PREFIX = "query_"

# The groups of features that a model knows; see `RequestModel`.
ITEM_FEATURES = ("category", "city", "province")
BEHAVIOR_FEATURES = ("category",)
MATCHES = ("category",)

# Vocabularies that Transform learns; candidates and behaviors share one.
VOCABULARIES = (*USER_PROFILE, *ITEM_FEATURES)
