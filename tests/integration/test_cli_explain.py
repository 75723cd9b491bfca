# SPDX-License-Identifier: GPL-3.0-or-later
# Copyright: the sandlot developers
"""The script that `sandlot explain` prints makes the sandbox that sandlot makes."""

from __future__ import annotations

import contextlib
import json
import os
import signal
import subprocess
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from converge_fixtures import Deployment, eventually, needs_root, sandbox
from sandboxes import workload_of
from sandlot import converge, images
from sandlot.cli import explain

pytestmark = needs_root

NAMESPACES = ("user", "mnt", "pid", "net", "ipc", "uts", "cgroup", "time")
CONFINEMENT = ("CapInh", "CapPrm", "CapEff", "CapBnd", "CapAmb", "NoNewPrivs", "Uid", "Gid")
LIMITS = {
    "memory.limit_in_bytes",
    "memory.memsw.limit_in_bytes",
    "memory.max",
    "memory.swap.max",
    "memory.soft_limit_in_bytes",
    "memory.low",
    "cpu.max",
    "cpu.cfs_quota_us",
    "cpu.shares",
    "cpu.weight",
    "cpuset.cpus",
    "pids.max",
}


def facts(pid: int) -> dict[str, Any]:
    """What the kernel says of a sandbox's process; the same for the same sandbox."""
    return {
        "mounts": mounts(pid),
        "hostname": inside(pid, "--uts", "hostname"),
        "addresses": addresses(pid),
        "routes": inside(pid, "--net", "ip", "-4", "route"),
        "cgroups": sorted(Path(f"/proc/{pid}/cgroup").read_text().splitlines()),
        "limits": limits(pid),
        "confinement": {k: v for k, v in status(pid).items() if k in CONFINEMENT},
        "groups": status(pid)["Groups"],
        "uid_map": Path(f"/proc/{pid}/uid_map").read_text(),
        "gid_map": Path(f"/proc/{pid}/gid_map").read_text(),
        "rlimits": Path(f"/proc/{pid}/limits").read_text(),
        "umask": status(pid)["Umask"],
        "cwd": os.readlink(f"/proc/{pid}/cwd"),
        "environment": sorted(Path(f"/proc/{pid}/environ").read_bytes().split(b"\0")),
        "hosts": Path(f"/proc/{pid}/root/etc/hosts").read_text(),
        "ports": inside(pid, "--net", "cat", "/proc/sys/net/ipv4/ip_unprivileged_port_start"),
        "clocks": Path(f"/proc/{pid}/timens_offsets").read_text(),
        "contents": [contents(Path(f"/proc/{pid}/root{path}")) for path in CONTENTS],
    }


def contents(path: Path) -> tuple[int, int, int, str] | None:
    if not path.exists():
        return None
    status = path.stat()
    return status.st_uid, status.st_gid, status.st_mode, path.read_text()


def mounts(pid: int) -> list[list[str]]:
    """Path, options of the mount, and type, which for files of the host is where /run lies."""
    found = []
    for line in Path(f"/proc/{pid}/mountinfo").read_text().splitlines():
        before, _, after = line.partition(" - ")
        # Before util-linux 2.39 the script has a copy in place of an id-mapped mount.
        path, options = before.replace(",idmapped", "").split()[4:6]
        found.append([path, options, "" if path.startswith("/etc/") else after.split()[0]])
    return sorted(found)


def inside(pid: int, *command: str) -> str:
    argv = ["nsenter", "--target", str(pid), *command]
    return subprocess.run(argv, capture_output=True, text=True, check=True).stdout


def addresses(pid: int) -> list[tuple[str, str, list[str]]]:
    links = json.loads(inside(pid, "--net", "ip", "-4", "-json", "address"))
    return [
        (link["ifname"], link["operstate"], [a["local"] for a in link["addr_info"]])
        for link in links
    ]


def status(pid: int) -> dict[str, str]:
    lines = Path(f"/proc/{pid}/status").read_text().splitlines()
    return {key: value.strip() for key, _, value in (line.partition(":") for line in lines)}


def limits(pid: int) -> dict[str, str]:
    found = {}
    for line in Path(f"/proc/{pid}/cgroup").read_text().splitlines():
        _, controllers, path = line.split(":", 2)
        directory = Path("/sys/fs/cgroup", controllers or "unified")
        if not directory.is_dir():
            directory = Path("/sys/fs/cgroup")
        for name in LIMITS:
            file = Path(f"{directory}{path}", name)
            if file.exists() and path != "/":
                found[name] = file.read_text()
    return found


