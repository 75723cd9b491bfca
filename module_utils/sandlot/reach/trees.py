# SPDX-License-Identifier: GPL-3.0-or-later
# Copyright: the sandlot developers
"""Copies files and trees between the host and a running sandbox, as docker cp does.

On the host's side, each entry is opened below the descriptor of its directory, by one name and
through no link. A file gets its name there when it is whole.
"""

from __future__ import annotations

import contextlib
import errno
import os
import stat
from typing import Callable, Iterator, List, Tuple

from ..errors import SandlotError
from ..init import files as server
from ..kernel.text import harmless
from .files import FileError, Files, Owner, Status

MOST_LEVELS = 256
_DIRECTORY = os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC
_BELOW = _DIRECTORY | os.O_NOFOLLOW
_FILE = os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_NOCTTY | os.O_CLOEXEC
_NEW = os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW | os.O_CLOEXEC
_IDS = 65536
# A file with these bits would give its rights to everybody on the host.
_MODE, _DIRECTORY_MODE = 0o777, 0o1777
# EINVAL is what readlink(2) says of anything but a link.
_CHANGED = (errno.ENOENT, errno.ENOTDIR, errno.ELOOP, errno.EISDIR, errno.EINVAL, server.NOT_A_FILE)
_KINDS = {
    stat.S_IFIFO: "a FIFO",
    stat.S_IFSOCK: "a socket",
    stat.S_IFCHR: "a device",
    stat.S_IFBLK: "a device",
}


class _Copy:
    """One copy, in either direction."""

    def __init__(
        self, sandbox: str, files: Files, notice: Callable[[str], None], *, keep_owner: bool
    ) -> None:
        """``notice`` takes messages about entries that are left out."""
        self._sandbox = sandbox
        self._files = files
        self._notice = notice
        self._keep_owner = keep_owner
        self._levels = 0

    @contextlib.contextmanager
    def _level(self, path: str) -> Iterator[None]:
        self._levels += 1
        if self._levels > MOST_LEVELS:
            raise SandlotError(
                f"{path}: more than {MOST_LEVELS} directories in each other",
                hint="copy a directory further down, or an archive of it",
            )
        yield
        self._levels -= 1

    def _inside(self, name: bytes = b"") -> str:
        return f"{self._sandbox}:{self._files.path(name)}"

    def _leave_out(self, path: str, mode: int) -> None:
        kind = _KINDS.get(stat.S_IFMT(mode), "no file")
        self._notice(f"{path} is left out: it is {kind}")


