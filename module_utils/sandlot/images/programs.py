# SPDX-License-Identifier: GPL-3.0-or-later
# Copyright: the sandlot developers
"""Finds the files that programs of the host need, by asking their dynamic linker."""

from __future__ import annotations

import os
import re
import shutil
import stat
from typing import Dict, List, Set

from ..errors import HostError, SandlotError, SpecError
from ..kernel import elf
from ..kernel.program import PATH, check, complaint, run

PACKAGE = re.compile(r"[a-z0-9][a-z0-9.+-]+")
_MAX_LINKS = 40
_MAX_SCRIPTS = 4
# "libc.so.6 => /lib/x86_64-linux-gnu/libc.so.6 (0x0000...)", or the linker's own absolute path.
_NEEDED = re.compile(r"^\s*(\S+)(?: => (\S+))?(?: \(0x[0-9a-f]+\))?$")


class Found:
    """Files, directories and links of the host, by absolute path."""

    def __init__(self) -> None:
        self.files: Set[str] = set()
        self.links: Dict[str, str] = {}
        self.directories: Set[str] = set()
        self.libraries: Set[str] = set()

    def program(self, path: str, depth: int = 0) -> None:
        real = self.path(path)
        if self.libraries_of(real):
            return
        for word in _shebang(real):
            if depth >= _MAX_SCRIPTS:
                raise SpecError("programs", path, "is a script of scripts", hint="leave it out")
            self.program(which(word), depth + 1)

    def libraries_of(self, path: str) -> List[str]:
        """Add the dynamic linker of a program and its libraries; returns their paths."""
        interpreter = linker(path)
        if not interpreter:
            return []
        libraries = [self.path(library) for library in needed(interpreter, path)]
        self.libraries.update(os.path.dirname(library) for library in libraries)
        return [*libraries, self.path(interpreter)]

    def path(self, path: str) -> str:
        """Add a file and every link on the way to it; returns its path without links."""
        done, rest = "", [part for part in path.split("/") if part]
        for dummy in range(_MAX_LINKS * 20):
            if not rest:
                self._end(done)
                return done
            part = rest.pop(0)
            if part in (".", ".."):
                done = os.path.dirname(done) if part == ".." else done
                continue
            step = f"{done}/{part}"
            if os.path.islink(step):
                target = os.readlink(step)
                self.links[step] = target
                rest = [word for word in target.split("/") if word] + rest
                done = "" if target.startswith("/") else done
            else:
                done = step
        raise SpecError("programs", path, "has too many links", hint="leave it out")

    def _end(self, path: str) -> None:
        mode = os.lstat(path).st_mode
        if stat.S_ISREG(mode):
            self.files.add(path)
        elif stat.S_ISDIR(mode):
            self.directories.add(path)
        else:
            raise SpecError("files", path, "is neither file nor directory", hint="leave it out")

    def tree(self, path: str) -> None:
        if not os.path.lexists(path):
            raise SpecError("files", path, "is not on this host", hint="correct or leave it out")
        top = self.path(path)
        if not os.path.isdir(top):
            return
        for directory, directories, files in os.walk(top):
            self.directories.add(directory)
            for name in (*directories, *files):
                entry = f"{directory}/{name}"
                if os.path.islink(entry):
                    self.links[entry] = os.readlink(entry)
                elif not os.path.isdir(entry):
                    self._end(entry)


def which(name: str) -> str:
    path = shutil.which(name, path=PATH)
    if path is None:
        hint = "install it on the host, or correct the name"
        raise SpecError("programs", name, "is no program of this host", hint=hint)
    return path


def of_package(name: str) -> List[str]:
    """The programs of an installed Debian package."""
    if shutil.which("dpkg-query", path=PATH) is None:
        hint = "name programs instead of packages on this distribution"
        raise HostError("the program dpkg-query was not found", hint=hint)
    done = run(["dpkg-query", "--listfiles", name], env={"PATH": PATH})
    if done.returncode:
        hint = "install it on the host, or correct the name"
        raise SpecError("packages", name, "is no installed package of this host", hint=hint)
    directories = set(PATH.split(":"))
    paths = [path for path in done.stdout.splitlines() if os.path.dirname(path) in directories]
    return [path for path in paths if os.path.isfile(path) and os.access(path, os.X_OK)]


def linker(path: str) -> str:
    """The dynamic linker of an ELF program; "" for a static program and other files, or none."""
    try:
        with open(path, "rb") as handle:
            return elf.interpreter(handle) or ""
    except (FileNotFoundError, elf.NotElf):
        return ""


def needed(interpreter: str, path: str) -> List[str]:
    """Libraries as the dynamic linker resolves them, without running the program (ld.so(8))."""
    done = run([interpreter, "--list", path], env={"PATH": PATH})
    if done.returncode:
        problem = f"the libraries it needs can't be found: {complaint(done)}"
        raise SandlotError(f"{path}: {problem}")
    libraries = []
    for line in done.stdout.splitlines():
        match = _NEEDED.match(line)
        if "not found" in line:
            raise SandlotError(f"{path}: {line.strip()}", hint="install that library on the host")
        library = match and (match[2] or match[1])
        if library and library.startswith("/"):
            libraries.append(library)
    return libraries


def _shebang(path: str) -> List[str]:
    """The programs in a script's first line: the interpreter, and the program that env runs."""
    with open(path, "rb") as handle:
        head = handle.read(256)
    if not head.startswith(b"#!"):
        return []
    words = head[2:].split(b"\n", 1)[0].decode("utf-8", "replace").split()
    if not words or not os.path.exists(words[0]):
        return []
    runs_another = os.path.basename(words[0]) == "env" and len(words) == 2
    return [words[0], words[1]] if runs_another else words[:1]


def make_loader_cache(root: str, directories: List[str]) -> None:
    """Write ld.so.cache, the only place where the linker finds other directories (ldconfig(8))."""
    ldconfig = shutil.which("ldconfig", path=PATH)
    if ldconfig is None or not directories:
        return
    with open(f"{root}/etc/ld.so.conf", "w", encoding="utf-8") as handle:
        handle.writelines(f"{directory}\n" for directory in directories)
        os.fchmod(handle.fileno(), 0o644)
    check([ldconfig, "-X", "-r", root], env={"PATH": PATH})
