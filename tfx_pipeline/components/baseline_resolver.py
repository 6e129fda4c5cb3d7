"""Which model a candidate is compared with."""

from __future__ import annotations

from tfx import v1 as tfx

from tfx_pipeline.components.artifacts import MODEL_TYPE
from tfx_pipeline.tfx_internals import Artifact

CANDIDATE = "candidate"
MODEL = "model"
BLESSING = "model_blessing"


class LastOtherBlessedModel(tfx.dsl.experimental.LatestBlessedModelStrategy):
    """The last blessed model of the candidate's type that is another one.

    Each type has its own line of models: DIN is no baseline of MUSE.

    A run with nothing changed has the model that it blessed before as its
    candidate. Compared with itself that model could never fail, and the
    Evaluator and the Pusher would have a new input and run again.
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
