"""Prometheus itself checks the alarms, and when they go off."""

from __future__ import annotations

import os
import pathlib
import shutil
import subprocess

import pytest
import yaml

from tests.serving import monitored

pytestmark = pytest.mark.once

SCRIPT = pathlib.Path(__file__).parents[3] / "scripts" / "promtool"
CASES = pathlib.Path(__file__).with_name("alarms.yaml")


def promtool(*arguments: object) -> str:
    found = subprocess.run([SCRIPT], capture_output=True, text=True)
    if found.returncode:
        reason = f"scripts/promtool: {found.stderr.strip()}"
        (pytest.fail if os.environ.get("CI") else pytest.skip)(reason)
    done = subprocess.run(
        [found.stdout.strip(), *map(str, arguments)],
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


@pytest.fixture
def rules(tmp_path) -> pathlib.Path:
    path = tmp_path / "rules.yaml"
    path.write_text(yaml.safe_dump({"groups": monitored.groups()}))
    return path


def test_every_rule_is_valid(rules) -> None:
    (group,) = monitored.groups()
    said = promtool("check", "rules", rules)
    assert f"{len(group['rules'])} rules found" in said


def test_expressions_of_the_dashboard_are_valid(tmp_path) -> None:
    shown = [
        {"record": f"shown:{number}", "expr": expression}
        for number, expression in enumerate(monitored.expressions())
    ]
    path = tmp_path / "shown.yaml"
    groups = [{"name": "shown", "rules": shown}]
    path.write_text(yaml.safe_dump({"groups": groups}))
    promtool("check", "rules", path)


def test_alarms_go_off_when_they_should(rules) -> None:
    shutil.copy(CASES, rules.parent)
    promtool("test", "rules", rules.parent / CASES.name)


def test_every_alarm_has_a_case_and_is_on_the_page() -> None:
    cases = yaml.safe_load(CASES.read_text())["tests"]
    tried = {
        alarm["alertname"]
        for case in cases
        for alarm in case["alert_rule_test"]
        if alarm["exp_alerts"]
    }
    (group,) = monitored.groups()
    names = [rule["alert"] for rule in group["rules"]]
    assert tried == set(names)
    page = pathlib.Path(__file__).parents[3] / "docs" / "deployment.md"
    for name in names:
        assert f"| `{name}` |" in page.read_text(encoding="utf-8")
