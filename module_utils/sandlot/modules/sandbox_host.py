# SPDX-License-Identifier: GPL-3.0-or-later
# Copyright: the sandlot developers
"""Install, upgrade or remove the runtime on a host."""

from __future__ import annotations

from .. import shell
from ..host import doctor, facts, install, packages, readiness
from ..site import Site

ARGUMENTS = {
    "state": {"type": "str", "choices": ["present", "absent"], "default": "present"},
    **readiness.OPTIONS,
}


def action(module: shell.Module, site: Site) -> shell.Json:
    sources = facts.known_sources("image_sources", module.params["image_sources"])
    reach = {"present": install.present, "absent": install.absent}[module.params["state"]]
    outcome = reach(site, check=module.check_mode)
    known = facts.gather(site, sources)
    if module.params["state"] == "present":
        missing, choice = known["missing_packages"], module.params["packages"]
        outcome = packages.due(outcome, missing, choice, check=module.check_mode)
    checks = [finding.to_json() for finding in doctor.examine(site, known)]
    return {"changed": outcome.changed, "actions": outcome.actions, "checks": checks, **known}
