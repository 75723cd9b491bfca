# SPDX-License-Identifier: GPL-3.0-or-later
# Copyright: the sandlot developers
"""Starts from a large and a small image, and a second run over ten images."""

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
from rows import NOISE, Figures, Row, middle, ms, ratios, seconds, times
from sandlot import images
from sandlot.launcher.client import Launcher
from setting import Bench

NUMBER = 10
_TREES = ("/usr/bin", "/usr/lib", "/usr/share")


def measure(bench: Bench) -> Figures:
    sizes = bench.sizes
    wanted = _images(bench.directory, sizes.large)
    instances = [
        {"name": name, "command": WORKLOAD, "image": image}
        for name, image in (("from-small", "busybox"), ("from-large", "large"))
    ]
    variables: Dict[str, Any] = {"sandbox_images": wanted, "sandbox_instances": instances}
    with bench.ours() as ours:
        ours.runner.run(ours.playbook, **variables)
        starts = _starts(ours, sizes.quick)
        playbook = _playbook(bench.directory)
        again = [ours.runner.run(playbook, **variables) for _ in range(sizes.repetitions)]
        single: Dict[str, Any] = {"sandbox_images": wanted[:1]}
        return {
            **starts,
            "large_bytes": images.lookup(ours.paths, "large").size,
            "again": [play.seconds for play in again],
            "changed": sum(play.changed for play in again),
            "single": [ours.runner.run(playbook, **single).seconds for _ in again],
            "modules": ours.runner.run(playbook, verbose=True, **variables).modules,
            "number": len(wanted),
        }


def _images(directory: Path, size: int) -> List[Mapping[str, Any]]:
    small = [{"name": "busybox", "source": "busybox"}]
    host = [{"name": "tools", "source": "host", "programs": ["bash", "ls", "python3"]}]
    large = [_archive(directory, "large", size)]
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


def _starts(ours: Ours, turns: int) -> Figures:
    """Request to running workload, without the interpreter of a command."""
    launcher = Launcher(ours.paths)
    figures: Figures = {"small": [], "large": []}
    for _ in range(turns):
        for key, name in (("small", "from-small"), ("large", "from-large")):
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


def rows(figures: Figures) -> list[Row]:
    ratio = ratios(figures["large"], figures["small"])
    what = f"start from {figures['large_bytes'] >> 20} MB: from busybox"
    figure = f"{times(ratio)}: {ms(figures['large'])}, {ms(figures['small'])}"
    number, changed = figures["modules"], figures["changed"]
    again = f"{number} module execution, {seconds(figures['again'])}"
    again += f"; one image: {seconds(figures['single'])}"
    met = number == 1 and not changed
    return [
        Row(what, figure, f"as fast (noise {NOISE:.0%})", middle(ratio) <= 1 + NOISE),
        Row(f"second run over {figures['number']} images", again, "one, nothing changed", met),
    ]
