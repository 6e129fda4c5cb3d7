"""Makes this checkout's virtual environment from a hashed lock file.

Run through `scripts/bootstrap`, which finds a Python for it. Standard library
only, Python 3.8 or later. Steps, each skipped when its result is there:

1. choose the stack by the C library (A: Python 3.10, B: Python 3.11 to 3.13);
2. find that Python on PATH, then under pyenv, then let uv download it;
3. get uv, into `.cache`, where the machine has none;
4. make the virtual environment, install the locked packages and the project.

A stamp inside the environment says what it was made from. It reads "unfinished"
until all is done, so an interrupted set-up is taken up again and a finished one
costs a few milliseconds. A folder without the stamp is never changed.

Environment variables:
    VENV: folder of the environment, default `.venv` (`.venv-backends` with
        `--backends`, `.cache/engines` with `--engines`).
    STACK: `a` or `b`, instead of the choice by the C library.
    MUSE_SKIP_TORCH: `1` leaves PyTorch out of the backends' environment.
    MUSE_MIN_FREE_GB: free disk space asked for before installing.
"""

import argparse
import contextlib
import fcntl
import glob
import hashlib
import os
import pathlib
import platform
import re
import shutil
import signal
import subprocess
import sys
import tempfile
import threading
import time
from typing import Dict, Iterator, List, NamedTuple, Optional, Sequence, Tuple

ROOT = pathlib.Path(__file__).resolve().parent.parent
CACHE = ROOT / ".cache"
LOGS = ROOT / "logs"
STAMP = "muse-setup.stamp"
TORCH = "torch==2.13.0"
MIN_UV = (0, 5)
HEARTBEAT_SECONDS = 15

NETWORK_TROUBLE = re.compile(
    r"dns|resolve|connect|network|timed? ?out|unreachable|fetch|download|"
    r"No matching distribution",
    re.IGNORECASE,
)


class SetupError(Exception):
    """Something the user can mend; the message is one line that says how."""


class Environment(NamedTuple):
    """What one virtual environment is made of.

    Attributes:
        title: name for the progress lines.
        pythons: Python versions that fit, best first.
        lock: path of the hashed lock file.
        editable: whether the project itself is installed too.
        torch: whether PyTorch is added by pip; None: never.
        gigabytes: free disk space that installing needs.
    """

    title: str
    pythons: Tuple[str, ...]
    lock: pathlib.Path
    editable: bool
    torch: Optional[bool]
    gigabytes: float


def say(text: str) -> None:
    """Prints one progress line."""
    print(f"setup: {text}", flush=True)


# --- Which environment ------------------------------------------------------


def glibc_version() -> Optional[Tuple[int, int]]:
    """Version of the GNU C library, None where there is another one."""
    try:
        name, version = (os.confstr("CS_GNU_LIBC_VERSION") or "").split()
        major, minor = version.split(".")[:2]
    except (ValueError, OSError, AttributeError):
        return None
    return (int(major), int(minor)) if name == "glibc" else None


def choose_stack(
    override: str, glibc: Optional[Tuple[int, int]], machine: str
) -> str:
    """Chooses stack `a` or `b`.

    Args:
        override: `a`, `b` or empty.
        glibc: version of the GNU C library or None.
        machine: processor architecture as `platform.machine()` names it.

    Raises:
        SetupError: where neither stack has wheels, or `override` is neither.
    """
    if override:
        if override.lower() not in ("a", "b"):
            raise SetupError(f"STACK must be a or b. Received: {override!r}.")
        return override.lower()
    if glibc is None or machine not in ("x86_64", "AMD64"):
        raise SetupError(
            "the TFX stacks exist for Linux with glibc on x86-64 only; here, "
            "install the layers alone: pip install ./muse_keras"
        )
    return "a" if glibc < (2, 39) else "b"


def main_environment(stack: str) -> Environment:
    """The environment of the pipeline, the server and the tests."""
    return Environment(
        title=f"stack {stack.upper()}",
        pythons=("3.10",) if stack == "a" else ("3.12", "3.13", "3.11"),
        lock=ROOT / "requirements" / f"stack-{stack}.lock",
        editable=True,
        torch=False,
        gigabytes=5.0,
    )


