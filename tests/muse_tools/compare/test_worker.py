"""Cells are trained once, by whoever is alive."""

import json
import os
import signal
import subprocess
import sys
import textwrap
import threading
import time

from muse_tools.compare import locks, progress, run, worker
from muse_tools.compare.plan import Plan, Task
from tests.muse_tools.compare import worlds

# Takes a cell's lock, says so, and never finishes.
HOLDER = """
import pathlib, sys, time
from muse_tools.compare import locks
with locks.locked(pathlib.Path(sys.argv[1])):
    print("held", flush=True)
    time.sleep(600)
"""
# Works on a plan; each cell notes who trained it.
WORKER = """
import os, pathlib, sys, time
from muse_tools.compare import worker
from muse_tools.compare.plan import Plan
made = Plan.load(pathlib.Path(sys.argv[1]))
def train(plan, task):
    with (plan.root / "trained.txt").open("a") as file:
        file.write(f"{task.key} {os.getpid()}\\n")
    time.sleep(0.1)
    plan.folder(task).mkdir(parents=True)
    (plan.folder(task) / "metrics.json").write_text("{}")
print("ready", flush=True)
sys.stdin.readline()
worker.work(made, train)
"""


def start(program, *arguments, stdin=None):
    return subprocess.Popen(
        [sys.executable, "-c", textwrap.dedent(program), *map(str, arguments)],
        stdout=subprocess.PIPE,
        stdin=stdin,
        text=True,
    )


def test_finished_cells_stay_and_the_others_are_trained(tmp_path):
    made = worlds.plan(tmp_path)
    worlds.write_cell(made, made.tasks[1])
    trained = []

    def train(plan: Plan, task: Task):
        trained.append(task.key)
        worlds.write_cell(plan, task)

    worker.work(made, train)
    assert trained == ["key-a", "key-c"]
    worker.work(made, train)
    assert trained == ["key-a", "key-c"]


def test_nothing_begins_when_nobody_wants_it_any_more(tmp_path):
    made = worlds.plan(tmp_path)
    worker.work(made, worlds.write_cell, lambda: not made.done(made.tasks[1]))
    assert [made.done(task) for task in made.tasks] == [True, True, False]


def test_a_failure_is_told_and_the_others_go_on(tmp_path):
    made = worlds.plan(tmp_path)

    def train(plan: Plan, task: Task):
        if task.key == "key-b":
            raise ValueError("no\nluck")
        worlds.write_cell(plan, task)

    worker.work(made, train)
    assert [made.done(task) for task in made.tasks] == [True, False, True]
    assert made.failed(made.tasks[1])
    assert worker.read_failure(made, made.tasks[1]) == "ValueError: no luck"
    details = json.loads(made.failure(made.tasks[1]).read_text())["details"]
    assert "Traceback" in details


def test_the_next_run_tries_a_failed_cell_again(tmp_path, monkeypatch):
    from muse_tools.compare import cell

    made = worlds.plan(tmp_path)
    worlds.write_cell(made, made.tasks[0])
    worker.record_failure(made, made.tasks[1], "no luck")
    trained = []

    def train(plan, task):
        trained.append(task.key)
        worlds.write_cell(plan, task)

    monkeypatch.setattr(cell, "run_cell", train)
    run.train_cells(made, lambda line: None, workers=0)
    assert trained == ["key-b", "key-c"]
    assert not made.failed(made.tasks[1])


def test_two_processes_share_a_plan(tmp_path):
    made = worlds.plan(tmp_path, "abcdefgh")
    made.save(tmp_path / "plan.json")
    processes = [
        start(WORKER, tmp_path / "plan.json", stdin=subprocess.PIPE)
        for _ in range(2)
    ]
    # Both are up before either begins.
    for process in processes:
        assert process.stdout.readline() == "ready\n"
    for process in processes:
        process.stdin.write("go\n")
        process.stdin.flush()
    assert [process.wait(60) for process in processes] == [0, 0]
    lines = (tmp_path / "trained.txt").read_text().split("\n")[:-1]
    keys = [line.split()[0] for line in lines]
    assert sorted(keys) == sorted(task.key for task in made.tasks)
    assert {line.split()[1] for line in lines} == {
        str(process.pid) for process in processes
    }


