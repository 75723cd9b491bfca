# SPDX-License-Identifier: GPL-3.0-or-later
# Copyright: the sandlot developers
"""Refused calls and their remedies, and the lines of strace that name them."""

from __future__ import annotations

import errno
import re

import pytest
from sandlot.errors import HostError
from sandlot.kernel import program
from sandlot.sandbox import strace
from sandlot.sandbox.strace_lines import Died, Foreign, Lines, Refused, event, path
from sandlot.security import policy, refused_calls
from sandlot.security.refusals import (
    FILTER,
    KERNEL,
    Call,
    Confinement,
    File,
    answer,
    filter_error,
    is_open_to,
    of_file,
)
from sandlot.spec.confinement import CAPABILITIES
from sandlot.spec.options import OPTIONS
from test_seccomp import Filter

NONE = Confinement()
KNOWN = sorted(policy.DENIED.union(*policy.GRANTED.values()))


@pytest.mark.parametrize("name", KNOWN)
def test_each_call_that_the_filter_refuses_has_an_answer(name: str) -> None:
    found = answer(Call(name, "EPERM"), NONE)
    assert found is not None and found.by == FILTER and found.remedy
    keys = {key for key, calls in policy.GRANTED.items() if name in calls}
    # Without a capability of use there is a reason, and never both.
    assert bool(found.capabilities) != (name in refused_calls.NEVER)
    assert set(found.capabilities) <= keys
    unfiltered = answer(Call(name, "EPERM"), Confinement(filtered=False))
    assert unfiltered is not None and unfiltered.by == KERNEL


def test_the_tables_name_calls_and_capabilities_that_exist() -> None:
    known = policy.ALLOWED | policy.INSPECTED | set(KNOWN)
    rows = {name for row in refused_calls.ROWS for name in row.calls}
    assert rows | {*refused_calls.NEVER, *refused_calls.INSTEAD, *refused_calls.FALLS_BACK} <= known
    assert {row.needs for row in refused_calls.ROWS} - {""} <= set(CAPABILITIES)
    for row in refused_calls.ROWS:
        assert bool(row.needs) != bool(row.text)
        assert all(hasattr(errno, name) for name in row.errors)
        re.compile(row.words)
    options = {option.name for option in OPTIONS} | {"no_new_privs"}
    texts = [row.text for row in refused_calls.ROWS]
    texts += [*refused_calls.INSTEAD.values(), *refused_calls.NEVER.values()]
    assert {word for text in texts for word in re.findall(r"\b[a-z]+_[a-z_]+", text)} <= options


# Call, its arguments in strace's words and in the kernel's, and what the filter does.
INSPECTED = [
    ("clone", "child_stack=NULL, flags=CLONE_NEWUSER|SIGCHLD", (0x10000011,)),
    ("clone", "child_stack=NULL, flags=CLONE_CHILD_SETTID|SIGCHLD", (0x01000011,)),
    ("clone3", "{flags=CLONE_VM, exit_signal=SIGCHLD}, 88", (0,)),
    ("ioctl", "0</dev/pts/0>, TIOCSTI, 0x7ff", (0, 0x5412)),
    ("ioctl", "0</dev/pts/0>, TCGETS, 0x7ff", (0, 0x5401)),
    ("personality", "ADDR_NO_RANDOMIZE", (0x0040000,)),
    ("socketpair", "AF_INET, SOCK_STREAM, 0, 0x7ff", (2, 1)),
    ("socketpair", "AF_UNIX, SOCK_STREAM, 0, 0x7ff", (1, 1)),
    ("socket", "AF_NETLINK, SOCK_RAW|SOCK_CLOEXEC, NETLINK_AUDIT", (16, 3, 9)),
    ("socket", "AF_NETLINK, SOCK_RAW, NETLINK_ROUTE", (16, 3, 0)),
    ("socket", "AF_PACKET, SOCK_RAW, htons(ETH_P_ALL)", (17, 3, 3)),
    ("socket", "AF_INET, SOCK_PACKET, htons(ETH_P_ALL)", (2, 10, 3)),
    ("socket", "AF_INET6, SOCK_STREAM, IPPROTO_TCP", (10, 1, 6)),
    ("socket", "AF_VSOCK, SOCK_STREAM, 0", (40, 1, 0)),
]


