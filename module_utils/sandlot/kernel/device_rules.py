# SPDX-License-Identifier: GPL-3.0-or-later
# Copyright: the sandlot developers
"""The devices that the processes of a cgroup may open, in either version of cgroups.

Version 1 has a controller with a list. In version 2 a program decides, which is attached to the
cgroup and ends with it.
"""

from __future__ import annotations

import os
import struct
import sys
from ctypes import Array, addressof, c_char, create_string_buffer
from typing import Dict, Iterable, List, NamedTuple, Optional, Sequence, Set

from . import libc
from .files import read_value, write_value

_SYS_BPF = 280 if libc.AARCH64 else 321
_PROG_LOAD, _PROG_ATTACH, _PROG_DETACH, _PROG_BY_ID, _INFO, _QUERY = 5, 8, 9, 13, 15, 16
_OF_CGROUP_DEVICE, _ATTACH_DEVICE = 15, 6
# struct bpf_cgroup_dev_ctx: access << 16 | type, major, minor.
_TYPES = {"b": 1, "c": 2}
_ACCESS = {"m": 1, "r": 2, "w": 4}
_EVERYTHING = "a *:* rwm"


class Rule(NamedTuple):
    """Devices by their type (b or c) and number, and what may be done to them (of r, w, m)."""

    kind: str
    major: int
    minor: Optional[int]
    access: str

    def __str__(self) -> str:
        minor = "*" if self.minor is None else self.minor
        return f"{self.kind} {self.major}:{minor} {self.access}"


# Those that every sandbox has: null, zero, full, random, urandom, tty, ptmx and its ptys.
USUAL = (
    *(Rule("c", 1, minor, "rw") for minor in (3, 5, 7, 8, 9)),
    *(Rule("c", 5, minor, "rw") for minor in (0, 2)),
    Rule("c", 136, None, "rw"),
)


def place(directories: Sequence[str]) -> str:
    """The cgroup that rules are set for, of those that a sandbox joins; "" for none."""
    for file in ("devices.list", "cgroup.controllers"):
        for directory in directories:
            if os.path.exists(f"{directory}/{file}"):
                return directory
    return ""


def allow_only(directory: str, rules: Sequence[Rule]) -> None:
    if _is_version_1(directory):
        write_value(f"{directory}/devices.deny", "a")
        for rule in rules:
            write_value(f"{directory}/devices.allow", str(rule))
        return
    program = _load(rules)
    try:
        _with_cgroup(directory, _PROG_ATTACH, "attach a program to", program)
    finally:
        os.close(program)


def allow_everything(directory: str) -> None:
    if _is_version_1(directory):
        write_value(f"{directory}/devices.allow", "a")
    elif _attached(directory):
        _with_cgroup(directory, _PROG_DETACH, "detach the program of", 0)


def are_in_force(directory: str, rules: Sequence[Rule]) -> bool:
    if _is_version_1(directory):
        listed = read_value(f"{directory}/devices.list") or ""
        return _merged(listed.splitlines()) == _merged(map(str, rules))
    return _attached(directory) == [_name(rules)]


def are_any(directory: str) -> bool:
    """Whether anything is denied."""
    if _is_version_1(directory):
        return read_value(f"{directory}/devices.list") != _EVERYTHING
    return bool(_attached(directory))


def _merged(lines: Iterable[str]) -> Set[str]:
    """Version 1 joins rules of one device, and orders letters by itself."""
    access: Dict[str, Set[str]] = {}
    for line in lines:
        device, dummy, letters = line.rpartition(" ")
        access.setdefault(device, set()).update(letters)
    return {f"{device} {''.join(sorted(letters))}" for device, letters in access.items()}


def _is_version_1(directory: str) -> bool:
    return os.path.exists(f"{directory}/devices.list")


# -- version 2


_LOAD_WORD, _COPY, _AND, _SHIFT_RIGHT, _SET = 0x61, 0xBF, 0x57, 0x77, 0xB7
_UNEQUAL, _EXIT = 0x55, 0x95
_RESULT, _CONTEXT, _TYPE, _WANTED, _MAJOR, _MINOR, _REST = range(7)


