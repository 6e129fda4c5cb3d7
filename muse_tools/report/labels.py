"""Tables of declared names and of the metrics of each label."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from muse_tools.pages.blocks import NO_VALUE, Entry, Table

_LISTS = {
    "NDCG@10": "ndcg_10",
    "MRR": "mrr",
    "recall@10": "recall_10",
    "normalized entropy": "normalized_entropy",
}
_COLUMNS = ["label", "model", "GAUC", "95 % interval", "AUC", "log loss"]


def label_table(models: Mapping[str, Mapping[str, Any]]) -> Table | None:
    """Returns the metrics of all labels but the first; None if there is one."""
    rows = [
        [(label,), (name.upper(),), *_numbers(found)]
        for name, model in models.items()
        for label, found in model.get("labels", {}).items()
    ]
    columns = [*_COLUMNS, "calibration", "rate"]
    return Table(columns, sorted(rows), names=2) if rows else None


def list_table(
    label: str, models: Mapping[str, Mapping[str, Any]]
) -> Table | None:
    """Returns metrics of lists and of probabilities, for all labels.

    ``label`` is the first one. None if a model was evaluated without them.
    """
    rows: list[list[Entry]] = []
    for name, model in models.items():
        for of, found in {label: model, **model.get("labels", {})}.items():
            if _LISTS["NDCG@10"] not in found:
                return None
            numbers = [_with_interval(found, key) for key in _LISTS.values()]
            error = (digits(found["calibration_error"]),)
            rows.append([(of,), (name.upper(),), *numbers, error])
    columns = ["label", "model", *_LISTS, "calibration error"]
    return Table(columns, rows, names=2)


def _with_interval(found: Mapping[str, Any], key: str) -> Entry:
    low, high = (digits(found[f"{key}_{end}"]) for end in ("lower", "upper"))
    return (digits(found[key]), f"{low} to {high}")


def _numbers(found: Mapping[str, Any]) -> list[Entry]:
    low, high = (digits(found[f"gauc_{end}"]) for end in ("lower", "upper"))
    return [
        (digits(found["gauc"]),),
        (f"{low} to {high}",),
        (digits(found["auc"]),),
        (digits(found["log_loss"]),),
        (digits(found["calibration"], 3),),
        (f"{100 * found['click_rate']:.2f} %",),
    ]


def digits(value: float | None, places: int = 4) -> str:
    """Returns a number as text; a dash for None or NaN."""
    if value is None or value != value:
        return NO_VALUE
    return f"{value:.{places}f}"


def declared_table(declared: Mapping[str, Any]) -> Table:
    """Returns the data set's name, its labels and its features."""
    rows: list[list[Entry]] = [
        [("data set",), (declared["name"], f"digest {declared['digest']}")],
        [("labels",), (", ".join(declared["labels"]),)],
    ]
    rows += [
        [
            (f"{group} features",),
            (
                ", ".join(
                    name if kind == "vocabulary" else f"{name} ({kind})"
                    for name, kind in features.items()
                ),
            ),
        ]
        for group, features in declared["features"].items()
        if features
    ]
    if declared["matches"]:
        rows.append([("matches",), (", ".join(declared["matches"]),)])
    return Table(["declared", "names"], rows, names=2)
