# SPDX-License-Identifier: GPL-3.0-or-later
# Copyright: the sandlot developers
"""Volumes, binds and file systems in memory of a service."""

from __future__ import annotations

import os
import re
import stat
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from ...module_utils.sandlot.spec.configuration import LONGEST
from .model import Json, Service
from .nodes import Node
from .short import volume
from .values import boolean, known, mapping, one_or_more, pairs, scalar, sequence, size, text

MAX_FILES = 256
_KINDS = ("volume", "bind", "tmpfs")
_FIELDS = ("type", "source", "target", "read_only", "consistency", *_KINDS, "image")
_DESKTOP = ("cached", "delegated", "consistent", "default")
_SOCKETS = ("/var/run/docker.sock", "/run/docker.sock")


def volumes(service: Service) -> None:
    node = service.get("volumes")
    for item in sequence(node) if node else []:
        if isinstance(item.value, dict):
            _long(service, item)
        else:
            _short(service, item)


def _short(service: Service, item: Node) -> None:
    given = volume(item)
    fields: Json = {}
    for word in given.words:
        if word in ("z", "Z"):
            service.warn(item, f"{word} is left out: sandlot labels no files for SELinux")
        elif word in ("ro", "rw"):
            fields["read_only"] = word == "ro"
        elif word == "nocopy":
            fields["no_copy"] = True
        elif word in ("rslave", "slave", "rprivate", "private"):
            fields["propagation"] = word
        elif word not in _DESKTOP:
            hint = "use ro, rw, nocopy, z, Z, rprivate or rslave"
            raise item.failure(f"the word {word!r} can't be carried over", hint)
    _place(service, item, given.source, given.target, fields)


def _long(service: Service, item: Node) -> None:
    given = known(item, _FIELDS, "a volume")
    kind = text(given["type"]) if "type" in given else ""
    if kind not in _KINDS:
        hint = f"use {', '.join(_KINDS)}"
        raise given.get("type", item).failure(f"type {kind!r} can't be carried over", hint)
    if "target" not in given:
        raise item.failure("has no target", "give it `target: /PATH`")
    for other in {*_KINDS, "image"} - {kind}:
        if other in given:
            hint = f"leave it out, or set type: {other}"
            raise given[other].failure(f"{other} has no meaning for type {kind}", hint)
    target, source = text(given["target"]), text(given["source"]) if "source" in given else ""
    fields: Json = {}
    if "read_only" in given and boolean(given["read_only"]):
        fields["read_only"] = True
    if kind == "tmpfs":
        _memory(service, item, target, given.get("tmpfs"))
        return
    fields.update({**_details(service, kind, given.get(kind)), **on_change(given)})
    if kind == "bind" and not source:
        raise item.failure("a bind has no source", "give it `source: PATH`")
    is_path = source.startswith(("/", ".", "~"))
    if kind == "bind" and not is_path:
        source = f"./{source}"
    elif kind == "volume" and is_path:
        raise given["source"].error("is a path, not a volume", "set type: bind")
    _place(service, item, source, target, fields)


def _details(service: Service, kind: str, node: Node | None) -> Json:
    if not node:
        return {}
    if kind == "volume":
        given = known(node, ("nocopy", "subpath", "labels"), "volume")
        fields: Json = {}
        if "nocopy" in given and boolean(given["nocopy"]):
            fields["no_copy"] = True
        if "subpath" in given:
            fields["subpath"] = text(given["subpath"])
        return fields
    given = known(node, ("propagation", "create_host_path", "recursive", "selinux"), "bind")
    if "selinux" in given:
        service.warn(given["selinux"], "is left out: sandlot labels no files for SELinux")
    if "recursive" in given and text(given["recursive"]) == "disabled":
        hint = "leave it out: mounts below the source come along"
        raise given["recursive"].error("can't be carried over", hint)
    return {"propagation": text(given["propagation"])} if "propagation" in given else {}


