"""The image of the steps, as text: CI builds it where Docker exists."""

from __future__ import annotations

import re

from tests.tfx_pipeline.orchestrators.engines import ROOT

TEXT = (ROOT / "tfx_pipeline" / "Dockerfile").read_text(encoding="utf-8")
LINES = [
    line.strip()
    for line in TEXT.replace("\\\n", " ").splitlines()
    if line.strip() and not line.startswith("#")
]


def test_only_the_second_stage_is_shipped_and_has_a_user():
    starts = [i for i, line in enumerate(LINES) if line.startswith("FROM ")]
    assert [LINES[i] for i in starts] == [
        "FROM ${BASE} AS build",
        "FROM ${BASE}",
    ]
    shipped = LINES[starts[1] :]
    assert not [line for line in shipped if re.search("apt-get|pip", line)]
    copied = [line for line in shipped if line.startswith("COPY")]
    assert copied == ["COPY --from=build /opt/muse /opt/muse"]
    user = [line.split()[1] for line in shipped if line.startswith("USER")]
    assert user == ["10001"]
    assert shipped.index("USER 10001") < len(shipped) - 1


def test_the_base_has_a_tag():
    (base,) = re.findall(r"^ARG BASE=(\S+)$", TEXT, re.M)
    name, _, tag = base.partition(":")
    # Python of stack B, on a Debian whose C library its wheels need.
    assert name == "python" and re.fullmatch(r"3\.1[123]-slim-trixie", tag)
    assert "latest" not in TEXT


def test_what_is_installed_has_a_hash_or_is_this_checkout():
    installs = [
        part
        for line in LINES
        for part in line.split("&&")
        if "pip install" in part
    ]
    for command in installs:
        assert "--require-hashes" in command or "--no-deps" in command, command
    assert sum("/wheels/*.whl" in command for command in installs) == 1
    for lock in re.findall(r"\S+\.lock", TEXT):
        assert (ROOT / lock).is_file(), lock
