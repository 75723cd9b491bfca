# SPDX-License-Identifier: GPL-3.0-or-later
# Copyright: the sandlot developers
"""Setup: steps that run once in a throw-away sandbox; their changes become a layer of the image."""

from __future__ import annotations

import hashlib
import json
import re
from functools import partial
from typing import Any, Callable, Dict, Iterable, List, Mapping, Sequence, Tuple

from ..errors import SpecError
from ..kernel import flock
from ..site import JOB, JobPaths, Site
from ..spec.names import absolute_path, command, environment, network_name, user
from ..spec.option import Option
from ..spec.quantities import integer
from ..spec.text import line, mapping, refusal, sequence, text
from . import workspace
from .model import Built, Image, Job

Json = Dict[str, Any]

# Runs the steps of ``job.spec`` in a sandbox of the image; copies their changes to ``job.root``.
Runner = Callable[[Job, Image], Built]

NO_NETWORK = "none"
DAY = 86400
# Sandlot writes these files for each sandbox and hides the image's own.
HOST_FILES = ("/etc/hosts", "/etc/resolv.conf", "/etc/hostname")
MOUNTED = ("dev", "proc", "sys", "tmp")
# Sandboxes that no inventory has. The throw-away one of a setup has the start of the new layer's
# digest in its name, that of a job on a network the number of the job.
SANDBOX = re.compile(r"setup-([0-9a-f]{32})|job-([0-9a-f]{32})")
_MODE = re.compile(r"[0-7]{3,4}")
_OWNER = re.compile(r"([0-9]+)(?::([0-9]+))?")
_PACKAGE = re.compile(r"[A-Za-z0-9][A-Za-z0-9+.~:=_/-]{0,127}")
_SHAPES = "write a line for sh, or a mapping with command, packages, or dest and content"
_INSTALL = """\
set -e
if command -v apt-get >/dev/null; then
  if ! [ -e /usr/sbin/policy-rc.d ]; then
    trap 'rm -f /usr/sbin/policy-rc.d' EXIT
    printf '#!/bin/sh\\nexit 101\\n' >/usr/sbin/policy-rc.d
    chmod 755 /usr/sbin/policy-rc.d
  fi
  apt-get -q -o APT::Update::Error-Mode=any update
  apt-get -qy --no-install-recommends install -- "$@"
  apt-get clean
  rm -rf /var/lib/apt/lists/*
elif command -v apk >/dev/null; then
  apk add --no-cache -- "$@"
else
  echo "the image has neither apt-get nor apk" >&2
  exit 127
fi
"""


def _steps(option: str, value: Any) -> Tuple[Json, ...]:
    steps: List[Json] = []
    for index, item in enumerate(sequence(option, value)):
        path = f"{option}[{index}]"
        if isinstance(item, str):
            steps.append({"command": ["sh", "-c", text(path, item)]})
            continue
        given = {
            key: content for key, content in mapping(path, item).items() if content is not None
        }
        kind = next((name for name in _FORMS if name in given), None)
        if kind is None:
            raise refusal(path, ", ".join(given), "is no step", hint=_SHAPES)
        parsers, needed = _FORMS[kind]
        if not set(needed) <= set(given) <= set(parsers):
            hint = f"such a step takes {', '.join(parsers)}"
            raise refusal(path, ", ".join(given), "is no step", hint=hint)
        rows = ((key, parse) for key, parse in parsers.items() if key in given)
        steps.append({key: parse(f"{path}.{key}", given[key]) for key, parse in rows})
    return tuple(steps)


def _command(option: str, value: Any) -> list[str]:
    words = list(command(option, value))
    if not words or not words[0]:
        raise refusal(option, value, "names nothing to run", hint="write [PROGRAM, ARGUMENT...]")
    return words


def _env(option: str, value: Any) -> Dict[str, str]:
    return dict(environment(option, value))


def _packages(option: str, value: Any) -> list[str]:
    names = [line(f"{option}[{i}]", item) for i, item in enumerate(sequence(option, value))]
    for name in names:
        if not _PACKAGE.fullmatch(name):
            hint = "use names as apt-get or apk takes them, such as nginx or nginx=1.22.1-9"
            raise refusal(option, name, "is not the name of a package", hint=hint)
    if not names:
        raise refusal(option, value, "names no package", hint="name one, or leave the step out")
    return names


