"""Trains the ranker as one worker of several: ``python -m … JOB``.

``JOB`` is the file that RankerTrainer writes; ``TF_CONFIG`` names the workers.
"""

from __future__ import annotations

import json
import logging
import os
import pathlib
import sys
import threading

import tensorflow as tf

from tfx_pipeline import progress
from tfx_pipeline.components.ranker_trainer import (
    RankerJob,
    complete,
    train_ranker,
)
from tfx_pipeline.training import devices, divided_tables, workers


def main() -> None:
    """Trains with the other workers, which leave the model in files."""
    (path,) = sys.argv[1:]
    threading.Thread(target=_end_with_parent, daemon=True).start()
    strategy = devices.join_workers()
    if devices.place(strategy).index == 0:
        lines = logging.StreamHandler(sys.stdout)
        lines.setFormatter(logging.Formatter(f"{workers.PROGRESS}%(message)s"))
        logger = logging.getLogger(progress.LOGGER_NAME)
        logger.addHandler(lines)
        logger.setLevel(logging.INFO)
        logger.propagate = False
    job = RankerJob(**json.loads(pathlib.Path(path).read_text("utf-8")))
    try:
        trained = train_ranker(job, strategy)
        if any(map(divided_tables.is_divided, trained.model.variables)):
            complete(job, trained, strategy)
    except tf.errors.OpError as error:
        # Raised by the step that waits for the other workers.
        if "ollective" not in error.message:
            raise
        reason = " ".join(error.message.split())[:200]
        sys.exit(f"lost another worker: {reason}")


def _end_with_parent() -> None:
    """Ends this process, which may wait for others, when its parent ends."""
    os.read(sys.stdin.fileno(), 1)
    os._exit(1)


if __name__ == "__main__":
    main()