def _memory(service: Service, item: Node, target: str, node: Node | None) -> None:
    given = known(node, ("size", "mode"), "tmpfs") if node else {}
    entry: Json = {"type": "tmpfs", "target": target}
    if "size" in given and size(given["size"]) not in (0, "0"):
        entry["tmpfs_size"] = str(size(given["size"]))
    if "mode" in given:
        entry["tmpfs_mode"] = octal(given["mode"])
    service.sandbox.add("mounts", entry, item)


def on_change(fields: Mapping[str, Node]) -> Json:
    """The options that tell what follows a change of a file; Compose has no keys for them."""
    keys = {"x-on_change": "on_change", "x-reload_signal": "reload_signal"}
    return {option: text(fields[key]) for key, option in keys.items() if key in fields}


def octal(node: Node) -> str:
    """A mode: a number of YAML, octal there too, or text in octal."""
    if isinstance(node.value, int) and not isinstance(node.value, bool):
        return f"{node.value:04o}"
    digits = text(node).removeprefix("0o")
    if not re.fullmatch(r"[0-7]{1,5}", digits):
        raise node.error("is no mode", 'write it in octal, as "0440"')
    return digits.zfill(4)


def _place(service: Service, item: Node, source: str, target: str, fields: Json) -> None:
    if source.startswith(("/", ".", "~")):
        _bind(service, item, source, target, fields)
        return
    name = _anonymous(service, target) if not source else _named(service, item, source)
    if isinstance(name, dict):
        entry = {**name, "target": target, **{k: x for k, x in fields.items() if k == "read_only"}}
        service.sandbox.add("mounts", entry, item)
        return
    _mount(service, item, {"type": "volume", "source": name, "target": target, **fields})


def _mount(service: Service, item: Node, entry: Json) -> None:
    """A mount in the short notation, where it has one."""
    words = {"read_only": "ro", "no_copy": "nocopy"}
    for key in ("on_change", "reload_signal"):
        if key in entry:
            hint = "leave it out: it is for files of the controller"
            raise item.failure(f"x-{key} has no meaning for a path of the host or a volume", hint)
    rest = {key: x for key, x in entry.items() if key not in ("type", "source", "target") and x}
    colons = ":" in entry["source"] or ":" in entry["target"]
    if colons or not set(rest) <= set(words):
        service.sandbox.add("mounts", {k: x for k, x in entry.items() if x is not False}, item)
        return
    short = [entry["source"], entry["target"], ",".join(words[key] for key in rest)]
    service.sandbox.add("volumes", ":".join(filter(None, short)), item)


def _anonymous(service: Service, target: str) -> str:
    slug = re.sub(r"[^A-Za-z0-9_.-]+", "-", target).strip("-")
    name = service.project.own(f"{service.sandbox.name}_{slug}")
    service.project.volumes.setdefault(name, {"name": name})
    return name


# -- named volumes


def _named(service: Service, item: Node, key: str) -> str | Json:
    """The name of a volume; the fields of a mount where its options ask for one."""
    project = service.project
    node = project.declared("volumes", key, item)
    keys = ("name", "driver", "driver_opts", "external", "labels")
    given = known(node, keys, "volumes") if node.value is not None else {}
    name = text(given["name"]) if "name" in given else project.own(key)
    outside = given.get("external")
    if outside and (isinstance(outside.value, dict) or boolean(outside)):
        return text(outside.get("name") or given.get("name") or node.with_text(key, outside=False))
    if "driver" in given and text(given["driver"]) not in ("local", "default"):
        hint = "mount it on the host, and bind the path; or leave driver out"
        raise given["driver"].error("is a driver that sandlot has not", hint)
    options = mapping(given["driver_opts"]) if "driver_opts" in given else {}
    if options:
        return _from_options(given["driver_opts"], options)
    entry: Json = {"name": name}
    own = pairs(given["labels"]) if "labels" in given else {}
    if own:
        entry["labels"] = {k: "" if x.value is None else scalar(x) for k, x in own.items()}
    project.volumes[name] = entry
    project.origins["volumes", name] = given.get("name", node)
    return name


