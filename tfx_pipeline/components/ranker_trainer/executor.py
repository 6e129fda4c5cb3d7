"""Work of RankerTrainer."""

from __future__ import annotations

import pathlib
from typing import Any

from tfx.components.trainer import executor as tfx_executor
from tfx.components.trainer import fn_args_utils
from tfx.types import artifact_utils

from muse_keras.tables import ItemTable
from tfx_pipeline import checkpoints
from tfx_pipeline.components.item_table_gen.executor import TABLE_DIR

__all__ = ["Executor"]


class Executor(tfx_executor.GenericExecutor):
    """Runs `run_fn` with the item table and a checkpoint folder."""

    def _GetFnArgs(
        self,
        input_dict: dict[str, list],
        output_dict: dict[str, list],
        exec_properties: dict[str, Any],
    ) -> fn_args_utils.FnArgs:
        table = artifact_utils.get_single_instance(input_dict["item_table"])
        others = {k: v for k, v in input_dict.items() if k != "item_table"}
        fn_args = super()._GetFnArgs(others, output_dict, exec_properties)
        table_dir = pathlib.Path(table.uri) / TABLE_DIR
        settings = dict(fn_args.custom_config)
        root = pathlib.Path(settings.pop("checkpoint_root"))
        folder = checkpoints.directory_of(
            root,
            settings,
            sorted(fn_args.train_files),
            fn_args.transform_graph_path,
            ItemTable.open(table_dir).manifest,
        )
        fn_args.custom_config = {
            **settings,
            "item_table": str(table_dir),
            "checkpoint_dir": str(folder),
        }
        return fn_args
