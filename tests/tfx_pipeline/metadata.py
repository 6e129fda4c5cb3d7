"""What ML Metadata says, asked without the code under test."""

from __future__ import annotations

import contextlib
import sqlite3

# ml_metadata.proto.Execution.State
_STATES = {1: "NEW", 2: "RUNNING", 3: "COMPLETE", 4: "FAILED", 5: "CACHED"}

_EXECUTIONS = """
    SELECT Execution.id, Context.name, Execution.last_known_state
    FROM Execution
    JOIN Association ON Association.execution_id = Execution.id
    JOIN Context ON Context.id = Association.context_id
    JOIN Type ON Type.id = Context.type_id
    WHERE Type.name = 'node' AND Execution.id > ?
    ORDER BY Execution.id
"""


def executions(path, after: int = 0) -> list[tuple[int, str, str]]:
    """Returns (id, component, state) of every execution after one."""
    if not path.exists():
        return []
    with contextlib.closing(
        sqlite3.connect(f"file:{path}?mode=ro", uri=True)
    ) as database:
        rows = database.execute(_EXECUTIONS, (after,)).fetchall()
    return [
        (number, name.rpartition(".")[2], _STATES[state])
        for number, name, state in rows
    ]


def last_execution(path) -> int:
    """Returns the id of the newest execution, 0 without any."""
    return max((number for number, _, _ in executions(path)), default=0)


def states(path, after: int = 0) -> dict[str, str]:
    """Returns the state of each component; fails if one ran twice."""
    rows = executions(path, after)
    found = {name: state for _, name, state in rows}
    assert len(found) == len(rows), f"a component ran twice: {rows}"
    return found
