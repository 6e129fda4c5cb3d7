"""The file format of a comparison's results.

`Results` validates all results; ``docs/results/compare.schema.json`` is its
JSON schema, with the docstrings of classes as descriptions.
"""

from __future__ import annotations

from typing import Any, Final, Literal

import pydantic

SCHEMA_VERSION: Final = 1
Status = Literal["confirmed", "not confirmed", "cannot be tested on this data"]


class _Model(pydantic.BaseModel):
    model_config = pydantic.ConfigDict(extra="forbid", allow_inf_nan=False)


class Interval(_Model):
    """A value with its 95 % bootstrap interval over users.

    Numbers are means over the seeds of the row; None if no user has an AUC.
    """

    value: float | None
    lower: float | None
    upper: float | None
    by_seed: list[float | None]
    """The value of each seed, in the order of the row's seeds."""
    spread: float | None
    """Standard deviation of `by_seed`; None for fewer than two seeds."""


class Row(_Model):
    """One method in one table; numbers are means over seeds."""

    name: str
    gsu: str | None
    esu: str | None
    embeddings: str
    history: int
    seeds: list[int]
    missing: list[int]
    """Seeds whose cell failed or did not run; if any, there are no numbers."""
    gauc: Interval | None
    baseline: str | None
    """Row with which `difference` compares; None if this is a baseline."""
    difference: Interval | None
    auc: float | None
    log_loss: float | None
    calibration: float | None
    lists: dict[str, Interval] = {}
    """``ndcg_10``, ``mrr`` and ``recall_10``, in the overall table."""
    normalized_entropy: float | None = None
    calibration_error: float | None = None
    parameters: int | None
    parameters_without_tables: int | None
    train_seconds: float | None


class Table(_Model):
    """One of the paper's tables on this data."""

    name: Literal["overall", "gsu", "esu", "history", "representation"]
    paper: str
    rows: list[Row]


class Group(_Model):
    """A group of users or items."""

    name: str
    users: int
    """Number of users that have an AUC within the group."""
    impressions: int
    gauc: dict[str, Interval]
    gain: dict[str, Interval]
    """Difference to the baseline, for all other rows."""


class GroupTable(_Model):
    """The methods of the overall table, or MUSE's item vectors, by group."""

    name: Literal["activity", "popularity", "repetition", "repetition_vectors"]
    paper: str
    """Table or figure of the paper; "" if it has none."""
    baseline: str
    seeds: list[int]
    groups: list[Group]


class Contrast(_Model):
    """A difference that supports a claim if it is above 0."""

    name: str
    difference: Interval


class Claim(_Model):
    """A claim of the paper, judged on this data by the rule in `claims`."""

    id: str
    text: str
    status: Status
    reason: str
    contrasts: list[Contrast]


class VectorsRow(_Model):
    """Measures of one set of item vectors, without training."""

    embeddings: str
    random_pairs: list[float | None]
    """Percentiles of the cosine of two different random items."""
    tiers: list[float | None]
    """Share of the retrieved behaviors in each of SimTier's tiers."""
    same_item: float | None
    """Share of the retrieved behaviors with the candidate's item."""
    equal_vector: float | None
    """Share with another item that has an equal vector."""
    scores: dict[str, Interval]
    """GAUC of single numbers of the retrieved behaviors: ``highest cosine``,
    ``mean cosine`` and ``top tier`` (behaviors in the highest tier)."""


class VectorsTable(_Model):
    """Measures of the behaviors that MUSE retrieves by item vectors."""

    requests: int
    """Number of test requests in the sample."""
    all_requests: int
    impressions: int
    """Number of impressions in the sample."""
    seed: int
    """Seed of the sample."""
    k: int
    """Behaviors retrieved for each candidate."""
    tier_edges: list[float]
    """Edges of SimTier's tiers, one more than tiers."""
    percentiles: list[int]
    clicks_repeated: float | None
    """Share of the clicked impressions whose item is in the history."""
    others_repeated: float | None
    scores: dict[str, Interval]
    """GAUC of counts without vectors: behaviors with the ``same item`` or the
    ``same category`` as the candidate."""
    rows: list[VectorsRow]


class CellRecord(_Model):
    """One training."""

    name: str
    key: str
    seed: int
    status: Literal["done", "failed", "missing"]
    reason: str | None
    gauc: float | None
    train_seconds: float | None


class DataSetResults(_Model):
    """Everything about one data set."""

    description: dict[str, Any]
    max_history: int
    users: int
    impressions: int
    clicks: int
    tables: list[Table]
    groups: list[GroupTable]
    claims: list[Claim]
    vectors: VectorsTable | None = None
    """None in files of older versions of this project."""
    cells: list[CellRecord]


class Results(_Model):
    """The file ``results.json``."""

    schema_version: Literal[1]
    name: str
    command: str
    quick: bool
    bootstrap_samples: int
    code: str
    """Digest of the code that trained, without comments."""
    versions: dict[str, str]
    settings: dict[str, Any]
    """The comparison's configuration."""
    data_sets: dict[str, DataSetResults]
