# SPDX-License-Identifier: GPL-3.0-or-later
# Copyright: the sandlot developers
"""Converge a host: its images, networks, volumes and sandboxes."""

from __future__ import annotations

from .. import converge, network, shell
from ..host import readiness
from ..site import Site

FLAGS = ("purge", "purge_snapshots", "purge_volumes", "recreate", "restart")
ARGUMENTS = {
    **converge.argument_spec(),
    **{flag: {"type": "bool", "default": False} for flag in FLAGS},
    "defaults": {"type": "dict", "default": {}},
    "only": {"type": "list", "elements": "str"},
    "address": {"type": "str", "default": "127.0.0.1"},
    "management_ports": {"type": "list", "elements": "int", "default": []},
    "uploads": {"type": "dict"},
    "host": {"type": "dict"},
}


def action(module: shell.Module, site: Site) -> shell.Json:
    params = module.params
    known: shell.Json = {}
    if params["host"] is not None:
        missing = readiness.missing_packages(site, "host", params["host"])
        if missing is None:
            return {"changed": False, "host_needed": True}
        known = {"host": {"actions": [], "changed": False, "missing_packages": missing}}
    request = converge.request(
        **converge.normalised(site, params),
        **{flag: params[flag] for flag in FLAGS},
        only=params["only"],
        check=module.check_mode,
        diff=module._diff,
        watch=converge.WATCH,
        uploads=params["uploads"],
        management_ports=network.port_numbers("management_ports", params["management_ports"]),
    )
    result = converge.converge(site, request)
    opened = {f"network {name}": lines for name, lines in result.relaxed_networks.items()}
    return {
        **known,
        **converge.return_values(result),
        "sandboxes": result.sandboxes,
        "relaxed": {**result.relaxed, **opened},
        **converge.closing(site, result, params["address"]),
    }
