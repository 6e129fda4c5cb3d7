"""Saves tables whose rows are divided among workers, and reads them again.

Each worker writes its rows; TensorFlow merges the files without reading them.
Any number of workers, or one process, then reads the rows that it holds, block
by block.
"""

from __future__ import annotations

import pathlib
import shutil
from collections.abc import Callable, Mapping

import keras
import tensorflow as tf

from muse_keras._ops.rows import table_rows
from muse_keras.tables import row_files
from muse_keras.tables.row_gather import assign_blocks
from muse_keras.tables.row_shards import holders

_NAME = "tables-{}"
_TRAINED = "trained"


def is_divided(variable: keras.Variable) -> bool:
    """Returns whether a variable holds only some rows of a table."""
    return getattr(variable, "row_shards", None) is not None


def save(
    directory: pathlib.Path,
    step: int | str,
    tables: Mapping[str, keras.Variable],
    worker: int,
    count: int,
    wait: Callable[[], object],
) -> None:
    """Saves tables after a step; all workers call this.

    ``wait`` returns when all workers have called it, which each does twice.
    When this returns on worker 0, the tables are complete.
    """
    name = _NAME.format(step)
    parts = directory / f"{name}.parts"
    if worker == 0:
        # A killed save of other workers may have left files.
        shutil.rmtree(parts, ignore_errors=True)
        parts.mkdir(parents=True)
    wait()
    row_files.write(
        str(parts / str(worker)),
        (
            row_files.Column(table, shards, shard, part)
            for table, variable in tables.items()
            for shard, shards, part in holders(variable)
        ),
    )
    wait()
    if worker == 0:
        prefixes = [str(parts / str(i)) for i in range(count)]
        row_files.merge(prefixes, str(directory / name))
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


def saved(directory: pathlib.Path, step: int) -> set[str]:
    """Returns the names of the tables of a step."""
    prefix = directory / _NAME.format(step)
    if not prefix.with_name(f"{prefix.name}.index").exists():
        return set()
    names = tf.train.load_checkpoint(str(prefix)).get_variable_to_shape_map()
    return set(names)


def restore(
    directory: pathlib.Path, step: int, name: str, variable: keras.Variable
) -> None:
    """Reads the rows that a variable holds, divided, whole or none."""
    assign_blocks(variable, _stored(directory, step, name, variable))


def save_trained(
    directory: pathlib.Path,
    model: keras.Model,
    worker: int,
    count: int,
    wait: Callable[[], object],
) -> None:
    """Saves the trained tables that are divided, for their export."""
    save(directory, _TRAINED, _trained(model), worker, count, wait)


def trained(
    directory: pathlib.Path, model: keras.Model
) -> dict[str, row_files.StoredRows]:
    """Returns the rows that `save_trained` saved, by their variables' paths.

    ``model`` may be that of another process, which holds none of them.
    """
    return {
        variable.path: _stored(directory, _TRAINED, name, variable)
        for name, variable in _trained(model).items()
    }


def _trained(model: keras.Model) -> dict[str, keras.Variable]:
    """Returns divided tables by names that are equal in all processes."""
    return {
        str(place): variable
        for place, variable in enumerate(model.trainable_variables)
        if is_divided(variable)
    }


def _stored(
    directory: pathlib.Path,
    step: int | str,
    name: str,
    variable: keras.Variable,
) -> row_files.StoredRows:
    prefix = str(directory / _NAME.format(step))
    return row_files.StoredRows(prefix, name, table_rows(variable))
