# SPDX-License-Identifier: GPL-3.0-or-later
# Copyright: the sandlot developers
"""Examines a host for sandboxes; each finding comes with its remedy.

A failure prevents sandboxes or leaves a limit without effect; a warning has a cost, now or later.
The examination changes nothing.
"""

from __future__ import annotations

import os
import re
import shutil
from dataclasses import asdict, dataclass
from functools import partial
from typing import Any, Dict, Iterable, Iterator, List, Mapping, Tuple

from .. import configuration, idmap, images, network, sizes, volumes
from ..configuration import audit, credentials
from ..errors import SandlotError
from ..kernel import files, program
from ..launcher import unresponsive
from ..launcher.client import UNIT, Launcher
from ..sandbox import crash, layers, lxcfs, mounts, names, record, runtime
from ..site import Site
from . import payload, probe, services

OK, WARNING, FAILURE = "ok", "warning", "failure"
MINIMUM_KERNEL = (5, 12)
FULL = 0.95
SYSCTLS = "/proc/sys"
CMDLINE = "/proc/cmdline"
_NEEDED = ("cpu", "memory", "pids")
# The needs of options that set limits; without them, a sandbox with the option is refused.
_OPTIONAL = {"cpuset": "cpuset_cpus"}


@dataclass(frozen=True)
class Finding:
    name: str
    status: str
    detail: str
    remedy: str = ""

    def to_json(self) -> Dict[str, str]:
        return asdict(self)


Facts = Mapping[str, Any]
Findings = Iterator[Finding]


def examine(site: Site, known: Facts) -> List[Finding]:
    """Findings of all checks; ``known`` are the facts of the host (facts.gather)."""
    return [finding for check in _CHECKS for finding in check(site, known)]


def _finding(name: str, detail: str, *, wrong: bool, remedy: str, status: str = FAILURE) -> Finding:
    return Finding(name, status, detail, remedy) if wrong else Finding(name, OK, detail)


# -- the kernel


def _kernel(site: Site, known: Facts) -> Findings:
    release = known["kernel"]
    numbers = tuple(int(part) for part in re.findall(r"\d+", release)[:2])
    minimum = ".".join(map(str, MINIMUM_KERNEL))
    yield _finding(
        "kernel",
        f"{release} on {known['machine']}",
        wrong=numbers < MINIMUM_KERNEL,
        remedy=f"boot Linux {minimum} or later: older ones have no mount_setattr(2)",
    )


def _namespaces(site: Site, known: Facts) -> Findings:
    count = known["user_namespaces"]
    yield _finding(
        "user namespaces",
        f"{count} allowed",
        wrong=count == 0,
        remedy=probe.NO_USER_NAMESPACES[1],
    )
    for kind, option in (("time", "time_offset"), ("cgroup", "cgroups")):
        yield _finding(
            f"{kind} namespaces",
            "present" if os.path.exists(f"/proc/self/ns/{kind}") else "missing",
            wrong=not os.path.exists(f"/proc/self/ns/{kind}"),
            remedy=f"boot a kernel with them; the option {option} needs it",
            status=WARNING if kind == "time" else FAILURE,
        )
    actions = files.read_value(f"{SYSCTLS}/kernel/seccomp/actions_avail") or ""
    yield _finding(
        "seccomp",
        actions or "no filters",
        wrong="errno" not in actions.split(),
        remedy="boot a kernel with CONFIG_SECCOMP_FILTER",
    )


def _filesystems(site: Site, known: Facts) -> Findings:
    yield _finding(
        "overlayfs",
        "present" if known["overlay"] else "missing",
        wrong=not known["overlay"],
        remedy=probe.NO_OVERLAY[1],
    )
    places = [(site.state, known["idmapped_mounts"], "each sandbox gets a copy of its image")]
    places.append(("/", probe.maps_ids("/"), "images of source host_overlay are refused"))
    for path, maps, cost in places:
        yield _finding(
            f"id-mapped mounts at {path}",
            "work" if maps else f"do not work: {cost}",
            wrong=not maps,
            remedy="use a file system that has them (ext4, xfs, btrfs), or a later kernel",
            status=WARNING,
        )


