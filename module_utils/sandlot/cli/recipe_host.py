# SPDX-License-Identifier: GPL-3.0-or-later
# Copyright: the sandlot developers
"""Commands for a root that lies on the host's own, below its veil."""

from __future__ import annotations

from shlex import quote
from typing import Any, Iterator, Mapping

from ..build import host_mask


def asks_for_idmap() -> Iterator[str]:
    """The head of an `if`: whether mount(8) knows X-mount.idmap."""
    yield "version=$(mount --version | sed 's/.*linux \\([0-9.]*\\).*/\\1/')"
    yield "if printf '2.39\\n%s\\n' \"$version\" | sort --check=quiet --version-sort; then"


def veiled(launch: Mapping[str, Any]) -> Iterator[str]:
    yield 'mkdir "$scratch/root/host" "$scratch/root/veil" "$scratch/root/veiled"'
    yield from asks_for_idmap()
    yield '  mount --bind -o X-mount.idmap="$scratch/ns/user" / "$scratch/root/host"'
    yield "else"
    yield "  echo 'the root of the host can be mapped from util-linux 2.39 on' >&2"
    yield "  exit 1"
    yield "fi"
    yield 'mount -o remount,bind,ro,nosuid,nodev "$scratch/root/host"'
    options = ",".join(f"{key}={value}" for key, value in host_mask.OPTIONS.items())
    yield f'mount -t tmpfs -o nosuid,nodev,{options} none "$scratch/root/veil"'
    for entry in host_mask.entries(launch["ids"], launch["host_root"]):
        yield from _entry(entry)
    yield "mount -t overlay -o ro,nosuid,nodev,index=off \\"
    yield '  -o "lowerdir=$scratch/root/veil:$scratch/root/host" overlay "$scratch/root/veiled"'


def _entry(entry: host_mask.Entry) -> Iterator[str]:
    path = f'"$scratch/root/veil"/{quote(entry.path)}'
    if entry.mode is None:
        yield f"mknod {path} c 0 0"
        return
    if entry.path != ".":
        yield f"mkdir {path}"
    yield f"chown {entry.owner[0]}:{entry.owner[1]} {path} && chmod {entry.mode:o} {path}"
    if entry.opaque:
        yield f"setfattr --name={host_mask.OPAQUE} --value=y {path}"