@pytest.mark.parametrize("granted", [(), ("NET_RAW",), ("NET_ADMIN",), ("SYS_ADMIN",)])
@pytest.mark.parametrize(("name", "arguments", "numbers"), INSPECTED)
def test_inspected_calls_are_judged_as_the_filter_does(
    name: str, arguments: str, numbers: tuple[int, ...], granted: tuple[str, ...]
) -> None:
    verdict = Filter("x86_64", *granted).call(name, *numbers)
    error = "" if verdict == 0x7FFF0000 else errno.errorcode[verdict & 0xFFFF]
    assert filter_error(Call(name, error, arguments), frozenset(granted)) == error
    if error:
        found = answer(Call(name, error, arguments), Confinement(frozenset(granted)))
        assert found is not None and found.by == FILTER and found.remedy
        assert not set(found.capabilities) & set(granted)


@pytest.mark.parametrize(
    ("call", "words"),
    [
        (
            Call("chown", "EPERM", '"/x", 33, 33', "/x"),
            "needs capability CHOWN (capabilities: [CHOWN] or security_profile: daemon)",
        ),
        (
            Call("mount", "EPERM"),
            "list what it mounts in tmpfs; nothing else allows it but capability"
            " SYS_ADMIN (capabilities: [SYS_ADMIN])",
        ),
        (Call("io_uring_setup", "EPERM"), "refused on purpose, no option allows it alone"),
        (Call("setuid", "EPERM", "33"), "SETUID"),
        (Call("setgroups", "EPERM", "1, [33]"), "SETGID"),
        (Call("bind", "EADDRINUSE"), "the port is in use"),
        (
            Call("bind", "EACCES", "3<socket:[1]>, {sa_family=AF_INET, sin_port=htons(80)}, 16"),
            "NET_BIND_SERVICE",
        ),
        (Call("execve", "ENOENT", '"/x", ["x"], 0x7f'), "missing in the image"),
        (Call("fork", "EAGAIN"), "pids_limit"),
        (Call("openat", "EMFILE"), "nofile"),
        (Call("openat", "EACCES", "", "/proc/sys/vm/swappiness"), "the host's: set it there"),
        (Call("openat", "EROFS", "", "/proc/sys/net/core/somaxconn"), "in sysctls"),
        (Call("settimeofday", "EPERM"), "time_offset"),
        (Call("sethostname", "EPERM"), "hostname"),
        (Call("lsetxattr", "EPERM", '"/x", "security.capability", "", 20, 0'), "SETFCAP"),
        (Call("mlock", "ENOMEM"), "memlock"),
        (Call("socket", "EPROTONOSUPPORT", "AF_NETLINK, SOCK_RAW, NETLINK_AUDIT"), "audit"),
        (Call("cachestat2", "ENOSYS"), "does not know the call"),
    ],
)
def test_remedies(call: Call, words: str) -> None:
    found = answer(call, NONE)
    assert found is not None and words in found.remedy


def test_read_only_roots() -> None:
    call = Call("openat", "EROFS", "", "/data/x")
    found = answer(call, Confinement(read_only=True))
    assert found is not None and "tmpfs" in found.remedy
    assert answer(call, NONE) != found


def test_what_is_no_refusal_has_no_answer() -> None:
    for call in (Call("openat", "ENOENT", "", "/x"), Call("read", "EAGAIN"), Call("x", "ENOTTY")):
        assert answer(call, NONE) is None


def test_a_capability_that_is_granted_is_not_asked_for() -> None:
    found = answer(Call("chown", "EPERM"), Confinement(frozenset({"CHOWN"})))
    assert found is not None and found.capabilities == () and "lacks it" in found.remedy


