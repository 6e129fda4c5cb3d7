"""The lock files fit the requirement files and name no place."""

import pathlib
import re
import subprocess
import sys

import pytest
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

ROOT = pathlib.Path(__file__).resolve().parents[2]
REQUIREMENTS = ROOT / "requirements"

# Python version and name of the lock file.
LOCKS = [
    ("3.10", "stack-a"),
    ("3.11", "stack-b"),
    ("3.12", "stack-b"),
    ("3.13", "stack-b"),
    ("3.10", "backends"),
    ("3.11", "backends"),
    ("3.13", "backends"),
    ("3.10", "engines"),
    ("3.12", "engines"),
]


def markers_of(python: str) -> dict[str, str]:
    return {
        "python_version": python,
        "python_full_version": f"{python}.1",
        "platform_machine": "x86_64",
        "sys_platform": "linux",
    }


def direct_requirements(name: str) -> list[Requirement]:
    found = []
    for line in (REQUIREMENTS / f"{name}.in").read_text().splitlines():
        line = line.partition("#")[0].strip()
        if line.startswith("-r "):
            included = line.removeprefix("-r ").removesuffix(".in")
            found += direct_requirements(included)
        elif line:
            found.append(Requirement(line))
    return found


def locked_versions(name: str, python: str) -> dict[str, str]:
    versions = {}
    text = (REQUIREMENTS / f"{name}.lock").read_text()
    for line in text.replace("\\\n", " ").splitlines():
        requirement = Requirement(line.partition(" --hash")[0].strip())
        marker = requirement.marker
        if marker is None or marker.evaluate(markers_of(python)):
            (pin,) = requirement.specifier
            versions[canonicalize_name(requirement.name)] = pin.version
    return versions


@pytest.mark.parametrize(("python", "name"), LOCKS)
def test_lock_holds_every_direct_requirement(python, name):
    locked = locked_versions(name, python)
    for requirement in direct_requirements(name):
        marker = requirement.marker
        if marker is None or marker.evaluate(markers_of(python)):
            version = locked[canonicalize_name(requirement.name)]
            assert requirement.specifier.contains(version), requirement


@pytest.mark.parametrize(
    "path", sorted(REQUIREMENTS.glob("*.lock")), ids=lambda path: path.stem
)
def test_every_locked_package_has_hashes_and_no_address(path):
    text = path.read_text()
    assert "://" not in text
    assert "--index" not in text
    for line in text.replace("\\\n", " ").splitlines():
        assert re.match(r"[\w.-]+==\S+ .*--hash=sha256:[0-9a-f]{64}", line)


def test_layers_need_keras_and_numpy_only():
    names = [requirement.name for requirement in direct_requirements("core")]
    assert names == ["keras", "numpy"]


def test_client_needs_no_tensorflow():
    names = {requirement.name for requirement in direct_requirements("client")}
    assert names == {"grpcio", "numpy", "protobuf", "urllib3"}


def test_hints_name_what_can_be_installed():
    """No index has our packages: hints name a path, or other packages."""
    names = re.compile(
        r"pip install [^\n]*\bmuse-(keras|tensorflow)(?!.* @ file:)"
    )
    pages = [ROOT / "README.md", *(ROOT / "docs").glob("*.md")]
    for package in ("muse_keras", "muse_tools", "serving", "tfx_pipeline"):
        pages += (ROOT / package).rglob("*.py")
    for page in pages:
        text = page.read_text(encoding="utf-8")
        assert not names.search(text.replace('"\n', "")), page


def test_metadata_that_setup_py_declares():
    def ask(*fields):
        done = subprocess.run(
            [sys.executable, "-W", "ignore", "setup.py", "-q", *fields],
            cwd=ROOT,
            capture_output=True,
            text=True,
            check=True,
        )
        return done.stdout.split()

    assert ask("--name", "--license") == ["muse-tensorflow", "Apache-2.0"]