class CopyOut(_Copy):
    """Copies out of a sandbox."""

    def run(self, source: str, target: str) -> None:
        name = os.fsencode(source)
        status = self._files.stat(name)
        last, whole = last_name(source)
        # The caller's own links lead where the caller wants.
        place = os.path.realpath(target)
        if status.is_directory:
            self._kernels = self._kernel_devices(status)
            into = os.path.isdir(place) and not whole
            # An entry of that directory may be a link that an earlier copy has made.
            parent, final = (place, last) if into else os.path.split(place)
            place = os.path.join(parent, final)
            with _named(place), _directory(parent) as fd:
                self._tree(name, status, fd, os.fsencode(final or "."), place)
            return
        if not stat.S_ISREG(status.mode):
            raise FileError(self._sandbox, self._files.path(name), server.NOT_A_FILE)
        if os.path.isdir(place):
            place = os.path.join(place, last)
        elif target.endswith("/"):
            raise _local_error(target, os.strerror(errno.ENOENT), "make the directory first")
        _refuse_special(place)
        parent, final = os.path.split(place)
        with _named(parent), _directory(parent) as fd:
            self._file(name, fd, os.fsencode(final), place)

    def _kernel_devices(self, top: Status) -> List[int]:
        """File systems that describe the running kernel, unless the copy begins there."""
        tops = [path for path in (b"/proc", b"/sys") if self._files.exists(path)]
        return [d for d in (self._files.stat(path).device for path in tops) if d != top.device]

    def _tree(self, name: bytes, status: Status, directory: int, final: bytes, path: str) -> None:
        made = _mkdir(final, directory)
        with _directory(final, directory) as fd:
            with self._files.inside(name):
                self._entries(fd, path)
            if made:
                self._dress(fd, status, _DIRECTORY_MODE)

    def _entries(self, directory: int, place: str) -> None:
        with self._level(self._inside()):
            for name in self._files.list():
                path = os.path.join(place, os.fsdecode(name))
                try:
                    with _named(path):
                        self._entry(name, directory, path)
                except FileError as error:
                    # A listed entry exists, unless somebody changes the tree.
                    if error.code in _CHANGED:
                        raise FileError(self._sandbox, error.path, server.SHRUNK) from error
                    raise

    def _entry(self, name: bytes, directory: int, path: str) -> None:
        status = self._files.stat(name)
        if status.is_directory and status.device in self._kernels:
            self._notice(f"{self._inside(name)} is left out: it is the kernel's")
        elif status.is_directory:
            self._tree(name, status, directory, name, path)
        elif stat.S_ISLNK(status.mode):
            self._link(name, directory, status)
        elif stat.S_ISREG(status.mode):
            self._file(name, directory, name, path)
        else:
            self._leave_out(self._inside(name), status.mode)

    def _file(self, name: bytes, directory: int, final: bytes, path: str) -> None:
        temporary = b".sandlot-" + os.urandom(8).hex().encode()
        fd = os.open(temporary, _NEW, 0o600, dir_fd=directory)
        try:
            try:
                with _named(path):
                    status = self._files.get(name, fd, sparse=True)
                    os.ftruncate(fd, os.lseek(fd, 0, os.SEEK_CUR))
                    self._dress(fd, status, _MODE)
            finally:
                os.close(fd)
            os.rename(temporary, final, src_dir_fd=directory, dst_dir_fd=directory)
        finally:
            with contextlib.suppress(FileNotFoundError):
                os.unlink(temporary, dir_fd=directory)

    def _link(self, name: bytes, directory: int, status: Status) -> None:
        target = self._files.readlink(name)
        try:
            os.symlink(target, name, dir_fd=directory)
        except FileExistsError:
            os.unlink(name, dir_fd=directory)
            os.symlink(target, name, dir_fd=directory)
        if self._keep_owner:
            owner = (status.uid, status.gid)
            os.chown(name, *owner, dir_fd=directory, follow_symlinks=False)
        times = (status.mtime, status.mtime)
        os.utime(name, ns=times, dir_fd=directory, follow_symlinks=False)

    def _dress(self, fd: int, status: Status, bits: int) -> None:
        if self._keep_owner:
            os.fchown(fd, status.uid, status.gid)
        os.fchmod(fd, status.mode & bits)
        os.utime(fd, ns=(status.mtime, status.mtime))


