# SPDX-License-Identifier: GPL-3.0-or-later
# Copyright: the sandlot developers
"""The filter loaded into the real kernel, each denial with the control that it works without."""

from __future__ import annotations

import contextlib
import ctypes
import errno
import json
import mmap
import os
import platform
import signal
import socket
import struct
import subprocess
import sys

import pytest
from sandlot.errors import HostError
from sandlot.images import program
from sandlot.security import policy, seccomp
from sandlot.security.syscalls import ARCHITECTURES

NUMBERS = ARCHITECTURES[platform.machine()].numbers
LIBC = ctypes.CDLL(None, use_errno=True)
PR_SET_NO_NEW_PRIVS = 38
SECCOMP_SET_MODE_FILTER = 1
GARBAGE = 0xDEADBEEF << 32
TIOCSTI = 0x5412
NAMESPACES = (0x20000, 0x2000000, 0x4000000, 0x8000000, 0x10000000, 0x20000000, 0x40000000)

# Refused to host root as well on some kernels (lockdown, sysctls), so without a control.
REFUSED_TO_ALL = {"kexec_load", "kexec_file_load", "init_module", "finit_module"}


class SockFprog(ctypes.Structure):
    _fields_ = [("len", ctypes.c_ushort), ("filter", ctypes.c_char_p)]


def call(number: int, *arguments: int) -> int:
    """The result of a raw system call, or minus its error number."""
    ctypes.set_errno(0)
    words = [ctypes.c_ulong(word & 0xFFFFFFFFFFFFFFFF) for word in arguments]
    result = LIBC.syscall(ctypes.c_long(number), *words)
    return -ctypes.get_errno() if result == -1 else int(result)


