"""The typed configuration of a comparison, read from YAML."""

from __future__ import annotations

import pathlib
from collections.abc import Mapping
from typing import Any, Literal

import pydantic

from schemas import settings_file
from schemas.settings_file import ConfigError
from tfx_pipeline import config as pipeline_config
from tfx_pipeline.config import OutputDir

KEYS = "muse_tools/compare/config.py lists all keys"
BASE_EMBEDDINGS = "base"
"""Name of the item vectors that the pipeline's configuration selects."""

_MODEL_SCHEMA = pipeline_config.ModelConfig.model_json_schema()["properties"]
MADE = ("learned", "imported", "text_svd")
_Made = Literal["complete_journey", "synthetic", "raw"]


def _choices(field: str) -> list[str]:
    """Returns the values that a key of section ``model`` may have."""
    schema = _MODEL_SCHEMA[field]
    parts = schema.get("anyOf", [schema])
    return [value for part in parts for value in part.get("enum", ())]


def noise_level(embeddings: str, kind: str = "noise") -> float | None:
    """Returns sigma of ``noise:SIGMA``, or None for other names."""
    found, separator, text = embeddings.partition(":")
    if found != kind or not separator:
        return None
    try:
        level = float(text)
    except ValueError:
        return None
    return level if 0 < level < 1e6 else None


class DataSetConfig(settings_file.Section):
    """One data set and the pipeline that prepares it."""

    source: _Made = "raw"
    """``complete_journey`` and ``synthetic`` are generated if they do not
    exist; ``raw`` must exist."""
    options: dict[str, Any] = {}
    """Options of the generator: fields of `Options` of its module."""
    pipeline: str
    """Configuration of the pipeline; relative to this file."""
    overrides: tuple[str, ...] = ()
    """Overrides ``section.key=value`` of that configuration."""


class CompareConfig(settings_file.Section):
    """The grid of trainings and the settings of its tables."""

    name: str = pydantic.Field(pattern=r"^[a-z0-9][a-z0-9_-]*$")
    output_dir: OutputDir
    """Cells, prepared data and results."""
    data_sets: dict[str, DataSetConfig] = pydantic.Field(min_length=1)
    seeds: tuple[pydantic.NonNegativeInt, ...] = pydantic.Field(
        default=(1, 2, 3), min_length=1
    )
    """Training seeds of the overall table."""
    ablation_seeds: tuple[pydantic.NonNegativeInt, ...] = pydantic.Field(
        default=(1, 2), min_length=1
    )
    """Training seeds of all other tables, a subset of `seeds`."""
    methods: tuple[str, ...] = (
        "din",
        "sim_hard",
        "sim_soft",
        "twin",
        "miss",
        "muse",
    )
    """Rows of the overall table: values of ``model.type``, or pairs of
    ``model.gsu`` and ``model.esu`` such as ``category+ta``."""
    baseline: str = "din"
    """Row of that table with which the others are compared; the first one if
    it is none of them."""
    gsus: tuple[str, ...] = ()
    """Rows of the GSU table: values of ``model.gsu``."""
    esus: tuple[str, ...] = ()
    """Rows of the ESU table: values of ``model.esu``."""
    history_lengths: tuple[pydantic.PositiveInt, ...] = ()
    """Lengths of histories (newest behaviors kept) of the history table; the
    pipeline's ``transform.max_history`` is added."""
    history_methods: tuple[str, ...] = ("din", "sim_hard", "muse")
    embeddings: tuple[str, ...] = ()
    """Other item vectors: ``learned``, ``imported``, ``text_svd``,
    ``noise:SIGMA`` (the pipeline's vectors with Gaussian noise of SIGMA times
    their length, equal for equal vectors), ``item_noise:SIGMA`` (different
    noise for every item) or ``random``."""
    activity_bounds: tuple[pydantic.PositiveInt, ...] = (100, 300, 600)
    """Bounds between groups of users, by behaviors in the history."""
    popularity_bounds: tuple[pydantic.PositiveInt, ...] = (1, 10, 100)
    """Bounds between groups of items, by impressions in the train split."""
    bootstrap_samples: int = pydantic.Field(default=1000, ge=1)
    score_batch: int = pydantic.Field(default=32, ge=1)
    """Requests per batch of scoring."""

    @pydantic.model_validator(mode="after")
    def _check(self) -> CompareConfig:
        pairs = [f"{g}+{e}" for g in _choices("gsu") for e in _choices("esu")]
        for name, choices in (
            ("methods", [*_choices("type"), *pairs]),
            ("history_methods", _choices("type")),
            ("gsus", _choices("gsu")),
            ("esus", _choices("esu")),
        ):
            values = getattr(self, name)
            repeated = len(set(values)) < len(values)
            if repeated or not set(values) <= set(choices):
                known = [one for one in choices if one not in pairs]
                raise ValueError(
                    f"`{name}` must be different values of "
                    f"{', '.join(known)}"
                    f"{' or pairs gsu+esu' if name == 'methods' else ''}. "
                    f"Received: {list(values)}"
                )
        for value in self.embeddings:
            if value not in (*MADE, "random") and not (
                noise_level(value) or noise_level(value, "item_noise")
            ):
                raise ValueError(
                    f"`embeddings` must be of {', '.join(MADE)}, random, "
                    "noise:SIGMA and item_noise:SIGMA with SIGMA above 0. "
                    f"Received: {value!r}"
                )
        for name in (
            "seeds",
            "ablation_seeds",
            "history_lengths",
            "embeddings",
        ):
            if len(set(values := getattr(self, name))) < len(values):
                raise ValueError(
                    f"`{name}` must not repeat. Received: {list(values)}"
                )
        if not set(self.ablation_seeds) <= set(self.seeds):
            raise ValueError(
                "`ablation_seeds` must be some of `seeds`. Received: "
                f"{list(self.ablation_seeds)} and {list(self.seeds)}"
            )
        for name in ("activity_bounds", "popularity_bounds"):
            bounds = getattr(self, name)
            if list(bounds) != sorted(set(bounds)):
                raise ValueError(
                    f"`{name}` must rise. Received: {list(bounds)}"
                )
        return self

    @property
    def root(self) -> pathlib.Path:
        """The output directory, absolute."""
        return pathlib.Path(self.output_dir).expanduser().absolute()


def load_config(
    path: str | pathlib.Path, quick: bool = False, out: str = ""
) -> CompareConfig:
    """Reads a configuration file; pipeline paths are relative to the file.

    With `quick`, the section ``quick`` replaces keys of the same name;
    mappings are merged.

    Raises:
        ConfigError: with a one-line text, if the file cannot be read or has
            an unknown key or an invalid value.
    """
    file = pathlib.Path(path)
    values = settings_file.read(file)
    changes = values.pop("quick", None)
    if quick:
        if not isinstance(changes, dict):
            raise ConfigError(f"{path}: has no section `quick`.")
        values = _merged(values, changes)
    if out:
        values["output_dir"] = out
    loaded = settings_file.parse(CompareConfig, values, path, KEYS)
    return loaded.model_copy(
        update={
            "data_sets": {
                name: one.model_copy(
                    update={"pipeline": str(file.parent / one.pipeline)}
                )
                for name, one in loaded.data_sets.items()
            }
        }
    )


def _merged(
    values: Mapping[str, Any], changes: Mapping[str, Any]
) -> dict[str, Any]:
    found = dict(values)
    for key, value in changes.items():
        old = found.get(key)
        both = isinstance(old, Mapping) and isinstance(value, Mapping)
        found[key] = _merged(old, value) if both else value  # type: ignore[arg-type]
    return found