class CopyIn(_Copy):
    """Copies into a sandbox."""

    def run(self, source: str, target: str) -> None:
        name = os.fsencode(target)
        last, whole = last_name(os.path.abspath(source) if source in (".", "..") else source)
        with _named(source):
            status = os.stat(source)
        present = self._files.stat(name) if self._files.exists(name) else None
        if stat.S_ISDIR(status.st_mode):
            with _named(source), _directory(source) as fd:
                if present is None or whole:
                    self._directory(name, fd, source, made=self._made(name, present))
                    return
                with self._files.inside(name):
                    entry = os.fsencode(last)
                    self._directory(entry, fd, source, made=self._files.mkdir(entry))
            return
        if not stat.S_ISREG(status.st_mode):
            problem = f"it is {_KINDS.get(stat.S_IFMT(status.st_mode), 'no file')}"
            raise _local_error(source, problem, "- copies standard input")
        if present is None and target.endswith("/"):
            raise FileError(self._sandbox, self._files.path(name), errno.ENOENT)
        with _named(source), _opened(source) as (fd, status):
            if present is not None and present.is_directory:
                with self._files.inside(name):
                    self._file(os.fsencode(last), fd, status, source)
            else:
                self._file(name, fd, status, source)

    def _made(self, name: bytes, present: Status | None) -> bool:
        return present is None and self._files.mkdir(name)

    def _directory(self, name: bytes, fd: int, path: str, *, made: bool) -> None:
        """Copy what a directory holds into one that is there by now."""
        status = os.fstat(fd)
        with self._files.inside(name):
            with self._level(harmless(path)):
                for entry in sorted(os.listdir(fd)):
                    inner = os.path.join(path, entry)
                    with _named(inner):
                        self._entry(entry, fd, inner)
            if made:
                mode = stat.S_IMODE(status.st_mode)
                owner = self._owner(status, path)
                self._files.set(b".", owner=owner, mode=mode, mtime=status.st_mtime_ns)

    def _entry(self, entry: str, directory: int, path: str) -> None:
        status = os.stat(entry, dir_fd=directory, follow_symlinks=False)
        name = os.fsencode(entry)
        if stat.S_ISDIR(status.st_mode):
            with _directory(entry, directory) as fd:
                self._directory(name, fd, path, made=self._files.mkdir(name))
        elif stat.S_ISLNK(status.st_mode):
            self._files.symlink(os.fsencode(os.readlink(entry, dir_fd=directory)), name)
            owner = self._owner(status, path)
            self._files.set(name, owner=owner, mtime=status.st_mtime_ns)
        elif stat.S_ISREG(status.st_mode):
            with _opened(entry, directory) as (fd, status):
                self._file(name, fd, status, path)
        else:
            self._leave_out(harmless(path), status.st_mode)

    def _file(self, name: bytes, fd: int, status: os.stat_result, path: str) -> None:
        mode, owner = stat.S_IMODE(status.st_mode), self._owner(status, path)
        self._files.put(name, fd, owner=owner, mode=mode, mtime=status.st_mtime_ns)

    def _owner(self, status: os.stat_result, path: str) -> Owner:
        if not self._keep_owner:
            return None
        for number in (status.st_uid, status.st_gid):
            if number >= _IDS:
                problem = f"its owner or group {number} is no id of a sandbox, 0 to {_IDS - 1}"
                raise _local_error(path, problem, "copy without -a, or change the owner first")
        return status.st_uid, status.st_gid


def last_name(path: str) -> Tuple[str, bool]:
    """The last name of a path; whether only what the directory holds is meant."""
    last = os.path.basename(path.rstrip("/"))
    return last, last in ("", ".", "..")


def _refuse_special(place: str) -> None:
    """Refuse to put a file in the place of a device or FIFO."""
    try:
        mode = os.lstat(place).st_mode
    except OSError:
        return  # the way there is not whole, which the copy tells
    if not stat.S_ISREG(mode):
        raise _local_error(place, f"it is {_KINDS.get(stat.S_IFMT(mode), 'no file')}", "use -")


def _mkdir(name: bytes, directory: int) -> bool:
    try:
        os.mkdir(name, 0o700, dir_fd=directory)
    except FileExistsError:
        return False
    return True


@contextlib.contextmanager
def _directory(path: str | bytes, parent: int | None = None) -> Iterator[int]:
    """A descriptor of a directory: one of the caller, or an entry below ``parent``."""
    fd = os.open(path, _DIRECTORY if parent is None else _BELOW, dir_fd=parent)
    try:
        yield fd
    finally:
        os.close(fd)


@contextlib.contextmanager
def _opened(path: str, directory: int | None = None) -> Iterator[Tuple[int, os.stat_result]]:
    """A regular file and its status; a FIFO in its place holds up nobody."""
    flags = _FILE if directory is not None else _FILE & ~os.O_NOFOLLOW
    fd = os.open(path, flags, dir_fd=directory)
    try:
        status = os.fstat(fd)
        if not stat.S_ISREG(status.st_mode):
            raise OSError(errno.ESTALE, "it changed while it was copied")
        yield fd, status
    finally:
        os.close(fd)


@contextlib.contextmanager
def _named(path: str) -> Iterator[None]:
    """Name a path of the host in errors of the system."""
    try:
        yield
    except OSError as error:
        problem = error.strerror or str(error)
        raise _local_error(path, problem, "correct the path, or make room") from error


def _local_error(path: str, problem: str, hint: str) -> SandlotError:
    return SandlotError(f"{harmless(path)}: {problem}", hint=hint)
