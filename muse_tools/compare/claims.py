"""The paper's qualitative claims, judged by a rule.

A claim is one or more differences of GAUC that must all be above 0. It is
*confirmed* if, for each difference, the 95 % interval over users (of the mean
over seeds) is above 0 and the difference is above 0 in every seed. Otherwise
it is *not confirmed*. It *cannot be tested* if a cell it needs did not run, or
if the data has nothing that corresponds to it.
"""

from __future__ import annotations

import dataclasses
import importlib.resources
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any

import yaml

from muse_tools.compare import groups as groups_lib
from muse_tools.compare.config import CompareConfig, noise_level
from muse_tools.compare.grid import ESU_ONLY, GSU_ONLY, MUSE, Column, Method
from muse_tools.compare.results import Claim, Contrast, Interval, Status
from muse_tools.compare.scores import Judge, Term

RULE = (
    "confirmed: every difference has its 95 % interval over users above 0 "
    "and is above 0 in every seed"
)


@dataclasses.dataclass(frozen=True)
class _Difference:
    name: str
    terms: tuple[Term, ...]


_Differences = Sequence[_Difference]


@dataclasses.dataclass(frozen=True)
class _Rule:
    """A claim that all `differences` are above 0.

    With `overall`, the seeds of the overall table are used instead of the
    ablation seeds. `untestable` says why the data cannot test the claim.
    """

    id: str
    text: str
    differences: _Differences = ()
    overall: bool = False
    untestable: str = ""


def judge_claims(config: CompareConfig, judge: Judge) -> list[Claim]:
    """Returns every claim with its verdict and its differences."""
    return [_judged(rule, config, judge) for rule in _rules(config)]


def supports(found: Interval) -> bool:
    """Returns whether a difference is above 0 by the rule of this module."""
    return (
        found.lower is not None
        and found.lower > 0
        and all(value is not None and value > 0 for value in found.by_seed)
    )


def _judged(rule: _Rule, config: CompareConfig, judge: Judge) -> Claim:
    seeds = config.seeds if rule.overall else config.ablation_seeds
    lacking = {
        term.column
        for one in rule.differences
        for term in one.terms
        if judge.missing(term.column, seeds)
    }
    contrasts: list[Contrast] = []
    status: Status = "cannot be tested on this data"
    if rule.untestable:
        reason = rule.untestable
    elif lacking:
        reason = "not all cells it needs are in this comparison: " + "; ".join(
            sorted(map(_label, lacking))
        )
    elif not rule.differences:
        reason = "this comparison has no such rows"
    else:
        contrasts = [
            Contrast(name=d.name, difference=judge.difference(d.terms, seeds))
            for d in rule.differences
        ]
        failing = [one for one in contrasts if not supports(one.difference)]
        status = "not confirmed" if failing else "confirmed"
        reason = "; ".join(map(_reason, failing)) or (
            "every difference is above 0 in its interval and in every seed"
        )
    return Claim(
        id=rule.id,
        text=rule.text,
        status=status,
        reason=reason,
        contrasts=contrasts,
    )


def _reason(contrast: Contrast) -> str:
    found = contrast.difference
    if found.upper is None or found.lower is None or found.value is None:
        return f"{contrast.name}: no user has an AUC"
    if found.upper < 0:
        return f"{contrast.name}: below 0, the opposite of the claim"
    if found.lower <= 0:
        return f"{contrast.name}: the interval includes 0"
    return f"{contrast.name}: not above 0 in every seed"


def _label(column: Column) -> str:
    label = f"{column.method.name}, vectors {column.embeddings}"
    return f"{label}, history {column.history}" if column.history else label


def _minus(
    one: Column, other: Column, one_name: str = "", other_name: str = ""
) -> _Difference:
    names = one_name or one.method.name, other_name or other.method.name
    return _Difference(" minus ".join(names), (Term(1, one), Term(-1, other)))


