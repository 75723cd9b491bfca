# SPDX-License-Identifier: GPL-3.0-or-later
# Copyright: the sandlot developers
"""Tells why the kernel can't execute a program of a sandbox (execve(2), elf(5)), by its file."""

from __future__ import annotations

import io
import os
import posixpath
import re
from typing import List, Mapping

from ..kernel import elf
from .root_view import Entry, RootView, Unknown

_ELF, _ELF32 = b"\x7fELF", b"\x7fELF\x01"
_I386 = 3
# e_machine of elf(5), by the names of uname(2).
_MACHINES = {
    3: "i386",
    8: "mips",
    20: "ppc",
    21: "ppc64le",
    22: "s390x",
    40: "arm",
    62: "x86_64",
    183: "aarch64",
    243: "riscv64",
    258: "loongarch64",
}
# Programs of the second that the kernel of the first runs as well.
_ALSO_RUN = {"x86_64": ("i386",), "aarch64": ("arm",)}


def candidates(program: str, env: Mapping[str, str]) -> List[str]:
    if "/" in program:
        return [posixpath.join("/", program)]
    return [posixpath.join("/", place, program) for place in env.get("PATH", "").split(":")]


def find(root: RootView, program: str, env: Mapping[str, str]) -> Entry | None:
    """The file that execvp(3) would run, else one that it can't; None if there is none."""
    entries = [entry for path in candidates(program, env) if (entry := root.entry(path))]
    first = entries[0] if entries else None
    return next((entry for entry in entries if entry.is_executable), first)


def is_32_bit(root: RootView, program: str, env: Mapping[str, str]) -> bool:
    """Whether a program is one for the i386; for a script, its interpreter."""
    try:
        entry = find(root, program, env)
        words = _interpreter(entry.head) if entry else []
        entry = root.entry(words[0]) if words else entry
    except Unknown:
        return False
    return entry is not None and entry.head.startswith(_ELF32) and _machine(entry.head) == _I386


def problem(root: RootView, program: str, env: Mapping[str, str], *, failed: bool) -> str:
    """Why a program does not run, and what would help; "" when its file shows no reason.

    ``failed`` tells that the kernel refused the file itself.
    """
    try:
        entry = find(root, program, env)
        if entry is None:
            return _missing(program, env)
        if entry.is_directory:
            return f"{entry.path} is a directory: name the program in it"
        if not entry.is_executable:
            return (
                f"{entry.path} is not executable: chmod +x it in the image, or name the program "
                "that runs it before it"
            )
        return _of_content(root, entry, env, failed=failed)
    except Unknown:
        return ""


def _missing(program: str, env: Mapping[str, str]) -> str:
    if "/" in program:
        return f"{program} is not in its root: name a program that the image has"
    return (
        f"{program} is in no directory of its PATH ({env.get('PATH', '')}): name a program that "
        "the image has, or its whole path"
    )


def _of_content(root: RootView, entry: Entry, env: Mapping[str, str], *, failed: bool) -> str:
    head, path = entry.head, entry.path
    if head.startswith(b"#!"):
        return _of_script(root, path, _interpreter(head), env)
    if head.startswith(_ELF):
        return _of_program(root, path, head)
    if failed and head and b"\0" not in head:
        return f"{path} has no #! line: add one, or name the program that runs it before it"
    return ""


def _of_script(root: RootView, path: str, words: List[str], env: Mapping[str, str]) -> str:
    if any(word.endswith("\r") for word in words):
        return f"the lines of {path} end with CR LF: write them with LF alone"
    if words and root.entry(words[0]) is None:
        return f"{words[0]}, which is to run {path}, is not in its root: use an image that has it"
    if (
        len(words) == 2
        and posixpath.basename(words[0]) == "env"
        and find(root, words[1], env) is None
    ):
        return f"{words[1]}, which is to run {path}, is not in its root: use an image that has it"
    return ""


def _of_program(root: RootView, path: str, head: bytes) -> str:
    machine, here = _MACHINES.get(_machine(head), "another machine"), os.uname().machine
    same = machine.startswith("ppc64") and here.startswith("ppc64")
    if machine != here and machine not in _ALSO_RUN.get(here, ()) and not same:
        return (
            f"{path} is a program for {machine}, and this host is {here}: use an image for {here}"
        )
    try:
        linker = elf.interpreter(io.BytesIO(head))
    except elf.NotElf:
        return ""
    if not linker or root.entry(linker) is not None:
        return ""
    made = "musl" if re.search("ld-musl", linker) else "glibc"
    return (
        f"{path} needs {linker}, which is not in its root: it was built for another C library "
        f"({made}); use an image that has it, or a static program"
    )


def _machine(head: bytes) -> int:
    return int.from_bytes(head[18:20], "little" if head[5:6] == b"\x01" else "big")


def _interpreter(head: bytes) -> List[str]:
    """The words of a "#!" line; [] without one."""
    if not head.startswith(b"#!"):
        return []
    line = head[2:].partition(b"\n")[0].decode("utf-8", "replace")
    return [word for word in re.split("[ \t]+", line) if word]
