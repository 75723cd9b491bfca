# SPDX-License-Identifier: GPL-3.0-or-later
# Copyright: the sandlot developers
"""Source "host": a small root file system of named host programs and their libraries."""

from __future__ import annotations

import hashlib
import os
import shutil
import stat
from typing import Any, Callable, Tuple

from ..errors import SpecError
from ..spec.names import absolute_path, absolute_paths
from ..spec.option import Option
from ..spec.text import line, refusal, sequence
from . import programs, provenance
from .model import Built, Image, ImageSpec, Job, Source

# Part of the digest: raise it when this module builds another tree of the same files.
LAYOUT = "1"
_DIRECTORIES = {
    **{"dev": 0o755, "etc": 0o755, "home": 0o755, "proc": 0o755, "root": 0o700, "run": 0o755},
    **{"sys": 0o755, "tmp": 0o1777, "usr": 0o755, "var": 0o755, "var/tmp": 0o1777},
}
NSSWITCH = "passwd: files\ngroup: files\nhosts: files dns\n"
_FILES = {
    "etc/passwd": "root:x:0:0:root:/root:/bin/sh\nnobody:x:65534:65534:nobody:/:/bin/false\n",
    "etc/group": "root:x:0:\nnogroup:x:65534:\n",
    "etc/nsswitch.conf": NSSWITCH,
}
_MOUNTED = ("/dev", "/proc", "/sys", "/tmp")


def digest(spec: ImageSpec, known: Image | None = None) -> str | None:
    """A digest of each file's name, mode and content; unchanged files are not read again."""
    taken = _found(spec)
    hashed = provenance.hashed(sorted(taken.files), known.evidence if known else {})
    tree_digest = hashlib.sha256(f"host programs {LAYOUT}\n".encode())
    for path, entry in hashed.items():
        tree_digest.update(f"{path} {stat.S_IMODE(os.stat(path).st_mode):o} {entry[-1]}\n".encode())
    for path, target in sorted(taken.links.items()):
        tree_digest.update(f"{path} -> {target}\n".encode())
    return tree_digest.hexdigest()


def _found(spec: ImageSpec) -> programs.Found:
    taken = programs.Found()
    for name in spec.get("programs") or ():
        taken.program(programs.which(name))
    for name in spec.get("packages") or ():
        for path in programs.of_package(name):
            taken.program(path)
    for path in spec.get("files") or ():
        taken.tree(path)
    return taken


def build(job: Job) -> Built:
    taken = _found(job.spec)
    for name, mode in _DIRECTORIES.items():
        _directory(f"{job.root}/{name}", mode)
    place(taken, job.root, job.report)
    for name, text in _FILES.items():
        if not os.path.lexists(f"{job.root}/{name}"):
            with open(f"{job.root}/{name}", "x", encoding="ascii") as handle:
                handle.write(text)
                os.fchmod(handle.fileno(), 0o644)
    programs.make_loader_cache(job.root, sorted(taken.libraries))
    return Built(evidence=provenance.hashed(sorted(taken.files), {}))


def place(taken: programs.Found, root: str, report: Callable[[str, int, int], None]) -> None:
    """Copy what was found to the same places below ``root``."""
    for path, target in sorted(taken.links.items()):
        _parents(root, path)
        os.symlink(target, f"{root}{path}")
    for path in sorted(taken.directories):
        _parents(root, f"{path}/x")
    for number, path in enumerate(sorted(taken.files)):
        report("copy", number, len(taken.files))
        _parents(root, path)
        shutil.copyfile(path, f"{root}{path}")
        # Without set-id bits: they are useless in a sandbox and dangerous on the host.
        os.chmod(f"{root}{path}", stat.S_IMODE(os.stat(path).st_mode) & 0o777)


def _directory(path: str, mode: int) -> None:
    if not os.path.isdir(path):
        os.mkdir(path)
        os.chmod(path, mode)


def _parents(root: str, path: str) -> None:
    """The parent directories of ``path``, links resolved, with a mode that lets everybody in."""
    walked = root
    for part in path.split("/")[1:-1]:
        walked = f"{walked}/{part}"
        _directory(walked, 0o755)


# -- options


def _programs(option: str, value: Any) -> Tuple[str, ...]:
    names = tuple(line(f"{option}[{i}]", item) for i, item in enumerate(sequence(option, value)))
    for name in names:
        if not name or ("/" in name and not name.startswith("/")):
            hint = "write the name of a program, or its absolute path"
            raise refusal(option, name, "is no program", hint=hint)
        if name.startswith("/"):
            _check_in_sight(option, absolute_path(option, name))
    return names


def _check_in_sight(option: str, path: str) -> None:
    for mounted in _MOUNTED:
        if f"{path}/".startswith(f"{mounted}/"):
            problem = f"can't be seen inside: a sandbox has a {mounted} of its own"
            raise refusal(option, path, problem, hint="keep it elsewhere")


def _packages(option: str, value: Any) -> Tuple[str, ...]:
    names = []
    for item in sequence(option, value):
        name = line(option, item)
        if not programs.PACKAGE.fullmatch(name):
            hint = "as dpkg -l shows it"
            raise refusal(option, item, "is no name of a Debian package", hint=hint)
        names.append(name)
    return tuple(names)


def _files(option: str, value: Any) -> Tuple[str, ...]:
    paths = absolute_paths(option, value)
    for path in paths:
        _check_in_sight(option, path)
    return paths


def _check(option: str, spec: ImageSpec) -> None:
    if not (spec.get("programs") or spec.get("packages")):
        hint = "name programs, as [bash, ls], or Debian packages, as [coreutils]"
        raise SpecError(option, spec.name, "has neither programs nor packages", hint=hint)


SOURCE = Source(
    description="named programs of the host and the libraries they need",
    digest=digest,
    build=build,
    check=_check,
    options=(
        Option(
            "programs",
            "list",
            _programs,
            [
                "Programs of the host, by name or absolute path. The libraries they need come "
                "along, and so does the interpreter of a script."
            ],
            elements="str",
        ),
        Option(
            "packages",
            "list",
            _packages,
            ["Debian packages of the host, all of whose programs are taken."],
            elements="str",
        ),
        Option(
            "files",
            "list",
            _files,
            [
                "Files and directories of the host that are copied as well, such as data of "
                "programs."
            ],
            elements="str",
        ),
    ),
)
