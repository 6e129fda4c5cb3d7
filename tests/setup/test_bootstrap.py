"""What the set-up does on machines that lack something.

The script runs as a process, in a copy of the part of the project that it
reads, with a PATH that holds only what the test puts there. uv and pip are
small programs that do what theirs do to the file system, so that no test needs
a network.
"""

import os
import pathlib
import shutil
import stat
import subprocess
import sys
import textwrap
import time

import pytest

ROOT = pathlib.Path(__file__).resolve().parents[2]

BROKEN_SHIM = """\
#!/bin/sh
echo "pyenv: $(basename "$0"): command not found" >&2
exit 127
"""

# Says that it is Python 3.10, in the two lines that the script asks for.
GOOD_PYTHON = """\
#!/bin/sh
case "$*" in
  *_base_executable*) printf '3.10\\n%s\\n' "$0" ;;
  *version_info*) echo 3.10 ;;
esac
"""

# Notes its arguments. `venv` makes the folder, everything else succeeds,
# unless the file `fail` names the sub-command.
UV = """\
#!/bin/sh
[ "$1" = --version ] && {{ echo "uv 0.13.8"; exit 0; }}
echo "$*" >> {calls}
if [ -f {fail} ] && [ "$1 $2" = "$(cat {fail})" ]; then
  echo "error: Failed to fetch: https://example.invalid/ (dns error)" >&2
  exit 2
fi
if [ "$1" = venv ]; then
  for last; do :; done
  mkdir -p "$last/bin"
  cp {python} "$last/bin/python"
fi
exit 0
"""


def write_program(path: pathlib.Path, text: str) -> pathlib.Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(text)
    path.chmod(path.stat().st_mode | stat.S_IXUSR)
    return path


class Machine:
    """A pretended machine: its PATH, its home and a copy of the project."""

    def __init__(self, folder: pathlib.Path):
        self.folder = folder
        self.project = folder / "project"
        self.bin = folder / "bin"
        self.calls_file = folder / "uv-calls"
        self.fail_file = folder / "fail"
        for name in ("scripts", "requirements"):
            shutil.copytree(ROOT / name, self.project / name)
        shutil.copy(ROOT / "setup.py", self.project / "setup.py")
        self.bin.mkdir()
        # Stands in for the compiler that stack A needs.
        write_program(self.bin / "c++", "#!/bin/sh\n")
        for tool in ("sh", "basename", "cat", "cp", "mkdir", "dirname"):
            (self.bin / tool).symlink_to(shutil.which(tool))
        self.environment = {
            "PATH": str(self.bin),
            "HOME": str(folder / "home"),
            "STACK": "a",
            "MUSE_MIN_FREE_GB": "0.001",
        }

    def add_python(self, path: pathlib.Path | None = None) -> pathlib.Path:
        return write_program(path or self.bin / "python3.10", GOOD_PYTHON)

    def add_uv(self) -> None:
        python = write_program(self.folder / "template", GOOD_PYTHON)
        text = UV.format(
            calls=self.calls_file, fail=self.fail_file, python=python
        )
        write_program(self.bin / "uv", text)

    def calls(self) -> list[str]:
        if not self.calls_file.exists():
            return []
        return self.calls_file.read_text().splitlines()

    def forget_calls(self) -> None:
        self.calls_file.unlink(missing_ok=True)

    def run(self, *arguments: str, **environment: str) -> tuple[int, str]:
        """Runs the set-up.

        Returns:
            Exit status and everything printed.
        """
        done = subprocess.run(
            [sys.executable, "scripts/bootstrap.py", *arguments],
            cwd=self.project,
            env={**self.environment, **environment},
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            timeout=60,
        )
        return done.returncode, done.stdout


@pytest.fixture
def machine(tmp_path):
    return Machine(tmp_path)


def errors(output: str) -> list[str]:
    return [line for line in output.splitlines() if "error:" in line]


def test_python_on_path_comes_first(machine):
    machine.add_uv()
    machine.add_python()
    machine.add_python(machine.folder / "pyenv/versions/3.10.9/bin/python")
    code, output = machine.run(PYENV_ROOT=str(machine.folder / "pyenv"))
    assert code == 0, output
    assert f"Python 3.10: {machine.bin}/python3.10" in output


def test_broken_shim_falls_back_to_pyenv_root(machine):
    machine.add_uv()
    write_program(machine.bin / "python3.10", BROKEN_SHIM)
    good = machine.add_python(
        machine.folder / "elsewhere/versions/3.10.13/bin/python"
    )
    code, output = machine.run(PYENV_ROOT=str(machine.folder / "elsewhere"))
    assert code == 0, output
    assert f"Python 3.10: {good}" in output
    assert not [call for call in machine.calls() if "python install" in call]