def _from_options(node: Node, options: dict[str, Node]) -> Json:
    """A volume that the local driver would mount."""
    words = {key: scalar(item) for key, item in options.items() if item.value is not None}
    flags = set(words.get("o", "").split(","))
    path = words.get("device", "")
    if flags & {"bind", "rbind"} and path.startswith("/"):
        return {"type": "bind", "source": path}
    if words.get("type") == "tmpfs":
        return {"type": "tmpfs", "tmpfs_options": sorted(flags - {""})}
    hint = "mount it on the host, and bind the path"
    raise node.failure("these options of a volume can't be carried over", hint)


# -- binds


def _bind(service: Service, item: Node, source: str, target: str, fields: Json) -> None:
    if source in _SOCKETS:
        hint = "leave it out, and give the service its configuration in files"
        raise item.failure("there is no docker daemon to talk to", hint)
    if source.startswith("~"):
        hint = "write the whole path of the host, from / on"
        raise item.error("is in a home directory, and nobody knows whose", hint)
    if source.startswith("/"):
        path = os.path.normpath(source)
        _mount(service, item, {"type": "bind", "source": path, "target": target, **fields})
        return
    local = Path(os.path.normpath(service.project.inside(item, source)))
    if service.project.request.directory:
        relative = os.path.relpath(local, service.project.base)
        path = os.path.normpath(os.path.join(service.project.request.directory, relative))
        _mount(service, item, {"type": "bind", "source": path, "target": target, **fields})
    elif local.is_file():
        if not fields.get("read_only"):
            service.warn(item, "becomes a file that is read-only inside")
        _file(service, item, local, target, fields)
    elif local.is_dir() and fields.get("read_only"):
        for one, below in _files(item, local):
            _file(service, item, one, f"{target.rstrip('/')}/{below}", fields)
    else:
        state = "a directory that the service may write" if local.is_dir() else "not there"
        hint = (
            "use a named volume, or copy it to the host and set the option directory to the "
            "project's path there; files, and directories with :ro, may stay beside the "
            "Compose file"
        )
        raise item.error(f"is {state}", hint)


def _file(service: Service, item: Node, path: Path, target: str, fields: Json) -> None:
    status = path.stat()
    if status.st_size > LONGEST["content"]:
        hint = "copy it to the host, and set the option directory to the project's path there"
        raise item.failure(f"{path} is larger than 1 MiB, too large for a file", hint)
    entry: dict[str, Any] = {"target": target, "src": str(path)}
    entry.update({key: fields[key] for key in ("on_change", "reload_signal") if key in fields})
    if status.st_mode & stat.S_IXUSR:
        entry["mode"] = "0755"
    service.sandbox.add("files", entry, item)


def _files(item: Node, directory: Path) -> Iterator[tuple[Path, str]]:
    """The files below a directory, with their paths from there."""
    paths = [
        Path(top, name)
        for top, folders, names in os.walk(directory, followlinks=False)
        for name in names
    ]
    if len(paths) > MAX_FILES or not paths:
        hint = "copy it to the host, and set the option directory to the project's path there"
        number = f"more than {MAX_FILES} files" if paths else "no files"
        raise item.failure(f"{directory} has {number}", hint)
    for path in sorted(paths):
        if not path.is_file():
            hint = "remove it, or copy the directory to the host and set the option directory"
            raise item.failure(f"{path} is no file", hint)
        yield path, path.relative_to(directory).as_posix()


# -- file systems in memory


def tmpfs(service: Service) -> None:
    node = service.get("tmpfs")
    for item in one_or_more(node) if node else []:
        service.sandbox.add("tmpfs", text(item), item)
    shared = service.get("shm_size")
    if shared and size(shared) not in (0, "0"):
        service.sandbox.add("tmpfs", f"/dev/shm:size={size(shared)}", shared)
