# SPDX-License-Identifier: GPL-3.0-or-later
# Copyright: the sandlot developers
"""Real crashes of one kind each: the remedy names what helps, and with it the workload runs.

All broken sandboxes are one run, and all mended ones another, so that the watch is waited for once.
"""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any, NamedTuple

import pytest
from converge_fixtures import Deployment, needs_root, sandbox
from sandlot.converge import Result
from sandlot.sandbox import crash

pytestmark = needs_root
STAY = "exec sleep 1000000"
ASKS = 'echo "You must specify APP_PASSWORD"; exit 1'


class Kind(NamedTuple):
    """``files`` are put into the layer beforehand: path, content, mode, owner inside."""

    broken: dict[str, Any]
    remedy: str
    mended: dict[str, Any]
    what: str = "ended with exit code"
    files: tuple[tuple[str, str, int, int], ...] = ()


def shell(text: str, **options: Any) -> dict[str, Any]:
    return {"command": ["sh", "-c", text], **options}


START = "could not be started"
EATER = "sleep 0.1; x=xxxxxxxx; for i in $(seq 21); do x=$x$x; done; "
FORKER = "for i in $(seq 12); do sleep 1000000 & done; wait"
SCRIPT = f"#!/bin/sh\n{STAY}\n"
KINDS = {
    "memory": Kind(
        shell(EATER + STAY, memory="16m", memory_swap="16m"),
        "its memory is 16m: give it more memory",
        shell(EATER + STAY, memory="256m"),
        "was killed for its memory limit",
    ),
    "capability": Kind(
        shell(f"touch /x; chown 7 /x || exit 1; {STAY}"),
        "capabilities: [CHOWN]",
        shell(f"touch /x; chown 7 /x || exit 1; {STAY}", capabilities=["CHOWN"]),
    ),
    "profile": Kind(
        shell(f"su nobody -s /bin/true || exit 1; {STAY}"),
        "security_profile: daemon",
        shell(f"su nobody -s /bin/true || exit 1; {STAY}", security_profile="daemon"),
    ),
    "background": Kind(
        {"command": ["httpd", "-p", "80"]},
        "keep it in the foreground (-f",
        {"command": ["httpd", "-f", "-p", "80"]},
    ),
    "terminal": Kind({"command": ["sh"]}, "[sleep, infinity]", {"command": ["sleep", "infinity"]}),
    "job": Kind(
        {"command": ["true"]},
        "restart_policy: on-failure",
        {"command": ["true"], "restart_policy": "on-failure"},
    ),
    "variable": Kind(
        shell(f'[ -n "$APP_PASSWORD" ] || {{ {ASKS}; }}; {STAY}'),
        "give it env with APP_PASSWORD",
        shell(f'[ -n "$APP_PASSWORD" ] || {{ {ASKS}; }}; {STAY}', env={"APP_PASSWORD": "x"}),
    ),
    "missing": Kind(
        {"command": ["/app/run"]},
        "/app/run is not in its root",
        {"command": ["/bin/sleep", "inf"]},
        START,
    ),
    "path": Kind(
        {"command": ["runs"]},
        "runs is in no directory of its PATH",
        {"command": ["sleep", "inf"]},
        START,
    ),
    "mode": Kind(
        {"command": ["/run.sh"]},
        "is not executable",
        {"command": ["sh", "/run.sh"]},
        START,
        (("run.sh", SCRIPT, 0o644, 0),),
    ),
    "head": Kind(
        {"command": ["/run.sh"]},
        "/run.sh has no #! line",
        {"command": ["sh", "/run.sh"]},
        START,
        (("run.sh", STAY, 0o755, 0),),
    ),
    "crlf": Kind(
        {"command": ["/run.sh"]},
        "lines of /run.sh end with CR LF: write them with LF alone",
        {"command": ["/mended.sh"]},
        START,
        (("run.sh", SCRIPT.replace("\n", "\r\n"), 0o755, 0), ("mended.sh", SCRIPT, 0o755, 0)),
    ),
    "interpreter": Kind(
        {"command": ["/run.py"]},
        "/usr/bin/python9, which is to run /run.py, is not in its root",
        {"command": ["sh", "/run.py"]},
        START,
        (("run.py", f"#!/usr/bin/python9\n{STAY}\n", 0o755, 0),),
    ),
    "machine": Kind(
        {"command": ["/alien"]},
        "use an image for",
        {"command": ["sleep", "inf"]},
        START,
        (("alien", "\x7fELF\x02\x01\x01" + "\0" * 9 + "\x02\0\x15\0" + "\0" * 44, 0o755, 0),),
    ),
    "inner": Kind(
        shell("exec /entry.sh server"),
        "server is in no directory of its PATH",
        shell("exec /entry.sh sleep inf"),
        files=(("entry.sh", '#!/bin/sh\nexec "$@"\n', 0o755, 0),),
    ),
    "user": Kind(
        {"command": ["sleep", "inf"], "user": "redis"},
        "user redis is not in its /etc/passwd",
        {"command": ["sleep", "inf"], "user": "999"},
        START,
    ),
    "read only": Kind(
        shell(f"mkdir /var/x || exit 1; {STAY}", read_only=True),
        "tmpfs: ['/var']",
        shell(f"mkdir /var/x || exit 1; {STAY}", read_only=True, tmpfs=["/var"]),
    ),
    "noexec": Kind(
        shell(f"cp /bin/busybox /tmp/sleep; /tmp/sleep 0 || exit 1; {STAY}", tmpfs=["/tmp"]),
        "tmpfs: ['/tmp:exec']",
        shell(f"cp /bin/busybox /tmp/sleep; /tmp/sleep 0 || exit 1; {STAY}", tmpfs=["/tmp:exec"]),
    ),
    "owner": Kind(
        shell(f"touch /store/x || exit 1; {STAY}", user="33"),
        "/store belongs to user 70, and the workload runs as 33: set user: '70'",
        shell(f"touch /store/x || exit 1; {STAY}", user="70"),
        files=(("store/", "", 0o755, 70),),
    ),
    "pids": Kind(
        shell(FORKER, pids_limit=8), "pids_limit is 8: give it more", shell(FORKER, pids_limit=64)
    ),
    "tmpfs": Kind(
        shell(
            f"dd if=/dev/zero of=/cache/x bs=1k count=200 || exit 1; {STAY}",
            tmpfs=["/cache:size=64k"],
        ),
        "its tmpfs /cache is full",
        shell(
            f"dd if=/dev/zero of=/cache/x bs=1k count=200 || exit 1; {STAY}",
            tmpfs=["/cache:size=1m"],
        ),
    ),
    "port": Kind(
        shell("httpd -p 8080; exec httpd -f -p 8080"),
        "two of its processes want the same port",
        shell("httpd -p 8080; exec httpd -f -p 8081"),
    ),
    "network": Kind(
        shell(
            f"nc -w 1 GATEWAY 9 2>&1 | grep unreachable && exit 1; {STAY}",
            network_mode="none",
        ),
        "it has no network",
        shell(f"nc -w 1 GATEWAY 9 2>&1 | grep unreachable && exit 1; {STAY}"),
    ),
    "mount": Kind(
        shell(f"mount -t tmpfs x /srv || exit 1; {STAY}"),
        "list what it mounts in tmpfs",
        shell(f"touch /srv/x || exit 1; {STAY}", tmpfs=["/srv"]),
    ),
    # The trace tells what allows it: nothing, for this call.
    "call": Kind(shell("hostname x || exit 1"), "sandlot trace call", shell(f"hostname && {STAY}")),
    "quiet": Kind(shell("exit 5"), "", shell(STAY)),
}


