# SPDX-License-Identifier: GPL-3.0-or-later
# Copyright: the sandlot developers
"""Values of the options `volumes` and `mounts`: the same mounts, in a short and a long notation.

data:/var/lib/postgresql    a volume
/srv/www:/www:ro            a bind mount of a path of the host, with a word
"""

from __future__ import annotations

import re
from typing import TYPE_CHECKING, Any, Dict, Iterable, Mapping, Sequence, Tuple

from ..host_paths import why_refused
from .confinement import KERNEL_TREES, tmpfs_entry
from .names import absolute_path
from .text import line, refusal, sequence, text, unique
from .values import PRIVATE, Mount, Tmpfs

if TYPE_CHECKING:
    from .model import Spec

BIND, VOLUME, TMPFS = "bind", "volume", "tmpfs"
TYPES = (VOLUME, BIND, TMPFS)
SLAVE = "rslave"
# All are of mounts below as well, so two words mean the same.
PROPAGATIONS = {"private": PRIVATE, PRIVATE: PRIVATE, "slave": SLAVE, SLAVE: SLAVE}
_VOLUME = re.compile(r"[A-Za-z0-9][A-Za-z0-9_.-]{0,127}")
_VOLUME_RULE = "use 1 to 128 ASCII letters, digits, '_', '.' and '-', first a letter or digit"
_SHORT = 'write "NAME:/PATH" for a volume, "/HOST/PATH:/PATH" for a bind mount'
# The words of the short notation, as fields.
_WORDS: Dict[str, Tuple[str, Any]] = {
    "rw": ("read_only", False),
    "ro": ("read_only", True),
    "nocopy": ("no_copy", True),
    "noexec": ("no_exec", True),
    "idmap": ("idmap", True),
    **{word: ("propagation", word) for word in PROPAGATIONS},
}
# Those of docker and Podman that sandlot has not, with their problems and remedies.
_LABELS = ("relabels files for SELinux", "leave it out: sandlot labels no files")
_DESKTOP = ("is for Docker Desktop", "leave it out: nothing lies between host and sandbox")
_SPREADING = (
    "would show mounts of the sandbox on the host",
    "use rslave, which shows those of the host in the sandbox",
)
_OF_OTHERS = {
    **dict.fromkeys(("z", "Z"), _LABELS),
    **dict.fromkeys(("cached", "delegated", "consistent"), _DESKTOP),
    **dict.fromkeys(("shared", "rshared"), _SPREADING),
    "U": (
        "changes the owners of files",
        "leave it out, or set idmap for a path of the host",
    ),
}
# A volume may have a letter for its name, and be mounted with words.
_WINDOWS = re.compile(r"[A-Za-z]:/[^:]*:/|[A-Za-z]:\\|\\\\")
_SHARED = ("type", "target", "source", "read_only", "no_exec")
_FIELDS: Dict[str, Sequence[str]] = {
    BIND: (*_SHARED, "propagation", "idmap"),
    VOLUME: (*_SHARED, "no_copy", "subpath"),
    TMPFS: ("type", "target", "tmpfs_size", "tmpfs_mode", "tmpfs_options"),
}


def depth(target: str) -> tuple[int, str]:
    """The key of an order in which no mount hides an earlier one."""
    return target.count("/"), target


def of(spec: Spec) -> tuple[Mount, ...]:
    """All mounts of a spec, in such an order."""
    return tuple(sorted((*spec.volumes, *spec.mounts), key=lambda mount: depth(mount.target)))


def volume_name(option: str, value: Any) -> str:
    name = text(option, value)
    if not _VOLUME.fullmatch(name):
        raise refusal(option, value, "is not the name of a volume", hint=_VOLUME_RULE)
    return name


def target(option: str, value: Any) -> str:
    path = absolute_path(option, value)
    if KERNEL_TREES.fullmatch(path) or path == "/dev/shm":
        problem = "would hide what sandlot mounts there"
        raise refusal(option, value, problem, hint="mount it elsewhere")
    return path


def subpath(option: str, value: Any) -> str:
    path = line(option, value)
    parts = [part for part in path.split("/") if part not in ("", ".")]
    if path.startswith("/") or ".." in parts:
        hint = "write it from the top of the volume, like db/data"
        raise refusal(option, value, "is not a path in a volume", hint=hint)
    if len(path.encode()) > 4095 or any(len(part.encode()) > 255 for part in parts):
        raise refusal(option, value, "is too long for a path", hint="shorten it")
    return "/".join(parts)


def short(option: str, value: Any) -> tuple[Mount, ...]:
    """Mounts in the short notation."""
    items = enumerate(sequence(option, value))
    return ordered(option, (_short(f"{option}[{index}]", item) for index, item in items))