@pytest.mark.parametrize(
    ("file", "user", "words"),
    [
        (
            File("/data", 999, 999, 0o700, True),
            0,
            "the directory /data belongs to user 999, mode 0700; runs as 0 without capability"
            " DAC_OVERRIDE",
        ),
        (File("/data/x", 999, 999, 0o600), 33, "or set user: 999"),
        (File("/data/x", 33, 33, 0o400), 33, "chmod"),
        (File("/data/x", None, None, 0o600), 0, "belongs to nobody inside"),
    ],
)
def test_files(file: File, user: int, words: str) -> None:
    assert words in of_file(file, user, NONE).remedy


def test_only_permissions_that_refuse_are_named() -> None:
    assert is_open_to(File("/x", 33, 33, 0o700, True), 33)
    assert not is_open_to(File("/x", 33, 33, 0o700, True), 0)
    assert not is_open_to(File("/x", 33, 33, 0o500, True), 33)
    assert is_open_to(File("/x", 0, 0, 0o666), 33)
    for call in (Call("execve", "EACCES", "", "/x"), Call("openat", "EACCES", "", "/x")):
        found = answer(call, NONE)
        assert found is not None and found.of_file
    found = answer(Call("mknodat", "EPERM", "S_IFBLK|0666", "/x"), NONE)
    assert found is not None and not found.of_file


# -- lines of strace


@pytest.mark.parametrize(
    ("line", "expected"),
    [
        (
            'chown("/x", 33, 33) = -1 EPERM (Operation not permitted)',
            Refused(7, Call("chown", "EPERM", '"/x", 33, 33', "/x")),
        ),
        (
            '[pid   12] openat(AT_FDCWD</srv>, "a\\"\\33b", O_RDONLY) = -1 EACCES (Denied)',
            Refused(
                12,
                Call(
                    "openat",
                    "EACCES",
                    'AT_FDCWD</srv>, "a\\"\\33b", O_RDONLY',
                    '/srv/a"\x1bb',
                ),
            ),
        ),
        (
            "fchown(3</data/x>, 1, 1) = -1 EPERM (Operation not permitted)",
            Refused(7, Call("fchown", "EPERM", "3</data/x>, 1, 1", "/data/x")),
        ),
        (
            "--- SIGSYS {si_signo=SIGSYS, si_code=SYS_SECCOMP, si_call_addr=0x7f, si_errno=0,"
            " si_syscall=__NR_mkdir, si_arch=AUDIT_ARCH_X86_64} ---",
            Died(7, "SIGSYS", "mkdir"),
        ),
        ("[pid 9] +++ killed by SIGSEGV +++", Died(9, "SIGSEGV")),
        ("strace: [ Process PID=9 runs in 32 bit mode. ]", Foreign(9, "32 bit")),
        ("strace: Process 12 attached", None),
        ("read(3, 0x1, 2) = ? ERESTARTSYS (To be restarted)", None),
        ("+++ exited with 0 +++", None),
        ("", None),
        ("[pid x] (\x00", None),
    ],
)
def test_lines(line: str, expected: object) -> None:
    assert event(line, 7) == expected


def test_paths() -> None:
    assert path("unlinkat", '5</a/b>, "../../x", 0') == "/x"
    assert path("openat", 'AT_FDCWD, "x", 0') == "x"
    assert path("openat", 'AT_FDCWD</>, "long"..., 0') == ""
    assert path("stat", r'"/\303\244", 0x1') == "/ä"
    assert path("connect", '3<s>, {sun_path="/x"}, 110') == ""


def test_long_lines_are_dropped_and_memory_is_bounded() -> None:
    lines = Lines()
    assert lines.feed(b"a\nb") == ["a"]
    for _ in range(100):
        assert lines.feed(b"x" * Lines.LONGEST) == []
        assert len(lines._rest) <= Lines.LONGEST
    assert lines.feed(b"tail\nfine\n") == ["fine"]


def test_a_host_without_strace_is_told_the_package(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(program, "SYSTEM_PATH", "/nowhere")
    with pytest.raises(HostError) as caught:
        strace.find()
    assert "apt install strace" in caught.value.hint
