# SPDX-License-Identifier: GPL-3.0-or-later
# Copyright: the sandlot developers
"""Images under the clock: does the size of an image matter, and what do ten prepared ones cost?"""

from __future__ import annotations

import hashlib
import json
import os
import tarfile
import time
from pathlib import Path
from typing import Any, Dict, Iterator, List, Mapping

import static_busybox
from ours import WORKLOAD, Ours
from sandlot import images
from sandlot.launcher.client import Launcher

LARGE = 400 << 20
NUMBER = 10
ROUNDS = 15
_TREES = ("/usr/bin", "/usr/lib", "/usr/share")
Figures = Dict[str, Any]


def measure(ours: Ours, directory: Path) -> Figures:
    """Starts by turns from a small and a large image; a second run over ten images."""
    print("  sandlot, images", flush=True)
    wanted = _images(directory)
    instances = [
        {"name": name, "command": WORKLOAD, "image": image}
        for name, image in (("from-small", "busybox"), ("from-large", "large"))
    ]
    variables = {"sandbox_images": wanted, "sandbox_instances": instances}
    ours.runner.run(ours.playbook, **variables)
    starts = _starts(ours)
    playbook = _playbook(directory)
    again = [ours.runner.run(playbook, **variables) for _ in range(3)]
    single = {"sandbox_images": wanted[:1]}
    return {
        **starts,
        "large_bytes": images.lookup(ours.paths, "large").size,
        "images_again": [play.seconds for play in again],
        "images_single": [ours.runner.run(playbook, **single).seconds for _ in range(3)],
        "images_changed": sum(play.changed for play in again),
        "images_modules": ours.runner.run(playbook, verbose=True, **variables).modules,
        "images_number": len(wanted),
    }


def _images(directory: Path) -> List[Mapping[str, Any]]:
    small = [{"name": "busybox", "source": "busybox"}]
    host = [{"name": "tools", "source": "host", "programs": ["bash", "ls", "python3"]}]
    large = [_archive(directory, "large", LARGE)]
    rest = [_archive(directory, f"image-{n}", 4 << 20) for n in range(NUMBER - 3)]
    return [*small, *host, *large, *rest]


def _archive(directory: Path, name: str, size: int) -> Mapping[str, Any]:
    """This host's own programs, libraries and documents up to that size, around its busybox."""
    path = directory / f"{name}.tar"
    with tarfile.open(path, "w") as archive:
        archive.add(static_busybox.PROGRAM, "bin/busybox")
        member = tarfile.TarInfo("bin/sleep")
        member.type, member.linkname = tarfile.SYMTYPE, "busybox"
        archive.addfile(member)
        archive.addfile(tarfile.TarInfo(f"made-for-{name}"))
        for file in _files(size):
            archive.add(file, file.lstrip("/"))
    with open(path, "rb") as handle:
        digest = hashlib.sha256()
        for chunk in iter(lambda: handle.read(1 << 20), b""):
            digest.update(chunk)
    checksum = f"sha256:{digest.hexdigest()}"
    return {"name": name, "source": "tarball", "path": str(path), "checksum": checksum}


def _files(size: int) -> Iterator[str]:
    for top in _TREES:
        for here, directories, files in os.walk(top):
            directories.sort()
            for file in sorted(files):
                path = f"{here}/{file}"
                if os.path.islink(path) or not os.path.isfile(path):
                    continue
                size -= os.path.getsize(path)
                if size < 0:
                    return
                yield path


def _starts(ours: Ours) -> Figures:
    """Request to running workload, without the interpreter of a command."""
    launcher = Launcher(ours.paths)
    figures: Figures = {"start_small": [], "start_large": []}
    for _ in range(ROUNDS):
        for key, name in (("start_small", "from-small"), ("start_large", "from-large")):
            launcher.stop([name])
            started = time.monotonic()
            failures = launcher.start([name])
            figures[key].append(time.monotonic() - started)
            if failures:
                raise failures[name]
    return figures


def _playbook(directory: Path) -> Path:
    """The play's part that concerns images."""
    path = directory / "images.json"
    play = {
        "name": "Images",
        "hosts": "sandbox_hosts",
        "gather_facts": False,
        "environment": "{{ sandbox_environment }}",
        "roles": ["sandbox_rootfs"],
    }
    path.write_text(json.dumps([play]))
    return path
