# SPDX-License-Identifier: GPL-3.0-or-later
# Copyright: the sandlot developers
"""The normalised spec of one sandbox."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Mapping, Sequence, Tuple, Union

from . import netmode
from .devices import Device
from .grants import Grants
from .healthcheck import Healthcheck
from .names import Pairs
from .values import (
    Attachment,
    Dependency,
    File,
    Mount,
    PublishedPort,
    Sealed,
    Secret,
    TimeOffset,
    Tmpfs,
    Ulimit,
)

Environment = Tuple[Tuple[str, Union[str, Sealed]], ...]


@dataclass(frozen=True)
class Spec:
    """One field per row of the option table; pairs are sorted mappings.

    Actions (state, restart, recreate, rules for changes, the times to wait) count neither in a
    comparison nor in the digest.
    """

    name: str
    image: str
    on_image_change: str | None
    command: tuple[str, ...]
    entrypoint: tuple[str, ...]
    env: Environment
    working_dir: str | None
    user: str | None
    hostname: str
    tmpfs: tuple[Tmpfs, ...]
    read_only: bool
    volumes: tuple[Mount, ...]
    mounts: tuple[Mount, ...]
    files: tuple[File, ...]
    secrets: tuple[Secret, ...]
    network_mode: str
    allow_host_network: bool
    networks: tuple[Attachment, ...]
    published_ports: tuple[PublishedPort, ...]
    etc_hosts: Pairs
    dns_servers: tuple[str, ...]
    egress: Grants | None
    host_access: Grants | None
    memory: int | None
    memory_reservation: int | None
    memory_swap: int | None
    cpus: float | None
    cpu_shares: int | None
    cpuset_cpus: frozenset[int] | None
    pids_limit: int
    ulimits: tuple[Ulimit, ...]
    lxcfs: bool
    disk_size: int | None
    ingress_rate: int | None
    egress_rate: int | None
    security_profile: str | None
    capabilities: tuple[str, ...]
    no_new_privileges: bool
    seccomp_profile: str
    seccomp_architectures: tuple[str, ...]
    devices: tuple[Device, ...]
    sysctls: Pairs
    time_offset: TimeOffset | None
    depends_on: tuple[Dependency, ...]
    restart_policy: str
    restart_retries: int
    stop_signal: int | None
    stop_timeout: int
    log_max_size: int
    labels: Pairs
    healthcheck: Healthcheck | None
    snapshot_keep: int
    snapshot_max_age: int | None
    snapshot_before: tuple[str, ...]
    env_file: Sequence[str] = field(default=(), compare=False)
    state: str = field(default="started", compare=False)
    restart: bool = field(default=False, compare=False)
    recreate: bool = field(default=False, compare=False)
    allow_changes: str = field(default="rebuild", compare=False)
    comparisons: Mapping[str, str] = field(default_factory=dict, compare=False)
    healthy_wait_timeout: float | None = field(default=None, compare=False)
    fail_on_crash: float | None = field(default=None, compare=False)

    @property
    def owns_network(self) -> bool:
        """Whether the sandbox has a network namespace of its own."""
        return self.network_mode in netmode.OWN

    @property
    def network_partner(self) -> str:
        """The sandbox whose network namespace is shared, "" for none."""
        return netmode.partner(self.network_mode)

    @property
    def network_pin(self) -> str:
        """The path of a network namespace to join, "" for none."""
        return netmode.pin(self.network_mode)
