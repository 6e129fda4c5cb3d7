"""What the checks of an installation share: a copy, and an environment."""

from __future__ import annotations

import pathlib
import shutil
import subprocess

__all__ = ["ROOT", "copied_checkout", "environment"]

ROOT = pathlib.Path(__file__).resolve().parents[1]


def copied_checkout(folder: pathlib.Path) -> pathlib.Path:
    """Copies what git knows of, or would: a build leaves files behind.

    Args:
        folder: where the copy comes.

    Returns:
        The copy's folder.
    """
    copy = folder / "source"
    listed = subprocess.run(
        ["git", "ls-files", "-co", "--exclude-standard"],
        cwd=ROOT,
        check=True,
        capture_output=True,
        text=True,
    ).stdout
    for name in listed.splitlines():
        if (ROOT / name).is_file():
            (copy / name).parent.mkdir(parents=True, exist_ok=True)
            shutil.copy(ROOT / name, copy / name)
    return copy


def environment(
    interpreter: str, folder: pathlib.Path, *packages: str
) -> pathlib.Path:
    """Makes an environment that holds these packages and what they need.

    Args:
        interpreter: Python to make it with.
        folder: where it comes.
        packages: what pip is told to install.

    Returns:
        Its interpreter.
    """
    subprocess.run([interpreter, "-m", "venv", folder / "venv"], check=True)
    python = folder / "venv" / "bin" / "python"
    pip = [python, "-m", "pip", "--disable-pip-version-check"]
    subprocess.run([*pip, "install", "-q", *packages], check=True)
    subprocess.run([*pip, "list"], check=True)
    return python
