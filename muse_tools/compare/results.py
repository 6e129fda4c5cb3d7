"""The stored format of a comparison's results.

`Results` is the schema: what is written is validated by it, and
``docs/results/compare.schema.json`` is its JSON schema.
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

    Means over the seeds of the row; None where no user has an AUC.
    """

    value: float | None
    lower: float | None
    upper: float | None
    by_seed: list[float | None]
    """The value of each seed alone, in the order of the row's seeds."""
    spread: float | None
    """Standard deviation of `by_seed`; None for fewer than two."""


class Row(_Model):
    """One method in one table; numbers are means over seeds."""

    name: str
    gsu: str | None
    esu: str | None
    embeddings: str
    history: int
    seeds: list[int]
    missing: list[int]
    """Seeds whose cell failed or has not run; the row has no numbers then."""
    gauc: Interval | None
    baseline: str | None
    """Name of the row that `difference` compares with; None: itself one."""
    difference: Interval | None
    auc: float | None
    log_loss: float | None
    calibration: float | None
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
    """Users that have an AUC within the group."""
    impressions: int
    gauc: dict[str, Interval]
    gain: dict[str, Interval]
    """Difference to the baseline, without the baseline."""


class GroupTable(_Model):
    """The overall table's methods, or MUSE's item vectors, by group."""

    name: Literal["activity", "popularity", "repetition", "repetition_vectors"]
    paper: str
    """Where the paper has it; "" for nowhere."""
    baseline: str
    seeds: list[int]
    groups: list[Group]


class Contrast(_Model):
    """A difference that a claim is about; above 0 supports it."""

    name: str
    difference: Interval


class Claim(_Model):
    """A statement of the paper, judged on this data by the rule in code."""

    id: str
    text: str
    status: Status
    reason: str
    contrasts: list[Contrast]


class VectorsRow(_Model):
    """One set of item vectors, before anything is trained."""

    embeddings: str
    random_pairs: list[float | None]
    """Cosine of two different random items, at the table's percentiles."""
    tiers: list[float | None]
    """Share of the retrieved behaviors in each of SimTier's tiers."""
    same_item: float | None
    """Share of the retrieved behaviors that are the candidate's item."""
    equal_vector: float | None
    """Share that are another item with an equal vector."""
    scores: dict[str, Interval]
    """GAUC of single numbers of what is retrieved: ``highest cosine``, ``mean
    cosine`` and ``top tier`` (behaviors in the highest tier)."""


class VectorsTable(_Model):
    """What the item vectors tell apart in what MUSE's search retrieves."""

    requests: int
    """Test requests that were looked at."""
    all_requests: int
    impressions: int
    """Of the requests that were looked at."""
    seed: int
    """With which they were drawn."""
    k: int
    """Behaviors retrieved for each candidate."""
    tier_edges: list[float]
    """One more than there are tiers."""
    percentiles: list[int]
    clicks_repeated: float | None
    """Share of the clicked impressions whose item is in the history."""
    others_repeated: float | None
    scores: dict[str, Interval]
    """GAUC of counts that need no vectors: behaviors with the ``same item``
    or the ``same category`` as the candidate."""
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
    """None in files of older versions."""
    cells: list[CellRecord]


class Results(_Model):
    """The file ``results.json``."""

    schema_version: Literal[1]
    name: str
    command: str
    quick: bool
    bootstrap_samples: int
    code: str
    """Digest of the code that trained; comments do not count."""
    versions: dict[str, str]
    settings: dict[str, Any]
    """The comparison's configuration."""
    data_sets: dict[str, DataSetResults]
