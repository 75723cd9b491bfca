# SPDX-License-Identifier: GPL-3.0-or-later
# Copyright: the sandlot developers
"""sandlot metrics on a deployed host, read by Prometheus' own tool, and the example of alerts."""

from __future__ import annotations

import argparse
import json
import os
import re
import stat
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import yaml
from converge_fixtures import Deployment, eventually, needs_root, sandbox
from sandlot import volumes
from sandlot.cli import metrics
from test_cli_ends import sandlot

pytestmark = needs_root

TOP = Path(__file__).resolve().parents[2]
PROMTOOL = Path(sys.executable).parent / "promtool"
ALERTS = TOP / "docs/alerts.yml"


def promtool(*words: str, text: str = "") -> None:
    done = subprocess.run([PROMTOOL, *words], input=text, capture_output=True, text=True)
    assert (done.returncode, done.stderr) == (0, ""), done.stdout


def samples(text: str) -> dict[tuple[str, str], str]:
    """Values by the metric's name and the sandbox or volume."""
    found = {}
    for name, labels, value in re.findall(r"^(\w+)(?:\{(.*)\})? (\S+)$", text, re.MULTILINE):
        owner = re.search(r'\b(?:sandbox|volume)="([^"]*)"', labels)
        found[name, owner[1] if owner else ""] = value
    return found


def test_metrics(host: Deployment, tmp_path: Path) -> None:
    checked = {"test": ["CMD", "true"], "interval": "100ms"}
    labels = {"app": 'a "quoted"\nvalue\\', "my.team/x": "1", "my_team_x": "2"}
    host.run(
        sandbox("on", memory="64m", healthcheck=checked, labels=labels, disk_size="32m",
                volumes=["data:/data"]),
        sandbox("off", state="stopped"),
        sandbox("shared", network_mode="host", allow_host_network=True),
        volumes=volumes.normalise([{"name": "data", "size": "16m"}]),
    )  # fmt: skip
    eventually(lambda: '_healthy{sandbox="on"} 1' in sandlot(host, "metrics").stdout)
    done = sandlot(host, "metrics")
    assert (done.returncode, done.stderr) == (0, "")
    promtool("check", "metrics", text=done.stdout)
    found = samples(done.stdout)
    for name in ("wanted", "running"):
        states = {box: found[f"sandlot_sandbox_{name}", box] for box in ("on", "off", "shared")}
        assert states == {"on": "1", "off": "0", "shared": "1"}
    assert found["sandlot_launcher_up", ""] == "1"
    assert found["sandlot_sandbox_memory_limit_bytes", "on"] == str(64 << 20)
    assert found["sandlot_sandbox_disk_limit_bytes", "on"] == str(32 << 20)
    assert 0 < int(found["sandlot_sandbox_memory_bytes", "on"]) < 64 << 20
    assert ("sandlot_sandbox_network_receive_bytes_total", "on") in found
    assert ("sandlot_sandbox_network_receive_bytes_total", "shared") not in found
    assert ("sandlot_sandbox_healthy", "shared") not in found
    assert ("sandlot_sandbox_processes", "off") not in found
    assert found["sandlot_volume_limit_bytes", "data"] == str(16 << 20)
    (info,) = re.findall(r'_info\{sandbox="on",(.*)\} 1', done.stdout)
    assert r'label_app="a \"quoted\"\nvalue\\"' in info
    assert info.count("label_my_team_x=") == 1


def test_a_broken_record_and_a_file(host: Deployment, tmp_path: Path) -> None:
    host.run(sandbox("a"), sandbox("b"))
    Path(host.paths.sandbox("b").record).write_text("{")
    target = tmp_path / "sandlot.prom"
    done = sandlot(host, "metrics", "--output", str(target))
    assert (done.returncode, done.stdout) == (0, "")
    assert stat.S_IMODE(target.stat().st_mode) == 0o644
    promtool("check", "metrics", text=target.read_text())
    assert samples(target.read_text())["sandlot_sandbox_running", "b"] == "0"
    assert '_state{sandbox="b",state="broken"} 1' in target.read_text()
    lost = sandlot(host, "metrics", "--output", str(tmp_path / "none/sandlot.prom"))
    assert lost.returncode == 1 and f"{tmp_path}/none" in lost.stderr


def test_what_is_no_file_stays(host: Deployment, tmp_path: Path) -> None:
    """A device as /dev/null, and a symbolic link as /dev/stdout."""
    device, link = tmp_path / "null", tmp_path / "stdout"
    os.mknod(device, stat.S_IFCHR | 0o666, os.makedev(1, 3))
    link.symlink_to(device)
    for path in (device, link, tmp_path):
        refused = sandlot(host, "metrics", "--output", str(path))
        assert refused.returncode == 1, refused.stdout
        assert f"--output: '{path}' is there already, and is no file" in refused.stderr
    assert stat.S_ISCHR(device.stat().st_mode) and link.is_symlink()


