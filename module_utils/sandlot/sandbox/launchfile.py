# SPDX-License-Identifier: GPL-3.0-or-later
# Copyright: the sandlot developers
"""launch.json: a record flattened for the processes that make and run the sandbox."""

from __future__ import annotations

import base64
import functools
import hashlib
import json
import os
from dataclasses import asdict
from typing import AbstractSet, Any, Dict, Mapping, Sequence

from .. import network, profiles, security, store
from ..plan import Change
from ..security import seccomp
from ..site import SandboxPaths, Site
from ..spec.confinement import mask
from ..spec.names import is_job
from ..spec.option import LAUNCHED, Reach
from ..spec.options import reaching
from . import devices, first_start, mounts
from .process import capabilities, for_init, process, security_profile
from .record import ImageRef, Record

Json = Dict[str, Any]

HOST_FILES = ("hosts", "resolv.conf", "hostname")
# These follow from the host and the version of sandlot: neither an upgrade nor a new cgroup
# hierarchy of the host restarts a sandbox.
DERIVED = frozenset(
    {"cgroups", "seccomp", "masked", "readonly", "first_start", "login", "directories", "log_files"}
)
# Init applies changes to these while it runs.
LIVE = frozenset(
    option.launch_key for option in reaching(Reach.INIT) if option.change is Change.LIVE
)
# Digests written by dd050e5 count this key, and inits of dd050e5 run on.
_LIVE_COUNTED = frozenset({"log_max_size"})
_UNCOUNTED = frozenset({"schema", "digest", "init", mounts.KEY}) | DERIVED | LIVE - _LIVE_COUNTED


# Later options that the launch file has in a notation of its own.
_OWN_NOTATION = frozenset({profiles.OPTION, "volumes", "mounts", "files", "secrets"})
_LATER = [row for row in reaching(*LAUNCHED) if row.later and row.name not in _OWN_NOTATION]
_OF_NAMESPACES = [row.name for row in reaching(Reach.NAMESPACES)]


def content(site: Site, record: Record, cgroups: Sequence[str]) -> Json:
    spec, granted = record.spec, capabilities(record)
    data = {
        **root(site, record),
        **_process(site, record),
        "rlimits": {entry.name: [entry.soft, entry.hard] for entry in spec.ulimits},
        "capabilities": mask(granted),
        "seccomp_profile": spec.seccomp_profile,
        "seccomp": _seccomp(spec.seccomp_profile, granted, spec.seccomp_architectures),
        "masked": list(security.MASKED),
        "readonly": list(security.READONLY),
        "time_offset": asdict(spec.time_offset) if spec.time_offset else None,
    }
    data["sysctls"] = sysctls(record)
    netns = network.netns_of(site, record.name, spec.network_mode)
    if not netns.own:
        data["netns"] = {"mode": spec.network_mode, "path": netns.path}
    data["name"] = record.name
    data["cgroups"] = list(cgroups)
    # Options that dd050e5 does not know: their readers have defaults. ``init`` lists init's.
    changed = [row for row in _LATER if getattr(spec, row.name) != row.value(None)]
    data.update((row.name, row.dump(getattr(spec, row.name))) for row in changed)
    if spec.devices:
        data["devices"] = devices.launched(spec.devices)
    of_init = [row.name for row in changed if Reach.INIT in row.reaches]
    profile = security_profile(record)
    if profile != profiles.STRICT:
        # Users other than root start with those of ``capabilities``, as in Podman.
        data.update({profiles.OPTION: profile, "ambient": mask(spec.capabilities)})
    mounted = mounts.of(site, record)
    if mounted:
        data[mounts.KEY] = mounted
    volumes = record.image.config.get("volumes", ())
    # Below the kernel's own file systems they are there, or can't be made.
    own = [path for path in volumes if path.split("/")[1:2] not in (["proc"], ["sys"], ["dev"])]
    if own:
        data["directories"] = own
    if record.image.config.get(profiles.OPTION):
        data["log_files"] = True
    if record.image.config.get("first_start"):
        data["first_start"] = list(first_start.ARGV)
        of_init.append("first_start")
    if is_job(record.name):
        data["job"] = True
        of_init.append("job")
    if of_init:
        data["init"] = of_init
    data["digest"] = digest(data)
    return data


def is_shifted(image: ImageRef) -> bool:
    """Whether the tree is a copy with shifted owners, for a host that can't map ids on a mount."""
    return any(os.path.basename(layer).startswith("shifted-") for layer in image.layers)