def name(kind: str) -> str:
    return kind.replace(" ", "-")


@pytest.fixture(scope="module")
def outcomes(reused: Any) -> Any:
    """The results of the broken and of the mended sandboxes."""
    with reused.lent(keep=False) as host:
        host.run(*(sandbox(name(kind), state="present") for kind in KINDS))
        for kind, case in KINDS.items():
            for path, content, mode, owner in case.files:
                put(host, kind, path, content, mode, owner)
        broken = host.run(*specs(host, "broken"), watch=crash.WATCH)
        yield broken, host.run(*specs(host, "mended"), watch=crash.WATCH)


def specs(host: Deployment, which: str) -> list[dict[str, Any]]:
    cases = {kind: dict(getattr(case, which)) for kind, case in KINDS.items()}
    for options in cases.values():
        options["command"] = [
            word.replace("GATEWAY", f"{host.prefix}.0.1") for word in options["command"]
        ]
    return [sandbox(name(kind), **options) for kind, options in cases.items()]


def put(host: Deployment, kind: str, path: str, content: str, mode: int, owner: int) -> None:
    place = Path(host.paths.sandbox(name(kind)).upper, path)
    place.mkdir() if path.endswith("/") else place.write_bytes(content.encode("latin-1"))
    place.chmod(mode)
    start = host.info(name(kind))["ids"]["uid"]
    os.chown(place, start + owner, start + owner)


@pytest.mark.parametrize("kind", KINDS)
def test_the_remedy_is_right(outcomes: tuple[Result, Result], kind: str) -> None:
    broken, mended = outcomes
    case, key = KINDS[kind], name(kind)
    assert broken.failed.get(key, "").startswith(f"its workload {case.what}"), broken.failed.get(
        key
    )
    last = broken.failed[key].splitlines()[-1]
    assert case.remedy in last and ("remedy: " in last) == bool(case.remedy), broken.failed[key]
    assert broken.sandboxes[key]["crash"]["remedy"] in last
    assert key not in mended.failed, mended.failed.get(key)
