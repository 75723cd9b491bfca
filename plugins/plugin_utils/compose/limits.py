# SPDX-License-Identifier: GPL-3.0-or-later
# Copyright: the sandlot developers
"""Limits and rights of a service."""

from __future__ import annotations

from typing import Any

from ...module_utils.sandlot.errors import SpecError
from ...module_utils.sandlot.profiles import CAPABILITIES, OPTION
from ...module_utils.sandlot.spec import quantities
from .model import Service
from .nodes import ComposeError, Node
from .values import boolean, integer, known, mapping, number, pairs, scalar, sequence, size, text

_LIMITS = ("cpus", "memory", "pids")
_RESERVATIONS = ("cpus", "memory", "generic_resources", "devices")
PERIOD = 100_000


def _resources(service: Service, kind: str, keys: tuple[str, ...]) -> dict[str, Node]:
    deploy = service.get("deploy")
    resources = deploy.get("resources") if deploy else None
    if not resources:
        return {}
    known(resources, ("limits", "reservations"), "resources")
    node = resources.get(kind)
    return known(node, keys, kind) if node else {}


def _one(service: Service, key: str, other: Node | None) -> Node | None:
    """The value of a key that ``deploy`` may give as well."""
    own = service.get(key)
    if own and other and _amount(own) != _amount(other):
        hint = "keep one of them"
        raise own.error(f"differs from {other.path}, {other.shown}", hint)
    return own or other


def _amount(node: Node) -> object:
    """One value for all notations of an amount, such as 1g and 1024M, 0.5 and "0.50"."""
    try:
        return number(node)
    except ComposeError:
        pass
    try:
        return quantities.size("", size(node))
    except SpecError:
        return node.value


def memory(service: Service) -> None:
    limits = _resources(service, "limits", _LIMITS)
    reservations = _resources(service, "reservations", _RESERVATIONS)
    rows = {
        "memory": _one(service, "mem_limit", limits.get("memory")),
        "memory_reservation": _one(service, "mem_reservation", reservations.get("memory")),
        "memory_swap": service.get("memswap_limit"),
    }
    for option, node in rows.items():
        # Docker reads zero as no limit.
        if node and size(node) not in (0, "0"):
            service.sandbox.set(option, size(node), node)
    for key in ("devices", "generic_resources"):
        if key in reservations:
            hint = "leave it out; devices of the host are given by the key devices"
            raise reservations[key].failure("sandboxes have no such devices", hint)
    if "cpus" in reservations:
        service.warn(reservations["cpus"], "CPU time is not reserved; cpu_shares gives a weight")


def cpus(service: Service) -> None:
    limits = _resources(service, "limits", _LIMITS)
    node = _one(service, "cpus", limits.get("cpus"))
    quota, period = service.get("cpu_quota"), service.get("cpu_period")
    if node and number(node):
        if quota:
            raise quota.error("contradicts cpus", "keep cpus")
        service.sandbox.set("cpus", number(node), node)
    elif quota and integer(quota) > 0:
        span = _period(period) if period else PERIOD
        service.sandbox.set("cpus", round(integer(quota) / span, 5), quota)
    elif period:
        service.warn(period, "has no meaning without cpu_quota, so it is left out")
    pids = _one(service, "pids_limit", limits.get("pids"))
    if pids:
        service.sandbox.set("pids_limit", integer(pids) or -1, pids)
    shares, cpuset = service.get("cpu_shares"), service.get("cpuset")
    if shares and integer(shares):
        service.sandbox.set("cpu_shares", integer(shares), shares)
    if cpuset and text(cpuset):
        service.sandbox.set("cpuset_cpus", text(cpuset), cpuset)