def backends_environment(torch: bool) -> Environment:
    """The environment without TensorFlow, for JAX and PyTorch."""
    return Environment(
        title="backends" if torch else "backends without PyTorch",
        pythons=("3.11", "3.12", "3.13", "3.10"),
        lock=ROOT / "requirements" / "backends.lock",
        editable=False,
        torch=torch,
        gigabytes=3.0,
    )


def engines_environment() -> Environment:
    """The environment of Airflow and of Kubeflow Pipelines' SDK."""
    return Environment(
        title="engines",
        pythons=("3.12", "3.11", "3.10"),
        lock=ROOT / "requirements" / "engines.lock",
        editable=False,
        torch=None,
        gigabytes=1.0,
    )


# --- Finding things ---------------------------------------------------------


def real_python(path: str, version: str) -> Optional[str]:
    """The interpreter behind `path` if it runs and has this version.

    A pyenv shim exists and fails; an interpreter of a virtual environment is
    traced back to the one it was made from.

    Args:
        path: an executable.
        version: `major.minor`.

    Returns:
        Path of the base interpreter, or None.
    """
    code = (
        "import sys; print('%d.%d' % sys.version_info[:2]); "
        "print(getattr(sys, '_base_executable', None) or sys.executable)"
    )
    try:
        done = subprocess.run(
            [path, "-I", "-c", code],
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,
            text=True,
            timeout=60,
        )
    except (OSError, subprocess.TimeoutExpired):
        return None
    lines = done.stdout.splitlines()
    if done.returncode or len(lines) != 2 or lines[0] != version:
        return None
    return lines[1]


def pyenv_roots() -> Iterator[str]:
    """Folders in which pyenv may keep its versions."""
    if os.environ.get("PYENV_ROOT"):
        yield os.environ["PYENV_ROOT"]
    with contextlib.suppress(OSError, subprocess.SubprocessError):
        yield subprocess.check_output(
            ["pyenv", "root"],
            stdin=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
            text=True,
            timeout=60,
        ).strip()
    if os.environ.get("HOME"):
        yield os.path.join(os.environ["HOME"], ".pyenv")


def python_candidates(version: str) -> Iterator[str]:
    """Executables that may be this Python, in the order of preference."""
    for folder in os.get_exec_path():
        yield os.path.join(folder, f"python{version}")
    for root in pyenv_roots():
        pattern = os.path.join(
            glob.escape(root), "versions", f"{version}.*", "bin", "python"
        )
        yield from sorted(glob.glob(pattern), reverse=True)
    pattern = f"cpython-{version}.*/bin/python{version}"
    yield from map(str, sorted((CACHE / "python").glob(pattern)))


def find_python(versions: Sequence[str]) -> Optional[str]:
    """The first interpreter that runs and has one of these versions."""
    for version in versions:
        for candidate in python_candidates(version):
            if os.access(candidate, os.X_OK):
                python = real_python(candidate, version)
                if python:
                    return python
    return None


def download_python(uv: str, version: str) -> str:
    """Lets uv download a Python into the cache folder."""
    try:
        run([uv, "python", "install", version], f"Python {version} by uv")
    except SetupError as error:
        raise SetupError(
            f"no Python {version} on PATH or under pyenv, and none could be "
            f"downloaded; install Python {version} or connect to the network "
            f"and run again ({error})"
        ) from error
    python = find_python([version])
    if python is None:
        raise SetupError(f"uv installed Python {version} but it does not run")
    return python


def uv_version(uv: str) -> Optional[Tuple[int, ...]]:
    """The version of this uv executable, None when it does not run."""
    try:
        text = subprocess.check_output(
            [uv, "--version"],
            stdin=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
            text=True,
            timeout=60,
        )
        return tuple(int(part) for part in text.split()[1].split(".")[:2])
    except (OSError, subprocess.SubprocessError, ValueError, IndexError):
        return None


def find_uv() -> Optional[str]:
    """Finds uv in the cache folder, else from PATH if it is new enough."""
    private = CACHE / "uv-tool" / "bin" / "uv"
    for uv in (str(private), shutil.which("uv")):
        if uv and (uv_version(uv) or (0,)) >= MIN_UV:
            return uv
    return None


