# SPDX-License-Identifier: GPL-3.0-or-later
# Copyright: the sandlot developers
"""The fact `relaxed`: each relaxation of the default confinement that a spec asks for."""

from __future__ import annotations

from typing import TYPE_CHECKING

from .. import profiles
from ..spec.grants import relaxations
from ..spec.mounts import BIND

if TYPE_CHECKING:
    from ..spec import Spec


def relaxed(spec: Spec, profile: str) -> list[str]:
    """One line for each loosening, "option: value", in a stable order.

    ``profile`` is the security profile in effect.
    """
    lines = [] if profile == profiles.STRICT else [f"{profiles.OPTION}: {profile}"]
    lines += [f"capabilities: {name}" for name in spec.capabilities]
    if not spec.no_new_privileges:
        lines.append("no_new_privileges: false")
    if spec.seccomp_profile != "default":
        lines.append(f"seccomp_profile: {spec.seccomp_profile}")
    lines += [f"seccomp_architectures: {name}" for name in spec.seccomp_architectures]
    lines += [f"devices: {device}" for device in spec.devices]
    if spec.network_mode == "host" or spec.network_pin:
        lines.append(f"network_mode: {spec.network_mode}")
    if spec.pids_limit < 0:
        lines.append(f"pids_limit: {spec.pids_limit}")
    if spec.lxcfs:
        lines.append("lxcfs: a program of the host's root answers reads of /proc")
    for option, mounts in (("volumes", spec.volumes), ("mounts", spec.mounts)):
        lines += [f"{option}: {mount}" for mount in mounts if mount.type == BIND]
    return lines + relaxations(spec.egress, spec.host_access)
