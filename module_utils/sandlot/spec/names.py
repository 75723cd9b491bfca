# SPDX-License-Identifier: GPL-3.0-or-later
# Copyright: the sandlot developers
"""Names and strings with a grammar: sandboxes, images, hosts, users, paths, commands, mappings."""

from __future__ import annotations

import re
import shlex
from functools import partial
from typing import Any, Callable, Tuple

from ..image_change import plain
from ..plan import Change
from .text import brief, line, mapping, refusal, sequence, text

Pairs = Tuple[Tuple[str, str], ...]

MAX_ID = 65535

_NAME = re.compile(r"[a-zA-Z0-9][a-zA-Z0-9_.-]{0,62}")
_JOB = re.compile(r"job-[0-9a-f]{32}")
_DECLARED = re.compile(r"[a-z0-9][a-z0-9_.-]{0,62}")
# Other files in /run/sandlot and /var/lib/sandlot, where sandboxes have directories; names in
# /etc/hosts.
_RESERVED = re.compile(r"lock|localhost|launcher\..*|.*\.sock", re.I)
# Names in the hosts files of Debian and Fedora; groups and magic variables of Ansible.
_SHADOWING = re.compile(
    r"localhost.*|ip6-.*|broadcasthost|all|ungrouped|groups|group_names|hostvars|vars|omit|"
    r"inventory_hostname|inventory_hostname_short|play_hosts|ansible_play_hosts",
    re.I,
)
_ADDRESS = re.compile(r"[0-9]+(?:\.[0-9]+)+")
# A cgroup directory can't have the name of a control file, which the kernel puts in the same place.
_CONTROL_FILE = re.compile(
    r"tasks|notify_on_release|release_agent|"
    r"(?:cgroup|cpu|cpuacct|cpuset|memory|pids|io|blkio|devices|freezer|net_cls|net_prio|hugetlb|"
    r"perf_event|rdma|misc|dmem|debug)\..*"
)
_IMAGE = re.compile(r"[a-zA-Z0-9][a-zA-Z0-9_.:@/+-]{0,254}")
_LABEL = re.compile(r"[a-zA-Z0-9](?:[a-zA-Z0-9-]*[a-zA-Z0-9])?")
_USER = re.compile(r"[a-zA-Z_][a-zA-Z0-9_.-]{0,31}")
_DIGITS = re.compile(r"[0-9]+")
_NAME_RULE = (
    "use 1 to 63 ASCII letters, digits, '_', '.' and '-', "
    "a letter or digit first and no two dots in a row"
)


def network_name(option: str, value: Any) -> str:
    name = text(option, value)
    if not _NAME.fullmatch(name) or ".." in name:
        raise refusal(option, value, "is not a valid name", hint=_NAME_RULE)
    return name


def declared_network(option: str, value: Any) -> str:
    """The name of a network to declare; the rules are stricter than for a reference to one."""
    name = text(option, value)
    if not _DECLARED.fullmatch(name):
        hint = "use up to 63 lower-case letters, digits, '_', '.' and '-', first a letter or digit"
        raise refusal(option, value, "is not a network name", hint=hint)
    return name


def sandbox_name(option: str, value: Any) -> str:
    name = network_name(option, value)
    if _RESERVED.fullmatch(name) or _CONTROL_FILE.fullmatch(name):
        problem = "is reserved: sandlot or the kernel has a file or host of that name"
        raise refusal(option, value, problem, hint="choose another name")
    return name


def is_job(name: str) -> bool:
    """Whether the name is that of the sandbox of a job on a network."""
    return bool(_JOB.fullmatch(name))


def check_new(name: str) -> None:
    """SpecError when a sandbox of this name would stand for something else to others.

    A sandbox that exists keeps its name: earlier versions allowed it.
    """
    hint = "choose another name"
    if _SHADOWING.fullmatch(name):
        problem = "would shadow a name of hosts files or of Ansible's inventories"
        raise refusal("name", name, problem, hint=hint)
    if _ADDRESS.fullmatch(name):
        raise refusal("name", name, "would be read as an address", hint=hint)


def image_name(option: str, value: Any) -> str:
    name = text(option, value)
    if not _IMAGE.fullmatch(name) or ".." in name:
        hint = "use ASCII letters, digits and '_.:@/+-', a letter or digit first, no '..'"
        raise refusal(option, value, "is not a valid image name", hint=hint)
    return name


def image_cost(before: str | None, after: str) -> Change:
    """The cost of a change of ``image``: to pin an image, or to unpin it, is no other image."""
    same = before is not None and plain(before) == plain(after)
    return Change.LIVE if same else Change.REBUILD


