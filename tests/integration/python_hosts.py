# SPDX-License-Identifier: GPL-3.0-or-later
# Copyright: the sandlot developers
"""Hosts with another Python: a tree of a distribution is the root of namespaces of its own.

Ansible reaches them as it reaches any host: it sends modules to an interpreter.
"""

from __future__ import annotations

import contextlib
import json
import os
import shutil
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pyroute2
from converge_fixtures import short_directory

TOP = Path(__file__).resolve().parent.parent.parent
BIN = Path(os.environ.get("SANDLOT_TEST_ANSIBLE", Path(sys.executable).parent))
# What a deploy would install, and pyroute2, which comes from the controller.
PACKAGES = ["busybox-static", "iproute2", "nftables", "python3"]
# The kernel refuses user namespaces to a process whose root is not that of its mount namespace.
_HOLDER = """\
set -e
mount -t overlay sandlot-test -o "lowerdir=$1,upperdir=$2/upper,workdir=$2/work" "$2/root"
cd "$2/root"
for place in dev sys; do mount --rbind /$place $place; done
mount -t proc proc proc
for place in run var/tmp; do mount -t tmpfs -o mode=0755 sandlot-test $place; done
mkdir -p ".$3"
mount --bind "$3" ".$3"
ip link set lo up
pivot_root . .
umount --lazy .
mount --make-rshared /
echo entered
exec sleep infinity
"""
_INTERPRETER = """\
#!/bin/sh
exec nsenter --target {pid} --mount --net --pid --ipc -- \
env SANDLOT_ROOT={root} /usr/bin/python3 "$@"
"""


@contextlib.contextmanager
def entered(tree: Path, version: str, shared: str) -> Iterator[Path]:
    """The tree as a host's root, itself unchanged; an interpreter that runs on that host.

    The host has the directory ``shared`` of this machine, for what Ansible copies there.
    """
    with short_directory() as directory, contextlib.ExitStack() as stack:
        # The layer of an overlay can't be on another overlay.
        subprocess.run(["mount", "-t", "tmpfs", "sandlot-test", directory], check=True)
        stack.callback(subprocess.run, ["umount", directory], check=True)
        packages = f"upper/usr/local/lib/python{version}/dist-packages"
        for place in ("root", packages, "work"):
            os.makedirs(f"{directory}/{place}")
        shutil.copytree(Path(pyroute2.__file__).parent, f"{directory}/{packages}/pyroute2")
        command = ["unshare", "--mount", "--net", "--pid", "--ipc", "--fork", "--kill-child"]
        script = ["sh", "-c", _HOLDER, "sh", str(tree), directory, shared]
        holder = subprocess.Popen([*command, *script], stdout=subprocess.PIPE, text=True)
        stack.callback(holder.wait)
        stack.callback(holder.kill)
        assert holder.stdout is not None and holder.stdout.readline() == "entered\n"
        children = Path(f"/proc/{holder.pid}/task/{holder.pid}/children").read_text()
        interpreter = Path(directory, "python3")
        root = f"/var/tmp/{Path(directory).name}"
        interpreter.write_text(_INTERPRETER.format(pid=int(children), root=root))
        interpreter.chmod(0o755)
        yield interpreter


def run_modules(tree: Path, version: str) -> None:
    """Each module by Ansible on such a host, from nothing to nothing."""
    with short_directory() as shared, entered(tree, version, shared) as interpreter:
        play = interpreter.with_name("play.json")
        play.write_text(json.dumps([{"hosts": "all", "gather_facts": False, "tasks": _tasks()}]))
        told = {"ansible_python_interpreter": str(interpreter), "version": version}
        told["ansible_remote_tmp"] = shared
        told["command"] = f"/var/tmp/{interpreter.parent.name}/usr/local/bin/sandlot"
        command = [str(BIN / "ansible-playbook"), "-i", "localhost,", "-c", "local", str(play)]
        environment = {**os.environ, "ANSIBLE_CONFIG": str(TOP / "ansible.cfg")}
        done = subprocess.run(
            [*command, "-e", json.dumps(told)],
            env=environment,
            capture_output=True,
            text=True,
            check=False,
        )
        assert done.returncode == 0, done.stdout + done.stderr


def _tasks() -> list[dict[str, Any]]:
    command = ["httpd", "-f", "-h", "/etc"]
    web = {"name": "web", "command": command, "published_ports": ["8080:80"]}
    alone = {"name": "alone", "command": ["sleep", "1000000"], "network_mode": "none"}
    both = {"sandboxes": [web, alone], "defaults": {"image": "busybox"}}
    return [
        {"sandbox_host": {}, "register": "runtime"},
        _asserted("runtime.python.version.startswith(version ~ '.')"),
        {"sandbox_subid": {"names": ["web"]}},
        {"sandbox_rootfs": {"images": [{"name": "busybox", "source": "busybox"}]}},
        {"sandbox_network": {"networks": [{"name": "default"}]}},
        {"sandbox": {**web, "image": "busybox"}},
        {"sandboxes": both, "register": "done"},
        {"sandboxes": both, "register": "again"},
        _asserted("done is changed and again is not changed"),
        {
            "ansible.builtin.uri": {
                "url": "http://{{ done.sandboxes.web.addresses[0] }}/hostname",
                "return_content": True,
            },
            "register": "page",
        },
        _asserted("page.content == 'web\n'"),
        {"ansible.builtin.command": {"argv": _inside("alone")}, "register": "found"},
        _asserted("found.stdout == '/dev/.python/bin/python3 ' ~ version"),
        {"sandbox_info": {}, "register": "info"},
        _asserted("info.sandboxes | map(attribute='state') | unique == ['running']"),
        {"sandboxes": {"images": [], "networks": [], "sandboxes": [], "purge": True}},
        {"sandbox_host": {"state": "absent"}},
    ]


def _inside(name: str) -> list[str]:
    """The command with which the host's Python runs in a sandbox that has none."""
    modules = "ctypes, grp, hashlib, json, lzma, pwd, select, socket, sqlite3, ssl, sys, zlib"
    code = f"import {modules}; print(sys.executable, '%d.%d' % sys.version_info[:2])"
    python = ["/dev/.python/bin/python3", "-c", f"{code}; pwd.getpwnam('root')"]
    return ["{{ command }}", "exec", "--python", name, "--", *python]


def _asserted(condition: str) -> dict[str, Any]:
    return {"ansible.builtin.assert": {"that": condition, "quiet": True}}
