"""Verdicts on trained models: their metrics, and where they were pushed.

All output about success uses these verdicts.
"""

from __future__ import annotations

import dataclasses
import json
import pathlib

from tfx_pipeline import config as config_lib
from tfx_pipeline.matching.settings import MODEL_NAME
from tfx_pipeline.runs import lineage


@dataclasses.dataclass(frozen=True)
class Verdict:
    """The verdict on one model, a ranker or the retrieval model ``matching``.

    ``value`` is a metric over the eval split, with its 95 % interval; None if
    there is none. ``label`` is the declared name of its label, and ``labels``
    has GAUC and interval of all other labels. ``pushed_to`` is a version
    folder, or None because of ``reason``. ``before`` tells that an earlier run
    pushed the model and nothing has changed.
    """

    model: str
    metric: str
    value: float | None
    lower: float | None
    upper: float | None
    pushed_to: str | None
    reason: str
    before: bool
    label: str
    labels: dict[str, dict[str, float | None]]

    def __str__(self) -> str:
        name = "Retrieval" if self.model == MODEL_NAME else self.model.upper()
        of = ""
        if self.labels or self.label not in ("", "click"):
            of = f" of {self.label}"
        numbers = [_number(self.value, self.lower, self.upper)]
        numbers += [
            f"of {label} {_number(*found.values())}"
            for label, found in self.labels.items()
        ]
        return f"{name} {self.metric}{of} {', '.join(numbers)}; {self.outcome}"

    @property
    def outcome(self) -> str:
        """Where the model was pushed, or why it was not."""
        if self.pushed_to is None:
            return f"not pushed: {self.reason}"
        if self.before:
            return f"pushed before, to {self.pushed_to}; nothing is new"
        return f"pushed to {self.pushed_to}"


def verdicts(
    config: config_lib.PipelineConfig, model_type: str | None = None
) -> list[Verdict]:
    """Returns the verdicts on the newest models.

    There is one for each type of ranker that was trained, or for only
    ``model_type``, and one for the retrieval model.

    Raises:
        DataError: the pipeline has not run.
    """
    found = [
        of_model(run)
        for name, run in lineage.model_runs(config).items()
        if model_type in (None, name)
    ]
    matching = lineage.matching_run(config)
    if config.matching.enabled and matching:
        found.append(of_model(matching))
    return found


def of_model(run: lineage.ModelRun) -> Verdict:
    """Returns the verdict on a ranker or a retrieval model."""
    result = run.evaluation or {}
    name = "recall" if run.model_type == MODEL_NAME else "gauc"
    reason = result.get("refused", "not evaluated")
    if not reason and run.infra_blessing_dir is None:
        reason = "not tried in a server"
    if not reason and not run.infra_blessed:
        reason = f"not right in a server: {_why(run.infra_blessing_dir)}"
    pushed_to = run.pushed_to
    if pushed_to is not None and not lineage.is_served(pushed_to):
        gone = "a newer version serves" if pushed_to.is_dir() else "it is gone"
        reason = f"pushed to {pushed_to}, but {gone}; run the pipeline again"
        pushed_to = None
    elif pushed_to is None:
        reason = reason or "blessed, but the push did not finish"
    return Verdict(
        model=run.model_type,
        metric=result.get("metric", name.upper()),
        value=result.get(name),
        lower=result.get(f"{name}_lower"),
        upper=result.get(f"{name}_upper"),
        pushed_to=None if pushed_to is None else str(pushed_to),
        reason="" if pushed_to else reason,
        before=run.pushed_before and pushed_to is not None,
        label=result.get("label", ""),
        labels=result.get("labels", {}),
    )


def _number(
    value: float | None, lower: float | None, upper: float | None
) -> str:
    number = "unknown" if value is None else f"{value:.4f}"
    if lower is not None and upper is not None:
        number += f" [{lower:.4f}, {upper:.4f}]"
    return number


def _why(folder: pathlib.Path | None) -> str:
    file = (folder or pathlib.Path()) / "report.json"
    if not file.is_file():
        return "no report"
    return json.loads(file.read_text(encoding="utf-8"))["verdict"]
