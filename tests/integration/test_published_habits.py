# SPDX-License-Identifier: GPL-3.0-or-later
# Copyright: the sandlot developers
"""What published images take for granted, with busybox as the program."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import static_busybox
from archives import entry, folder, link, pack
from converge_fixtures import Deployment, eventually, needs_root
from image_fixtures import prepare
from oci_images import LAYER, Layout, busybox_layer
from published_images import logged, shell

pytestmark = needs_root
BUSYBOX = static_busybox.PROGRAM.read_bytes()
SLEEP = "exec busybox sleep 1000000"
Run = Callable[..., Any]


@pytest.fixture
def run(host: Deployment, tmp_path: Path) -> Run:
    """Makes an image of these layers with this config, and the sandbox "web" of it."""
    layout = Layout(tmp_path / "layout")

    def make(*layers: bytes, **settings: Any) -> Any:
        layout.image("v1", layers, settings, compress=bytes, kind=LAYER)
        prepare(host, {"name": "app", "source": "oci", "reference": f"oci:{layout.path}:v1"})
        return host.run({"name": "web", "image": "app", "restart_policy": "no"})

    return make


def says(host: Deployment, *lines: str) -> None:
    eventually(lambda: set(lines) <= set(logged(host).splitlines()))


def test_logs_by_name(host: Deployment, run: Run) -> None:
    """A server that has stepped down opens its log; the links are nginx's and httpd's."""
    server = "echo access >>/var/log/access; echo error >/var/log/error; echo own >/dev/stdout"
    start = f"busybox su web -c '{server}'; busybox chown web /dev/stderr && echo owned; {SLEEP}"
    logs = pack(link("var/log/access", "/dev/stdout"), link("var/log/error", "/proc/self/fd/2"))
    run(busybox_layer(), logs, Cmd=["sh", "-c", start])
    says(host, "access", "error", "own", "owned")
    # As jobs of cron do: in docker, process 1 is the workload.
    shell(host, "echo job >>/proc/1/fd/1; echo 'job failed' >/proc/1/fd/2")
    shell(host, "echo 'job of web' >/proc/1/fd/1", "-u", "web")
    says(host, "job", "job failed", "job of web")
    refused = "! { echo >/proc/1/fd/3; } 2>&1 && ! busybox cat /proc/1/fd/1 2>&1"
    assert "Read-only" in shell(host, refused, "-u", "web")
    # Commands of exec have pipes or files of the caller.
    assert shell(host, "echo mine >/dev/stdout", "-u", "web") == "mine\n"


def test_a_user_of_the_image(host: Deployment, run: Run) -> None:
    """It has no capability, as in docker; a command of exec may be any user's."""
    start = f"{{ : <>/dev/stdout; }} && busybox grep -h Cap /proc/self/status; {SLEEP}"
    run(busybox_layer(), Cmd=["sh", "-c", start], User="web")
    says(host, *(f"Cap{kind}:\t{0:016x}" for kind in ("Prm", "Eff", "Amb")))
    probe = "id -u; busybox grep CapEff /proc/self/status"
    assert shell(host, probe) == f"33\nCapEff:\t{0:016x}\n"
    assert shell(host, probe, "-u", "4711") == f"4711\nCapEff:\t{0:016x}\n"
    bounds = shell(host, "busybox grep CapBnd /proc/self/status").split()[1]
    assert shell(host, probe, "-u", "root") == f"0\nCapEff:\t{bounds}\n"
    assert int(bounds, 16)
    # Stopping ends what root has started, too.
    shell(host, "sleep 1000000 >/dev/null 2>&1 &", "-u", "root")
    assert not host.run({"name": "web", "image": "app", "state": "stopped"}).failed


def test_directories_that_nobody_has_made(host: Deployment, run: Run) -> None:
    """Volumes and the working directory; /tmp runs programs, as a JVM's libraries need."""
    private = entry("data/mine", uid=33, gid=44)
    place, content = folder("data", 0o700)
    place.uid = place.gid = 33
    start = f"busybox cp /bin/busybox /tmp/true && /tmp/true && echo runs; {SLEEP}"
    run(
        busybox_layer(), pack((place, content), private), Cmd=["sh", "-c", start],
        Volumes={"/data": {}, "var/lib/other/": {}, "/sys/fs/cgroup": {}, "/proc/none": {}},
        WorkingDir="/srv/app",
    )  # fmt: skip
    says(host, "runs")
    look = "busybox stat -c '%n %u %a' /data /var/lib/other /srv/app /tmp; pwd"
    assert shell(host, look).splitlines() == [
        *("/data 33 700", "/var/lib/other 0 755", "/srv/app 0 755", "/tmp 0 1777", "/srv/app"),
    ]


def test_a_single_program(host: Deployment, run: Run) -> None:
    """FROM scratch: no passwd, no PATH, no directory."""
    start = f"cd; echo $PWD >/tmp/home; /busybox cat /tmp/home; {SLEEP.replace('busy', '/busy')}"
    layer = pack(entry("busybox", BUSYBOX, mode=0o755))
    run(layer, Entrypoint=["/busybox", "sh", "-c"], Cmd=[start], User="65532:65532")
    says(host, "/")


def test_a_daemon_that_leaves_the_foreground(host: Deployment, run: Run) -> None:
    """As in docker, a container ends with its first process; the status tells so."""
    run(busybox_layer(), Entrypoint=["start"], Env=["PATH=/opt:/bin"], Cmd=["now"], Labels=None,
        OnBuild=["RUN no"], Shell=["no"], ArgsEscaped=True, Volumes=None, ExposedPorts=None,
    )  # fmt: skip
    assert "start: command not found" in logged(host)
    daemon = b'#!/bin/sh\necho "started $1"; sleep 1000000 &\n'
    run(busybox_layer(), pack(entry("opt/start", daemon, mode=0o755)), Entrypoint=["start"],
        Env=["PATH=/opt:/bin"], Cmd=["now"],
    )  # fmt: skip
    says(host, "started now")
    eventually(lambda: host.info("web")["state"] == "exited")
    assert host.info("web")["exit_code"] == 0


@pytest.mark.parametrize(
    "script, mode, problem",
    [
        (b"echo hi\n", 0o755, "/start: exec format error: no script with a first line of #!"),
        (b"#!/bin/sh\r\necho hi\r\n", 0o755, "/start: its interpreter '/bin/sh\\r' is missing"),
        (b"#!/bin/sh\necho hi\n", 0o644, "/start: Permission denied"),
    ],
)
def test_scripts_that_docker_refuses(
    host: Deployment, run: Run, script: bytes, mode: int, problem: str
) -> None:
    result = run(busybox_layer(), pack(entry("start", script, mode=mode)), Entrypoint=["/start"])
    assert problem in result.failed["web"]
    assert problem in logged(host)
    assert host.info("web")["exit_code"] == 126
