"""SCLTrainer: trains the item tower on searches and item content."""

import json
import pathlib

from tfx.v1.dsl.components import (
    InputArtifact,
    OutputArtifact,
    Parameter,
    component,
)

from muse_tools.datasets.item_content import ItemContent
from tfx_pipeline import config as config_lib
from tfx_pipeline.components.artifacts import (
    CONTENT_DIR,
    ItemContentArtifact,
    split_files,
)
from tfx_pipeline.scl import trainer
from tfx_pipeline.tfx_internals import (
    path_utils,
    standard_artifacts,
)
from tfx_pipeline.training import checkpoints


@component
def SCLTrainer(
    examples: InputArtifact[standard_artifacts.Examples],
    item_content: InputArtifact[ItemContentArtifact],
    model: OutputArtifact[standard_artifacts.Model],
    model_run: OutputArtifact[standard_artifacts.ModelRun],
    custom_config: Parameter[str],
    raw_dir: Parameter[str],
    raw_fingerprint: Parameter[str],
    checkpoint_root: Parameter[str],
    code_fingerprint: Parameter[str] = "",
) -> None:
    """Trains the tower that embeds items on searches and item content.

    Args:
        examples: search events, splits ``train`` and ``eval``.
        item_content: the content of the items.
        model: receives the SavedModel.
        model_run: receives curves, recall and the Keras model.
        custom_config: JSON of the section ``scl`` of the configuration.
        raw_dir: directory of the raw tables, for the items' categories.
        raw_fingerprint: changes when the table of the categories changes.
        checkpoint_root: folder of the checkpoints of all trainings.
        code_fingerprint: changes when the code of the training changes.
    """
    settings = json.loads(custom_config)
    content = ItemContent.open(pathlib.Path(item_content.uri) / CONTENT_DIR)
    train_files, eval_files = split_files(examples)
    trainer.run(
        config_lib.SCLConfig(**settings["scl"]),
        content,
        train_files=[train_files],
        eval_files=[eval_files],
        raw_dir=raw_dir,
        checkpoint_dir=checkpoints.directory_of(
            pathlib.Path(checkpoint_root),
            settings,
            raw_fingerprint,
            code_fingerprint,
            [train_files],
            content.manifest,
        ),
        run_dir=pathlib.Path(model_run.uri),
        model_dir=pathlib.Path(path_utils.serving_model_dir(model.uri)),
    )