@contextlib.contextmanager
def running_script(script: str) -> Iterator[int]:
    """Runs a script of explain; yields its process 1, as the host sees it."""
    with tempfile.TemporaryDirectory(prefix="slx", dir="/tmp") as scratch:
        command = ["bash", "-s", scratch]
        with tempfile.TemporaryFile("w+") as text:
            text.write(script)
            text.seek(0)
            process = subprocess.Popen(
                command, stdin=text, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
            )
        try:
            assert process.stderr is not None
            line = process.stderr.readline()
            assert line.startswith("running as process "), line + process.stderr.read()
            pid = int(line.split()[3].rstrip(":"))
            # Until it has become the workload, its shell keeps what it is about to replace.
            eventually(lambda: sorted(os.listdir(f"/proc/{pid}/fd")) == ["0", "1", "2"])
            yield pid
        finally:
            process.send_signal(signal.SIGTERM)
            process.communicate(timeout=20)
        assert process.returncode == 143


def release(host: Deployment, name: str) -> None:
    """Make the address free, as the script asks for."""
    host_link = host.info(name)["interfaces"][0]["link"]
    subprocess.run(["ip", "link", "set", "dev", host_link, "down"], check=True)


OPTIONS: dict[str, dict[str, Any]] = {
    "plain": {},
    "limited": {
        "memory": "64m",
        "memory_reservation": "8m",
        "cpus": 0.5,
        "pids_limit": 50,
        "cpu_shares": 512,
        "ulimits": ["nofile=512:1024"],
        "cpuset_cpus": "0",
    },
    "fancy": {
        "hostname": "other.example",
        "read_only": True,
        "no_new_privileges": False,
        "tmpfs": ["/scratch/deep:size=1m,mode=700"],
        "volumes": ["data:/data:noexec", "/usr/share:/data/share:ro", "/etc/hosts:/data/file:ro"],
        "mounts": [
            {"type": "tmpfs", "target": "/data/memory", "tmpfs_size": "1m"},
            {"type": "bind", "source": "/usr/lib", "target": "/lib/x", "propagation": "rslave"},
        ],
        "working_dir": "/scratch",
        "env": {"WORDS": 'it\'s "quoted" $HOME\nand more'},
        "time_offset": {"monotonic": 100, "boottime": 1000},
        "etc_hosts": {"db": "192.0.2.1"},
        "published_ports": ["127.0.0.1:18099:80"],
    },
    "user": {
        "user": "www-data",
        "security_profile": "daemon",
        "capabilities": ["NET_BIND_SERVICE", "NET_RAW"],
    },
    "capable": {
        "capabilities": ["NET_RAW", "SETUID", "SETGID"],
        "files": [{"target": "/etc/app/main.conf", "content": "listen 80\n", "owner": "33"}],
        "secrets": [
            {"name": "db", "value": "hunter2"},
            {"name": "tls", "value": "hunter2-key", "target": "/etc/tls.key", "mode": "0400"},
        ],
        "env": {
            "TOKEN": {"value": 'hunter2\n\\n "$(id)" it\'s %s\n\n', "secret": True},
            "OTHER": {"value": "", "secret": True},
        },
    },
}
CONTENTS = ("/etc/app/main.conf", "/run/secrets/db", "/etc/tls.key")


MODES: dict[str, dict[str, Any]] = {
    "none": {"network_mode": "none"},
    "host": {"network_mode": "host", "allow_host_network": True},
    "shared": {"network_mode": "container:db", "sysctls": {"kernel.shmmni": "99"}},
}


@pytest.mark.parametrize("options", MODES.values(), ids=MODES)
def test_script_joins_the_same_network(host: Deployment, options: dict[str, Any]) -> None:
    specs = [sandbox("db"), sandbox("web", **options)]
    host.converged(*specs)
    real = workload_of(host.pid("web"))
    expected = {**same_at_any_time(real, options), "shm": shm(real)}
    net = os.readlink(f"/proc/{real}/ns/net")
    own_shm = Path("/proc/sys/kernel/shmmni").read_text()
    script = explain.script(explain.look(host.paths, "web", show_env=True))
    host.run(sandbox("web", state="stopped", **options))
    with running_script(script) as pid:
        found = {**same_at_any_time(pid, options), "shm": shm(pid)}
        assert {k: (found[k], v) for k, v in expected.items() if found[k] != v} == {}
        eventually(lambda: sysfs(pid) == links(pid))
        shared = options["network_mode"] != "none"
        assert (os.readlink(f"/proc/{pid}/ns/net") == net) == shared
        text = f"it joins a network namespace that has to be there: {options['network_mode']}"
        assert (text in script) == shared
    assert Path("/proc/sys/kernel/shmmni").read_text() == own_shm


