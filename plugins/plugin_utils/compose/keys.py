# SPDX-License-Identifier: GPL-3.0-or-later
# Copyright: the sandlot developers
"""The table of keys of a service: what becomes of each, and the code that does it."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass

from . import configuration, images, limits, network, process, storage, supervision
from .model import Service
from .nodes import Node
from .values import boolean, text

CARRIED, REFUSED, WARNED, SILENT = "carried over", "refused", "warned about", "left out"
# In an order in which a group finds what it needs of those before.
GROUPS: tuple[Callable[[Service], None], ...] = (
    images.image,
    process.command,
    process.user,
    process.hostname,
    process.environment,
    process.labels,
    process.terminal,
    network.networks,
    network.ports,
    network.hosts,
    network.resolvers,
    storage.volumes,
    storage.tmpfs,
    configuration.configs,
    configuration.secrets,
    limits.memory,
    limits.cpus,
    limits.ulimits,
    limits.capabilities,
    limits.rights,
    limits.devices,
    limits.blkio,
    limits.storage,
    supervision.restart,
    supervision.health,
    supervision.stop,
    supervision.logs,
    supervision.order,
)


@dataclass(frozen=True)
class Key:
    """The fate of a key; ``text`` is its option, the reason, or what a warning says.

    ``harmless`` are values that ask for nothing, which are left out silently.
    """

    fate: str
    text: str
    hint: str = ""
    harmless: tuple[object, ...] = ()


def _carried(text: str) -> Key:
    return Key(CARRIED, text)


_LEAVE = "leave it out"
_NO_GPU = Key(REFUSED, "sandboxes have no GPUs", "give the nodes by the key devices")
_HOOK = Key(REFUSED, "sandboxes have no hooks", "do it in the entrypoint")
_FALSE = (False, "false")
_SPACE = "the namespace of the host, or of another service, can't be joined"

KEYS: Mapping[str, Key] = {
    "annotations": Key(WARNED, "is left out: sandboxes have labels only"),
    "attach": Key(SILENT, "is about docker compose up"),
    "blkio_config": Key(REFUSED, "rates of block devices are refused, weights left out"),
    "build": Key(REFUSED, "needs an image by the option images, or `image`"),
    "cap_add": _carried("capabilities"),
    "cap_drop": _carried("security_profile: strict, and capabilities"),
    "cgroup": Key(REFUSED, "the host's cgroups can't be shared", _LEAVE, ("private",)),
    "cgroup_parent": Key(WARNED, "is left out: sandlot chooses the cgroup"),
    "command": _carried("command"),
    "configs": _carried("files"),
    "container_name": _carried("aliases of its networks"),
    "cpu_count": Key(WARNED, "is left out: it is for Windows; use cpus"),
    "cpu_percent": Key(WARNED, "is left out: it is for Windows; use cpus"),
    "cpu_period": _carried("cpus"),
    "cpu_quota": _carried("cpus"),
    "cpu_rt_period": Key(REFUSED, "sandboxes have no real-time scheduling", _LEAVE),
    "cpu_rt_runtime": Key(REFUSED, "sandboxes have no real-time scheduling", _LEAVE),
    "cpu_shares": _carried("cpu_shares"),
    "cpus": _carried("cpus"),
    "cpuset": _carried("cpuset_cpus"),
    "credential_spec": Key(REFUSED, "is for Windows", _LEAVE),
    "depends_on": _carried("depends_on"),
    "deploy": _carried("limits, memory_reservation, restart_policy, number of sandboxes"),
    "develop": Key(SILENT, "is about docker compose watch"),
    "device_cgroup_rules": Key(REFUSED, "can't be carried over", "name nodes by devices"),
    "devices": _carried("devices"),
    "dns": _carried("dns_servers"),
    "dns_opt": Key(WARNED, "is left out"),
    "dns_search": Key(WARNED, "is left out: use whole names"),
    "domainname": _carried("hostname"),
    "entrypoint": _carried("entrypoint"),
    "env_file": _carried("env, marked secret"),
    "environment": _carried("env"),
    "expose": Key(SILENT, "is for readers: services of a network reach all ports"),
    "extends": _carried("merged before"),
    "external_links": Key(REFUSED, "can't be carried over", "attach both to one network"),
    "extra_hosts": _carried("etc_hosts"),
    "gpus": _NO_GPU,
    "group_add": Key(REFUSED, "sandboxes have no further groups"),
    "healthcheck": _carried("healthcheck"),
    "hostname": _carried("hostname"),
    "image": _carried("image, and an entry in sandbox_images"),
    "init": Key(SILENT, "is always there: sandlot's init is process 1"),
    "ipc": Key(REFUSED, _SPACE, _LEAVE, ("private", "shareable", "none", "")),
    "isolation": Key(REFUSED, "is for Windows", _LEAVE, ("default", "")),
    "label_file": _carried("labels"),
    "labels": _carried("labels"),
    "links": _carried("depends_on, and aliases of the other service"),
    "logging": _carried("log_max_size"),
    "mac_address": _carried("networks"),
    "mem_limit": _carried("memory"),
    "mem_reservation": _carried("memory_reservation"),
    "mem_swappiness": Key(WARNED, "is left out: the host decides what to swap"),
    "memswap_limit": _carried("memory_swap"),
    "models": Key(REFUSED, "sandlot runs no models", _LEAVE),
    "network_mode": _carried("network_mode"),
    "networks": _carried("networks"),
    "oom_kill_disable": Key(WARNED, "is left out: the kernel decides", harmless=_FALSE),
    "oom_score_adj": Key(WARNED, "is left out: the kernel decides"),
    "pid": Key(REFUSED, _SPACE, _LEAVE, ("private", "")),
    "pids_limit": _carried("pids_limit"),
    "platform": _carried("platform of the image"),
    "ports": _carried("published_ports"),
    "post_start": _HOOK,
    "pre_stop": _HOOK,
    "privileged": Key(REFUSED, "no sandbox is privileged"),
    "profiles": _carried("services that are converted"),
    "provider": Key(REFUSED, "sandlot calls no providers", "run it by a task"),
    "pull_policy": _carried("pull of the image"),
    "pull_refresh_after": Key(WARNED, "is left out: pull is missing, always or never"),
    "read_only": _carried("read_only"),
    "restart": _carried("restart_policy, restart_retries"),
    "runtime": Key(REFUSED, "there are no other runtimes", _LEAVE, ("runc", "crun", "")),
    "scale": _carried("number of sandboxes"),
    "secrets": _carried("secrets"),
    "security_opt": _carried("no_new_privileges, seccomp_profile"),
    "shm_size": _carried("tmpfs"),
    "stdin_open": Key(WARNED, "the workload has no input", harmless=_FALSE),
    "stop_grace_period": _carried("stop_timeout"),
    "stop_signal": _carried("stop_signal"),
    "storage_opt": _carried("disk_size"),
    "sysctls": _carried("sysctls"),
    "tmpfs": _carried("tmpfs"),
    "tty": Key(WARNED, "the workload has no terminal", harmless=_FALSE),
    "ulimits": _carried("ulimits"),
    "use_api_socket": Key(REFUSED, "there is no docker daemon to talk to", _LEAVE, _FALSE),
    "user": _carried("user"),
    "userns_mode": Key(REFUSED, "each sandbox has its own ids", _LEAVE, ("private", "")),
    "uts": Key(REFUSED, _SPACE, _LEAVE, ("private", "")),
    "volumes": _carried("volumes, mounts, files"),
    "volumes_from": Key(REFUSED, "can't be carried over", "list the volumes here as well"),
    "working_dir": _carried("working_dir"),
}
# Keys whose values decide; their groups warn or refuse.
_BY_GROUP = frozenset(
    ("blkio_config", "build", "dns_opt", "dns_search", "group_add", "privileged", "stdin_open")
    + ("tty",)
)


def apply(service: Service, key: str, node: Node) -> None:
    """Warn about a key, or refuse it, unless a group does."""
    row = KEYS[key]
    if key in _BY_GROUP or row.fate in (CARRIED, SILENT) or _asks_nothing(row, node):
        return
    if row.fate == REFUSED:
        raise node.failure(row.text, row.hint)
    service.warn(node, row.text)


def _asks_nothing(row: Key, node: Node) -> bool:
    if node.value is None or node.value == [] or node.value == {}:
        return True
    if isinstance(node.value, bool):
        return bool(row.harmless == _FALSE) and not boolean(node)
    return isinstance(node.value, str) and text(node) in row.harmless
