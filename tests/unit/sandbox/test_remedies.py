# SPDX-License-Identifier: GPL-3.0-or-later
# Copyright: the sandlot developers
"""A crash names its likely remedy, where the spec agrees with the last words."""

from __future__ import annotations

import os
import stat
import struct
from pathlib import Path
from typing import Any

import pytest
from sandlot.idmap import IdRange
from sandlot.sandbox import record, remedies, runtime
from sandlot.sandbox.crash_case import Facts
from sandlot.sandbox.record import PRESENT, ImageRef, Record
from sandlot.sandbox.root_view import RootView, Unknown
from sandlot.site import Site
from sandlot.spec import normalise

KILLED = {"code": 137, "kills": 1}
CHOWN = "chown: /data: Operation not permitted"
POSTGRES = "       You must specify POSTGRES_PASSWORD to a non-empty value for the"
MARIADB = ("    You need to specify one of the following as an environment variable:",)
MARIADB += ("    - MARIADB_ROOT_PASSWORD", "    - MARIADB_ALLOW_EMPTY_ROOT_PASSWORD")
NODE = "Error: listen EADDRINUSE: address already in use :::8080"
NGINX = '[emerg] 1#1: host not found in upstream "app" in /etc/nginx/conf.d/default.conf:3'
SUDO = 'sudo: The "no new privileges" flag is set, which prevents sudo from running as root.'
TMP = {"tmpfs": ["/tmp", "/run:size=1m"]}
Case = tuple[dict[str, Any], dict[str, Any], Any, str]
CASES: list[Case] = [
    ({"memory": "32m"}, KILLED, "", "memory is 32m: give it more memory"),
    ({}, KILLED, "", "the host ran out of memory"),
    ({"memory": "32m"}, {**KILLED, "kills": 0}, "", ""),
    ({"memory": "32m"}, {"code": 1, "kills": 3}, "", "a process was killed for its memory of 32m"),
    ({"memory": "32m"}, {"code": 1, "kills": 3}, CHOWN, "CHOWN"),
    ({"memory": "32m"}, {"code": 1}, "std::bad_alloc", "memory is 32m"),
    ({}, {"code": 1}, "std::bad_alloc", ""),
    ({"command": ["/lib/systemd/systemd"]}, {}, "", "systemd has to be PID 1"),
    ({"command": ["/init"]}, {}, "s6-overlay-suexec: fatal: can only run as pid 1", "PID 1"),
    ({"command": ["dockerd"]}, {}, "mount: permission denied", "makes mounts"),
    ({}, {}, CHOWN, "capabilities: [CHOWN]"),
    ({"capabilities": ["CHOWN"]}, {}, CHOWN, ": sandlot trace a"),
    ({}, {}, "error: failed switching to 'redis': Operation not permitted", "profile: daemon"),
    ({"security_profile": "daemon"}, {}, CHOWN, ": sandlot trace a"),
    ({"user": "33", "security_profile": "daemon"}, {}, CHOWN, "capabilities: [CHOWN]"),
    ({}, {}, "nginx: setgid(101) failed (1: Operation not permitted)", "[SETGID]"),
    ({}, {"code": 159}, "", ": sandlot trace a"),
    ({}, {}, "io_uring_queue_init: Function not implemented", ": sandlot trace a"),
    ({"read_only": True}, {}, "mkdir: /run/x: Read-only file system", "tmpfs: ['/run']"),
    ({"read_only": True}, {}, "Read-only file system", "root is read-only"),
    ({}, {}, "sysctl: Read-only file system", "files of the kernel"),
    ({"user": "redis"}, {}, "su: unknown user redis", "add the user"),
    ({"user": "33"}, {}, "open /data/x: Permission denied", "/data/x has to be 33's"),
    ({}, {}, "open /data/x: Permission denied", "DAC_OVERRIDE"),
    (TMP, {}, "sh: /tmp/run: Permission denied", "tmpfs: ['/tmp:exec']"),
    (TMP, {}, "/tmp/x.so: failed to map segment from shared object", "tmpfs: ['/tmp:exec']"),
    ({"tmpfs": ["/tmp:exec"]}, {}, "/tmp/x.so: failed to map segment from shared object", ""),
    (TMP, {}, "open /tmp/x: Permission denied", "DAC_OVERRIDE"),
    ({"pids_limit": 20}, {}, "sh: can't fork: Resource temporarily unavailable", "is 20"),
    ({"pids_limit": 20}, {"refused_processes": 0}, "can't fork", ""),
    ({"pids_limit": 20}, {"refused_processes": 2}, "can't fork", "is 20"),
    ({}, {}, "accept: Too many open files", "nofile"),
    (TMP, {}, "write /run/x: No space left on device", "its tmpfs /run is full"),
    ({}, {}, "could not resize shared memory: No space left on device", "/dev/shm"),
    ({}, {}, "write: No space left on device", "tmpfs"),
    ({}, {}, "bind: Address already in use", "same port"),
    ({}, {}, NODE, "same port 8080"),
    ({}, {}, "nginx: bind() to 0.0.0.0:80 failed (98: Address in use)", "same port 80"),
    ({"network_mode": "container:db"}, {}, "bind() failed (98: Address in use)", "of db"),
    ({}, {"code": 127}, "sh: foo: not found", "not in its root"),
    ({}, {"code": 0, "again": True}, "", "foreground"),
    ({}, {"code": 0}, "", ""),
    ({"command": ["bash"]}, {"code": 0, "again": True}, "", "without a terminal"),
    ({"command": ["nginx"]}, {"code": 0, "again": True}, "", "('daemon off;')"),
    ({"command": ["/sbin/httpd", "-f"]}, {"code": 0, "again": True}, "", "a job that ends"),
    ({}, {}, POSTGRES, "env with POSTGRES_PASSWORD"),
    ({"env": {"POSTGRES_PASSWORD": "x"}}, {}, POSTGRES, ""),
    ({}, {}, MARIADB, "MARIADB_ROOT_PASSWORD or MARIADB_ALLOW"),
    ({}, {}, "KeyError: 'DATABASE_URL'", "env with DATABASE_URL"),
    ({}, {}, "/run.sh: 2: API_KEY: parameter not set", "env with API_KEY"),
    ({}, {}, "Error [ERR_REQUIRE_ESM]: require() of ES Module is required", ""),
    ({"network_mode": "none"}, {}, "wget: bad address 'web'", "it has no network"),
    ({"networks": []}, {}, "connect: Network is unreachable", "it has no network"),
    ({}, {}, "connect: Network is unreachable", ""),
    ({}, {}, "wget: bad address 'web'", "no sandbox of this host is named web"),
    ({}, {}, "wget: bad address 'deb.debian.org'", ""),
    ({}, {}, 'could not translate host name "db" to address: Name or service not known', "db"),
    ({}, {}, NGINX, "no sandbox of this host is named app"),
    ({}, {}, "connect to db:5432: Connection refused", ""),
    ({}, {}, "sh: can't create /etc/hosts: Permission denied", "etc_hosts"),
    ({}, {}, "sed: can't move '/etc/x' to '/etc/resolv.conf': Resource busy", "dns_servers"),
    ({}, {"code": 1}, "something else", ""),
    ({}, {}, "ERROR: permission denied for table users", ": sandlot trace a"),
    ({}, {}, "WARN: nice to have: permission denied", ": sandlot trace a"),
    ({}, {}, "nice: setpriority(-5): Permission denied", "[SYS_NICE]"),
    ({}, {}, "pods of the namespace x: permission denied", ": sandlot trace a"),
    ({}, {}, "Failed to move to new namespace: Operation not permitted", "no mounts and names"),
    ({"memory": "32m"}, {"code": 139}, ("GET /x: no such file", "API_KEY: not set"), ""),
    ({"memory": "32m"}, {"code": 139, "kills": 1}, "", "a process was killed for its memory"),
    ({}, {}, ("WARNING: JAVA_OPTS is not set", CHOWN), "capabilities: [CHOWN]"),
    ({}, {}, (CHOWN, "JAVA_OPTS is not set"), "env with JAVA_OPTS"),
    ({}, {}, "        LC_ALL = (unset),", ""),
    ({}, {}, "Error: ENOSPC: System limit for number of file watchers reached", "max_user_watches"),
    ({}, {}, "inotify_init() failed: Too many open files", "max_user_instances"),
    ({"user": "33"}, {}, SUDO, "no_new_privileges: false and security_profile: daemon"),
    ({"user": "33", "security_profile": "daemon"}, {}, SUDO, "give it no_new_privileges: false"),
    ({"no_new_privileges": False}, {}, SUDO, ""),
    ({}, {}, "chown: changing ownership of '/x': Invalid argument", "the ids 0 to 65535"),
    ({}, {}, "chown: invalid user: 'redis'", "add the user"),
]


