"""Every cell is trained once, whatever dies meanwhile."""

import json
import os
import signal
import subprocess
import sys
import threading
import time

import cloudpickle
import pytest

from muse_tools.compare import progress, training
from muse_tools.compare.plan import Plan, Task
from serving import files
from tests.muse_tools.compare import worlds

# A worker cannot import the tests: other packages have a folder of that name.
cloudpickle.register_pickle_by_value(sys.modules[__name__])

# Takes a cell's lock, says so, and never finishes.
HOLDER = """
import pathlib, sys, time
from serving import files
with files.locked(pathlib.Path(sys.argv[1])):
    print("held", flush=True)
    time.sleep(600)
"""
# Trains a plan as the command does, in two workers.
COMMAND = """
import pathlib, signal, sys
# A job in the background of a shell ignores it.
signal.signal(signal.SIGINT, signal.default_int_handler)
from muse_tools.compare import training
from tests.muse_tools.compare import test_training, worlds

made = worlds.plan(pathlib.Path(sys.argv[1]), sys.argv[2])
train = getattr(test_training, sys.argv[3])
print("ready", flush=True)
sys.stdin.readline()
training.train_cells(made, lambda line: None, 2, train)
"""


def start(program, *arguments):
    process = subprocess.Popen(
        [sys.executable, "-c", program, *map(str, arguments)],
        stdout=subprocess.PIPE,
        stdin=subprocess.PIPE,
        text=True,
    )
    assert process.stdout.readline() in ("held\n", "ready\n")
    return process


def begin(plan: Plan, task: Task):
    """Notes the process that trains a cell, and what `run_cell` does first."""
    with (plan.root / "trained.txt").open("a") as file:
        file.write(f"{task.key} {os.getpid()}\n")
    (plan.root / "cells" / f".{task.key}.{os.getpid()}").mkdir(parents=True)


def finish(plan: Plan, task: Task):
    """Lets the folder appear, as `run_cell` does."""
    for working in plan.leftovers(task):
        working.rename(plan.folder(task))
    plan.folder(task).mkdir(parents=True, exist_ok=True)
    (plan.folder(task) / "metrics.json").write_text("{}")


def trained(plan: Plan):
    """Gives the keys and the processes of `begin`."""
    lines = (plan.root / "trained.txt").read_text().split("\n")[:-1]
    return [tuple(line.split()) for line in lines]


def quick(plan: Plan, task: Task):
    begin(plan, task)
    time.sleep(0.1)
    finish(plan, task)


def fatal(plan: Plan, task: Task):
    """One of the cells kills the process that trains it."""
    begin(plan, task)
    if task.key == "key-b":
        os.kill(os.getpid(), signal.SIGKILL)
    finish(plan, task)


def slow(plan: Plan, task: Task):
    begin(plan, task)
    time.sleep(600)


def environment(plan: Plan, task: Task):
    begin(plan, task)
    print("a word on standard output", flush=True)  # noqa: T201
    assert os.environ["KERAS_BACKEND"] == "tensorflow"
    assert int(os.environ["TF_NUM_INTRAOP_THREADS"]) >= 1
    assert "tensorflow" not in sys.modules
    finish(plan, task)


def unlucky(plan: Plan, task: Task):
    if task.key == "key-b":
        raise ValueError("no\nluck")
    finish(plan, task)


@pytest.mark.parametrize("workers", [0, 2])
def test_finished_cells_stay_and_the_others_are_trained(tmp_path, workers):
    made = worlds.plan(tmp_path)
    finish(made, made.tasks[1])
    lines = []
    for _ in range(2):
        training.train_cells(made, lines.append, workers, quick)
        assert sorted(key for key, _ in trained(made)) == ["key-a", "key-c"]
    assert lines[0] == "3 cells, 1 finished before, 2 to train"
    assert lines[-1] == "3 cells, 3 finished before, 0 to train"
    if workers == 0:
        assert "cell 2 of 3, cell a: done" in lines[1]


def test_workers_have_an_environment_and_a_log(tmp_path, capfd):
    made = worlds.plan(tmp_path, "a")
    training.train_cells(made, lambda line: None, 1, environment)
    assert made.done(made.tasks[0]), training.read_failure(made, made.tasks[0])
    (log,) = (tmp_path / "logs").iterdir()
    assert "a word on standard output" in log.read_text()
    assert capfd.readouterr().out == ""