def _dest(option: str, value: Any) -> str:
    path = absolute_path(option, value)
    if path in HOST_FILES:
        hint = "use etc_hosts, dns_servers or hostname of the sandboxes"
        raise refusal(option, value, "is written by sandlot for each sandbox", hint=hint)
    if path == "/" or path.split("/")[1] in MOUNTED:
        raise refusal(option, value, "lies where sandboxes have a mount", hint="write it elsewhere")
    return path


def _mode(option: str, value: Any) -> str:
    # YAML reads a bare 0644 as a number.
    if not isinstance(value, str) or not _MODE.fullmatch(value):
        raise refusal(option, value, "is not a mode", hint='write it in octal and quoted, "0644"')
    return f"{int(value, 8):04o}"


def _owner(option: str, value: Any) -> str:
    plain = user(option, value)
    if not _OWNER.fullmatch(plain):
        hint = 'write the ids, such as "33:33": names are those of the image'
        raise refusal(option, value, "is not UID or UID:GID", hint=hint)
    return plain


# The kinds of steps, by the key that tells them apart: allowed keys, and required ones.
_FORMS: Mapping[str, Tuple[Mapping[str, Callable[[str, Any], Any]], Sequence[str]]] = {
    "command": ({"command": _command, "env": _env, "user": user}, ("command",)),
    "packages": ({"packages": _packages, "env": _env}, ("packages",)),
    "dest": (
        {"dest": _dest, "content": text, "mode": _mode, "owner": _owner},
        ("dest", "content"),
    ),
}


def argv(step: Mapping[str, Any]) -> list[str]:
    """The command of a step; [] for a step that writes a file."""
    if "packages" in step:
        return ["sh", "-c", _INSTALL, "sh", *step["packages"]]
    return list(step.get("command", []))


def described(step: Mapping[str, Any]) -> str:
    """A step as messages show it, without its environment, which may hold secrets."""
    if "dest" in step:
        return f"write {step['dest']}"
    if "packages" in step:
        return f"install {' '.join(step['packages'])}"
    words = step["command"]
    return str(words[2] if words[:2] == ["sh", "-c"] and len(words) == 3 else " ".join(words))


OPTION = Option(
    "setup",
    "list",
    _steps,
    [
        "Steps run once, in order, in a throw-away sandbox of the image, and kept as a layer.",
        "A string is a script for the image's C(sh).",
        "A mapping with C(command) (a list) runs that, with C(env) and as C(user).",
        "A mapping with C(packages) (a list) installs them with C(apt-get) or C(apk).",
        "A mapping with C(dest) and C(content) writes a file, with C(mode) and a numeric C(owner).",
        "Steps are stored on the host. Results hide the values of C(env) and show C(content), "
        "which is no place for secrets.",
    ],
    elements="raw",
)
NETWORK = Option(
    "setup_network",
    "str",
    network_name,
    ["Network of the throw-away sandbox, V(none) for no network."],
    default="default",
)
TIMEOUT = Option(
    "setup_timeout",
    "int",
    partial(integer, minimum=1, maximum=DAY),
    ["Most seconds one step may take."],
    default=3600,
)
OPTIONS = (OPTION, NETWORK, TIMEOUT)


def digest(base: str, steps: Sequence[Json]) -> str:
    """The digest that names the layer: of the tree below it and the steps."""
    text = json.dumps([base, list(steps)], sort_keys=True)
    return hashlib.sha256(f"setup layer 1\n{text}".encode()).hexdigest()


def sandbox_name(digest: str) -> str:
    return f"setup-{digest[:32]}"


def is_running(site: Site, name: str) -> bool:
    """Whether ``name`` is a throw-away sandbox whose build or job is running."""
    matched = SANDBOX.fullmatch(name)
    if matched is None:
        return False
    if matched[2]:
        return flock.is_held(JobPaths(site, f"{JOB}{int(matched[2], 16)}").lock)
    return workspace.is_busy(site, matched[1])


def check_free(names: Iterable[str]) -> None:
    for name in names:
        if SANDBOX.fullmatch(name):
            hint = "choose another name"
            raise SpecError("name", name, "is kept for setups of images and for jobs", hint=hint)
