# SPDX-License-Identifier: GPL-3.0-or-later
# Copyright: the sandlot developers
"""sandbox_run: results as those of `command`, by Ansible itself."""

from __future__ import annotations

from typing import Any

import plays
from converge_fixtures import Deployment, needs_root
from job_fixtures import left

pytestmark = needs_root
BOMB = "head -c 200m /dev/zero | tail -c 200m | wc -c"


def task(**options: Any) -> dict[str, Any]:
    return {"sandbox_run": {"image": "busybox", **options}}


def test_results(host: Deployment) -> None:
    script = "cat; echo err >&2; echo $A; exit $B"
    found = plays.play(
        host.paths,
        task(argv=["sh", "-c", script], stdin="in\n", env={"A": "hidden-value", "B": "0"}),
        task(command="echo two words", memory="64m", cpus=0.5, pids_limit=20, read_only=True),
        {**task(argv=["sh", "-c", "exit 3"]), "failed_when": "false"},
        {**task(argv=["touch", "/x"]), "check_mode": True},
        task(argv=["printf", "a\\377b"]),
    )
    first, second, third, checked, raw = found
    assert first["stdout_lines"] == ["in", "hidden-value"] and first["stderr"] == "err"
    assert (first["rc"], first["changed"], first["timed_out"]) == (0, True, False)
    assert first["oom_killed"] is False and 0 < first["duration"] < 60
    assert "hidden-value" not in str(first["invocation"])
    assert (second["stdout"], second["cmd"]) == ("two words", ["echo", "two", "words"])
    assert (third["rc"], third["failed"]) == (3, False)
    assert not checked["changed"] and "if not in check mode" in checked["msg"]
    assert raw["stdout"] == "a\ufffdb"
    assert left(host) == []


def test_a_check_finds_what_a_run_would(host: Deployment) -> None:
    wrong = (
        ({"image": "nosuch"}, "image: 'nosuch' is not an image of this host"),
        ({"memory": "1x"}, "memory: '1x' is not a size"),
        ({"networks": [{"name": "nosuch"}]}, "networks: 'nosuch' is no network of this host"),
        ({"network_mode": "container:nosuch"}, "names no sandbox of this host"),
        ({"network_mode": "host"}, "network_mode: 'host' is not for jobs"),
        ({"volumes": ["nosuch:/data"]}, "'nosuch' is no volume of this host"),
        ({"command": ""}, "image busybox has no command of its own"),
    )
    tasks = [
        {**task(**{"command": "true", **options}), "check_mode": check}
        for options, dummy in wrong
        for check in (True, False)
    ]
    results = iter(plays.play(host.paths, *tasks, fails=True))
    for (dummy, problem), checked, run in zip(wrong, results, results):
        assert problem in checked["msg"] and checked["msg"] == run["msg"]
    assert left(host) == []


def test_failures(host: Deployment) -> None:
    found = plays.play(
        host.paths,
        task(argv=["sh", "-c", "echo out; exit 7"]),
        task(argv=["sleep", "1000"], timeout=0.2),
        task(command="yes", output_limit="1k"),
        task(command=["sh", "-c", BOMB], memory="32m", memory_swap="32m"),
        task(command="nosuch"),
        task(image="nosuch"),
        task(command="true", argv=["true"]),
        task(command="true", memory="1x"),
        fails=True,
    )
    code, late, flood, bomb, missing, image, both, size = found
    assert (code["rc"], code["stdout"], code["msg"]) == (7, "out", "non-zero return code")
    assert (late["rc"], late["timed_out"]) == (124, True) and "0.2 s" in late["msg"]
    assert len(flood["stdout"]) <= 1024 and "1024 bytes" in flood["msg"]
    assert bomb["oom_killed"]
    assert missing["rc"] == 127 and "nosuch: command not found" in missing["msg"]
    assert (missing["changed"], code["changed"]) == (False, True)
    assert "not an image of this host" in image["msg"]
    assert "can't be combined with command" in both["msg"]
    assert "memory: '1x' is not a size" in size["msg"]
    assert left(host) == []
