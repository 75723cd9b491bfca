# SPDX-License-Identifier: GPL-3.0-or-later
# Copyright: the sandlot developers
"""Ordinary modules in sandboxes, over SSH and over a local connection."""

from __future__ import annotations

import hashlib
import os
import subprocess
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from connection_fixtures import SANDBOXES, Fleet, fleet_of
from converge_fixtures import needs_root

pytestmark = [needs_root, pytest.mark.slow]

SERVICE = """\
#!/bin/sh
### BEGIN INIT INFO
# Provides: thing
# Required-Start:
# Required-Stop:
# Default-Start: 2
# Default-Stop:
### END INIT INFO
case $1 in
  start) touch /var/thing ;;
  stop) rm -f /var/thing ;;
  status) [ -e /var/thing ] || exit 3 ;;
esac
"""


@pytest.fixture(scope="module")
def fleet() -> Iterator[Fleet]:
    with fleet_of(*SANDBOXES) as made:
        yield made


@pytest.fixture
def files(fleet: Fleet) -> Path:
    """What a controller has beside its play."""
    place = fleet.top / "files"
    (place / "tree").mkdir(parents=True, exist_ok=True)
    (place / "tree/a").write_text("a\n")
    (place / "empty").write_bytes(b"")
    # More than one piece, and not a multiple of it.
    (place / "big").write_bytes(os.urandom((16 << 20) + 12345))
    (place / "page.j2").write_text("{{ inventory_hostname }} says {{ word }}\n")
    (place / "say.sh").write_text('#!/bin/sh\necho "$1 $(id -un)"\n')
    (place / "thing").write_text(SERVICE)
    tar = ["tar", "--create", "--gzip", "--file", "tree.tgz", "tree"]
    subprocess.run(tar, cwd=place, check=True)
    return place


def asserted(*conditions: str) -> dict[str, Any]:
    return {"assert": {"that": list(conditions)}}


def test_ordinary_modules(fleet: Fleet, files: Path) -> None:
    got = fleet.top / "got"
    whole = {
        name: hashlib.sha1((files / name).read_bytes()).hexdigest() for name in ("big", "empty")
    }
    tasks = [
        {"setup": {"gather_subset": ["min"]}},
        *(
            {"copy": {"src": name, "dest": f"/var/tmp/{name}", "mode": "0640"}, "register": name}
            for name in whole
        ),
        asserted(*(f"{name}.checksum == '{digest}'" for name, digest in whole.items())),
        {"stat": {"path": "/var/tmp/big"}, "register": "seen"},
        asserted("seen.stat.mode == '0640' and seen.stat.pw_name == 'root'"),
        *(
            {"fetch": {"src": f"/var/tmp/{name}", "dest": f"{got}/{name}", "flat": True}}
            for name in whole
        ),
        {"template": {"src": "files/page.j2", "dest": "/etc/page"}, "vars": {"word": "hello"}},
        {"slurp": {"src": "/etc/page"}, "register": "page"},
        asserted("page.content | b64decode == 'debian@alpha says hello\\n'"),
        {"lineinfile": {"path": "/etc/page", "line": "more", "backup": True}, "register": "line"},
        asserted("line is changed and line.backup != ''"),
        {"user": {"name": "joe", "uid": 1234}},
        {"unarchive": {"src": "tree.tgz", "dest": "/opt", "owner": "joe"}},
        {"stat": {"path": "/opt/tree/a"}, "register": "seen"},
        asserted("seen.stat.pw_name == 'joe'"),
        {"script": "say.sh one", "become": True, "become_user": "joe", "register": "said"},
        asserted("said.stdout_lines == ['one joe']"),
        {"shell": "git init -q /opt/repo && cd /opt/repo && git -c user.name=a -c user.email=a@b"
                  " commit -q --allow-empty -m one"},
        {"git": {"repo": "/opt/repo", "dest": "/opt/clone"}, "register": "cloned"},
        asserted("cloned is changed and cloned.after | length == 40"),
        {"copy": {"src": "thing", "dest": "/etc/init.d/thing", "mode": "0755"}},
        {"service": {"name": "thing", "state": "started"}, "register": "served"},
        {"service": {"name": "thing", "state": "started"}, "register": "again"},
        asserted("served is changed and again is not changed"),
        {"shell": "sleep 0.2; echo done", "async": 30, "poll": 1, "register": "job"},
        asserted("job.stdout == 'done'"),
        {"meta": "reset_connection"},
        {"wait_for_connection": {"timeout": 10}},
        {"raw": "printf 'a\\tb'; exit 3", "register": "r", "failed_when": "r.rc != 3"},
        asserted("r.stdout == 'a\\tb'"),
    ]  # fmt: skip
    played = fleet.play({"hosts": "debian@alpha", "tasks": tasks})
    assert all(kept.outcome == "ok" for kept in played.kept)
    assert hashlib.sha1((got / "big").read_bytes()).hexdigest() == whole["big"]
    assert (got / "empty").read_bytes() == b""
