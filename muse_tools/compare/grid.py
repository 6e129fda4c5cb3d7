"""The grid: the trainings that the tables need."""

from __future__ import annotations

import dataclasses
import functools
from collections.abc import Sequence

from muse_tools.compare.config import BASE_EMBEDDINGS, CompareConfig
from muse_tools.pages import charts

_NAMES = {
    name.lower().replace("-", "_"): name
    for name in (*charts.MODELS, "EST", "Full-DIN")
}


@functools.cache
def presets() -> dict[str, tuple[str | None, str | None]]:
    """Returns GSU and ESU of each ``model.type``; None if it has none."""
    # Workers import this module before TensorFlow.
    from tfx_pipeline.training.trainer import MODELS

    return {name: (one.own_gsu, one.own_esu) for name, one in MODELS.items()}


@dataclasses.dataclass(frozen=True, order=True)
class Method:
    """A preset, or a pair of ``gsu`` and ``esu``."""

    type: str
    gsu: str = ""
    esu: str = ""

    @classmethod
    def of(cls, gsu: str, esu: str) -> Method:
        """Returns the preset of a pair, or MUSE with both options.

        For example, ``category`` in the GSU table shares the cell of SIM-hard.
        """
        for name, own in presets().items():
            if own == (gsu, esu):
                return cls(name)
        return cls("muse", gsu, esu)

    @classmethod
    def parse(cls, text: str) -> Method:
        """Returns the method of a ``model.type``, or of ``gsu+esu``."""
        gsu, plus, esu = text.partition("+")
        return cls.of(gsu, esu) if plus else cls(text)

    @property
    def parts(self) -> tuple[str | None, str | None]:
        """GSU and ESU; None if the method has none."""
        own_gsu, own_esu = presets()[self.type]
        return self.gsu or own_gsu, self.esu or own_esu

    @property
    def name(self) -> str:
        """Name in tables, such as `SIM-soft` or `scl_cosine + ta`."""
        if not self.gsu and not self.esu:
            return _NAMES[self.type]
        return " + ".join(str(part) for part in self.parts)


@dataclasses.dataclass(frozen=True, order=True)
class Column:
    """A cell without its seed.

    A history of 0 has the length that the pipeline keeps.
    """

    method: Method
    embeddings: str = BASE_EMBEDDINGS
    history: int = 0


@dataclasses.dataclass(frozen=True, order=True)
class Cell:
    """One training and its evaluation."""

    data_set: str
    column: Column
    seed: int

    @property
    def name(self) -> str:
        """Method, differences from the default and seed, in one line."""
        column = self.column
        parts = [column.method.name]
        if column.embeddings != BASE_EMBEDDINGS:
            parts.append(f"vectors {column.embeddings}")
        if column.history:
            parts.append(f"history {column.history}")
        return ", ".join([*parts, f"seed {self.seed}"])


@dataclasses.dataclass(frozen=True)
class Section:
    """The rows of one table, each with its baseline."""

    name: str
    rows: tuple[tuple[Column, Column | None], ...]
    seeds: tuple[int, ...]


MUSE = Method("muse")
GSU_ONLY = Method("muse", "scl_cosine", "ta")
"""The long-term part uses item vectors only in the search."""
ESU_ONLY = Method("sim_hard")
"""The long-term part uses item vectors only in the ESU."""


def sections(config: CompareConfig) -> list[Section]:
    """Returns the tables of a configuration that have rows.

    The baseline is a fixed method (the first row if that is missing), or the
    same method with the pipeline's vectors or the shortest history.
    """
    found = [
        _against(
            "overall",
            [Column(Method.parse(name)) for name in config.methods],
            Column(Method.parse(config.baseline)),
            config.seeds,
        ),
        _against(
            "gsu",
            [Column(Method.of(g, "sa_ta_simtier")) for g in config.gsus],
            Column(Method("sim_soft")),
            config.ablation_seeds,
        ),
        _against(
            "esu",
            [Column(Method.of("scl_cosine", e)) for e in config.esus],
            Column(Method.of("scl_cosine", "ta")),
            config.ablation_seeds,
        ),
        _history(config),
        _representation(config),
    ]
    return [section for section in found if section.rows]


def _against(
    name: str,
    columns: Sequence[Column],
    baseline: Column,
    seeds: tuple[int, ...],
) -> Section:
    if baseline not in columns and columns:
        baseline = columns[0]
    return Section(
        name,
        tuple((one, None if one == baseline else baseline) for one in columns),
        seeds,
    )


def _history(config: CompareConfig) -> Section:
    lengths = sorted(config.history_lengths)
    rows: list[tuple[Column, Column | None]] = []
    for name in config.history_methods if lengths else ():
        method = Method(name)
        shortest = Column(method, history=lengths[0])
        for length in (*lengths, 0):
            column = Column(method, history=length)
            rows.append((column, None if column == shortest else shortest))
    return Section("history", tuple(rows), config.ablation_seeds)


def _representation(config: CompareConfig) -> Section:
    rows: list[tuple[Column, Column | None]] = []
    for method in (MUSE, GSU_ONLY, ESU_ONLY) if config.embeddings else ():
        base = Column(method)
        rows.append((base, None))
        rows += [(Column(method, name), base) for name in config.embeddings]
    return Section("representation", tuple(rows), config.ablation_seeds)


def expand(config: CompareConfig) -> list[Cell]:
    """Returns all cells once, ordered by data set and seed."""
    found: dict[Cell, None] = {}
    for data_set in config.data_sets:
        for seed in config.seeds:
            for section in sections(config):
                if seed in section.seeds:
                    found |= {
                        Cell(data_set, column, seed): None
                        for column, _ in section.rows
                    }
    return list(found)
