"""Specification of RequestExampleGen."""

from __future__ import annotations

from tfx_pipeline.components.request_example_gen import executor
from tfx_pipeline.tfx_internals import (
    ChannelParameter,
    ExecutionParameter,
    base_beam_component,
    executor_spec,
    standard_artifacts,
    types,
)

__all__ = ["RequestExampleGen", "RequestExampleGenSpec"]


class RequestExampleGenSpec(types.ComponentSpec):
    """Parameters and output of RequestExampleGen."""

    PARAMETERS = {
        "raw_dir": ExecutionParameter(type=str),
        "raw_fingerprint": ExecutionParameter(type=str),
        "rejected_dir": ExecutionParameter(type=str),
        "max_candidates": ExecutionParameter(type=int),
        "max_rejected_fraction": ExecutionParameter(type=float),
        "join_partitions": ExecutionParameter(type=int),
        "imported_embeddings": ExecutionParameter(type=int),
        "code_fingerprint": ExecutionParameter(type=str),
    }
    INPUTS: dict = {}
    OUTPUTS = {"examples": ChannelParameter(type=standard_artifacts.Examples)}


class RequestExampleGen(base_beam_component.BaseBeamComponent):
    """Joins the raw tables with Beam into request-grouped Examples.

    Output ``examples`` has the splits ``train`` and ``eval`` (the raw ``test``
    tables). Rejected rows are kept as Parquet with a reason.

    Args:
        raw_dir: directory of the raw tables.
        raw_fingerprint: changes when the tables change, so that the cache
            notices.
        rejected_dir: directory for rejected rows and the row counts.
        max_candidates: candidates of one request at most.
        max_rejected_fraction: share of rejected impressions that fails the
            run.
        join_partitions: partitions of the join; 0 chooses them.
        imported_embeddings: item vectors are the raw table's; otherwise that
            table need not be there.
        code_fingerprint: changes when the code of the join changes.
    """

    SPEC_CLASS = RequestExampleGenSpec
    EXECUTOR_SPEC = executor_spec.BeamExecutorSpec(executor.Executor)

    def __init__(
        self,
        *,
        raw_dir: str,
        raw_fingerprint: str,
        rejected_dir: str,
        max_candidates: int,
        max_rejected_fraction: float,
        join_partitions: int = 0,
        imported_embeddings: bool = True,
        code_fingerprint: str = "",
    ) -> None:
        super().__init__(
            spec=RequestExampleGenSpec(
                raw_dir=raw_dir,
                raw_fingerprint=raw_fingerprint,
                rejected_dir=rejected_dir,
                max_candidates=max_candidates,
                max_rejected_fraction=max_rejected_fraction,
                join_partitions=join_partitions,
                imported_embeddings=int(imported_embeddings),
                code_fingerprint=code_fingerprint,
                examples=types.Channel(type=standard_artifacts.Examples),
            )
        )