@pytest.mark.parametrize("workers", [0, 1])
def test_a_failure_is_told_and_tried_again_by_the_next_run(tmp_path, workers):
    made = worlds.plan(tmp_path)
    training.train_cells(made, lambda line: None, workers, unlucky)
    assert [made.done(task) for task in made.tasks] == [True, False, True]
    failed = made.tasks[1]
    assert training.read_failure(made, failed) == "ValueError: no luck"
    details = json.loads(made.failure(failed).read_text())["details"]
    assert "Traceback" in details
    training.train_cells(made, lambda line: None, workers, quick)
    assert made.done(failed) and not made.failure(failed).exists()


def test_two_commands_share_a_plan(tmp_path):
    made = worlds.plan(tmp_path, "abcdefgh")
    commands = [start(COMMAND, tmp_path, "abcdefgh", "quick") for _ in range(2)]
    for command in commands:
        command.stdin.write("go\n")
        command.stdin.flush()
    assert [command.wait(60) for command in commands] == [0, 0]
    found = trained(made)
    assert sorted(key for key, _ in found) == [t.key for t in made.tasks]
    assert len({process for _, process in found}) > 1
    assert not list(tmp_path.glob("cells/.*"))


def test_the_cell_of_a_killed_command_is_trained_by_another(tmp_path):
    made = worlds.plan(tmp_path, "ab")
    holder = start(HOLDER, made.lock(made.tasks[0]))
    try:
        thread = threading.Thread(
            target=training.train_cells,
            args=(made, lambda line: None, 0, quick),
        )
        thread.start()
        while not made.done(made.tasks[1]):
            time.sleep(0.01)
        # The first is another's, and is waited for.
        assert thread.is_alive()
        assert not made.done(made.tasks[0])
        os.kill(holder.pid, signal.SIGKILL)
        thread.join(30)
        assert not thread.is_alive()
        assert [key for key, _ in trained(made)] == ["key-b", "key-a"]
    finally:
        holder.kill()
        holder.wait()


@pytest.mark.parametrize("workers", [1, 2])
def test_a_cell_that_kills_its_process_does_not_stop_the_others(
    tmp_path, workers
):
    made = worlds.plan(tmp_path, "abcd")
    lines = []
    training.train_cells(made, lines.append, workers, fatal)
    assert [made.done(task) for task in made.tasks] == [True, False, True, True]
    assert "SIGKILL" in training.read_failure(made, made.tasks[1])
    assert any("cell b: failed" in line for line in lines)
    # The others were not trained again once finished.
    keys = [key for key, _ in trained(made)]
    assert keys.count("key-b") == 2 and keys.count("key-d") == 1


def alive(process):
    try:
        os.kill(int(process), 0)
    except ProcessLookupError:
        return False
    with open(f"/proc/{process}/stat") as file:
        return file.read().rpartition(")")[2].split()[0] != "Z"


def test_an_interrupt_ends_the_workers_and_the_rest_goes_on_later(tmp_path):
    made = worlds.plan(tmp_path, "abcd")
    command = start(COMMAND, tmp_path, "abcd", "slow")
    command.stdin.write("go\n")
    command.stdin.flush()
    while not (tmp_path / "trained.txt").exists() or len(trained(made)) < 2:
        time.sleep(0.05)
    command.send_signal(signal.SIGINT)
    assert command.wait(60) != 0
    while any(alive(process) for _, process in trained(made)):
        time.sleep(0.05)
    assert all(map(made.open, made.tasks))
    training.train_cells(made, lambda line: None, 0, quick)
    assert all(map(made.done, made.tasks))
    assert not any(map(made.leftovers, made.tasks[:1]))


def test_a_lock_has_one_holder(tmp_path):
    path = tmp_path / "locks" / "one"
    with (
        files.locked(path, wait=False) as first,
        files.locked(path, wait=False) as second,
    ):
        assert (first, second) == (True, False)
    with files.locked(path, wait=False) as again:
        assert again


def test_time_left_is_that_of_the_pace_so_far():
    assert progress.time_left(60, 0, 4) == "time left unknown"
    assert progress.time_left(60, 2, 2) == "about 60 s left"
    assert progress.time_left(600, 2, 3) == "about 15 min left"