def test_another_run_does_not_end_this_one(
    host: Deployment, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    target = str(tmp_path / "sandlot.prom")
    rename = os.rename

    def with_another(source: str, path: str) -> None:
        done = sandlot(host, "metrics", "--output", target)
        assert (done.returncode, done.stderr) == (0, "")
        rename(source, path)

    monkeypatch.setattr(os, "rename", with_another)
    assert metrics.run(host.paths, argparse.Namespace(output=target)) == 0
    assert os.listdir(tmp_path) == ["sandlot.prom"]


# -- the example of alerts


def rules() -> list[dict[str, Any]]:
    found: list[dict[str, Any]] = yaml.safe_load(ALERTS.read_text())["groups"][0]["rules"]
    return found


def test_alerts_name_metrics_that_there_are() -> None:
    promtool("check", "rules", str(ALERTS))
    known = {row.name for row in (*metrics.HOST, *metrics.SANDBOX, *metrics.VOLUME)}
    named = {name for rule in rules() for name in re.findall(r"sandlot_\w+", rule["expr"])}
    assert named and named <= known
    text = (TOP / "docs/monitoring.md").read_text()
    assert known == set(re.findall(r"^\| `(sandlot_\w+)`", text, re.MULTILINE))


WEB = 'sandbox="web",instance="h"'
DATA = 'volume="data",instance="h"'
# Series in the notation of promtool: a start, a step and a count of minutes. Those that bring each
# alert, and those that do not.
SERIES = {
    "SandboxDown": (
        {f"sandlot_sandbox_wanted{{{WEB}}}": "1x90", f"sandlot_sandbox_running{{{WEB}}}": "0x90"},
        {f"sandlot_sandbox_wanted{{{WEB}}}": "0x90", f"sandlot_sandbox_running{{{WEB}}}": "0x90"},
    ),
    "SandboxUnhealthy": (
        {f"sandlot_sandbox_healthy{{{WEB}}}": "0x90"},
        {f"sandlot_sandbox_healthy{{{WEB}}}": "0x55 1x35"},
    ),
    "SandboxRestarts": (
        {f"sandlot_sandbox_restarts_total{{{WEB}}}": "0+1x90"},
        {f"sandlot_sandbox_restarts_total{{{WEB}}}": "0x55 1x35"},
    ),
    "SandboxKilledForMemory": (
        {f"sandlot_sandbox_oom_kills_total{{{WEB}}}": "0+1x90"},
        {f"sandlot_sandbox_oom_kills_total{{{WEB}}}": "5x90"},
    ),
    "SandboxDiskFull": (
        {
            f"sandlot_sandbox_disk_bytes{{{WEB}}}": "95x90",
            f"sandlot_sandbox_disk_limit_bytes{{{WEB}}}": "100x90",
        },
        {
            f"sandlot_sandbox_disk_bytes{{{WEB}}}": "5x90",
            f"sandlot_sandbox_disk_limit_bytes{{{WEB}}}": "100x90",
        },
    ),
    "SandboxVolumeFull": (
        {
            f"sandlot_volume_bytes{{{DATA}}}": "95x90",
            f"sandlot_volume_limit_bytes{{{DATA}}}": "100x90",
        },
        {
            f"sandlot_volume_bytes{{{DATA}}}": "5x90",
            f"sandlot_volume_limit_bytes{{{DATA}}}": "100x90",
        },
    ),
    "SandlotLauncherDown": (
        {'sandlot_launcher_up{instance="h"}': "0x90"},
        {'sandlot_launcher_up{instance="h"}': "1x90"},
    ),
    "SandlotMetricsOld": (
        {'node_textfile_mtime_seconds{instance="h",file="/x/sandlot.prom"}': "9x90"},
        {'node_textfile_mtime_seconds{instance="h",file="/x/sandlot.prom"}': "9+60x90"},
    ),
}


def case(rule: dict[str, Any], series: dict[str, str], labels: dict[str, str] | None) -> Any:
    """A case of promtool: the alert with these labels after an hour; None for no alert."""
    alerts = []
    if labels is not None:
        texts = {
            kind: re.sub(r"\{\{ \$labels\.(\w+) \}\}", lambda label: labels[label[1]], text)
            for kind, text in rule["annotations"].items()
        }
        alerts = [{"exp_labels": {**rule["labels"], **labels}, "exp_annotations": texts}]
    return {
        "interval": "1m",
        "input_series": [{"series": key, "values": values} for key, values in series.items()],
        "alert_rule_test": [{"eval_time": "1h", "alertname": rule["alert"], "exp_alerts": alerts}],
    }


def test_alerts(tmp_path: Path) -> None:
    cases = []
    for rule in rules():
        wrong, right = SERIES[rule["alert"]]
        labels = dict(re.findall(r'(\w+)="([^"]*)"', next(iter(wrong))))
        cases += [case(rule, wrong, labels), case(rule, right, None)]
    path = tmp_path / "cases.yml"
    path.write_text(json.dumps({"rule_files": [str(ALERTS)], "tests": cases}))
    promtool("test", "rules", str(path))
