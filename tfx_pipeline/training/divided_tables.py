"""Saves tables whose rows are divided among workers, and reads them again.

Each worker writes its rows; TensorFlow merges the files without reading them.
A table is saved as a tensor (P, R, dim), of which shard s is the slice [:, s]:
its rows are in their order, so that any number of workers, or one process,
reads the rows that it holds, block by block.
"""

from __future__ import annotations

import pathlib
import shutil
from collections.abc import Callable, Mapping

import keras
import tensorflow as tf

from muse_keras.tables.array_blocks import blocks
from muse_keras.tables.row_shards import local_shards, write_rows

_NAME = "tables-{}"


def is_divided(variable: keras.Variable) -> bool:
    """Returns whether a variable holds only some rows of a table."""
    return getattr(variable, "row_shards", None) is not None


def save(
    directory: pathlib.Path,
    step: int,
    tables: Mapping[str, keras.Variable],
    worker: int,
    count: int,
    wait: Callable[[], object],
) -> None:
    """Saves tables after a step; all workers call this.

    ``wait`` returns when all workers have called it. When this returns on
    worker 0, the tables are complete.
    """
    parts = directory / f"{_NAME.format(step)}.parts"
    names, slices, values = [], [], []
    for name, variable in tables.items():
        rows, dim = variable.shape
        shards = variable.row_shards.total
        for shard, part in local_shards(variable).items():
            names.append(name)
            slices.append(f"{rows} {shards} {dim} -:{shard},1:-")
            values.append(tf.reshape(part, [rows, 1, dim]))
    parts.mkdir(parents=True, exist_ok=True)
    tf.raw_ops.SaveV2(
        prefix=str(parts / str(worker)),
        tensor_names=names,
        shape_and_slices=slices,
        tensors=values,
    )
    wait()
    if worker == 0:
        tf.raw_ops.MergeV2Checkpoints(
            checkpoint_prefixes=[str(parts / str(i)) for i in range(count)],
            destination_prefix=str(directory / _NAME.format(step)),
            delete_old_dirs=False,
        )
        shutil.rmtree(parts)


def remove_others(directory: pathlib.Path, step: int) -> None:
    """Removes the tables of other steps, and what a killed save has left."""
    for path in directory.glob(_NAME.format("*")):
        if path.name.partition(".")[0] == _NAME.format(step):
            continue
        if path.is_dir():
            shutil.rmtree(path)
        else:
            path.unlink()


def saved(directory: pathlib.Path, step: int) -> dict[str, list[int]]:
    """Returns the names of the tables of a step, with their shapes."""
    prefix = directory / _NAME.format(step)
    if not prefix.with_name(f"{prefix.name}.index").exists():
        return {}
    return tf.train.load_checkpoint(str(prefix)).get_variable_to_shape_map()


def restore(
    directory: pathlib.Path,
    step: int,
    name: str,
    shape: list[int],
    variable: keras.Variable,
) -> None:
    """Reads the rows that a variable holds, divided or whole."""
    places, shards, dim = shape
    size = (
        variable.row_shards.rows if is_divided(variable) else variable.shape[0]
    )
    for block in blocks(places):
        length = block.stop - block.start
        (values,) = tf.raw_ops.RestoreV2(
            prefix=str(directory / _NAME.format(step)),
            tensor_names=[name],
            shape_and_slices=[
                f"{places} {shards} {dim} {block.start},{length}:-:-"
            ],
            dtypes=[variable.dtype],
        )
        values = tf.reshape(values, [length * shards, dim])
        start = block.start * shards
        write_rows(variable, start, values[: size - start])
