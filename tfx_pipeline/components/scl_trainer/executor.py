"""Work of SCLTrainer."""

from __future__ import annotations

import pathlib
from typing import Any

from tfx.components.trainer import executor as tfx_executor
from tfx.components.trainer import fn_args_utils
from tfx.types import artifact_utils

from tfx_pipeline import checkpoints
from tfx_pipeline.components.item_content_gen.executor import CONTENT_DIR
from tfx_pipeline.data.item_content import ItemContent

__all__ = ["Executor"]


class Executor(tfx_executor.GenericExecutor):
    """Runs `run_fn` with the item content and a checkpoint folder."""

    def _GetFnArgs(
        self,
        input_dict: dict[str, list],
        output_dict: dict[str, list],
        exec_properties: dict[str, Any],
    ) -> fn_args_utils.FnArgs:
        content = artifact_utils.get_single_instance(input_dict["item_content"])
        others = {k: v for k, v in input_dict.items() if k != "item_content"}
        fn_args = super()._GetFnArgs(others, output_dict, exec_properties)
        content_dir = pathlib.Path(content.uri) / CONTENT_DIR
        settings = dict(fn_args.custom_config)
        root = pathlib.Path(settings.pop("checkpoint_root"))
        folder = checkpoints.directory_of(
            root,
            settings,
            sorted(fn_args.train_files),
            ItemContent.open(content_dir).manifest,
        )
        fn_args.custom_config = {
            **settings,
            "item_content": str(content_dir),
            "checkpoint_dir": str(folder),
        }
        return fn_args