def install_uv() -> str:
    """Installs uv with pip into the cache folder, touching nothing else."""
    folder = CACHE / "uv-tool"
    shutil.rmtree(folder, ignore_errors=True)
    lock = str(ROOT / "requirements" / "tools.lock")
    arguments = ["install", "--require-hashes", "--only-binary=:all:"]
    if has_module("ensurepip"):
        run([sys.executable, "-m", "venv", str(folder)], "tool environment")
        pip = [str(folder / "bin" / "python"), "-m", "pip"]
    elif has_module("pip"):
        # `--target` is allowed where the distribution manages pip's packages.
        pip = [sys.executable, "-m", "pip"]
        arguments += ["--target", str(folder)]
    else:
        raise SetupError(
            f"{sys.executable} has neither ensurepip nor pip; install the "
            "packages python3-venv and python3-pip, or uv, and run again"
        )
    run([*pip, *arguments, "-r", lock], "uv by pip")
    uv = find_uv()
    if uv is None:
        raise SetupError("pip installed uv but it does not run")
    return uv


def has_module(name: str) -> bool:
    """Whether the Python that runs this script can run `-m name`."""
    command = [sys.executable, "-m", name, "--version"]
    return (
        subprocess.run(
            command,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
        ).returncode
        == 0
    )


# --- Running commands -------------------------------------------------------


def child_environment() -> Dict[str, str]:
    """Environment variables for pip, uv and builds."""
    env = dict(os.environ)
    for name in ("VIRTUAL_ENV", "PYTHONPATH", "PYTHONHOME", "CONDA_PREFIX"):
        env.pop(name, None)
    env["UV_PYTHON_INSTALL_DIR"] = str(CACHE / "python")
    env.setdefault("UV_HTTP_TIMEOUT", "180")
    env.setdefault("UV_NO_PROGRESS", "1")
    env.setdefault("PIP_DISABLE_PIP_VERSION_CHECK", "1")
    if not env.get("HOME"):
        env["HOME"] = str(CACHE / "home")
        os.makedirs(env["HOME"], exist_ok=True)
    return env


def run(command: Sequence[str], title: str) -> None:
    """Runs a command with a progress line, its output in the log file.

    Args:
        command: program and arguments.
        title: what it does, for the progress line.

    Raises:
        SetupError: when it fails; names the log and the last error line.
    """
    start = time.monotonic()
    LOGS.mkdir(exist_ok=True)
    log = LOGS / "setup.log"
    with open(log, "a+", encoding="utf-8", errors="replace") as output:
        begin = output.tell()
        output.write(f"\n$ {' '.join(command)}\n")
        output.flush()
        try:
            process = subprocess.Popen(
                command,
                stdin=subprocess.DEVNULL,
                stdout=output,
                stderr=subprocess.STDOUT,
                env=child_environment(),
                cwd=ROOT,
            )
        except OSError as error:
            raise SetupError(f"{title}: {error}") from error
        with heartbeat(title, start):
            try:
                code = process.wait()
            except BaseException:
                process.terminate()
                process.wait()
                raise
        output.seek(begin)
        lines = output.read().splitlines()
    seconds = time.monotonic() - start
    if code:
        raise SetupError(
            f"{title} failed after {seconds:.0f} s: {reason(lines)} "
            f"(log: {log.relative_to(ROOT)}; run again to resume)"
        )
    say(f"{title}: {seconds:.1f} s")


@contextlib.contextmanager
def heartbeat(title: str, start: float) -> Iterator[None]:
    """Prints a line now and then while something long runs."""
    done = threading.Event()

    def beat() -> None:
        while not done.wait(HEARTBEAT_SECONDS):
            say(f"{title}: {time.monotonic() - start:.0f} s …")

    thread = threading.Thread(target=beat, daemon=True)
    thread.start()
    try:
        yield
    finally:
        done.set()
        thread.join()


def reason(lines: Sequence[str]) -> str:
    """The most telling line of a failed command's output."""
    lines = [line.strip() for line in lines if line.strip()]
    telling = [
        line
        for line in lines
        if re.match(r"(error|ERROR|.*\berror:|Caused by|×|cause:)", line)
    ]
    text = (telling or lines or ["no output"])[0]
    if any(NETWORK_TROUBLE.search(line) for line in telling):
        text += " [no network?]"
    return text


# --- Making the environment -------------------------------------------------


