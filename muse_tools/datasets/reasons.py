"""Reasons for rejecting rows, and hints on how to fix the rows."""

from __future__ import annotations

from collections.abc import Mapping

from muse_tools.datasets.table_schemas import EMBEDDING_DIM

NULL = "null"
MISSING_ID = "id is 0 (missing)"
LABEL_NOT_ONE_HOT = "label not one-hot"
LABEL_NOT_BINARY = "label is not 0 or 1"
WRONG_WEIGHT = "weight is not a number from 0 on"
FUTURE = "time in the future"
DATE_NUMBER = "date written as a number"
VECTOR_LENGTH = "vector of another length"
NOT_FINITE = "number that is not finite"
UNEQUAL_LISTS = "lists of a history of unequal length"
EMBEDDING_LENGTH = f"embedding length is not {EMBEDDING_DIM}"
ZERO_VECTOR = "zero vector"
DUPLICATE_USER = "duplicate user row"
DUPLICATE_ITEM = "duplicate item row"
NO_ITEM_FEATURES = "no item row"
NO_USER_FEATURES = "no user row"

REASONS = (
    NULL,
    MISSING_ID,
    LABEL_NOT_ONE_HOT,
    LABEL_NOT_BINARY,
    WRONG_WEIGHT,
    FUTURE,
    DATE_NUMBER,
    UNEQUAL_LISTS,
    EMBEDDING_LENGTH,
    ZERO_VECTOR,
    VECTOR_LENGTH,
    NOT_FINITE,
    DUPLICATE_USER,
    DUPLICATE_ITEM,
    NO_ITEM_FEATURES,
    NO_USER_FEATURES,
)
"""Every reason, in order of precedence."""

WRONG_DIMENSION = "vector of another dimension"
"""Reason in the search tables: a vector differs in width from the others."""

_HINTS = {
    NULL: "fill in ids, labels and lists; only features may be null.",
    MISSING_ID: (
        "0 means missing: where ids were numbered from 0 (pd.factorize), add "
        "1 to them in every table and list that holds them."
    ),
    LABEL_NOT_ONE_HOT: (
        "make the label [1, 0] where the item was not clicked and [0, 1] "
        "where it was, that is [1 - c, c] for a click c."
    ),
    LABEL_NOT_BINARY: (
        "make the label 1 where the item was clicked, else 0; or declare "
        "labels.<name>.at_least for scores."
    ),
    WRONG_WEIGHT: (
        "write the weight of each impression as a number from 0 on, or leave "
        "weight out of the declaration."
    ),
    FUTURE: (
        "write times as timestamps or whole seconds since 1970, not as "
        "milliseconds; events that have not happened belong elsewhere."
    ),
    DATE_NUMBER: (
        "a number is read as seconds since 1970; write 20260320 as 2026-03-20."
    ),
    VECTOR_LENGTH: (
        "write as many numbers as dim declares, or none where there is no "
        "vector."
    ),
    NOT_FINITE: (
        "write a number, or null where it is not known; a vector has all of "
        "its numbers or is null."
    ),
    UNEQUAL_LISTS: (
        "write one value of each feature per behavior, 0 where unknown."
    ),
    EMBEDDING_LENGTH: (
        f"write vectors of {EMBEDDING_DIM} numbers: fill shorter "
        "ones up with zeros, which changes no cosine, and project longer ones "
        "first, such as by a PCA. Or, if there is a table search_events to "
        "learn from, write them as they are into item_content, as "
        "NAME_vector, and run the pipeline with item_embeddings: learned."
    ),
    WRONG_DIMENSION: (
        "give the vectors of a modality one width, in item_content and in "
        "search_events, or leave out those of another."
    ),
    NO_ITEM_FEATURES: "add the items that were shown to item_features.",
    NO_USER_FEATURES: (
        "add the users of the impressions to the user features of the split."
    ),
    ZERO_VECTOR: (
        "make the vectors again; floats may be given as they are and become "
        "codes here, while a cast to int8 makes most of them 0."
    ),
}


def hint_for(rejected: Mapping[str, int]) -> str:
    """Returns the hint for the most frequent reason."""
    reason = max(rejected, key=lambda name: rejected[name])
    return _HINTS.get(reason, f"correct or omit the rows with: {reason}.")
