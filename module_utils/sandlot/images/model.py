# SPDX-License-Identifier: GPL-3.0-or-later
# Copyright: the sandlot developers
"""What an image is to be (ImageSpec) and what is there (Image)."""

from __future__ import annotations

import re
from dataclasses import dataclass, field, fields
from typing import Any, Callable, Iterable, Mapping

from ..errors import SpecError
from ..spec.names import absolute_path, image_name
from ..spec.quantities import integer, size
from ..spec.text import brief, choice, line, mapping, missing, refusal, sequence, unique

MAX_SIZE = 8 << 30
MAX_FILES = 500_000
# A record's file name is the image's name with "/" written as three characters.
MAX_NAME = 80
# Source -> the options it takes.
SOURCES: Mapping[str, tuple[str, ...]] = {
    "busybox": (),
    "tarball": ("path", "url", "checksum", "max_size", "max_files"),
}
_CHECKSUM = re.compile(r"(sha256):([0-9a-f]{64})|(sha512):([0-9a-f]{128})")
_URL = re.compile(r"https?://[^/?#@\s]+(?:/[^#\s]*)?", re.I)


@dataclass(frozen=True)
class ImageSpec:
    """One item of ``images``; options of other sources stay None."""

    name: str
    source: str | None = None
    state: str = "present"
    path: str | None = None
    url: str | None = None
    checksum: str | None = None
    max_size: int | None = None
    max_files: int | None = None

    def parameters(self) -> dict[str, Any]:
        values = {option: getattr(self, option) for option in SOURCES[self.source or "busybox"]}
        return {option: value for option, value in values.items() if value is not None}


@dataclass(frozen=True)
class Image:
    """An image of this host; ``root`` is its tree, owned by host root."""

    name: str
    digest: str
    root: str
    source: str = ""
    parameters: Mapping[str, Any] = field(default_factory=dict, hash=False)

    def to_json(self) -> dict[str, Any]:
        return {each.name: getattr(self, each.name) for each in fields(self)}


def normalise_all(raw: Any, option: str = "images") -> list[ImageSpec]:
    items = sequence(option, raw)
    specs = [normalise(item, f"{option}[{index}]") for index, item in enumerate(items)]
    unique(option, (spec.name for spec in specs), what="name")
    return specs


def normalise(raw: Any, option: str = "image") -> ImageSpec:
    """The spec of one image; SpecError names the option."""
    given = {key: value for key, value in mapping(option, raw).items() if value is not None}
    name = _name(option, given)
    state = choice(f"{option}.state", given.get("state", "present"), choices=("present", "absent"))
    if state == "absent":
        return ImageSpec(name, state=state)
    if "source" not in given:
        raise missing(f"{option}.source")
    source = choice(f"{option}.source", given["source"], choices=SOURCES)
    _check_options(option, source, given)
    values = {key: _PARSERS[key](f"{option}.{key}", given[key]) for key in _known(source, given)}
    return _checked(option, ImageSpec(name, source, state, **values))


def _name(option: str, given: Mapping[str, Any]) -> str:
    if "name" not in given:
        raise missing(f"{option}.name")
    name = image_name(f"{option}.name", given["name"])
    if len(name) > MAX_NAME:
        hint = f"use at most {MAX_NAME} characters"
        raise refusal(f"{option}.name", name, "is too long", hint=hint)
    return name


def _check_options(option: str, source: str, given: Mapping[str, Any]) -> None:
    for key in given:
        if key not in ("name", "source", "state", *SOURCES[source]):
            everywhere = {each for options in SOURCES.values() for each in options}
            problem = f"is not an option of source {source}" if key in everywhere else "is unknown"
            hint = f"it takes {', '.join(('name', 'source', 'state', *SOURCES[source]))}"
            raise SpecError(option, key, problem, hint=hint)


def _known(source: str, given: Mapping[str, Any]) -> Iterable[str]:
    return (key for key in SOURCES[source] if key in given)


def _checked(option: str, spec: ImageSpec) -> ImageSpec:
    if spec.source != "tarball":
        return spec
    if (spec.path is None) == (spec.url is None):
        both = "both path and url" if spec.path else "neither path nor url"
        raise SpecError(option, spec.name, f"has {both}", hint="give one of them")
    if spec.checksum is None:
        hint = "give it as sha256:HEX or sha512:HEX; sha256sum prints the HEX of a file"
        raise SpecError(option, spec.name, "has no checksum", hint=hint)
    defaults = {"max_size": spec.max_size or MAX_SIZE, "max_files": spec.max_files or MAX_FILES}
    return ImageSpec(
        spec.name, spec.source, spec.state, spec.path, spec.url, spec.checksum, **defaults
    )


def _checksum(option: str, value: Any) -> str:
    text = line(option, value).strip().lower()
    if not _CHECKSUM.fullmatch(text):
        hint = "write sha256: and 64, or sha512: and 128 hexadecimal digits"
        raise refusal(option, value, "is not a checksum", hint=hint)
    return text


def _url(option: str, value: Any) -> str:
    text = line(option, value)
    if not text.isascii() or not _URL.fullmatch(text):
        hint = "write http://HOST/PATH or https://HOST/PATH, without user, password or fragment"
        raise refusal(option, brief(value), "is not a URL that can be fetched", hint=hint)
    return text


_PARSERS: Mapping[str, Callable[[str, Any], Any]] = {
    "path": absolute_path,
    "url": _url,
    "checksum": _checksum,
    "max_size": lambda option, value: size(option, value, minimum=1 << 10),
    "max_files": lambda option, value: integer(option, value, minimum=1, maximum=100_000_000),
}