def fingerprint(environment: Environment) -> str:
    """A digest of everything the environment is made from."""
    digest = hashlib.sha256()
    digest.update(repr((str(ROOT), environment.title)).encode())
    digest.update(TORCH.encode() if environment.torch else b"")
    files = [environment.lock]
    if environment.editable:
        files += sorted((ROOT / "requirements").glob("*.in"))
        files.append(ROOT / "setup.py")
    for path in files:
        digest.update(path.read_bytes())
    return digest.hexdigest()


def is_ready(venv: pathlib.Path, environment: Environment) -> bool:
    """Whether the environment was finished from the same inputs and runs."""
    try:
        stamp = (venv / STAMP).read_text()
        return stamp == fingerprint(environment) and not subprocess.call(
            [str(venv / "bin" / "python"), "-I", "-c", ""],
            stdin=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
        )
    except OSError:
        return False


def check_disk(folder: pathlib.Path, gigabytes: float) -> None:
    """Raises `SetupError` when the disk of `folder` has too little space."""
    wanted = float(os.environ.get("MUSE_MIN_FREE_GB") or gigabytes)
    while not folder.exists():
        folder = folder.parent
    free = shutil.disk_usage(str(folder)).free / 1e9
    if free < wanted:
        raise SetupError(
            f"too little disk: {free:.1f} GB free in {folder}, about "
            f"{wanted:g} GB needed; free some or set VENV to another disk"
        )


def check_compiler(lock: pathlib.Path) -> None:
    """Raises `SetupError` where a locked package must be compiled and cannot.

    TFDV needs pyfarmhash, which has no wheels.
    """
    if "\npyfarmhash==" not in lock.read_text():
        return
    if not any(map(shutil.which, ("c++", "g++", "clang++"))):
        raise SetupError(
            "no C++ compiler on PATH, and pyfarmhash must be compiled; "
            "install one (Debian, Ubuntu: the package g++) and run again"
        )


def make_venv(uv: str, python: str, venv: pathlib.Path) -> None:
    """Creates the virtual environment, or keeps one of the same Python.

    Only a folder that bears this script's stamp is ever changed.

    Raises:
        SetupError: where the folder holds something else.
    """
    stamp = venv / STAMP
    if not stamp.exists() and venv.exists() and any(venv.iterdir()):
        raise SetupError(
            f"{display(venv)} exists and was not made by this set-up; remove "
            "it, or set VENV to another folder"
        )
    venv.mkdir(parents=True, exist_ok=True)
    write_stamp(stamp, "unfinished")
    present = real_python(str(venv / "bin" / "python"), real_version(python))
    if present and os.path.realpath(present) == os.path.realpath(python):
        say(f"taking up what is in {display(venv)}")
        return
    for entry in venv.iterdir():
        if entry.is_dir() and not entry.is_symlink():
            shutil.rmtree(entry)
        elif entry != stamp:
            entry.unlink()
    run(
        [uv, "venv", "--allow-existing", "--python", python, str(venv)],
        "virtual environment",
    )


def real_version(python: str) -> str:
    """`major.minor` of an interpreter."""
    code = "import sys; print('%d.%d' % sys.version_info[:2])"
    return subprocess.check_output(
        [python, "-I", "-c", code], text=True
    ).strip()


def install(
    uv: str, python: str, venv: pathlib.Path, environment: Environment
) -> None:
    """Installs the locked packages, the project and PyTorch as asked for."""
    make_venv(uv, python, venv)
    into = ["--python", str(venv / "bin" / "python")]
    count = len(
        re.findall(r"^[\w.-]+==", environment.lock.read_text(), re.MULTILINE)
    )
    command = ["sync"] if environment.editable else ["install", "-r"]
    if os.environ.get("PYTHONDONTWRITEBYTECODE"):
        # Otherwise every process would compile TensorFlow: 17 s each.
        command.insert(1, "--compile-bytecode")
    # The build requirements of source distributions come from the lock too.
    run(
        [uv, "pip", *command, str(environment.lock), "--require-hashes"]
        + ["--build-constraints", str(environment.lock), *into],
        f"{count} locked packages ({environment.lock.name})",
    )
    if environment.editable:
        # setuptools comes from the lock: nothing unlocked takes part.
        run(
            [uv, "pip", "install", "--no-deps", "--no-build-isolation"]
            + ["--editable", str(ROOT), *into],
            "this project",
        )
        return
    if environment.torch:
        install_torch(venv)
    elif environment.torch is False:
        say("PyTorch is left out (MUSE_SKIP_TORCH): its tests will not run")