def _period(node: Node) -> int:
    """Microseconds; Compose also takes a duration."""
    if isinstance(node.value, str) and node.value.endswith("s"):
        from .values import nanoseconds

        return max(nanoseconds(node) // 1000, 1)
    if integer(node) <= 0:
        raise node.error("is no period", "use microseconds, such as 100000")
    return integer(node)


def ulimits(service: Service) -> None:
    node = service.get("ulimits")
    for name, item in (mapping(node) if node else {}).items():
        if isinstance(item.value, dict):
            fields = known(item, ("soft", "hard"), "ulimits")
            if len(fields) != 2:
                raise item.failure("needs soft and hard", "give both, or one number")
            limit = f"{name}:{integer(fields['soft'])}:{integer(fields['hard'])}"
        else:
            limit = f"{name}:{integer(item)}"
        service.sandbox.add("ulimits", limit, item)
    settings = service.get("sysctls")
    for name, item in (pairs(settings) if settings else {}).items():
        value = "" if item.value is None else scalar(item)
        service.sandbox.put("sysctls", name, value, item)


def capabilities(service: Service) -> None:
    """Single capabilities are dropped by granting the others to a sandbox that has none."""
    added, dropped = service.get("cap_add"), service.get("cap_drop")
    lost = {_capability(item) for item in (sequence(dropped) if dropped else [])}
    if added:
        for item in sequence(added):
            if _capability(item) == "ALL":
                hint = "name the capabilities that the service needs, in cap_add"
                raise item.failure("ALL would grant every capability", hint)
            if _capability(item) not in lost:
                service.sandbox.add("capabilities", _capability(item), item)
    usual = set(CAPABILITIES["daemon"])
    if not dropped or not ("ALL" in lost or lost & usual):
        return
    service.sandbox.set(OPTION, "strict", dropped)
    user = service.get("user")
    is_root = not user or text(user).partition(":")[0] in ("", "0", "root")
    if "ALL" in lost or not is_root:
        # A capability that is granted is any user's; those of a profile are root's.
        return
    for name in CAPABILITIES["daemon"]:
        if name not in lost and name not in service.sandbox.options.get("capabilities", ()):
            service.sandbox.add("capabilities", name, dropped)


def _capability(node: Node) -> str:
    name = text(node).upper()
    return name[4:] if name.startswith("CAP_") else name


def rights(service: Service) -> None:
    node = service.get("read_only")
    if node and boolean(node):
        service.sandbox.set("read_only", True, node)
    node = service.get("privileged")
    if node and boolean(node):
        hint = "leave it out, and give what is needed by cap_add, devices or sysctls"
        raise node.failure("no sandbox is privileged", hint)
    options = service.get("security_opt")
    for item in sequence(options) if options else []:
        _security_opt(service, item)


def _security_opt(service: Service, node: Node) -> None:
    whole = text(node)
    at = min((whole.find(mark) for mark in ":=" if mark in whole), default=len(whole))
    name, value = whole[:at], whole[at + 1 :]
    if name == "no-new-privileges":
        if value in ("false", "0"):
            service.sandbox.set("no_new_privileges", False, node)
    elif (name, value) == ("seccomp", "unconfined"):
        service.sandbox.set("seccomp_profile", "unconfined", node)
    elif name in ("apparmor", "label"):
        service.warn(node, f"{name} is left out: sandboxes are confined without it")
    else:
        hint = "leave it out; no-new-privileges and seccomp:unconfined are known"
        raise node.error("can't be carried over", hint)


def devices(service: Service) -> None:
    node = service.get("devices")
    for item in sequence(node) if node else []:
        service.sandbox.add("devices", _device(item), item)


def _device(item: Node) -> str:
    if not isinstance(item.value, dict):
        whole = text(item)
        if "=" in whole and not whole.startswith("/"):
            hint = "name the nodes of the host, such as /dev/dri/renderD128"
            raise item.error("is a device of CDI", hint)
        return whole
    fields = known(item, ("source", "target", "permissions"), "devices")
    if "source" not in fields:
        raise item.failure("names no device", "give it `source: /dev/NAME`")
    words = [text(fields["source"]), text(fields.get("target", fields["source"]))]
    return ":".join([*words, *([text(fields["permissions"])] if "permissions" in fields else [])])


def blkio(service: Service) -> None:
    node = service.get("blkio_config")
    if not node:
        return
    rates = [f"device_{way}_{unit}" for way in ("read", "write") for unit in ("bps", "iops")]
    for key, item in known(node, (*rates, "weight", "weight_device"), "blkio_config").items():
        if key in rates and item.value:
            hint = "leave it out; sandboxes have no such limit"
            raise item.failure("a rate of a block device can't be enforced", hint)
        service.warn(item, "is left out: sandboxes have no weight for block devices")


def storage(service: Service) -> None:
    node = service.get("storage_opt")
    fields: dict[str, Any] = known(node, ("size",), "storage_opt") if node else {}
    if "size" in fields:
        service.sandbox.set("disk_size", size(fields["size"]), fields["size"])
