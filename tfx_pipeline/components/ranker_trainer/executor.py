"""Work of RankerTrainer."""

from __future__ import annotations

import json
import pathlib
from typing import Any

from muse_keras.tables import ItemTable
from tfx_pipeline.components.checkpointed_trainer import CheckpointedTrainer
from tfx_pipeline.components.item_table_gen.executor import TABLE_DIR
from tfx_pipeline.tfx_internals import artifact_utils, fn_args_utils

__all__ = ["MODEL_TYPE", "Executor"]

MODEL_TYPE = "model_type"
"""Property of a trained model: its `ModelConfig.type`."""


class Executor(CheckpointedTrainer):
    """Runs `run_fn` with the item table and a checkpoint folder."""

    INPUT = "item_table"
    FOLDER = TABLE_DIR

    def Do(
        self,
        input_dict: dict[str, list],
        output_dict: dict[str, list],
        exec_properties: dict[str, Any],
    ) -> None:
        """Trains, and writes the type of the model on its artifact."""
        super().Do(input_dict, output_dict, exec_properties)
        settings = json.loads(exec_properties["custom_config"])
        model = artifact_utils.get_single_instance(output_dict["model"])
        model.set_string_custom_property(MODEL_TYPE, settings["model"]["type"])

    def _identity(
        self, folder: pathlib.Path, fn_args: fn_args_utils.FnArgs
    ) -> tuple[Any, ...]:
        manifest = ItemTable.open(folder).manifest
        return fn_args.transform_graph_path, manifest
