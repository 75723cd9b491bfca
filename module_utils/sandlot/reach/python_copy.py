# SPDX-License-Identifier: GPL-3.0-or-later
# Copyright: the sandlot developers
"""Copies the host's Python: program, standard library, shared libraries, dynamic linker.

Packages that somebody has installed, configuration and files that not every user may read stay
out of the copy.
"""

from __future__ import annotations

import contextlib
import os
import shutil
import stat
import sys
import sysconfig
from typing import Dict, List, Union

from ..errors import HostError, SandlotError
from ..images import programs
from ..kernel import elf
from ..kernel.program import PATH, run
from . import elf_paths
from .python_place import LINKER, PLACE, PROGRAM, Stamp, stamp

# Tests, programs with windows, what installs packages, and what somebody has installed.
_LEFT_OUT = {
    *("test", "tests", "idlelib", "tkinter", "turtledemo", "lib2to3", "ensurepip"),
    *("site-packages", "dist-packages"),
    *("sitecustomize.py", "usercustomize.py"),
}
_LEFT_OUT_STARTS = ("config-", "_test", "_ctypes_test", "_tkinter", "xx", "nis.")
_LEFT_OUT_ENDS = (".opt-1.pyc", ".opt-2.pyc", ".a", ".exe")
# The C library opens these by name when a program looks up a user or a host, or ends a thread.
_OPENED_BY_NAME = ("libnss_files.so.2", "libnss_dns.so.2", "libresolv.so.2", "libgcc_s.so.1")
_HINT = "give the sandbox an image that has Python, or run sandlot by another Python of the host"


def make(root: str) -> Dict[str, Stamp]:
    """Make the copy in a new directory; returns what it was made from."""
    mask = os.umask(0o022)
    try:
        return _Copy(root).run()
    finally:
        os.umask(mask)


class _Copy:
    """A copy of the Python that runs this process, and what it comes from."""

    def __init__(self, root: str) -> None:
        self.root = root
        self.program = os.path.realpath(sys.executable)
        self.linker = programs.linker(self.program)
        self.stamps: Dict[str, Stamp] = {}
        # By the names that programs ask for.
        self.libraries: Dict[str, str] = {}

    def run(self) -> Dict[str, Stamp]:
        linker = f"{self.root}{LINKER[len(PLACE) :]}"
        os.makedirs(os.path.dirname(linker))
        self._need_libraries_of(self.program)
        self._copy_program()
        if self.linker:
            _write(linker, self._content(self.linker), 0o755)
        places = self._copy_standard_library()
        for path in self._opened_by_name():
            self._need_libraries_of(path)
            self.libraries.setdefault(os.path.basename(path), path)
        for name, path in self.libraries.items():
            self._copy_object(path, f"{self.root}/{name}")
        # Nobody can write the compiled form of what is imported inside.
        run([self.program, "-I", "-m", "compileall", "-q", *places], env={"PATH": PATH})
        return self.stamps

    def _need_libraries_of(self, path: str) -> None:
        for library in programs.needed(self.linker, path) if self.linker else ():
            if not os.path.samefile(library, self.linker):
                self.libraries.setdefault(os.path.basename(library), library)

    def _opened_by_name(self) -> List[str]:
        homes = [os.path.dirname(path) for name, path in self.libraries.items() if "libc." in name]
        paths = [f"{home}/{name}" for home in homes for name in _OPENED_BY_NAME]
        return [path for path in paths if os.path.exists(path)]

    def _copy_program(self) -> None:
        content = self._content(self.program)
        try:
            elf_paths.redirect(content, LINKER, PLACE)
        except elf.NotElf as error:
            raise HostError(f"{self.program} can't run in another root", hint=_HINT) from error
        target = f"{self.root}/{PROGRAM}"
        os.mkdir(os.path.dirname(target))
        _write(target, content, 0o755)

    def _copy_standard_library(self) -> List[str]:
        """Copy it to where the program looks for it, seen from its own directory."""
        places = []
        for source in sorted({sysconfig.get_path("stdlib"), sysconfig.get_path("platstdlib")}):
            # Without the prefix of a virtual environment.
            within = os.path.relpath(source, sysconfig.get_config_var("installed_base"))
            if not within.startswith(".."):
                places.append(f"{self.root}/{within}")
                self._copy_tree(source, places[-1])
        if not any(os.path.exists(f"{place}/os.py") for place in places):
            problem = f"the standard library of {self.program} can't be read by other users"
            raise HostError(problem, hint=_HINT)
        return places

    def _copy_tree(self, source: str, target: str) -> None:
        self._note(source)
        for directory, names, files in os.walk(source):
            names[:] = filter(_is_wanted, names)
            for name in names:
                # Whoever imports a module as root may write to the directory of compiled forms.
                if name != "__pycache__":
                    self._note(f"{directory}/{name}")
            place = os.path.normpath(f"{target}/{os.path.relpath(directory, source)}")
            os.makedirs(place, exist_ok=True)
            for name in filter(_is_wanted, files):
                self._copy_file(f"{directory}/{name}", f"{place}/{name}")

    def _copy_file(self, source: str, target: str) -> None:
        status = os.lstat(source)
        if not stat.S_ISREG(status.st_mode) or not status.st_mode & stat.S_IROTH:
            return
        if not source.endswith(".so"):
            shutil.copyfile(source, target)
            # The compiled form has the time of its source.
            os.utime(target, ns=(status.st_mtime_ns, status.st_mtime_ns))
            return
        # An extension module whose libraries the host lacks can't be imported there either.
        with contextlib.suppress(SandlotError):
            self._need_libraries_of(source)
            self._copy_object(source, target)

    def _copy_object(self, source: str, target: str) -> None:
        content = self._content(source)
        elf_paths.forget_directories(content)
        _write(target, content, 0o644)

    def _content(self, source: str) -> bytearray:
        self._note(source)
        with open(source, "rb") as handle:
            return bytearray(handle.read())

    def _note(self, source: str) -> None:
        noted = stamp(source)
        if noted is not None:
            self.stamps[source] = noted


def _is_wanted(name: str) -> bool:
    if name in _LEFT_OUT or name.startswith(_LEFT_OUT_STARTS):
        return False
    return not name.endswith(_LEFT_OUT_ENDS)


def _write(path: str, content: Union[bytes, bytearray], mode: int) -> None:
    with open(path, "wb") as handle:
        handle.write(content)
        os.fchmod(handle.fileno(), mode)