def confine(*granted: str) -> None:
    packed = seccomp.program(capabilities=granted)
    if LIBC.prctl(PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0):
        raise OSError(ctypes.get_errno(), "prctl")
    filter_program = SockFprog(len(packed) // 8, packed)
    number = NUMBERS["seccomp"]
    if LIBC.syscall(number, SECCOMP_SET_MODE_FILTER, 0, ctypes.byref(filter_program)):
        raise OSError(ctypes.get_errno(), "seccomp")


def in_child(function, *, confined: bool, granted: tuple = ()):
    """What ``function`` returns in a forked child, with or without the filter."""
    reader, writer = os.pipe()
    child = os.fork()
    if child == 0:
        status = 1
        try:
            os.setsid()
            if confined:
                confine(*granted)
            os.write(writer, json.dumps(function()).encode())
            status = 0
        finally:
            os._exit(status)
    os.close(writer)
    with open(reader, "rb") as answers:
        answer = answers.read()
    assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 0
    return json.loads(answer)


def call_all(names) -> dict[str, int]:
    # Every argument -1: a bad pointer, descriptor, command or flag wherever there is one.
    return {name: call(NUMBERS[name], *[-1] * 6) for name in names}


def unlocked_and_denied() -> list[str]:
    names = policy.DENIED.union(*policy.GRANTED.values())
    return sorted(names & NUMBERS.keys())


def test_denied_calls_fail_with_eperm():
    names = unlocked_and_denied()
    assert any(NUMBERS[name] > 334 for name in names)
    confined = in_child(lambda: call_all(names), confined=True)
    assert {name: result for name, result in confined.items() if result != -errno.EPERM} == {}


def test_without_the_filter_they_fail_otherwise():
    names = [name for name in unlocked_and_denied() if name not in REFUSED_TO_ALL]
    free = in_child(lambda: call_all(names), confined=False)
    assert [name for name, result in free.items() if result == -errno.EPERM] == []


@pytest.mark.parametrize("number", [335 + 30, 470, 512, 547, 2000])
def test_unknown_numbers_are_not_implemented(number):
    assert in_child(lambda: call(number, 0, 0, 0), confined=True) == -errno.ENOSYS


def clone(flags: int) -> int:
    child = call(NUMBERS["clone"], flags | signal.SIGCHLD, 0, 0, 0, 0)
    if child == 0:
        os._exit(0)
    if child > 0:
        os.waitpid(child, 0)
    return min(child, 1)


@pytest.mark.parametrize("flags", NAMESPACES)
@pytest.mark.parametrize("garbage", [0, GARBAGE])
def test_clone_makes_no_namespace(flags, garbage):
    assert in_child(lambda: clone(flags | garbage), confined=False) == 1
    assert in_child(lambda: clone(flags | garbage), confined=True) == -errno.EPERM
    assert in_child(lambda: clone(garbage), confined=True) == 1


def time_namespaces() -> bool:
    reader, writer = os.pipe()
    child = call(NUMBERS["clone"], 0x80, 0, 0, 0, 0)
    if child == 0:
        os.write(writer, os.readlink("/proc/self/ns/time").encode())
        os._exit(0)
    os.waitpid(child, 0x40000000)  # __WALL: its exit signal is not SIGCHLD
    return os.read(reader, 64).decode() != os.readlink("/proc/self/ns/time")


def test_clone_knows_no_time_namespace():
    assert in_child(time_namespaces, confined=False) is False


def test_clone3_makes_libc_fall_back():
    assert in_child(lambda: call(NUMBERS["clone3"], 0, 0), confined=False) == -errno.EINVAL
    assert in_child(lambda: call(NUMBERS["clone3"], 0, 0), confined=True) == -errno.ENOSYS


def int_0x80_getpid() -> bool | int:
    # push rbx; mov eax, 20; int 0x80; pop rbx; ret
    code = bytes.fromhex("53 b814000000 cd80 5b c3")
    page = mmap.mmap(-1, 4096, prot=mmap.PROT_READ | mmap.PROT_WRITE | mmap.PROT_EXEC)
    page.write(code)
    address = ctypes.addressof(ctypes.c_char.from_buffer(page))
    result = ctypes.CFUNCTYPE(ctypes.c_int)(address)()
    return True if result == os.getpid() else result


@pytest.mark.skipif(platform.machine() != "x86_64", reason="entries of x86-64 only")
def test_the_32_bit_entries_of_x86_64():
    assert in_child(int_0x80_getpid, confined=False) is True
    assert in_child(int_0x80_getpid, confined=True) == -errno.EPERM
    x32_getpid = NUMBERS["getpid"] | 0x40000000
    assert in_child(lambda: call(x32_getpid), confined=True) == -errno.EPERM


def inject(command: int) -> list:
    """Types a character into a terminal of our own; returns the result and what arrived."""
    controller, terminal = os.openpty()
    typed = ctypes.create_string_buffer(b"\n")
    result = call(NUMBERS["ioctl"], terminal, command, ctypes.addressof(typed))
    os.set_blocking(terminal, False)
    try:
        arrived = os.read(terminal, 8).decode()
    except BlockingIOError:
        arrived = ""
    os.close(controller)
    return [result, arrived]


@pytest.mark.parametrize("command", [TIOCSTI, GARBAGE | TIOCSTI])
def test_terminal_injection(command):
    assert in_child(lambda: inject(command), confined=False) == [0, "\n"]
    assert in_child(lambda: inject(command), confined=True) == [-errno.EPERM, ""]


def open_socket(family: int, kind: int, protocol: int) -> int:
    descriptor = call(NUMBERS["socket"], family, kind, protocol)
    return min(descriptor, 1)


@pytest.mark.parametrize(
    ("arguments", "outcome"),
    [
        ((socket.AF_UNIX, socket.SOCK_STREAM, 0), 1),
        ((socket.AF_INET, socket.SOCK_STREAM, 0), 1),
        ((socket.AF_INET6, socket.SOCK_DGRAM, 0), 1),
        ((socket.AF_NETLINK, socket.SOCK_RAW, 0), 1),
        ((socket.AF_NETLINK, socket.SOCK_RAW, 12), -errno.EPROTONOSUPPORT),
        ((socket.AF_PACKET, socket.SOCK_RAW, 0), -errno.EPERM),
        ((socket.AF_INET, 10, 0), -errno.EPERM),
        ((socket.AF_ALG, socket.SOCK_SEQPACKET, 0), -errno.EPERM),
        ((socket.AF_VSOCK, socket.SOCK_STREAM, 0), -errno.EPERM),
    ],
)
def test_socket_families(arguments, outcome):
    assert in_child(lambda: open_socket(*arguments), confined=False) != -errno.EPERM
    assert in_child(lambda: open_socket(*arguments), confined=True) == outcome


def test_capabilities_open_their_calls():
    def chroot() -> int:
        path = ctypes.create_string_buffer(b"/")
        return call(NUMBERS["chroot"], ctypes.addressof(path))

    packet = (socket.AF_PACKET, socket.SOCK_RAW, 0)
    assert in_child(chroot, confined=True) == -errno.EPERM
    assert in_child(chroot, confined=True, granted=("SYS_CHROOT",)) == 0
    assert in_child(lambda: open_socket(*packet), confined=True, granted=("NET_RAW",)) == 1


def test_address_randomisation_can_not_be_switched_off():
    number = NUMBERS["personality"]
    assert in_child(lambda: call(number, 0x0040000), confined=False) >= 0
    assert in_child(lambda: call(number, 0x0040000), confined=True) == -errno.EPERM
    assert in_child(lambda: call(number, 0xFFFFFFFF), confined=True) >= 0


PYTHON_WORKLOAD = """
import asyncio, concurrent.futures, multiprocessing, os, signal, socket, subprocess, sys, tempfile
import threading, time

with concurrent.futures.ThreadPoolExecutor(8) as pool:
    assert sum(pool.map(len, ["ab"] * 100)) == 200
with multiprocessing.Pool(2) as pool:
    assert pool.map(abs, [-1, -2]) == [1, 2]
assert subprocess.check_output([sys.executable, "-c", "print(1)"]) == b"1\\n"
assert os.waitpid(os.posix_spawn("/bin/true", ["true"], {}), 0)[1] == 0
server = socket.create_server(("127.0.0.1", 0))
client = socket.create_connection(server.getsockname())
accepted = server.accept()[0]
client.sendall(b"x")
assert accepted.recv(1) == b"x"
left, right = socket.socketpair()
socket.send_fds(left, [b"f"], [0])
assert socket.recv_fds(right, 1, 1)[0] == b"f"
assert socket.getaddrinfo("localhost", 80)
assert socket.if_nameindex()
with tempfile.TemporaryDirectory() as directory:
    os.mkfifo(directory + "/fifo")
    os.symlink("fifo", directory + "/link")
    os.setxattr(directory, "user.x", b"y")
async def main():
    process = await asyncio.create_subprocess_exec("true")
    assert await process.wait() == 0
asyncio.run(main())
signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGALRM})
signal.setitimer(signal.ITIMER_REAL, 0.01)
assert signal.sigwait({signal.SIGALRM}) == signal.SIGALRM
print("done")
"""

SHELL_WORKLOAD = """
set -e
d=$(mktemp -d); trap 'rm -r $d' EXIT
seq 3 | tee $d/a | wc -l > $d/b
(cd $d; tar cf - a b | tar tf - | sort > c; ls -l . > /dev/null; cp a e; chmod 600 e; mv e f)
true & wait $!
id -u > /dev/null; uname -r > /dev/null; ps > /dev/null; df > /dev/null
ip link > /dev/null; ip route > /dev/null
busybox timeout 5 true
echo done
"""


@pytest.mark.parametrize(
    "command",
    [
        [sys.executable, "-c", PYTHON_WORKLOAD],
        ["/usr/bin/python3", "-c", PYTHON_WORKLOAD],
        ["busybox", "sh", "-c", SHELL_WORKLOAD],
        ["bash", "-c", SHELL_WORKLOAD],
    ],
    ids=["python", "system-python", "busybox", "bash"],
)
def test_usual_programs_keep_working(command):
    result = subprocess.run(command, preexec_fn=confine, capture_output=True, text=True)
    assert (result.returncode, result.stdout, result.stderr) == (0, "done\n", "")


def test_the_filter_is_inherited_and_counted():
    def status() -> list:
        text = subprocess.check_output(["cat", "/proc/self/status"], text=True)
        fields = dict(line.split(":\t", 1) for line in text.splitlines())
        return [fields["Seccomp"], fields["Seccomp_filters"], fields["NoNewPrivs"]]

    assert in_child(status, confined=True) == ["2", "1", "1"]


def test_the_layout_is_struct_sock_filter():
    code, _, _, constant = struct.unpack_from("=HBBI", seccomp.program())
    assert (code, constant) == (0x20, 4)


@pytest.mark.parametrize("unsynced", [True, False])
def test_a_program_that_syncs_nothing(unsynced: bool) -> None:
    """No file has that descriptor, so a call that is made fails."""
    command = [sys.executable, "-c", "import os; os.fsync(99)"]
    expected = contextlib.nullcontext() if unsynced else pytest.raises(HostError, match="Errno 9")
    with expected:
        program.run(command, what="python", env=program.environment(), unsynced=unsynced)
