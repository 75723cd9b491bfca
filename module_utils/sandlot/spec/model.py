# SPDX-License-Identifier: GPL-3.0-or-later
# Copyright: the sandlot developers
"""The normalised spec of one sandbox."""

from __future__ import annotations

import hashlib
import json
from dataclasses import dataclass, field
from typing import Any, Dict, Mapping

from ..errors import SpecError, StateError
from . import netmode
from .grants import Grants
from .healthcheck import Healthcheck
from .names import Pairs, default_hostname
from .option import read
from .options import OPTIONS, STORED
from .values import Attachment, Dependency, PublishedPort, TimeOffset, Tmpfs, Ulimit


@dataclass(frozen=True)
class Spec:
    """One field per row of the option table; pairs are sorted mappings.

    The actions (state, restart, recreate and how long to wait) count neither in a comparison nor
    in the digest.
    """

    name: str
    image: str
    command: tuple[str, ...]
    entrypoint: tuple[str, ...]
    env: Pairs
    working_dir: str | None
    user: str | None
    hostname: str
    tmpfs: tuple[Tmpfs, ...]
    read_only: bool
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
    ingress_rate: int | None
    egress_rate: int | None
    capabilities: tuple[str, ...]
    seccomp_profile: str
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
    state: str = field(default="started", compare=False)
    restart: bool = field(default=False, compare=False)
    recreate: bool = field(default=False, compare=False)
    healthy_wait_timeout: float | None = field(default=None, compare=False)

    @property
    def owns_network(self) -> bool:
        """Whether its network namespace is its own."""
        return self.network_mode in netmode.OWN

    @property
    def network_partner(self) -> str:
        """The sandbox whose network namespace it shares, "" for none."""
        return netmode.partner(self.network_mode)

    @property
    def network_pin(self) -> str:
        """The path of the network namespace it joins, "" for none."""
        return netmode.pin(self.network_mode)

    def to_json(self) -> Dict[str, Any]:
        """Every stored option, in a notation that is valid input again."""
        rows = {option.name: (option, getattr(self, option.name)) for option in STORED}
        return {
            name: option.dump(value)
            for name, (option, value) in rows.items()
            if not option.later or value != option.value(None)
        }

    @classmethod
    def from_json(cls, data: Mapping[str, Any]) -> Spec:
        """A stored spec; options that its writer did not know yet have their defaults."""
        try:
            return from_table(data)
        except SpecError as error:
            hint = "deploy it again, with the version of sandlot that wrote it or a newer one"
            raise StateError(f"stored spec is unusable: {error.message}", hint=hint) from error

    def digest(self) -> str:
        text = json.dumps(self.to_json(), sort_keys=True, separators=(",", ":"))
        return hashlib.sha256(text.encode()).hexdigest()


def from_table(raw: Mapping[str, Any]) -> Spec:
    """Each option by itself; what options ask of each other is the caller's to check."""
    if raw.get("networks") is None and raw.get("network_mode") not in (None, netmode.BRIDGE):
        raw = {**raw, "networks": []}
    fields = read(OPTIONS, raw)
    fields["image"] = fields["image"] or ""
    fields["hostname"] = fields["hostname"] or default_hostname(fields["name"])
    return Spec(**fields)
