#!/usr/bin/env python3
# SPDX-License-Identifier: GPL-3.0-or-later
# Copyright: the sandlot developers
"""What sandlot could leave behind on a host, as sorted data that two moments can be compared by.

    from fingerprint import diff, fingerprint          in tests
    fingerprint.py [--root DIR]                        prints JSON
    fingerprint.py [--root DIR] --compare FILE         prints what changed since FILE, exit status 1

Counters, indices, ages, process ids and other values that change by themselves are left out.
"""

from __future__ import annotations

import argparse
import hashlib
import json
import os
import re
import subprocess
import sys
from pathlib import Path
from typing import Any, Callable, Iterable, Iterator

Fingerprint = dict[str, list[str]]

NAMESPACES = ("user", "net", "pid", "mnt", "uts", "ipc", "cgroup", "time")
HASHED = ("subuid", "subgid", "passwd", "group", "hosts", "resolv.conf", "nftables.conf")
# mount(8) makes it for itself, once in the life of a machine.
OF_OTHERS = ("/run/mount",)
LISTED = (
    "etc/modules-load.d",
    "etc/sysctl.d",
    "etc/systemd/system",
    "etc/tmpfiles.d",
    "run",
    "run/netns",
    "run/sandlot",
    "usr/local/bin",
    "usr/local/lib",
    "usr/local/lib/sandlot",
    "usr/local/sbin",
    "var/lib",
    "var/lib/sandlot",
)
# Written to be acted upon, or different at each look.
VOLATILE_SYSCTLS = re.compile(r"/(flush|stable_secret|tcp_fastopen_key|mtu_expires|retrans_time)$")
# Sized by the kernel at boot from its memory, which differs by pages between two boots of one host.
SIZED_BY_MEMORY = re.compile(
    r"/(inet_peer_threshold|tcp_[rw]?mem|udp_mem|threads-max|user/max_\w+|max_user_watches)$"
)
# Settings of interfaces of ours; that these are gone is seen among the links.
OUR_LINKS = re.compile(r"/(conf|neigh)/(sandlot|sb-|sl-)")
# Of a worker's own namespaces (tests/integration/isolation.py).
ISOLATED = (
    *("mounts:", "links:", "addresses:", "routes:", "rules:", "listeners:", "moved files:"),
    "sysctls: net/",
)
# Slashes in /sys/fs/cgroup/CONTROLLER/NAME.
TOP_CGROUPS = 5
# Units that systemd starts and ends on its own.
VOLATILE_UNITS = re.compile(r"\.(service|scope|slice|mount|socket)(/|$)")


def _read(path: str | Path) -> str:
    try:
        return Path(path).read_text(errors="replace")
    except OSError:
        return ""


def _output(*command: str) -> str:
    try:
        return subprocess.run(command, capture_output=True, text=True, check=False).stdout
    except FileNotFoundError:
        return ""


def _json(*command: str) -> list[dict[str, Any]]:
    found: list[dict[str, Any]] = json.loads(_output(*command) or "[]")
    return found


def mounts() -> Iterator[str]:
    for line in _read("/proc/self/mountinfo").splitlines():
        fields, _, source = line.partition(" - ")
        words = fields.split()
        # Peer group numbers are handed out anew; whether a mount is shared is not volatile.
        propagation = [re.sub(r":\d+", "", word) for word in words[6:]]
        yield " ".join([words[4], words[3], source.split(" ")[0], words[5], *propagation])


def links() -> Iterator[str]:
    for link in _json("ip", "-details", "-json", "link", "show"):
        kind = link.get("linkinfo", {}).get("info_kind", "")
        flags = ",".join(sorted(link.get("flags", [])))
        master = link.get("master", "")
        yield f"{link['ifname']} {kind} {link.get('address', '')} {link['mtu']} {master} {flags}"


def addresses() -> Iterator[str]:
    for link in _json("ip", "-json", "address", "show"):
        for address in link.get("addr_info", []):
            if address.get("family") in ("inet", "inet6"):
                yield f"{link.get('ifname')} {address['local']}/{address['prefixlen']}"


def routes() -> Iterator[str]:
    for family in ("-4", "-6"):
        for route in _json("ip", family, "-json", "route", "show", "table", "all"):
            keys = ("type", "dst", "gateway", "dev", "table", "metric")
            yield " ".join(f"{key}={route[key]}" for key in keys if key in route)
    yield from _output("ip", "rule", "show").splitlines()


def rules() -> Iterator[str]:
    table = ""
    for line in _output("nft", "--stateless", "list", "ruleset").splitlines():
        table = line.removesuffix(" {") if line.startswith("table ") else table
        yield f"{table}: {line.strip()}"


def cgroups() -> Iterator[str]:
    for directory, names, _ in os.walk("/sys/fs/cgroup"):
        for name in names:
            path = os.path.join(directory, name)
            # Below those at the top, others make and remove their own at any time.
            at_top = path.count("/") <= TOP_CGROUPS
            if "sandlot" in path or (at_top and not VOLATILE_UNITS.search(path)):
                yield path


def _namespaces(pid: int | str) -> dict[str, str]:
    found = {}
    for kind in NAMESPACES:
        try:
            found[kind] = os.readlink(f"/proc/{pid}/ns/{kind}")
        except OSError:
            continue
    return found