def test_the_cell_of_a_killed_process_is_trained_by_another(tmp_path):
    made = worlds.plan(tmp_path, "ab")
    holder = start(HOLDER, made.lock(made.tasks[0]))
    try:
        assert holder.stdout.readline() == "held\n"
        trained = []

        def train(plan: Plan, task: Task):
            trained.append(task.key)
            worlds.write_cell(plan, task)

        thread = threading.Thread(target=worker.work, args=(made, train))
        thread.start()
        while not made.done(made.tasks[1]):
            time.sleep(0.01)
        # The first is another's, and not given up.
        assert thread.is_alive()
        assert not made.done(made.tasks[0])
        os.kill(holder.pid, signal.SIGKILL)
        thread.join(30)
        assert not thread.is_alive()
        assert trained == ["key-b", "key-a"]
    finally:
        holder.kill()
        holder.wait()


def test_a_worker_that_dies_fails_its_cell(tmp_path):
    made = worlds.plan(tmp_path)
    worlds.write_cell(made, made.tasks[0])
    holder = start(HOLDER, made.lock(made.tasks[1]))
    assert holder.stdout.readline() == "held\n"
    holder.kill()
    holder.wait()
    assert run._blame(made, holder)
    assert "ended with -9" in worker.read_failure(made, made.tasks[1])
    assert not made.failed(made.tasks[2])
    # Nothing else was its.
    assert not run._blame(made, holder)


# As WORKER, at once; one of the cells kills whoever trains it.
FATAL = """
import os, pathlib, signal, sys
from muse_tools.compare import worker
from muse_tools.compare.plan import Plan
def train(plan, task):
    if task.key == "key-b":
        os.kill(os.getpid(), signal.SIGKILL)
    plan.folder(task).mkdir(parents=True)
    (plan.folder(task) / "metrics.json").write_text("{}")
worker.work(Plan.load(pathlib.Path(sys.argv[1])), train)
"""


def test_a_cell_that_kills_its_worker_does_not_stop_the_others(
    tmp_path, monkeypatch
):
    made = worlds.plan(tmp_path, "abcd")
    monkeypatch.setattr(
        run,
        "_worker_command",
        lambda path: [sys.executable, "-c", FATAL, str(path)],
    )
    lines = []
    run.train_cells(made, lines.append, workers=1)
    assert [made.done(task) for task in made.tasks] == [True, False, True, True]
    assert "ended with -9" in worker.read_failure(made, made.tasks[1])
    assert any("cell b: failed" in line for line in lines)


# As WORKER, at once; ends after two cells.
SHORT_LIVED = """
import os, pathlib, sys
from muse_tools.compare import worker
from muse_tools.compare.plan import Plan
def train(plan, task):
    with (plan.root / "trained.txt").open("a") as file:
        file.write(f"{os.getpid()}\\n")
    plan.folder(task).mkdir(parents=True)
    (plan.folder(task) / "metrics.json").write_text("{}")
worker.work(Plan.load(pathlib.Path(sys.argv[1])), train, most=2)
"""


def test_a_process_that_has_trained_enough_is_replaced(tmp_path, monkeypatch):
    made = worlds.plan(tmp_path, "abcde")
    monkeypatch.setattr(
        run,
        "_worker_command",
        lambda path: [sys.executable, "-c", SHORT_LIVED, str(path)],
    )
    run.train_cells(made, lambda line: None, workers=1)
    assert all(made.done(task) for task in made.tasks)
    processes = (made.root / "trained.txt").read_text().split()
    counts = [processes.count(process) for process in dict.fromkeys(processes)]
    assert counts == [2, 2, 1]


def test_a_lock_has_one_holder(tmp_path):
    path = tmp_path / "locks" / "one"
    with locks.try_lock(path) as first, locks.try_lock(path) as second:
        assert (first, second) == (True, False)
    with locks.try_lock(path) as again:
        assert again
        assert path.read_text() == str(os.getpid())


def test_progress_tells_what_ended_and_how_long_the_rest_takes(tmp_path):
    made = worlds.plan(tmp_path, "abcde")
    worlds.write_cell(made, made.tasks[0])
    now = [100.0]
    tracker = progress.Tracker(made, lambda: now[0])
    assert (tracker.ended, tracker.total) == (1, 5)
    assert tracker.left() == "time left unknown"
    assert tracker.look() == []
    now[0] += 60
    worlds.write_cell(made, made.tasks[3])
    worker.record_failure(made, made.tasks[2], "no luck")
    assert tracker.look() == ["cell c: failed", "cell d: done"]
    assert tracker.look() == []
    # Two in 60 s, two are left; what was there before says nothing.
    assert tracker.seconds_left() == 60
    assert tracker.left() == "about 60 s left"
