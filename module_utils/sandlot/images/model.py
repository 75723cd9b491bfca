# SPDX-License-Identifier: GPL-3.0-or-later
# Copyright: the sandlot developers
"""An image as desired (ImageSpec) and as it exists (Image), and the interface of a source."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any, Callable, Dict, Mapping, Sequence, Tuple

from ..image_change import KEEP
from ..profiles import STRICT
from ..spec.option import Option

Json = Dict[str, Any]

# As a user would write it.
MAX_SIZE = "8g"
MAX_FILES = 500_000


@dataclass(frozen=True)
class ImageSpec:
    """One item of ``images``; ``options`` are of its source, as JSON has them, without None."""

    name: str
    source: str = ""
    state: str = "present"
    options: Mapping[str, Any] = field(default_factory=dict, hash=False)
    setup: tuple[Json, ...] = field(default=(), hash=False)

    def get(self, option: str) -> Any:
        return self.options.get(option)


@dataclass(frozen=True)
class Image:
    """An image of this host.

    ``layers`` are directories owned by host root, the topmost first; ``host``, when not empty, puts
    the host's own root below them and says which paths to "show" and to "hide" beyond the usual.
    ``tmpfs`` are mount options of a writable layer in memory, "" for one on disk. ``base`` is the
    digest of the source's tree, ``digest`` that of the image. ``config`` are defaults for
    sandboxes (entrypoint, command, env, user, working_dir, stop_signal, labels). ``config``,
    ``evidence``, ``size`` (bytes of files) and ``made`` (seconds since 1970) are facts of the
    build.
    """

    name: str
    digest: str
    layers: tuple[str, ...] = ()
    source: str = ""
    parameters: Mapping[str, Any] = field(default_factory=dict, hash=False)
    base: str = ""
    host: Mapping[str, Any] = field(default_factory=dict, hash=False)
    tmpfs: str = ""
    config: Mapping[str, Any] = field(default_factory=dict, hash=False, compare=False)
    size: int = field(default=0, compare=False)
    made: float = field(default=0.0, compare=False)
    evidence: Mapping[str, Any] = field(default_factory=dict, hash=False, compare=False)

    @property
    def root(self) -> str:
        """The topmost layer; "" for an image without a tree, or one that is not built yet."""
        return self.layers[0] if self.layers else ""

    def to_json(self) -> Json:
        return {**vars(self), "layers": list(self.layers)}

    @classmethod
    def from_json(cls, data: Mapping[str, Any]) -> Image:
        known = {key: value for key, value in data.items() if key not in ("schema", "root")}
        # Records of the first version name one root.
        layers = data["layers"] if "layers" in data else [data["root"]]
        known["base"] = data.get("base") or data["digest"]
        return cls(**{**known, "layers": tuple(layers), "parameters": dict(data["parameters"])})


@dataclass(frozen=True)
class Job:
    """The input of a source for one build.

    ``root`` is an empty directory to fill, ``scratch`` a private directory for temporary files. The
    source may make ``kept`` for files that a later run resumes from; it is removed when the image
    is no longer listed. ``report(phase, done, total)`` reports progress in bytes, with ``total`` 0
    if it is unknown.
    """

    spec: ImageSpec
    digest: str
    root: str
    scratch: str
    report: Callable[[str, int, int], None]
    kept: str = ""


@dataclass(frozen=True)
class Built:
    """A finished build: its warnings, the image's config, and the evidence of its origin.

    In later runs, the source's ``digest`` compares the evidence with the origin, so that it need
    not read an unchanged origin again.
    """

    warnings: Sequence[str] = ()
    config: Mapping[str, Any] = field(default_factory=dict)
    evidence: Mapping[str, Any] = field(default_factory=dict)


@dataclass(frozen=True)
class Source:
    """One way to get an image.

    ``digest(spec, known)`` is the digest of the image before it is built, None while its origin is
    missing. ``known`` is the present image of that name and source, if any. ``build`` fills a tree;
    without it the image consists of ``layers(spec)`` and the host's root. ``check(option, spec)``
    refuses options that contradict each other. ``secret`` options, and options with ``no_log``, are
    neither stored nor compared. ``packages()`` are the Debian packages that this host lacks. With
    ``settled``, the digest fixes the content, so the origin need not be checked for changes after
    the build. ``profile`` is the security profile of sandboxes that name none, ``on_image_change``
    their default of that option.
    """

    description: str
    digest: Callable[[ImageSpec, Image | None], str | None]
    options: Sequence[Option] = ()
    build: Callable[[Job], Built] | None = None
    layers: Callable[[ImageSpec], Tuple[str, ...]] = lambda spec: ()
    check: Callable[[str, ImageSpec], None] = lambda option, spec: None
    host: Callable[[ImageSpec], Mapping[str, Any]] | None = None
    tmpfs: Callable[[ImageSpec], str] | None = None
    secret: frozenset[str] = frozenset()
    packages: Callable[[], Sequence[str]] = tuple
    settled: bool = False
    profile: str = STRICT
    on_image_change: str = KEEP

    def parameters(self, spec: ImageSpec) -> Json:
        """The options to store and compare, including the setup."""
        shown = {
            option.name: spec.options[option.name]
            for option in self.options
            if option.name in spec.options and not (option.no_log or option.name in self.secret)
        }
        return {**shown, **({"setup": list(spec.setup)} if spec.setup else {})}