def record_of(options: dict[str, Any]) -> Record:
    spec = normalise({"name": "a", "image": "busybox", "command": ["server"], **options})
    return Record(
        spec.name, PRESENT, "started", spec, IdRange(200000), ImageRef("busybox", "sha-1")
    )


@pytest.mark.parametrize("options, facts, lines, expected", CASES)
def test_remedy(
    options: dict[str, Any], facts: dict[str, Any], lines: Any, expected: str, tmp_path: Path
) -> None:
    found = remedy(options, tmp_path, lines=[lines] if isinstance(lines, str) else lines, **facts)
    assert expected in found and bool(found) == bool(expected)


def remedy(options: dict[str, Any], site: Path, **facts: Any) -> str:
    (site / "var/lib/sandlot/sandboxes").mkdir(parents=True, exist_ok=True)
    return remedies.remedy(Site(str(site)), record_of(options), Facts(**facts))


def test_a_full_disk_takes_no_words_either(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    lost = {"code": 1, "lost_log_bytes": 40}
    assert remedy({}, tmp_path, **lost) == ""
    full = os.statvfs_result((4096, 4096, 1000, 10, 1, 0, 0, 0, 0, 255))
    monkeypatch.setattr(os, "statvfs", lambda _path: full)
    assert "sandboxes is full: free space on the host" in remedy({}, tmp_path, **lost)
    assert remedy({}, tmp_path, code=1) == ""


def test_neighbours(tmp_path: Path) -> None:
    known = record_of({"name": "db", "networks": [{"name": "back"}]})
    site = Site(str(tmp_path))
    os.makedirs(site.sandbox("db").state)
    record.save(site, known)
    for options, line, expected in (
        ({}, "nc: bad address 'db'", "sandbox db is in back only"),
        ({"networks": [{"name": "back"}]}, "nc: bad address 'db'", ""),
        ({}, "connect to db:5432: Connection refused", "depends_on: [{name: db, cond"),
        ({"depends_on": [{"name": "db", "condition": "healthy"}]}, "db: Connection refused", ""),
    ):
        found = remedy(options, tmp_path, lines=[line])
        assert expected in found and bool(found) == bool(expected)


# -- the files


def head(word: int, machine: int) -> bytes:
    return b"\x7fELF" + bytes([word, 1]) + bytes(12) + bytes([machine, 0]) + bytes(40)


def view(tmp_path: Path, *trees: str) -> RootView:
    return RootView([str(tmp_path / tree) for tree in trees], IdRange(200000))


def test_layers_are_joined(tmp_path: Path) -> None:
    for name in ("upper/etc", "upper/new", "lower/usr/bin", "lower/etc/old", "lower/new"):
        (tmp_path / name).mkdir(parents=True)
    lower, upper = tmp_path / "lower", tmp_path / "upper"
    (lower / "bin").symlink_to("usr/bin")
    (lower / "usr/bin/sh").write_text("shell")
    (lower / "usr/bin/here").symlink_to("../../etc/../bin/sh")
    (upper / "etc/there").symlink_to("/bin/here")
    (lower / "loop").symlink_to("loop")
    (lower / "etc/gone").write_text("old")
    (lower / "etc/file").write_text("old")
    (upper / "etc/file").write_text("new")
    (upper / "etc/old").write_text("a file in place of a directory")
    root = view(tmp_path, "upper", "lower")
    found = {path: root.entry(path) for path in ("/bin/sh", "/etc/there", "/etc/file", "/etc/gone")}
    assert [entry and entry.head for entry in found.values()] == [
        b"shell",
        b"shell",
        b"new",
        b"old",
    ]
    assert found["/etc/there"].path == "/usr/bin/sh"  # type: ignore[union-attr]
    assert root.entry("/nothing/at/all") is None and root.entry("/etc/old/x") is None
    assert root.entry("/../..") == root.entry("/") is not None
    for unknown in ("/loop", "/proc/self", "/dev/null"):
        with pytest.raises(Unknown):
            root.entry(unknown)
    with pytest.raises(Unknown):
        view(tmp_path, "upper", "none").entry("/bin")


@pytest.mark.skipif(os.geteuid() != 0, reason="makes overlayfs's marks")
def test_marks_of_overlayfs_hide_what_is_below(tmp_path: Path) -> None:
    for name in ("upper/opaque", "lower/opaque", "lower/dir"):
        (tmp_path / name).mkdir(parents=True)
    for name in ("lower/opaque/x", "lower/dir/x", "lower/y"):
        (tmp_path / name).touch()
    os.mknod(tmp_path / "upper/dir", 0o600 | stat.S_IFCHR, 0)
    os.mknod(tmp_path / "upper/y", 0o600 | stat.S_IFCHR, 0)
    os.setxattr(tmp_path / "upper/opaque", "trusted.overlay.opaque", b"y")
    root = view(tmp_path, "upper", "lower")
    assert root.entry("/opaque") is not None
    assert [root.entry(path) for path in ("/opaque/x", "/dir/x", "/y")] == [None] * 3
    control = view(tmp_path, "lower")
    assert all(control.entry(path) for path in ("/opaque/x", "/dir/x", "/y"))


PROGRAMS = [
    ("fine", 126, ""),
    ("/bin/fine", 127, "a program that it needs"),
    ("old", 139, "32-bit program"),
    ("link", 139, "32-bit program"),
    ("script", 139, "32-bit program"),
    ("fine", 139, ""),
    ("plain", 126, "is not executable: chmod"),
    ("/bin", 126, "/bin is a directory"),
    ("none", 127, "none is in no directory of its PATH (/sbin:/bin)"),
    ("/bin/none", 127, "/bin/none is not in its root"),
    ("arm", 126, "a program for aarch64"),
    ("text", 126, "/bin/text has no #! line"),
    ("text", 127, "a program that it needs"),
    ("crlf", 126, "lines of /bin/crlf end with CR LF"),
    ("lost", 126, "/opt/python, which is to run /bin/lost"),
    ("env", 127, "node, which is to run /bin/env"),
    ("musl", 126, "(musl)"),
    ("/dev/x", 126, ""),
]


@pytest.mark.skipif(os.uname().machine != "x86_64", reason="names programs of other machines")
@pytest.mark.parametrize("program, code, expected", PROGRAMS)
def test_programs(program: str, code: int, expected: str, tmp_path: Path) -> None:
    root = make_programs(tmp_path)
    options = {"command": [program], "env": {"PATH": "/sbin:/bin"}}
    found = remedy(options, tmp_path, code=code, root=root)
    assert expected in found and bool(found) == bool(expected)


def make_programs(tmp_path: Path) -> RootView:
    bin_ = tmp_path / "root/bin"
    bin_.mkdir(parents=True)
    linker = b"/lib/ld-musl-x86_64.so.1\0"
    segment = struct.pack("<IIQQQQQQ", 3, 4, 120, 0, 0, len(linker), len(linker), 1)
    ident = b"\x7fELF\x02\x01\x01".ljust(16, b"\0")
    elf = struct.pack("<16sHHIQQQIHHHHHH", ident, 2, 62, 1, 0, 64, 0, 0, 64, 56, 1, 0, 0, 0)
    contents = {
        "fine": head(2, 62),
        "old": head(1, 3),
        "arm": head(2, 183),
        "script": b"#!/bin/old -x\n",
        "text": b"echo\n",
        "crlf": b"#!/bin/sh\r\necho\r\n",
        "lost": b"#! /opt/python\n",
        "env": b"#!/usr/bin/env node\n",
        "sh": head(2, 62),
        "plain": b"#!/bin/sh\n",
        "musl": elf + segment + linker,
    }
    for name, content in contents.items():
        (bin_ / name).write_bytes(content)
        (bin_ / name).chmod(0o644 if name == "plain" else 0o755)
    (bin_ / "link").symlink_to("/bin/old")
    os.mkfifo(bin_ / "pipe")
    (tmp_path / "root/usr").mkdir()
    (tmp_path / "root/usr/bin").symlink_to("../bin")
    return view(tmp_path, "root")


def test_what_a_shell_did_not_find(tmp_path: Path) -> None:
    root = make_programs(tmp_path)
    for code, line, expected in (
        (127, "/entry.sh: line 3: exec: nginx: not found", "nginx is in no directory"),
        (127, "env: 'node': No such file or directory", "node"),
        (126, "sh: /bin/plain: Permission denied", "/bin/plain is not executable"),
        (126, "exec /bin/crlf: exec format error", "CR LF"),
    ):
        found = remedy({"command": ["sh"]}, tmp_path, code=code, lines=[line], root=root)
        assert expected in found, (line, found)


def test_files(tmp_path: Path) -> None:
    (tmp_path / "root/data").mkdir(parents=True)
    root = view(tmp_path, "root")
    if os.geteuid() == 0:
        os.chown(tmp_path / "root/data", 200070, 200070)
        line = "mkdir: can't create directory '/data/x': Permission denied"
        found = remedy({"user": "33"}, tmp_path, code=1, lines=[line], root=root)
        assert found.startswith("/data belongs to user 70, and the workload runs as 33")
        found = remedy({"user": "70"}, tmp_path, code=1, lines=[line], root=root)
        assert found.startswith("/data is its own")
        (tmp_path / "root/root").mkdir()
        (tmp_path / "root/theirs").touch()
        for path in ("theirs", "root/x", "x/y"):
            # A file of its own root, and addresses that are no files.
            os.chown(tmp_path / "root/root", 200000, 200000)
            os.chown(tmp_path / "root/theirs", 200000, 200000)
            found = remedy({}, tmp_path, lines=[f"GET /{path}: permission denied"], root=root)
            assert found.endswith("sandlot trace a"), path
        found = remedy({}, tmp_path, code=1, lines=[line], root=root)
        assert found.startswith("/data belongs to user 70; root of a sandbox")
    for line, expected in (
        ("mkdir: can't create directory '/none/x': No such file or directory", "directory /none"),
        ("sh: can't create /none/x: nonexistent directory", "directory /none"),
        ("Error: Cannot find module '/none/x.js'", "/none/x.js"),
    ):
        found = remedy({}, tmp_path, lines=[line], root=root)
        assert found.startswith(f"{expected} is not in its root")
    (tmp_path / "root/app").mkdir()
    line = "python: can't open file '/app/x.py': [Errno 2] No such file or directory"
    assert "/app/x.py is not in its root" in remedy({}, tmp_path, lines=[line], root=root)
    (tmp_path / "root/etc").mkdir()
    (tmp_path / "root/etc/passwd").write_text("root:x:0:0::/:\nredis:x:7:7::/:\n")
    for user, expected in (("redi", "user redi is not in its /etc/passwd"), ("redis:7", "")):
        options = {"user": user, "command": ["/data/../etc"]}
        found = remedy(options, tmp_path, code=126, root=root)
        assert found.startswith(expected or "/etc is a directory")
    (tmp_path / "root/app/x.py").touch()
    assert remedy({}, tmp_path, lines=[line], root=root) == ""
    for place, expected in (("/data", ""), ("/no", "working_dir /no is not in its root")):
        options = {"working_dir": place, "command": ["/app/x.py"]}
        found = remedy(options, tmp_path, code=126, root=root)
        assert found.startswith(expected or "/app/x.py is not executable")


@pytest.mark.parametrize(
    "status, age, expected",
    [
        ({"state": "running", "restarts": 12}, 3, "restarting"),
        ({"state": "running", "restarts": 12}, 70, "running"),
        ({"state": "running", "restarts": 1}, 3, "running"),
        ({"state": "backoff", "restarts": 12}, 3, "backoff"),
    ],
)
def test_a_workload_that_ends_again_and_again_is_restarting(
    status: dict[str, Any], age: float, expected: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(runtime, "uptime", lambda running, status: age)
    init = runtime.Running(1, 1, "digest", 0.0)
    assert runtime.state(PRESENT, "started", init, status) == expected


def test_a_sandbox_that_the_host_stopped_is_stopped() -> None:
    ended = {"state": "stopped", "exit_code": 0, "final": True}
    assert runtime.state(PRESENT, "started", None, ended) == "stopped"
    assert runtime.state(PRESENT, "started", None, {**ended, "state": "exited"}) == "exited"
