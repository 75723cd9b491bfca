# SPDX-License-Identifier: GPL-3.0-or-later
# Copyright: the sandlot developers
"""Files and secrets that change while a sandbox runs, and how its workload is told."""

from __future__ import annotations

import os
import signal
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
from converge_fixtures import Deployment, eventually, needs_root, sandbox
from killing import killed_after
from netmode_fixtures import output, run_inside, workload
from sandlot import converge
from sandlot.build import beneath
from sandlot.kernel import mountinfo, namespaces
from sandlot.sandbox import runtime
from sandlot.spec import normalise_all

pytestmark = needs_root
CONF, PASSWORD = "/etc/app.conf", "/run/secrets/password"
# Counts signals in its log; the shell runs a trap once its child has ended.
COUNTING = """
trap 'echo hup >>/told' HUP; trap 'echo usr1 >>/told' USR1
while :; do sleep 1000000 & wait; done
"""
CHANGES, READS = 300, 50_000


def file(content: str, target: str = CONF, **options: Any) -> dict[str, Any]:
    return {"target": target, "content": content, **options}


def secret(value: str, name: str = "password", **options: Any) -> dict[str, Any]:
    return {"name": name, "value": value, **options}


def counting(**options: Any) -> dict[str, Any]:
    return sandbox("a", command=["sh", "-c", COUNTING], **options)


def lines(result: converge.Result) -> list[str]:
    """The actions that are not about options."""
    return [line for line in result.actions if not line.endswith("changed")]


def told(host: Deployment, count: int) -> list[str]:
    """What the workload was told, once it has been told so often."""
    log = Path(host.paths.sandbox("a").upper, "told")
    eventually(lambda: len(log.read_text().split() if log.exists() else []) >= count)
    return log.read_text().split()


def without_beneath(_mount: int, _place: int) -> bool:
    """As on kernels before 6.5."""
    return False


@contextmanager
def reader(host: Deployment, path: str) -> Iterator[list[int]]:
    """Opens, reads and closes a file inside all the time; the number of reads, or -1 for a fault.

    A whole version is one line, over and over.
    """
    counted: list[int] = []
    done, end = os.pipe()
    pid = os.fork()
    if pid == 0:
        status = 1
        try:
            os.close(end)
            os.set_blocking(done, False)
            status = 0 if _read_on(host.pid("a"), path, done) else 2
        except BaseException:
            import traceback; open('/tmp/live/tb','a').write(traceback.format_exc())
        finally:
            os._exit(status)
    os.close(done)
    try:
        yield counted
    finally:
        os.close(end)
        counted.append(os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]))


def _read_on(init: int, path: str, done: int) -> bool:
    for fd in [os.open(f"/proc/{init}/ns/{kind}", os.O_RDONLY) for kind in ("user", "mnt")]:
        namespaces.setns(fd, 0)
    seen, count, ended = set(), 0, False
    while not ended or count < READS:
        fd = os.open(path, os.O_RDONLY)
        data = os.read(fd, 1 << 16)
        os.close(fd)
        if data not in seen:
            if len(set(data.split())) != 1 or len(data) != len(version(0)):
                return False
            seen.add(data)
        count += 1
        if count % 100 == 0 and not ended:
            try:
                ended = not os.read(done, 1)
            except BlockingIOError:
                continue
    return len(seen) > CHANGES // 2


def version(number: int) -> str:
    return f"{number:05}\n" * 2000


@pytest.mark.parametrize("way", ["beneath", "before 6.5"])
def test_a_reader_sees_whole_versions_only(
    host: Deployment, way: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    if way != "beneath":
        monkeypatch.setattr(beneath, "attach", without_beneath)
    host.converged(sandbox("a", files=[file(version(0))], secrets=[secret(version(0))]))
    import time
    t=time.time()
    with reader(host, CONF) as first, reader(host, PASSWORD) as second:
        for number in range(1, CHANGES + 1):
            options = {"files": [file(version(number))], "secrets": [secret(version(number))]}
            result = host.run(sandbox("a", **options))
            assert not result.failed, result.failed
    print(time.time()-t)
    assert (first, second) == ([0], [0])
    assert host.inside("a", CONF) == host.inside("a", PASSWORD) == version(CHANGES)
    rows = [row for row in mountinfo.by_id(host.pid("a")).values() if row.point == CONF]
    assert len(rows) == 1
