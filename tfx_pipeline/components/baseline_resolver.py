"""Selects the baseline with which a candidate model is compared."""

from __future__ import annotations

from tfx import v1 as tfx

from tfx_pipeline.components.artifacts import MODEL_TYPE
from tfx_pipeline.tfx_internals import Artifact

CANDIDATE = "candidate"
MODEL = "model"
BLESSING = "model_blessing"


class LastOtherBlessedModel(tfx.dsl.experimental.LatestBlessedModelStrategy):
    """Selects the last blessed model of the same type, except the candidate.

    Each type has its own baseline: DIN is not compared with MUSE.

    If nothing has changed, the candidate is a model that was blessed before.
    Compared with itself, it could never fail. The Evaluator and the Pusher
    would also have a new input, and run again.
    """

    def resolve_artifacts(
        self, store: object, input_dict: dict[str, list[Artifact]]
    ) -> dict[str, list[Artifact]] | None:
        """Returns the baseline and its blessing, or empty lists."""
        candidates = {artifact.id for artifact in input_dict[CANDIDATE]}
        types = {_type(artifact) for artifact in input_dict[CANDIDATE]}
        others = [
            model
            for model in input_dict[MODEL]
            if model.id not in candidates and _type(model) in types
        ]
        found = super().resolve_artifacts(
            store, {MODEL: others, BLESSING: input_dict[BLESSING]}
        )
        if found is None:
            return None
        return {**found, CANDIDATE: input_dict[CANDIDATE]}


def _type(model: Artifact) -> str:
    return model.get_string_custom_property(MODEL_TYPE)