def processes() -> Iterator[str]:
    """Processes in another user or pid namespace, in a cgroup of ours, or running our code."""
    own = _namespaces("self")
    for pid in filter(str.isdigit, os.listdir("/proc")):
        theirs = _namespaces(pid)
        state = _read(f"/proc/{pid}/stat").rpartition(")")[2].split()
        # A zombie is dead already; who has to reap it may take its time.
        if not theirs or not state or state[0] in "ZX":
            continue
        command = _read(f"/proc/{pid}/cmdline").replace("\0", " ").strip()
        foreign = any(theirs.get(kind) != own.get(kind) for kind in ("user", "pid"))
        ours = "lib/sandlot" in command or "sandlot" in _read(f"/proc/{pid}/cgroup")
        if foreign or ours:
            yield command


def files(root: str = "") -> Iterator[str]:
    for name in HASHED:
        path = Path(f"{root}/etc/{name}")
        if path.is_file():
            digest = hashlib.sha256(path.read_bytes()).hexdigest()[:16]
            mode = path.stat()
            yield f"{path} {digest} {mode.st_mode:o} {mode.st_uid}:{mode.st_gid}"
    for directory in LISTED:
        path = Path(f"{root}/{directory}")
        if path.is_dir():
            yield from (str(entry) for entry in path.iterdir() if str(entry) not in OF_OTHERS)


def sysctls() -> Iterator[str]:
    for top in ("net/ipv4", "net/ipv6", "kernel", "user", "fs/inotify"):
        for directory, _, names in os.walk(f"/proc/sys/{top}"):
            if top == "kernel" and directory != "/proc/sys/kernel":
                continue
            for name in names:
                path = os.path.join(directory, name)
                if not _volatile(path):
                    yield f"{path[10:]} = {_read(path).strip()}"


def _volatile(path: str) -> bool:
    counters = ("/kernel/ns_last_pid", "/kernel/pty/nr", "/kernel/random", "/kernel/printk")
    changing = (VOLATILE_SYSCTLS, SIZED_BY_MEMORY, OUR_LINKS)
    return any(names.search(path) for names in changing) or path.startswith(
        tuple(f"/proc/sys{name}" for name in counters)
    )


def listeners() -> Iterator[str]:
    for protocol, state in (("tcp", "0A"), ("tcp6", "0A"), ("udp", "07"), ("udp6", "07")):
        for line in _read(f"/proc/net/{protocol}").splitlines()[1:]:
            words = line.split()
            if words[3] == state and words[2].endswith(":0000"):
                yield f"{protocol} {words[1]}"
    for line in _read("/proc/net/unix").splitlines():
        if "sandlot" in line:
            yield f"unix {line.split()[-1]}"


def kernel_objects() -> Iterator[str]:
    for kind in ("shm", "sem", "msg"):
        for line in _read(f"/proc/sysvipc/{kind}").splitlines()[1:]:
            yield f"{kind} {line.split()[0]}"
    for backing in Path("/sys/block").glob("loop*/loop/backing_file"):
        yield f"{backing.parts[3]} {_read(backing).strip()}"
    for line in _read("/proc/keys").splitlines():
        if "sandlot" in line:
            yield f"key {' '.join(line.split()[7:])}"


SOURCES: dict[str, Callable[[], Iterable[str]]] = {
    "mounts": mounts,
    "links": links,
    "addresses": addresses,
    "routes": routes,
    "rules": rules,
    "cgroups": cgroups,
    "processes": processes,
    "sysctls": sysctls,
    "listeners": listeners,
    "kernel objects": kernel_objects,
    "files": files,
}


def fingerprint(root: str = "") -> Fingerprint:
    """The host now, with the files below a moved root as well."""
    found = {name: sorted(source()) for name, source in SOURCES.items()}
    moved = files(root) if root else ()
    return {**found, "moved files": sorted(moved)}


def diff(before: Fingerprint, after: Fingerprint) -> list[str]:
    """Lines that came ("+ part: line") and went ("- part: line"); empty when nothing changed."""
    changes = []
    for name in sorted(before.keys() | after.keys()):
        old, new = list(before.get(name, [])), list(after.get(name, []))
        for line in list(old):
            if line in new:
                old.remove(line)
                new.remove(line)
        changes += [f"- {name}: {line}" for line in old]
        changes += [f"+ {name}: {line}" for line in new]
    return changes


def changes_since(before: Fingerprint, root: str) -> list[str]:
    """What differs now.

    A worker of pytest-xdist has a network and mounts of its own, and shares the rest with the other
    workers. SANDLOT_SHARED_HOST=1 is for a machine on which other tests run at the same time. Of
    what is shared, only lines that carry the root's own names count.
    """
    changes = diff(before, fingerprint(root))
    own = ISOLATED if "PYTEST_XDIST_WORKER" in os.environ else ()
    if not own and not os.environ.get("SANDLOT_SHARED_HOST"):
        return changes
    marks = (root, hashlib.sha256(root.encode()).hexdigest()[:6])
    return [
        line for line in changes if line[2:].startswith(own) or any(mark in line for mark in marks)
    ]


def main() -> int:
    parser = argparse.ArgumentParser(description="Prints or compares a host's fingerprint.")
    parser.add_argument("--root", default="", help="a moved root (SANDLOT_ROOT)")
    parser.add_argument("--compare", metavar="FILE", help="a fingerprint printed before")
    arguments = parser.parse_args()
    if not arguments.compare:
        print(json.dumps(fingerprint(arguments.root), indent=1, sort_keys=True))
        return 0
    changes = changes_since(json.loads(Path(arguments.compare).read_text()), arguments.root)
    print("\n".join(changes))
    return 1 if changes else 0


if __name__ == "__main__":
    sys.exit(main())