def _controllers(site: Site, known: Facts) -> Findings:
    present = known["cgroups"]["controllers"]
    versions = " and ".join(str(version) for version in known["cgroups"]["versions"]) or "none"
    lacking = [name for name in _NEEDED if name not in present]
    yield _finding(
        "cgroup controllers",
        f"version {versions}: {' '.join(present) or 'none'}",
        wrong=bool(lacking),
        remedy=f"{' '.join(lacking)} missing: mount them, or boot with cgroup_enable=memory if "
        "that one is disabled",
    )
    for name, option in _OPTIONAL.items():
        yield _finding(
            f"cgroup controller {name}",
            "present" if name in present else f"missing: {option} is refused",
            wrong=name not in present,
            remedy=f"mount or enable it where {option} is wanted",
            status=WARNING,
        )


def _shown(site: Site, known: Facts) -> Findings:
    shown = known["cgroups"]["shown"]
    yield _finding(
        "cgroups inside",
        " ".join(shown) or "hidden: the kernel lets no sandbox mount them",
        wrong=not shown,
        remedy="programs that size themselves (Java, Go, Node) see the host's CPUs and memory: "
        "give them their numbers as options",
        status=WARNING,
    )


def _accounting(site: Site, known: Facts) -> Findings:
    """Parts of memory that the kernel was told not to count (cgroup.memory, kernel parameters)."""
    words = (files.read_value(CMDLINE) or "").split()
    given = [word.partition("=")[2] for word in words if word.startswith("cgroup.memory=")]
    off = {"nokmem", "nosocket"}.intersection(",".join(given).split(","))
    yield _finding(
        "memory accounting",
        f"switched off in part: {', '.join(sorted(off))}" if off else "complete",
        wrong=bool(off),
        remedy="boot without cgroup.memory=: sandboxes can exceed their memory",
    )


def _restrictions(site: Site, known: Facts) -> Findings:
    """Sysctls that distributions use against unprivileged user namespaces."""
    for name in ("apparmor_restrict_unprivileged_userns", "unprivileged_userns_clone"):
        value = files.read_value(f"{SYSCTLS}/kernel/{name}")
        if value:
            # The launcher makes namespaces with CAP_SYS_ADMIN, which neither sysctl stops.
            yield Finding(f"kernel.{name}", OK, f"{value}; nothing has to be changed for sandlot")


# -- programs


def _programs(site: Site, known: Facts) -> Findings:
    python = known["python"]
    yield _finding(
        "pyroute2",
        f"{python['pyroute2_version']} for {python['executable']} {python['version']}".strip()
        + ("" if python["pyroute2"] else ": missing"),
        wrong=not python["pyroute2"],
        remedy="install it (Debian: apt install python3-pyroute2)",
    )
    yield _finding(
        "nft",
        known["nft"] or "missing",
        wrong=not known["nft"],
        remedy="install it (Debian: apt install nftables)",
    )
    check_pyroute2 = partial(
        network.check_pyroute2, python["pyroute2_version"], python["executable"]
    )
    for name, check in (("pyroute2", check_pyroute2), ("nft", network.check_nft)):
        try:
            check()
        except SandlotError as error:
            yield Finding(f"version of {name}", FAILURE, error.message, error.hint)
    for name, package, source in (
        ("skopeo", "skopeo", "oci"),
        ("mmdebstrap", "mmdebstrap", "debootstrap"),
        ("zstd", "zstd", "tarball (.zst)"),
    ):
        path = shutil.which(name, path=program.SYSTEM_PATH)
        detail = path or f"not installed; for images of source {source} only"
        yield Finding(name, OK, detail, "" if path else f"Debian: apt install {package}")


def _firewall(site: Site, known: Facts) -> Findings:
    try:
        tables = network.packet_filter(site)
    except SandlotError as error:
        yield Finding("packet filter", FAILURE, error.message, error.hint)
        return
    yield _finding(
        "packet filter",
        f"table {site.nft_table}: " + (" and ".join(tables.present) or "not there yet"),
        wrong=bool(tables.foreign),
        remedy=f"rename or delete the foreign table {site.nft_table}",
    )


# -- room