def root(site: Site, record: Record) -> Json:
    """The part about the root: ids, trees of the image, layer, file systems in memory."""
    sandbox = site.sandbox(record.name)
    spec = record.spec
    return {
        "ids": {"uid": record.ids.start, "gid": record.ids.start, "size": record.ids.size},
        # A directory that the user changed has the path it had.
        "image": record.image.digest,
        "lower": list(record.image.layers),
        "host_root": record.image.host,
        "tmpfs_root": record.image.tmpfs,
        "idmap": not is_shifted(record.image),
        "upper": sandbox.upper,
        "work": sandbox.work,
        "read_only": spec.read_only,
        "hostname": spec.hostname,
        "tmpfs": {entry.path: mounts.tmpfs_words(entry) for entry in spec.tmpfs},
        "files": {f"/etc/{name}": f"{sandbox.etc}/{name}" for name in HOST_FILES},
    }


def _process(site: Site, record: Record) -> Json:
    spec, runs = record.spec, process(record)
    path = site.sandbox(record.name).secret_variable
    # The worker reads the values: neither this file nor the launcher has them.
    secret = {name: path(sealed.digest) for name, sealed in runs.secret_env.items()}
    check = {"healthcheck": for_init(runs.healthcheck)} if runs.healthcheck else {}
    login = {} if runs.login is None else {"login": sorted(runs.login)}
    return {
        **check,
        **login,
        "argv": list(runs.argv),
        "env": runs.env,
        **({"secret_env": secret} if secret else {}),
        "cwd": runs.working_dir,
        "user": runs.user,
        "restart": {"policy": spec.restart_policy, "retries": spec.restart_retries},
        "stop": {"signal": runs.stop_signal, "timeout": float(spec.stop_timeout)},
        "log_max_size": spec.log_max_size,
    }


def sysctls(record: Record) -> dict[str, str]:
    """Sysctls of the network namespace: servers on low ports and ping need no capability."""
    if not record.spec.owns_network:
        return dict(record.spec.sysctls)
    first, last = record.ids.start, record.ids.last
    ours = {
        "net.ipv4.ip_unprivileged_port_start": "0",
        "net.ipv4.ping_group_range": f"{first} {last}",
    }
    return {**ours, **dict(record.spec.sysctls)}


@functools.cache
def _seccomp(profile: str, granted: tuple[str, ...], architectures: tuple[str, ...]) -> str | None:
    program = seccomp.program(
        profile=profile,
        capabilities=granted,
        architectures=architectures,
        machine=os.uname().machine,
    )
    return None if program is None else base64.b64encode(program).decode()


def digest(data: Mapping[str, Any]) -> str:
    """The digest of a launch file; without empty values, so that a new key restarts nothing."""
    return _counted(data, _UNCOUNTED)


def _counted(data: Mapping[str, Any], uncounted: AbstractSet[str]) -> str:
    counted = {key: value for key, value in data.items() if key not in uncounted}
    return _hash({key: value for key, value in counted.items() if value or value == 0})


def as_started(launch: Json, current: Mapping[str, Any], running: str) -> Json:
    """The launch file with the digest of the running init, where only live settings differ."""
    uncounted = _UNCOUNTED | LIVE
    same = current.get("digest") == running
    if same and _counted(current, uncounted) == _counted(launch, uncounted):
        return {**launch, "digest": running}
    return launch


def namespace_digest(data: Mapping[str, Any], record: Record) -> str:
    """The digest of the settings of namespaces; a change means that they are made again."""
    parts = {name: data[name] for name in _OF_NAMESPACES if name in data}
    return _hash({**parts, "ids": data["ids"], "network_mode": record.spec.network_mode})


def _hash(data: Mapping[str, Any]) -> str:
    text = json.dumps(data, sort_keys=True, separators=(",", ":"))
    return hashlib.sha256(text.encode()).hexdigest()


def encoded(data: Mapping[str, Any]) -> bytes:
    """The bytes of a launch file; no indentation, as Python's fast encoder can't indent."""
    with_schema = {"schema": store.SCHEMA, **data}
    return json.dumps(with_schema, sort_keys=True, separators=(",", ":")).encode() + b"\n"


def decoded(content: bytes) -> Json:
    """Parse a launch file; {} for a damaged one."""
    try:
        data = json.loads(content)
    except (ValueError, RecursionError):
        return {}
    return data if isinstance(data, dict) else {}


def current(site: Site, name: str) -> bytes:
    """The bytes of the present launch file, b"" without one."""
    path = site.sandbox(name).launch
    return store.read_bytes(path, hint=f"remove {path}; the next run makes it again") or b""


def write(sandbox: SandboxPaths, content: bytes) -> None:
    """Write the launch file without a sync: after a crash, it is made again from the record."""
    store.replace(sandbox.launch, content, durable=False)
