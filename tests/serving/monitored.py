"""The metrics that the dashboard and the alarms use."""

from __future__ import annotations

import json
import pathlib
import re

import yaml

FOLDER = (
    pathlib.Path(__file__).parents[2]
    / "serving/tf_serving/kubernetes/components/monitoring"
)


def groups() -> list[dict]:
    """The groups of rules, as Prometheus reads them."""
    return yaml.safe_load((FOLDER / "rules.yaml").read_text())["spec"]["groups"]


def expressions() -> list[str]:
    board = json.loads((FOLDER / "dashboard.json").read_text())
    shown = [t["expr"] for panel in board["panels"] for t in panel["targets"]]
    alarms = [rule["expr"] for group in groups() for rule in group["rules"]]
    return shown + alarms


def used(beginning: str) -> set[str]:
    """The used metrics whose names begin so."""
    names = re.findall(r"[a-zA-Z_:][\w:]*", " ".join(expressions()))
    return {name for name in names if name.startswith(beginning)}


def exported(page: str) -> set[str]:
    """The names of all series that a page of metrics can have."""
    found = set()
    for name, kind in re.findall(r"^# TYPE (\S+) (\w+)$", page, re.M):
        found.add(name)
        if kind == "histogram":
            found |= {f"{name}_{end}" for end in ("bucket", "count", "sum")}
    return found
