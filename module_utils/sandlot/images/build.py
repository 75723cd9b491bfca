# SPDX-License-Identifier: GPL-3.0-or-later
# Copyright: the sandlot developers
"""Builds the trees of an image, each once per host, without holding the host's writer lock."""

from __future__ import annotations

import contextlib
import os
import time
from dataclasses import dataclass, replace
from typing import Callable, Iterator, Tuple

from .. import lock, store
from ..errors import SandlotError
from ..kernel.trees import remove_entry
from ..plan import Change, Operation
from ..site import Site
from . import progress, records, workspace
from .model import Built, Image, ImageSpec, Job
from .setup import Runner
from .sources import of

Report = Callable[[str, int, int], None]
ATTEMPTS = 3


@dataclass(frozen=True)
class Making:
    """One image to build: the trees without the writer lock, then the record with it."""

    site: Site
    spec: ImageSpec
    wanted: Image
    verb: str
    change: Change
    run_setup: Runner | None = None

    @property
    def name(self) -> str:
        return self.spec.name

    def operation(self, action: Callable[[], None]) -> Operation:
        short = f" {self.wanted.digest[:12]}" if self.wanted.digest else ""
        summary = f"{self.verb}{short} from {self.spec.source}"
        return Operation(f"image {self.name}", summary, action, self.change)

    def make(self) -> None:
        """Build the trees and write the record, in a run for images alone."""
        # Another run may remove a tree until a record refers to it.
        for dummy in range(ATTEMPTS - 1):
            self.make_trees()
            with lock.exclusive(self.site):
                if self.is_whole():
                    return self.record()
        self.make_trees()
        with lock.exclusive(self.site):
            self.record()

    def make_trees(self) -> None:
        with self._explained(), progress.Progress(self.site, self.name) as report:
            workspace.prepare(self.site)
            build = None if self.spec.get("base") else of(self.spec).build
            # Build even with an unknown digest: the error names what is missing.
            if build and not is_made(self.site, self.wanted.base):
                _tree(self.site, self.spec, self.wanted.base, build, report.update)
            if self.spec.setup and not is_made(self.site, self.wanted.digest):
                self._set_up(report.update)

    def _set_up(self, report: Report) -> None:
        if self.run_setup is None:
            raise SandlotError(f"image {self.name!r}: setup needs the runtime of a host")
        source = replace(self.wanted, layers=self.wanted.layers[1:])
        below = _with_facts(self.site, source, self.wanted.base)
        runner = self.run_setup

        def build(job: Job) -> Built:
            made = runner(job, below)
            config = {**below.config, **made.config}
            return replace(made, config=config, evidence=below.evidence)

        _tree(self.site, self.spec, self.wanted.digest, build, report)

    def is_whole(self) -> bool:
        return all(os.path.isdir(layer) for layer in self.wanted.layers)

    def as_made(self) -> Image:
        """The image with the facts of its build, such as its config and size."""
        digests = records.trees_of(self.site, self.wanted.layers[:1])
        return _with_facts(self.site, self.wanted, digests[0] if digests else self.wanted.base)

    def record(self) -> None:
        if not self.is_whole():
            problem = f"image {self.name!r}: other runs keep removing it"
            raise SandlotError(problem, hint="run again")
        with self._explained():
            store.write(records.path(self.site, self.name), self.as_made().to_json())

    @contextlib.contextmanager
    def _explained(self) -> Iterator[None]:
        try:
            yield
        except OSError as error:
            raise SandlotError(
                f"image {self.name!r} can't be made: {error}",
                hint=f"see to space and rights in {self.site.images}, then run again",
            ) from error


def is_made(site: Site, digest: str) -> bool:
    return bool(digest) and os.path.isdir(f"{workspace.tree(site, digest)}/root")


def _with_facts(site: Site, image: Image, digest: str) -> Image:
    about = records.about(site, digest)
    size = 0
    for layer in image.layers:
        # Our own trees were measured when they were built.
        digests = records.trees_of(site, [layer])
        known = records.about(site, digests[0]) if digests else {}
        size += int(known["size"]) if "size" in known else measured(layer)[0]
    if not about:
        # Nothing was built: the tree is a user's directory or the host's root.
        return replace(image, size=size, made=time.time())
    return replace(
        image,
        config=about.get("config", {}),
        size=size,
        made=about.get("made", 0.0),
        evidence=about.get("evidence", {}),
    )


def _tree(
    site: Site,
    spec: ImageSpec,
    digest: str,
    build: Callable[[Job], Built],
    report: Report,
) -> None:
    with workspace.temporary(site, digest or "unknown") as directory:
        if is_made(site, digest):
            return  # built by another run, while this one waited for it
        tree = f"{directory}/tree"
        for path, mode in ((tree, 0o700), (f"{tree}/root", 0o755), (f"{directory}/scratch", 0o700)):
            os.mkdir(path)
            os.chmod(path, mode)
        kept = workspace.kept(site, digest)
        made = build(Job(spec, digest, f"{tree}/root", f"{directory}/scratch", report, kept))
        source = of(spec)
        if build is source.build and not source.settled and source.digest(spec, None) != digest:
            problem = f"image {spec.name!r}: its source changed while it was made"
            raise SandlotError(problem, hint="run again")
        report("install", 0, 0)
        size, files = measured(f"{tree}/root")
        about = {"warnings": list(made.warnings), "config": dict(made.config)}
        facts = {"evidence": dict(made.evidence), "size": size, "files": files, "made": time.time()}
        store.write(f"{tree}/about.json", {**about, **facts})
        workspace.install(site, tree, workspace.tree(site, digest))
        remove_entry(kept)


def measured(root: str) -> Tuple[int, int]:
    """Bytes of regular files and number of entries; hard links count once."""
    inodes, size, count = set(), 0, 0
    for dummy, directories, files, fd in os.fwalk(root):
        count += len(directories) + len(files)
        for name in files:
            status = os.stat(name, dir_fd=fd, follow_symlinks=False)
            if status.st_nlink > 1:
                if status.st_ino in inodes:
                    continue
                inodes.add(status.st_ino)
            size += status.st_size
    return size, count