def _space(site: Site, known: Facts) -> Findings:
    for path, what in ((site.state, "state"), (site.run, "runtime")):
        place = files.existing(path)
        status = os.statvfs(place)
        bytes_used = 1 - status.f_bavail / max(status.f_blocks, 1)
        # btrfs has no fixed number of inodes and reports 0.
        inodes_used = 1 - status.f_favail / status.f_files if status.f_files else 0.0
        free = status.f_bavail * status.f_frsize
        yield _finding(
            f"space for {what}",
            f"{place}: {free >> 20} MiB free, {inodes_used:.0%} of inodes used",
            wrong=max(bytes_used, inodes_used) > FULL,
            remedy="remove unused images (sandlot images prune), or make room",
            status=WARNING,
        )


def _sizes(site: Site, known: Facts) -> Findings:
    way = known["sizes"]
    yield _finding(
        "sizes of volumes and layers",
        way["detail"] if way["name"] else f"are refused: {way['detail']}",
        wrong=not way["name"],
        remedy=way["remedy"],
        status=WARNING,
    )


def _sizes_in_force(site: Site, known: Facts) -> Findings:
    """Layers and volumes of sandboxes whose size somebody has changed, or that are not mounted."""
    wrong, records = {}, record.load_all(site).good
    for entry in records.values():
        place = layers.place(site.sandbox(entry.name))
        due = sizes.due(sizes.look(site, place), entry.spec.disk_size)
        if due:
            wrong[f"layer of {entry.name}"] = due.summary
    known = volumes.load_all(site).good
    # A boot mounts those of sandboxes only.
    used = {name for entry in records.values() for name in mounts.volume_names(entry)}
    for volume in (known[name] for name in sorted(used.intersection(known))):
        due = sizes.due(sizes.look(site, volumes.place(site, volume.name)), volume.size)
        if due:
            wrong[f"volume {volume.name}"] = due.summary
    yield _finding(
        "sizes in force",
        "; ".join(f"{what}: {step}" for what, step in wrong.items()) or "all",
        wrong=bool(wrong),
        remedy="deploy again, or restart a sandbox with it, which does what is due",
        status=WARNING,
    )


def _contents(site: Site, known: Facts) -> Findings:
    """Contents of files, secrets and secret variables; nothing on a host without any."""
    records = record.load_all(site).good.values()
    state = audit.audit(site, records)
    if any(map(configuration.has_contents, records)):
        yield _finding(
            "contents of files and secrets",
            f"lost: {', '.join(state.lost)}" if state.lost else "all at rest",
            wrong=bool(state.lost),
            remedy="deploy these sandboxes again, with the contents: no boot can start them",
        )
        yield _finding(
            "secrets in memory",
            f"missing for {', '.join(state.without)}" if state.without else "all",
            wrong=bool(state.without),
            remedy=f"deploy again, or sandlot restart {' '.join(state.without)}",
            status=WARNING,
        )
        yield _finding(
            "owners and modes of contents",
            f"changed: {', '.join(state.wrong)}" if state.wrong else "as they were set",
            wrong=bool(state.wrong),
            remedy="remove these files and deploy again, which makes them",
        )
    if state.encrypted or state.plain:
        detail, remedy = credentials.state(site)
        yield _finding(
            "secrets at rest",
            f"{state.encrypted} encrypted, {state.plain} readable by root only; {detail}",
            wrong=bool(remedy),
            remedy=remedy,
            status=WARNING,
        )


def _ids(site: Site, known: Facts) -> Findings:
    try:
        known_ids = idmap.observe(site)
        free = idmap.available(known_ids)
        idmap.allocate(known_ids, [])
    except SandlotError as error:
        yield Finding("subordinate ids", FAILURE, error.message, error.hint)
        return
    yield _finding(
        "subordinate ids",
        f"{free} ranges free in {site.subuid} and {site.subgid}",
        wrong=free == 0,
        remedy="remove sandboxes, or ranges of others that lie in sandlot's pool",
    )


# -- sandlot itself


def _installation(site: Site, known: Facts) -> Findings:
    installed = payload.current(site)
    yield _finding(
        "runtime",
        installed or "not installed",
        wrong=not installed,
        remedy="run the role or module sandbox_host",
    )


def _start_at_boot(site: Site, known: Facts) -> Findings:
    service = services.find(site)
    if service:
        enabled = service.enabled()
        detail = f"{service.label} is {'enabled' if enabled else 'not enabled'}"
        yield _finding("start at boot", detail, wrong=not enabled, remedy=service.remedy)
    elif not site.root:
        detail = "no systemd, OpenRC or sysvinit: nothing starts the sandboxes after a boot"
        remedy = f"have what this host runs at a boot call {site.command} up"
        yield _finding("start at boot", detail, wrong=True, remedy=remedy, status=WARNING)