def _rules(config: CompareConfig) -> list[_Rule]:
    stated = yaml.safe_load(
        (importlib.resources.files(__package__) / "claims.yaml").read_text(
            "utf-8"
        )
    )
    return [
        *_contrasts(stated["methods"], Method, overall=True),
        *_contrasts(
            stated["gsu"], lambda gsu: Method.of(gsu, "sa_ta_simtier"), "GSU "
        ),
        *_contrasts(
            stated["esu"], lambda esu: Method.of("scl_cosine", esu), "ESU "
        ),
        *_history_rules(config),
        *_group_rules(config),
        *_representation_rules(config),
        *(_Rule(**one) for one in stated["untestable"]),
    ]


def _contrasts(
    stated: Sequence[Mapping[str, Any]],
    made: Callable[[str], Method],
    part: str = "",
    overall: bool = False,
) -> Iterator[_Rule]:
    """Yields claims that each of some methods is above each of others."""
    for claim in stated:
        differences = [
            _minus(
                Column(made(one)),
                Column(made(other)),
                f"{part}{one}" if part else "",
                f"{part}{other}" if part else "",
            )
            for one in claim["better"]
            for other in claim["worse"]
        ]
        yield _Rule(claim["id"], claim["text"], differences, overall)


def _history_rules(config: CompareConfig) -> list[_Rule]:
    text = "Longer histories help MUSE (here: the longest above the shortest)."
    if not config.history_lengths:
        return [_Rule("longer_histories_help", text)]
    length = min(config.history_lengths)
    muse, short = Column(MUSE), Column(MUSE, history=length)
    din = Column(Method("din"))
    gain = _Difference(
        "MUSE's gain minus DIN's",
        (
            Term(1, muse),
            Term(-1, short),
            Term(-1, din),
            Term(1, dataclasses.replace(din, history=length)),
        ),
    )
    names = "MUSE with the whole history", f"MUSE with {length}"
    return [
        _Rule("longer_histories_help", text, [_minus(muse, short, *names)]),
        _Rule(
            "muse_gains_more_from_history",
            "MUSE gains more from a longer history than DIN, which reads its "
            "newest part.",
            [gain],
        ),
    ]


def _group_rules(config: CompareConfig) -> list[_Rule]:
    muse, din = Column(MUSE), Column(Method("din"))

    def grows(name: str, text: str, more: str, less: str) -> _Rule:
        difference = _Difference(
            f"MUSE's gain over DIN: {more} minus {less}",
            (
                Term(1, muse, more),
                Term(-1, din, more),
                Term(-1, muse, less),
                Term(1, din, less),
            ),
        )
        return _Rule(name, text, [difference], overall=True)

    activity = groups_lib.names("activity", config.activity_bounds)
    popularity = groups_lib.names("popularity", config.popularity_bounds)
    return [
        grows(
            "gain_grows_with_activity",
            "MUSE gains more for users with long histories.",
            activity[-1],
            activity[0],
        ),
        grows(
            "gain_grows_for_rare_items",
            "MUSE gains more for rare items.",
            popularity[0],
            popularity[-1],
        ),
    ]


def _representation_rules(config: CompareConfig) -> list[_Rule]:
    muse = Column(MUSE)

    def worse(name: str) -> _Differences:
        return [_minus(muse, Column(MUSE, name), "MUSE", f"MUSE with {name}")]

    levels = {noise_level(name) or 0.0: name for name in config.embeddings}
    noisy = levels[max(levels)] if any(levels) else ""
    sensitive = _Difference(
        f"loss by {noisy} in the ESU minus in the GSU",
        (
            Term(1, Column(ESU_ONLY)),
            Term(-1, Column(ESU_ONLY, noisy)),
            Term(-1, Column(GSU_ONLY)),
            Term(1, Column(GSU_ONLY, noisy)),
        ),
    )
    return [
        _Rule(
            "learned_above_text",
            "Learned SCL vectors are above vectors of the plain text "
            "(text_svd).",
            worse("text_svd") if "text_svd" in config.embeddings else (),
        ),
        _Rule(
            "better_vectors_help",
            "Better vectors help (here: without noise above the most noisy).",
            worse(noisy) if noisy else (),
        ),
        _Rule(
            "esu_more_sensitive",
            "The ESU is more sensitive to the quality of the vectors than the "
            "GSU (here: loss by noise, in the ESU alone minus in the GSU "
            "alone).",
            [sensitive] if noisy else (),
        ),
    ]