def _short(option: str, value: Any) -> Mount:
    whole = line(option, value)
    parts = whole.split(":")
    _check_path(option, whole, parts[0])
    if not 2 <= len(parts) <= 3 or not parts[0]:
        raise refusal(option, value, "has not a source and a target", hint=_SHORT)
    fields: Dict[str, Any] = {}
    for word in filter(None, "".join(parts[2:]).split(",")):
        if word in _OF_OTHERS:
            problem, hint = _OF_OTHERS[word]
            raise refusal(option, word, problem, hint=hint)
        key, setting = _WORDS.get(word, ("", None))
        if not key or key in fields:
            problem = "is unknown, or contradicts another word"
            raise refusal(option, word, problem, hint=f"use {', '.join(_WORDS)}")
        fields[key] = setting
    kind = BIND if parts[0].startswith("/") else VOLUME
    place = target(option, parts[1])
    return checked(option, {**fields, "type": kind, "source": parts[0], "target": place})


def _check_path(option: str, whole: str, source: str) -> None:
    """Refuse sources of other notations with their remedy."""
    if _WINDOWS.match(whole):
        hint = "write a path of this host, from / on, or the name of a volume"
        raise refusal(option, whole, "is a path of Windows", hint=hint)
    if source.startswith((".", "~")) or ("/" in source and not source.startswith("/")):
        hint = "write the whole path of the host, from / on"
        raise refusal(option, whole, "has a relative path for its source", hint=hint)
    if source.startswith("/") and source == whole:
        hint = f"name it: NAME:{whole}"
        raise refusal(option, whole, "would be a volume without a name", hint=hint)


def checked(option: str, given: Mapping[str, Any]) -> Mount:
    """The mount of these fields, each read by itself; SpecError if they don't fit its type."""
    kind, place = given["type"], given["target"]
    fields = {key: value for key, value in given.items() if value}
    for key in fields:
        if key not in _FIELDS[kind]:
            hint = f"leave it out, or set type: {' or '.join(_having(key))}"
            problem = f"has no meaning for type {kind}"
            raise refusal(f"{option}.{key}", given[key], problem, hint=hint)
    if kind == TMPFS:
        return Mount(kind, place, tmpfs=_tmpfs(option, place, fields))
    if "source" not in fields:
        hint = "name the volume" if kind == VOLUME else "give the path of the host"
        raise refusal(option, place, "has no source", hint=hint)
    if kind == VOLUME:
        volume_name(option, fields["source"])
    else:
        as_root = bool(fields.get("idmap")) and "read_only" not in fields
        fields["source"] = _host_path(option, fields["source"], as_root=as_root)
    spread = fields.get("propagation", PRIVATE)
    fields["propagation"] = PROPAGATIONS[spread]
    if fields["propagation"] != PRIVATE and given.get("read_only"):
        hint = "leave one of them out: what the host mounts there later would be writable"
        raise refusal(option, spread, "can't be read-only", hint=hint)
    return Mount(**fields)


def _having(field: str) -> list[str]:
    return [kind for kind, fields in _FIELDS.items() if field in fields]


def _host_path(option: str, value: Any, *, as_root: bool) -> str:
    if not value.startswith("/"):
        hint = "write the whole path, from / on; for a volume, set type: volume"
        raise refusal(option, value, "is not an absolute path", hint=hint)
    path = absolute_path(option, value, hint="write where it leads, as readlink -f shows it")
    problem = why_refused(path, as_root=as_root)
    if problem:
        hint = "name the one directory or file that the sandbox needs, or copy it elsewhere"
        raise refusal(option, path, problem, hint=hint)
    return path


def _tmpfs(option: str, place: str, fields: Mapping[str, Any]) -> Tmpfs:
    named = {"size": fields.get("tmpfs_size"), "mode": fields.get("tmpfs_mode")}
    words = [f"{key}={value}" for key, value in named.items() if value is not None]
    return tmpfs_entry(option, place, [*words, *fields.get("tmpfs_options", ())])


def ordered(option: str, mounts: Iterable[Mount]) -> tuple[Mount, ...]:
    listed = sorted(mounts, key=lambda mount: depth(mount.target))
    unique(option, (mount.target for mount in listed), what="target")
    return tuple(listed)


def dump(mount: Mount) -> Dict[str, Any]:
    """The long notation, without fields at their default."""
    data: Dict[str, Any] = {key: value for key, value in vars(mount).items() if value}
    if data["propagation"] == PRIVATE:
        del data["propagation"]
    memory = data.pop("tmpfs", None)
    if memory:
        flags = {"exec": memory.executable, "tmpcopyup": memory.copy_up}
        words = [*(flag for flag, given in flags.items() if given), *memory.options]
        data.update({"tmpfs_options": words} if words else {})
    return data


def check_targets(spec: Spec) -> None:
    """SpecError for a target that two options have."""
    used = {entry.path: "tmpfs" for entry in spec.tmpfs}
    for option in ("volumes", "mounts"):
        for mount in getattr(spec, option):
            if mount.target in used:
                problem = f"is a target of {used[mount.target]}, too"
                raise refusal(option, mount.target, problem, hint="keep one of them")
            used[mount.target] = option