def test_root_from_the_pyenv_command(machine):
    machine.add_uv()
    good = machine.add_python(machine.folder / "r/versions/3.10.2/bin/python")
    write_program(
        machine.bin / "pyenv", f"#!/bin/sh\necho {machine.folder}/r\n"
    )
    code, output = machine.run()
    assert code == 0, output
    assert f"Python 3.10: {good}" in output


def test_a_shim_later_on_path_does_not_hide_a_good_python(machine):
    machine.add_uv()
    shims = machine.folder / "shims"
    write_program(shims / "python3.10", BROKEN_SHIM)
    good = machine.add_python()
    code, output = machine.run(PATH=f"{shims}{os.pathsep}{machine.bin}")
    assert code == 0, output
    assert f"Python 3.10: {good}" in output


def test_no_python_and_no_network_is_one_clear_line(machine):
    machine.add_uv()
    machine.fail_file.write_text("python install")
    code, output = machine.run()
    assert code == 1
    (line,) = errors(output)
    assert "no Python 3.10 on PATH or under pyenv" in line
    assert "connect to the network" in line
    assert "Traceback" not in output
    assert "python install 3.10" in machine.calls()


def test_too_little_disk_stops_before_anything_is_installed(machine):
    machine.add_uv()
    machine.add_python()
    code, output = machine.run(MUSE_MIN_FREE_GB="1e9")
    assert code == 1
    (line,) = errors(output)
    assert "too little disk" in line
    assert "1e+09 GB needed" in line
    assert machine.calls() == []
    assert not (machine.project / ".venv").exists()


def test_missing_compiler_is_named(machine):
    machine.add_uv()
    machine.add_python()
    (machine.bin / "c++").unlink()
    code, output = machine.run()
    assert code == 1
    (line,) = errors(output)
    assert "C++ compiler" in line
    assert machine.calls() == []


def test_installs_from_the_hashed_lock_then_does_nothing(machine):
    machine.add_uv()
    machine.add_python()
    assert machine.run()[0] == 0
    (sync,) = [call for call in machine.calls() if " sync " in call]
    assert "--require-hashes" in sync
    assert "requirements/stack-a.lock" in sync
    (project,) = [call for call in machine.calls() if "--editable" in call]
    assert "--no-deps" in project
    assert "--no-build-isolation" in project

    machine.forget_calls()
    code, output = machine.run()
    assert code == 0
    assert "is ready" in output
    assert machine.calls() == []


@pytest.mark.parametrize(
    "changed", ["requirements/stack-a.lock", "setup.py", "requirements/dev.in"]
)
def test_changed_inputs_are_installed_again(machine, changed):
    machine.add_uv()
    machine.add_python()
    assert machine.run()[0] == 0
    machine.forget_calls()
    with open(machine.project / changed, "a") as stream:
        stream.write("# changed\n")
    assert machine.run()[0] == 0
    assert [call for call in machine.calls() if " sync " in call]


def test_interrupted_install_is_taken_up_again(machine):
    machine.add_uv()
    machine.add_python()
    machine.fail_file.write_text("pip sync")
    code, output = machine.run()
    assert code == 1
    (line,) = errors(output)
    assert "Failed to fetch" in line
    assert "no network?" in line
    assert "logs/setup.log" in line
    assert "Failed to fetch" in (machine.project / "logs/setup.log").read_text()

    machine.fail_file.unlink()
    machine.forget_calls()
    code, output = machine.run()
    assert code == 0, output
    assert [call for call in machine.calls() if " sync " in call]
    code, output = machine.run()
    assert "is ready" in output.splitlines()[0]


def test_terminated_set_up_stops_its_child_and_is_taken_up_again(machine):
    machine.add_uv()
    machine.add_python()
    uv = machine.bin / "uv"
    good = uv.read_text()
    child = machine.folder / "child"
    (machine.bin / "sleep").symlink_to(shutil.which("sleep"))
    uv.write_text(
        good.removesuffix("exit 0\n")
        + f'[ "$2" = sync ] || exit 0\necho $$ > {child}\nexec sleep 60\n'
    )
    process = subprocess.Popen(
        [sys.executable, "scripts/bootstrap.py"],
        cwd=machine.project,
        env=machine.environment,
        stdin=subprocess.DEVNULL,
        stderr=subprocess.PIPE,
        stdout=subprocess.DEVNULL,
        text=True,
    )
    deadline = time.monotonic() + 30
    while not (child.exists() and child.read_text().strip()):
        assert time.monotonic() < deadline
        time.sleep(0.05)
    process.terminate()
    _, output = process.communicate(timeout=30)
    assert process.returncode == 130
    assert "interrupted; run again to resume" in output
    with pytest.raises(ProcessLookupError):
        os.kill(int(child.read_text()), 0)

    uv.write_text(good)
    machine.forget_calls()
    code, output = machine.run()
    assert code == 0, output
    assert [call for call in machine.calls() if " sync " in call]


