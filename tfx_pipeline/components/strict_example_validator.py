"""ExampleValidator that stops the run if it finds an anomaly.

TFX's own component records anomalies and lets the pipeline continue.
"""

from __future__ import annotations

import pathlib
from typing import Any

from tensorflow_metadata.proto.v0 import anomalies_pb2

from muse_tools.datasets.errors import DataError
from tfx_pipeline.tfx_internals import (
    artifact_utils,
    executor_spec,
    validator_component,
    validator_executor,
)


class Executor(validator_executor.Executor):
    """Validates statistics against the schema and fails on anomalies."""

    def Do(
        self,
        input_dict: dict[str, list],
        output_dict: dict[str, list],
        exec_properties: dict[str, Any],
    ) -> Any:
        """Runs the validation.

        Raises:
            DataError: ``ANOMALY``, with every feature and its anomaly.
        """
        result = super().Do(input_dict, output_dict, exec_properties)
        artifact = artifact_utils.get_single_instance(output_dict["anomalies"])
        problems = []
        for split in artifact_utils.decode_split_names(artifact.split_names):
            path = (
                pathlib.Path(artifact_utils.get_split_uri([artifact], split))
                / validator_executor.DEFAULT_FILE_NAME
            )
            anomalies = anomalies_pb2.Anomalies.FromString(path.read_bytes())
            problems += [
                f"{split}: feature {name}: {info.description}"
                for name, info in sorted(anomalies.anomaly_info.items())
            ]
            if anomalies.HasField("dataset_anomaly_info"):
                info = anomalies.dataset_anomaly_info
                problems.append(f"{split}: {info.description}")
        if problems:
            raise DataError(
                "ANOMALY",
                "; ".join(problems),
                "correct the data, or its declaration (docs/own-data.md).",
            )
        return result


class StrictExampleValidator(validator_component.ExampleValidator):
    """ExampleValidator whose anomalies stop the pipeline."""

    EXECUTOR_SPEC = executor_spec.ExecutorClassSpec(Executor)