def is_hostname(name: str, *, longest: int = 63) -> bool:
    labels = name.split(".")
    return len(name) <= longest and all(len(x) <= 63 and _LABEL.fullmatch(x) for x in labels)


def hostname(option: str, value: Any) -> str:
    name = text(option, value)
    if not is_hostname(name):
        hint = "use at most 63 ASCII letters, digits, '-' and '.', each part without '-' at an end"
        raise refusal(option, value, "is not a valid host name", hint=hint)
    return name


def default_hostname(name: str) -> str:
    """The sandbox's name; "-" replaces characters that a host name can't have."""
    labels = [re.sub(r"[^a-zA-Z0-9-]", "-", label).strip("-") for label in name.split(".")]
    return ".".join(label for label in labels if label)


def absolute_path(
    option: str, value: Any, *, hint: str = "write it from the sandbox's root, like /srv/data"
) -> str:
    """An absolute path without "..", "." and doubled slashes; ``hint`` is for one that is not."""
    path = line(option, value)
    parts = [part for part in path.split("/") if part not in ("", ".")]
    if not path.startswith("/") or ".." in parts:
        raise refusal(option, value, "is not an absolute path without '..'", hint=hint)
    if len(path.encode()) > 4095 or any(len(part.encode()) > 255 for part in parts):
        raise refusal(option, value, "is too long for a path", hint="shorten it")
    return "/" + "/".join(parts)


def absolute_paths(option: str, value: Any) -> Tuple[str, ...]:
    items = enumerate(sequence(option, value))
    return tuple(absolute_path(f"{option}[{index}]", item) for index, item in items)


def user(option: str, value: Any) -> str:
    """USER or USER:GROUP, each a name or an id of the sandbox's own range; GROUP may be empty."""
    parts = text(option, value).split(":")
    if len(parts) == 2 and not parts[1]:
        parts.pop()
    if len(parts) > 2:
        raise refusal(option, value, "has more than one colon", hint="write USER or USER:GROUP")
    for index, part in enumerate(parts):
        if _DIGITS.fullmatch(part):
            # Bounded before int(), which refuses thousands of digits.
            if len(part) > 10 or int(part) > MAX_ID:
                hint = f"a sandbox has the ids 0 to {MAX_ID}"
                raise refusal(option, value, "has an id out of range", hint=hint)
            parts[index] = str(int(part))
        elif not _USER.fullmatch(part):
            hint = "use a name from the image's /etc/passwd or /etc/group, or a number"
            raise refusal(option, value, "is not a user or group", hint=hint)
    return ":".join(parts)


def command(option: str, value: Any) -> tuple[str, ...]:
    """Arguments, from a list or from a string split like a shell does, without expanding."""
    if isinstance(value, str):
        command_line = text(option, value)
        try:
            return tuple(shlex.split(command_line))
        except ValueError as error:
            hint = "close the quote, or write the command as a list"
            raise refusal(option, command_line, f"can't be split: {error}", hint=hint) from error
    if not isinstance(value, (list, tuple)):
        raise refusal(option, value, "is neither a string nor a list", hint="write it as a list")
    words = sequence(option, value)
    return tuple(text(f"{option}[{index}]", word) for index, word in enumerate(words))


def pairs(
    option: str,
    value: Any,
    *,
    key: Callable[[str, Any], str],
    item: Callable[[str, Any], str],
    secret: bool = False,
) -> Pairs:
    """A mapping as sorted pairs; two keys that normalise to one are refused."""
    by_name: dict[str, str] = {}
    for raw_key, raw_item in mapping(option, value, secret=secret).items():
        name = key(option, raw_key)
        if name in by_name:
            raise refusal(option, raw_key, "is given twice", hint="keep one of them")
        by_name[name] = item(f"{option}[{brief(name)}]", raw_item)
    return tuple(sorted(by_name.items()))


def environment(option: str, value: Any) -> Pairs:
    """Variables; errors show no value, as it may be a secret."""
    one = partial(text, secret=True)
    return pairs(option, value, key=environment_name, item=one, secret=True)


def environment_name(option: str, value: Any) -> str:
    name = text(option, value)
    if not name or "=" in name:
        hint = "use a name that isn't empty and has no '='"
        # A value may follow.
        raise refusal(option, name[: name.find("=") + 1], "can't name a variable", hint=hint)
    return name


def label_name(option: str, value: Any) -> str:
    name = line(option, value)
    if not name:
        raise refusal(option, value, "can't name a label", hint="give the label a name")
    return name