def test_failed_second_install_is_not_taken_for_the_finished_first(machine):
    machine.add_uv()
    machine.add_python()
    assert machine.run()[0] == 0
    lock = machine.project / "requirements/stack-a.lock"
    before = lock.read_text()
    lock.write_text(before + "# changed\n")
    machine.fail_file.write_text("pip sync")
    assert machine.run()[0] == 1
    # Back to the first lock: what is installed now is unknown.
    lock.write_text(before)
    machine.fail_file.unlink()
    machine.forget_calls()
    assert machine.run()[0] == 0
    assert [call for call in machine.calls() if " sync " in call]


def test_environment_whose_python_went_away_is_made_again(machine):
    machine.add_uv()
    machine.add_python()
    assert machine.run()[0] == 0
    (machine.project / ".venv/bin/python").unlink()
    (machine.project / ".venv/lib").mkdir()
    (machine.project / ".venv/lib/old").write_text("")
    machine.forget_calls()
    assert machine.run()[0] == 0
    assert [call for call in machine.calls() if call.startswith("venv")]
    assert not (machine.project / ".venv/lib").exists()


def test_somebody_elses_folder_is_left_alone(machine):
    machine.add_uv()
    machine.add_python()
    precious = machine.project / ".venv" / "precious"
    precious.parent.mkdir()
    precious.write_text("keep")
    code, output = machine.run()
    assert code == 1
    assert "was not made by this set-up" in errors(output)[0]
    assert precious.read_text() == "keep"
    assert machine.calls() == []


def test_venv_variable_moves_the_environment(machine):
    machine.add_uv()
    machine.add_python()
    elsewhere = machine.folder / "elsewhere"
    code, output = machine.run(VENV=str(elsewhere))
    assert code == 0, output
    assert (elsewhere / "bin" / "python").exists()
    assert not (machine.project / ".venv").exists()


def test_works_without_a_home(machine):
    machine.add_uv()
    machine.add_python()
    del machine.environment["HOME"]
    code, output = machine.run()
    assert code == 0, output


def test_unknown_stack_is_refused(machine):
    code, output = machine.run(STACK="c")
    assert code == 1
    assert "STACK must be a or b. Received: 'c'." in errors(output)[0]


def test_skipping_torch_is_visible_and_installs_no_torch(machine):
    machine.add_uv()
    machine.add_python()
    code, output = machine.run("--backends", MUSE_SKIP_TORCH="1")
    assert code == 0, output
    assert "PyTorch is left out (MUSE_SKIP_TORCH)" in output
    log = (machine.project / "logs/setup.log").read_text()
    assert "torch==" not in log
    (install,) = [call for call in machine.calls() if "backends.lock" in call]
    assert "--require-hashes" in install


def test_start_script_passes_by_a_broken_python3(machine):
    write_program(machine.bin / "python3", BROKEN_SHIM)
    (machine.bin / "python3.13").symlink_to(sys.executable)
    done = subprocess.run(
        ["sh", "scripts/bootstrap", "--help"],
        cwd=machine.project,
        env=machine.environment,
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        timeout=60,
    )
    assert done.returncode == 0, done.stderr
    assert "virtual environment" in done.stdout


@pytest.mark.parametrize(
    ("glibc", "machine_name", "expected"),
    [
        ((2, 36), "x86_64", "a"),
        ((2, 38), "x86_64", "a"),
        ((2, 39), "x86_64", "b"),
        ((2, 41), "x86_64", "b"),
        ((3, 0), "x86_64", "b"),
        (None, "x86_64", "error"),
        ((2, 36), "aarch64", "error"),
    ],
)
def test_stack_is_chosen_by_the_c_library(glibc, machine_name, expected):
    program = textwrap.dedent(
        f"""
        import bootstrap
        try:
            print(bootstrap.choose_stack("", {glibc!r}, {machine_name!r}))
        except bootstrap.SetupError:
            print("error")
        """
    )
    output = subprocess.check_output(
        [sys.executable, "-c", program],
        env={**os.environ, "PYTHONPATH": str(ROOT / "scripts")},
        text=True,
    )
    assert output.strip() == expected