def install_torch(venv: pathlib.Path) -> None:
    """Installs PyTorch with pip, so that pip's configuration chooses it."""
    try:
        run(
            [str(venv / "bin" / "python"), "-m", "pip", "install", TORCH],
            f"{TORCH} (its build from PyPI is large)",
        )
    except SetupError as error:
        raise SetupError(
            f"{error}; MUSE_SKIP_TORCH=1 leaves PyTorch out"
        ) from error


def set_up(environment: Environment, venv: pathlib.Path) -> None:
    """Makes `venv` hold exactly `environment`."""
    start = time.monotonic()
    if is_ready(venv, environment):
        seconds = time.monotonic() - start
        say(f"{environment.title} is ready in {display(venv)}, {seconds:.1f} s")
        return
    say(f"making {environment.title} in {display(venv)}; log: logs/setup.log")
    check_disk(venv, environment.gigabytes)
    check_compiler(environment.lock)

    python = find_python(environment.pythons)
    uv = find_uv() or install_uv()
    if python is None:
        python = download_python(uv, environment.pythons[0])
    say(f"Python {real_version(python)}: {python}")
    install(uv, python, venv, environment)
    write_stamp(venv / STAMP, fingerprint(environment))
    seconds = time.monotonic() - start
    say(f"{environment.title} is ready in {display(venv)}, {seconds:.1f} s")


def write_stamp(path: pathlib.Path, text: str) -> None:
    """Writes the stamp in one step."""
    with tempfile.NamedTemporaryFile(
        "w", dir=str(path.parent), delete=False
    ) as stream:
        stream.write(text)
    os.replace(stream.name, str(path))


def display(path: pathlib.Path) -> str:
    """`path` relative to the project where it lies inside."""
    with contextlib.suppress(ValueError):
        return str(path.relative_to(ROOT))
    return str(path)


@contextlib.contextmanager
def one_at_a_time() -> Iterator[None]:
    """Lets a second set-up of this checkout wait for the first one."""
    CACHE.mkdir(exist_ok=True)
    with open(CACHE / "setup.lock", "w") as lock:
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            say("waiting for another set-up of this checkout")
            fcntl.flock(lock, fcntl.LOCK_EX)
        yield


def main(arguments: Optional[List[str]] = None) -> int:
    """Runs the set-up.

    Args:
        arguments: command line without the program name.

    Returns:
        Exit status: 0 when the environment is ready, 1 with a message.
    """
    # Ends like Ctrl-C, so that no uv is left running behind.
    signal.signal(signal.SIGTERM, signal.default_int_handler)
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument(
        "--backends",
        action="store_true",
        help="make the environment for JAX and PyTorch, without TensorFlow",
    )
    parser.add_argument(
        "--engines",
        action="store_true",
        help="make the environment with Airflow and Kubeflow Pipelines' SDK",
    )
    parser.add_argument(
        "--uv",
        action="store_true",
        help="only get uv, and print its path as the last line",
    )
    options = parser.parse_args(arguments)
    default = ".venv-backends" if options.backends else ".venv"
    default = ".cache/engines" if options.engines else default
    venv = pathlib.Path(os.path.abspath(ROOT / os.environ.get("VENV", default)))
    try:
        if options.uv:
            with one_at_a_time():
                print(find_uv() or install_uv())
            return 0
        if options.backends:
            torch = os.environ.get("MUSE_SKIP_TORCH", "0") in ("", "0")
            environment = backends_environment(torch)
        elif options.engines:
            environment = engines_environment()
        else:
            stack = choose_stack(
                os.environ.get("STACK", ""), glibc_version(), platform.machine()
            )
            environment = main_environment(stack)
        with one_at_a_time():
            set_up(environment, venv)
    except (SetupError, OSError) as error:
        print(f"setup: error: {error}", file=sys.stderr)
        return 1
    except KeyboardInterrupt:
        print("setup: interrupted; run again to resume", file=sys.stderr)
        return 130
    return 0


if __name__ == "__main__":
    sys.exit(main())
