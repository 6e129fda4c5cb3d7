"""A store that is loaded while the disk is full."""

from __future__ import annotations

import json
import subprocess
import sys

import pytest

UNSHARE = ("unshare", "--user", "--map-root-user", "--mount")


def may_mount() -> bool:
    try:
        return not subprocess.run([*UNSHARE, "true"], check=False).returncode
    except FileNotFoundError:
        return False


@pytest.mark.parametrize("how", ["limit", "tmpfs"])
def test_what_was_loaded_stays_and_the_load_goes_on_later(tmp_path, how):
    """Whole users only, the same after each try; then all of them."""
    if how == "tmpfs" and not may_mount():
        pytest.skip("no right to mount a file system")
    script = [sys.executable, "-m", "tests.serving.faults.full_disk"]
    done = subprocess.run(
        [*(UNSHARE if how == "tmpfs" else ()), *script, str(tmp_path), how],
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    first, second, third = json.loads(done.stdout)
    for failed in (first, second):
        assert "is the disk full?" in failed["error"], failed
        assert 0 < failed["users"] < third["users"]
    assert first["users"] == second["users"] == third["resumed"]
    assert (third["error"], third["users"]) == ("", 12)