def program(rules: Sequence[Rule]) -> bytes:
    """The instructions that allow what a rule allows, as an array of ``struct bpf_insn``."""
    code = [
        _instruction(_LOAD_WORD, _TYPE, _CONTEXT),
        _instruction(_COPY, _WANTED, _TYPE),
        _instruction(_AND, _TYPE, constant=0xFFFF),
        _instruction(_SHIFT_RIGHT, _WANTED, constant=16),
        _instruction(_LOAD_WORD, _MAJOR, _CONTEXT, offset=4),
        _instruction(_LOAD_WORD, _MINOR, _CONTEXT, offset=8),
    ]
    for rule in rules:
        code += _allowing(rule)
    code += [_instruction(_SET, _RESULT, constant=0), _instruction(_EXIT)]
    return b"".join(code)


def _allowing(rule: Rule) -> List[bytes]:
    """Return 1 where the rule allows it, else go on behind this block."""
    allowed = sum(_ACCESS[letter] for letter in rule.access)
    tests = [(_TYPE, _TYPES[rule.kind]), (_MAJOR, rule.major)]
    tests += [] if rule.minor is None else [(_MINOR, rule.minor)]
    tests.append((_REST, 0))
    code = [_instruction(_COPY, _REST, _WANTED), _instruction(_AND, _REST, constant=~allowed)]
    for number, (register, value) in enumerate(tests):
        behind = len(tests) - number + 1
        code.append(_instruction(_UNEQUAL, register, constant=value, offset=behind))
    return [*code, _instruction(_SET, _RESULT, constant=1), _instruction(_EXIT)]


def _instruction(
    code: int, target: int = 0, source: int = 0, *, offset: int = 0, constant: int = 0
) -> bytes:
    little = sys.byteorder == "little"
    registers = target | source << 4 if little else target << 4 | source
    return struct.pack("=BBhi", code, registers, offset, constant)


def _name(rules: Sequence[Rule]) -> bytes:
    """The name of the program for these rules, by which it is known again."""
    import hashlib

    return b"sl_" + hashlib.sha256(program(rules)).hexdigest()[:12].encode()


def _load(rules: Sequence[Rule]) -> int:
    code, licence = program(rules), create_string_buffer(b"GPL")
    text = create_string_buffer(code, len(code))
    pointers = (addressof(text), addressof(licence))
    # No log, no version, no flags.
    fields = (_OF_CGROUP_DEVICE, len(code) // 8, *pointers, 0, 0, 0, 0, 0, _name(rules))
    return _bpf(_PROG_LOAD, "load a program", struct.pack("=IIQQIIQII16s", *fields))


def _with_cgroup(directory: str, command: int, what: str, program: int) -> None:
    # Without BPF_F_ALLOW_MULTI an attached program takes the place of the one before it.
    cgroup = os.open(directory, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        attributes = struct.pack("=IIII", cgroup, program, _ATTACH_DEVICE, 0)
        _bpf(command, what, attributes, directory)
    finally:
        os.close(cgroup)


def _attached(directory: str) -> List[bytes]:
    """The names of the programs for devices that are attached to a cgroup."""
    most = 64
    ids = create_string_buffer(4 * most)
    cgroup = os.open(directory, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        query = struct.pack("=IIIIQII", cgroup, _ATTACH_DEVICE, 0, 0, addressof(ids), most, 0)
        buffer = create_string_buffer(query, len(query))
        _call(_QUERY, "query programs", buffer, directory)
    finally:
        os.close(cgroup)
    (count,) = struct.unpack_from("=I", buffer, 24)
    return [_name_of(number) for number in struct.unpack_from(f"={count}I", ids)]


def _name_of(number: int) -> bytes:
    fd = _bpf(_PROG_BY_ID, "open a program", struct.pack("=III", number, 0, 0))
    try:
        info = create_string_buffer(80)
        _bpf(_INFO, "look at a program", struct.pack("=IIQ", fd, len(info), addressof(info)))
    finally:
        os.close(fd)
    return info.raw[64:80].rstrip(b"\0")


def _bpf(command: int, what: str, attributes: bytes, path: str = "") -> int:
    return _call(command, what, create_string_buffer(attributes, len(attributes)), path)


def _call(command: int, what: str, attributes: Array[c_char], path: str = "") -> int:
    size = len(attributes)
    return libc.syscall(_SYS_BPF, f"bpf: {what}", command, attributes, size, path=path)