def same_at_any_time(pid: int, options: dict[str, Any]) -> dict[str, Any]:
    """The host's addresses and routes are not ours to keep as they are."""
    left_out = {"addresses", "routes"} if options["network_mode"] == "host" else set()
    return {key: value for key, value in facts(pid).items() if key not in left_out}


def links(pid: int) -> list[str]:
    """Also those without an address."""
    found = json.loads(inside(pid, "--net", "ip", "-json", "link"))
    return sorted(link["ifname"] for link in found)


def sysfs(pid: int) -> list[str]:
    return sorted(os.listdir(f"/proc/{pid}/root/sys/class/net"))


def shm(pid: int) -> str:
    return inside(pid, "--ipc", "cat", "/proc/sys/kernel/shmmni")


@pytest.mark.parametrize("options", OPTIONS.values(), ids=OPTIONS)
def test_script_makes_the_same_sandbox(host: Deployment, options: dict[str, Any]) -> None:
    host.converged(sandbox("web", **options))
    real = workload_of(host.pid("web"))
    expected = facts(real)
    script = explain.script(explain.look(host.paths, "web", show_env=True))
    assert "hunter2" not in script
    host.run(sandbox("web", state="stopped", **options))
    release(host, "web")
    with running_script(script) as pid:
        found = facts(pid)
        assert {k: (found[k], v) for k, v in expected.items() if found[k] != v} == {}
        for kind in NAMESPACES:
            mine, other = (
                os.readlink(f"/proc/self/ns/{kind}"),
                os.readlink(f"/proc/{pid}/ns/{kind}"),
            )
            assert (mine != other) or (kind == "time" and "time_offset" not in options)
    # Host names of the script's own are gone with it, and the sandbox comes back as it was.
    links = json.loads(subprocess.check_output(["ip", "-json", "link"]))
    assert not [link["ifname"] for link in links if link["ifname"].startswith("sx-")]
    host.converged(sandbox("web", **options))
    assert addresses(workload_of(host.pid("web"))) == expected["addresses"]


LAYERED = {
    "name": "layered",
    "source": "busybox",
    "setup": [
        "rm /etc/shells; rm -r /var/www; mkdir /var/www; echo new > /var/www/index.html; "
        "echo more >> /etc/group; ln -s /etc /linked; chown 33:33 /var/www/index.html; "
        "echo x > /tool; chmod 4755 /tool",
    ],
}
LIST = "find / -xdev ! -type p -exec stat -c '%n %a %u %g %s %N' {} + | sort"


def listing(pid: int) -> list[str]:
    return inside(pid, "--mount", "--user", "--root", "--wd", "sh", "-c", LIST).splitlines()


def test_script_stacks_the_layers_of_an_image(host: Deployment) -> None:
    wanted = converge.request(None, images=images.normalise_all([LAYERED]))
    assert converge.converge(host.paths, wanted).changed
    host.converged(sandbox("web", image="layered"))
    real = workload_of(host.pid("web"))
    expected, expected_files = facts(real), listing(real)
    assert not [line for line in expected_files if line.startswith("/etc/shells ")]
    assert [line for line in expected_files if line.startswith("/tool 4755 0 0")]
    assert [line for line in expected_files if line.startswith("/var/www/index.html 644 33 33")]
    script = explain.script(explain.look(host.paths, "web", show_env=True))
    host.run(sandbox("web", image="layered", state="stopped"))
    release(host, "web")
    with running_script(script) as pid:
        found, files = facts(pid), listing(pid)
    assert {k: (found[k], v) for k, v in expected.items() if found[k] != v} == {}
    assert sorted(set(files) ^ set(expected_files)) == []


def test_script_refuses_to_take_an_address_that_is_in_use(host: Deployment, tmp_path: Path) -> None:
    host.converged(sandbox("web"))
    script = explain.script(explain.look(host.paths, "web", show_env=True))
    done = subprocess.run(
        ["bash", "-s", str(tmp_path)], input=script, capture_output=True, text=True, check=False
    )
    assert done.returncode == 1
    assert "so first: sandlot stop web" in done.stderr
    assert list(tmp_path.iterdir()) == []


def test_script_says_what_it_leaves_out(host: Deployment) -> None:
    options = {"published_ports": ["127.0.0.1:18098:80"], "egress_rate": "10mbit"}
    host.converged(sandbox("web", **options))
    subject = explain.look(host.paths, "web", show_env=True)
    script = explain.script(subject)
    for text in explain.differences(subject):
        assert f"# - {text}\n" in script
    assert "no seccomp filter" in script
    assert "ports are not published: 127.0.0.1:18098:80/tcp" in script
    assert "bandwidth is not limited: out 10mbit" in script
