"""The paper's qualitative claims, judged by a rule.

A claim is one or more differences of GAUC that must all be above 0. It is
*confirmed* when, for each of them, the 95 % interval over users (of the mean
over seeds) lies above 0 and the difference is above 0 in every single seed;
else it is *not confirmed*. It *cannot be tested* when a cell it needs did not
run, or nothing in the data corresponds to it.
"""

from __future__ import annotations

import dataclasses
import itertools
from collections.abc import Callable, Sequence
from typing import Final

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
    """A claim: all its differences have to be above 0.

    `overall` takes the seeds of the overall table instead of the ablations';
    `untestable` says why the data cannot test it.
    """

    id: str
    text: str
    differences: _Differences = ()
    overall: bool = False
    untestable: str = ""


def judge_claims(config: CompareConfig, judge: Judge) -> list[Claim]:
    """Returns every claim with its verdict and its numbers."""
    return [_judged(rule, config, judge) for rule in _rules(config)]


def supports(found: Interval) -> bool:
    """Tells whether a difference is above 0 by the rule of this module."""
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


def _preset(name: str) -> Column:
    return Column(Method(name))


def _gsu(name: str) -> Column:
    return Column(Method.of(name, "sa_ta_simtier"))


def _esu(name: str) -> Column:
    return Column(Method.of("scl_cosine", name))


def _each(
    made: Callable[[str], Column], ones: str, others: str, part: str = ""
) -> _Differences:
    """Returns each of the first names minus each of the others."""
    found = []
    for one, other in itertools.product(ones.split(), others.split()):
        names = (f"{part} {one}", f"{part} {other}") if part else ()
        found.append(_minus(made(one), made(other), *names))
    return found


def _rules(config: CompareConfig) -> list[_Rule]:
    return [
        *_METHODS,
        *_PARTS,
        *_history_rules(config),
        *_group_rules(config),
        *_representation_rules(config),
        *_UNTESTABLE,
    ]


_METHODS: Final = tuple(
    _Rule(name, text, _each(_preset, ones, others), overall=True)
    for name, text, ones, others in (
        (
            "muse_best",
            "MUSE is above DIN, SIM-hard, SIM-soft, TWIN and MISS.",
            "muse",
            "din sim_hard sim_soft twin miss",
        ),
        ("muse_above_din", "MUSE is above DIN.", "muse", "din"),
        ("muse_above_sim_soft", "MUSE is above SIM-soft.", "muse", "sim_soft"),
        ("muse_above_sim_hard", "MUSE is above SIM-hard.", "muse", "sim_hard"),
        (
            "sim_soft_above_sim_hard",
            "SIM-soft is above SIM-hard (production data of the paper; on its "
            "public data the other way round).",
            "sim_soft",
            "sim_hard",
        ),
        (
            "sim_above_twin_and_miss",
            "SIM-hard and SIM-soft are above TWIN and MISS.",
            "sim_hard sim_soft",
            "twin miss",
        ),
        (
            "search_above_din",
            "Every method with a search is above DIN.",
            "sim_hard sim_soft twin miss muse",
            "din",
        ),
    )
)
_PARTS: Final = (
    _Rule(
        "scl_above_ids_in_gsu",
        "As the GSU's score, the cosine of SCL vectors is above that of "
        "trained id embeddings.",
        _each(_gsu, "scl_cosine", "id_cosine", "GSU"),
    ),
    _Rule(
        "scl_above_attention_in_gsu",
        "As the GSU's score, the cosine of SCL vectors is above learned "
        "attention: a simple search is enough.",
        _each(_gsu, "scl_cosine", "target_attention", "GSU"),
    ),
    *(
        _Rule(name, text, _each(_esu, one, others, "ESU"))
        for name, text, one, others in (
            (
                "sa_ta_simtier_best",
                "SA-TA with SimTier is the best ESU.",
                "sa_ta_simtier",
                "ta simtier ta_simtier sa_ta",
            ),
            (
                "similarity_helps_attention",
                "Similarities in the attention help: SA-TA is above plain "
                "target attention.",
                "sa_ta",
                "ta",
            ),
            (
                "simtier_above_attention",
                "SimTier alone is above target attention over ids.",
                "simtier",
                "ta",
            ),
            (
                "simtier_adds_to_attention",
                "SimTier adds to target attention.",
                "ta_simtier",
                "ta",
            ),
        )
    ),
)
_UNTESTABLE: Final = tuple(
    _Rule(name, text, untestable=reason)
    for name, text, reason in (
        (
            "scl_above_clip_and_co_occurrence",
            "SCL vectors are above item-to-item co-occurrence, and that above "
            "OpenCLIP.",
            "the data have no images, and no vectors of co-occurrence are made",
        ),
        (
            "fused_search_gains_little",
            "Adding the cosine of ids to that of SCL vectors in the GSU gains "
            "next to nothing.",
            "the models search with one score, or with two side by side "
            "(dual), not with a sum",
        ),
        (
            "gains_up_to_100k",
            "Histories of up to 100,000 behaviors go on to help.",
            "no history is that long",
        ),
        (
            "online_gains",
            "Clicks, revenue and return on investment rise online.",
            "there is no traffic to experiment on",
        ),
    )
)


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