def _launcher(site: Site, known: Facts) -> Findings:
    stopped = unresponsive.is_stopped(site)
    try:
        answer = None if stopped else Launcher(site).ping()
    except SandlotError as error:
        yield Finding("launcher", WARNING, error.message, error.hint)
        return
    running = [name for name in runtime.names(site) if runtime.running(site.sandbox(name))]
    state = "is stopped" if stopped else "does not run"
    yield _finding(
        "launcher",
        f"pid {answer['pid']}" if answer else f"{state}, {len(running)} sandboxes run",
        wrong=stopped or (answer is None and bool(running)),
        remedy=f"start {UNIT}, or run a deploy: until then, a crashed sandbox stays down",
        status=WARNING,
    )


def _lxcfs(site: Site, known: Facts) -> Findings:
    inits = {name: runtime.running(site.sandbox(name)) for name in runtime.names(site)}
    seen = {name: lxcfs.device(init.pid) for name, init in inits.items() if init}
    users = {name: device for name, device in seen.items() if device}
    if known["lxcfs"] or users:
        try:
            lxcfs.check(site.lxcfs)
        except SandlotError as error:
            yield Finding("lxcfs", FAILURE if users else WARNING, error.message, error.hint)
        else:
            yield Finding("lxcfs", OK, f"{len(users)} sandboxes use it")
    present = lxcfs.device("self")
    stale = sorted(name for name, device in users.items() if device != present)
    if stale:
        detail = f"{', '.join(stale)} read from an lxcfs that has ended"
        remedy = f"once lxcfs runs: sandlot restart {' '.join(stale)}"
        yield Finding("lxcfs in sandboxes", FAILURE, detail, remedy)


def _remains(site: Site, known: Facts) -> Findings:
    records = record.load_all(site)
    for name, error in sorted(records.broken.items()):
        yield Finding(f"record of {name}", FAILURE, error.message, error.hint)
    orphans = sorted(names.known(site) - records.names())
    yield _finding(
        "orphans",
        ", ".join(orphans) or "none",
        wrong=bool(orphans),
        remedy="left by an interrupted run: remove them by state: absent, or deploy with purge",
        status=WARNING,
    )


def _workloads(site: Site, known: Facts) -> Findings:
    """Sandboxes that are to run, and whose workloads have ended by themselves."""
    wanted = [e.name for e in record.load_all(site).good.values() if e.wanted == record.STARTED]
    crashes = {name: crash.look(site, name) for name in sorted(wanted)}
    ended = {name: end for name, end in crashes.items() if end}
    if not ended:
        yield Finding("workloads", OK, f"{len(wanted)} are to run, and none has crashed")
    for name, end in ended.items():
        remedy = end.remedy or f"see sandlot logs {name} and sandlot inspect {name}"
        yield Finding(f"workload of {name}", WARNING, end.what, remedy)


def _images(site: Site, known: Facts) -> Findings:
    try:
        made = images.observe(site)
    except SandlotError as error:
        yield Finding("images", FAILURE, error.message, error.hint)
        return
    lost = [
        name
        for name, image in made.items()
        if not all(os.path.isdir(layer) for layer in image.layers)
    ]
    yield _finding(
        "images",
        f"{len(made)} of them" + (f"; {', '.join(lost)} lost a tree" if lost else ""),
        wrong=bool(lost),
        remedy="run sandbox_rootfs again, which makes them",
    )


_CHECKS = (
    *(
        _kernel,
        _namespaces,
        _filesystems,
        _controllers,
        _shown,
        _accounting,
        _programs,
        _firewall,
        _restrictions,
    ),
    *(
        _space,
        _sizes,
        _sizes_in_force,
        _contents,
        _ids,
        _installation,
        _launcher,
        _lxcfs,
        _start_at_boot,
        _remains,
        _workloads,
    ),
    _images,
)


def worst(findings: Iterable[Finding]) -> str:
    order: Tuple[str, ...] = (OK, WARNING, FAILURE)
    return max((finding.status for finding in findings), key=order.index, default=OK)
