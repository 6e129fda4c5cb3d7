"""What the client needs installed; scripts/check_client.py installs it."""

from __future__ import annotations

import pathlib
import re
import subprocess
import sys

ROOT = pathlib.Path(__file__).parents[3]


def test_what_the_client_needs():
    program = """
import importlib.abc, sys, sysconfig

ALLOWED = {
    *("grpc", "typing_extensions", "google", "numpy", "serving", "urllib3"),
    *sys.stdlib_module_names,
}

class Refuse(importlib.abc.MetaPathFinder):
    def find_spec(self, name, path=None, target=None):
        if name.partition(".")[0] not in ALLOWED:
            raise ImportError(f"{name} is not installed here")

sys.meta_path.insert(0, Refuse())
import serving.client
import serving.client.ranking
import numpy as np
client = serving.client.MuseClient("127.0.0.1:1")
client.close()
serving.client.make_example(
    serving.client.RankRequest(1, [3], [1], {"age": 2}, {"brand": [2]})
)
try:
    import tensorflow
except ImportError:
    pass
else:
    raise SystemExit("the check itself does not work")
"""
    found = subprocess.run(
        [sys.executable, "-c", program], capture_output=True, text=True
    )
    assert found.returncode == 0, found.stderr


def requirements(folder: pathlib.Path) -> dict[str, set[str]]:
    """Names in the package's metadata: extra ("" for none) to packages."""
    subprocess.run(
        [sys.executable, "setup.py", "-q", "egg_info", "--egg-base", folder],
        cwd=ROOT,
        check=True,
        capture_output=True,
    )
    (file,) = folder.glob("*.egg-info/requires.txt")
    found: dict[str, set[str]] = {}
    extra = ""
    for line in file.read_text(encoding="utf-8").split():
        if line.startswith("["):
            extra = line.strip("[]").partition(":")[0]
        elif name := re.match(r"[A-Za-z][\w.-]*", line):
            found.setdefault(extra, set()).add(name[0])
    return found


def test_the_extra_brings_the_clients_packages_and_no_more(tmp_path):
    found = requirements(tmp_path)
    assert found["client"] == {"grpcio", "protobuf", "numpy", "urllib3"}
    assert found[""] == {"keras", "numpy"}
    assert "tensorflow" in found["serving"]  # or nothing was read
