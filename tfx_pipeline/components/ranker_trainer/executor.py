"""Work of RankerTrainer."""

from __future__ import annotations

import pathlib
from typing import Any

from muse_keras.tables import ItemTable
from tfx_pipeline.components.checkpointed_trainer import CheckpointedTrainer
from tfx_pipeline.components.item_table_gen.executor import TABLE_DIR
from tfx_pipeline.tfx_internals import fn_args_utils

__all__ = ["Executor"]


class Executor(CheckpointedTrainer):
    """Runs `run_fn` with the item table and a checkpoint folder."""

    INPUT = "item_table"
    FOLDER = TABLE_DIR

    def _identity(
        self, folder: pathlib.Path, fn_args: fn_args_utils.FnArgs
    ) -> tuple[Any, ...]:
        manifest = ItemTable.open(folder).manifest
        return fn_args.transform_graph_path, manifest
