"""Work of SCLTrainer."""

from __future__ import annotations

import pathlib
from typing import Any

from muse_tools.datasets.item_content import ItemContent
from tfx_pipeline.components.checkpointed_trainer import CheckpointedTrainer
from tfx_pipeline.components.item_content_gen.executor import CONTENT_DIR
from tfx_pipeline.tfx_internals import fn_args_utils

__all__ = ["Executor"]


class Executor(CheckpointedTrainer):
    """Runs `run_fn` with the item content and a checkpoint folder."""

    INPUT = "item_content"
    FOLDER = CONTENT_DIR

    def _identity(
        self, folder: pathlib.Path, fn_args: fn_args_utils.FnArgs
    ) -> tuple[Any, ...]:
        return (ItemContent.open(folder).manifest,)
