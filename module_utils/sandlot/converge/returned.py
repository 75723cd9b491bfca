# SPDX-License-Identifier: GPL-3.0-or-later
# Copyright: the sandlot developers
"""The values that modules return."""

from __future__ import annotations

from typing import Any, Dict

from ..site import Site
from . import summary
from .report import Result

Json = Dict[str, Any]


def return_values(result: Result) -> Json:
    """The values that every module returns; ``msg`` is that of a failure."""
    if result.uploads_needed:
        return {"changed": False, "uploads_needed": list(result.uploads_needed)}
    kinds = {"images": result.images, "networks": result.networks, "volumes": result.volumes}
    return {
        "changed": result.changed,
        "actions": result.actions,
        **{kind: items for kind, items in kinds.items() if items is not None},
        **({} if result.images is None else {"done": result.images_made}),
        "diff": result.diff,
        "warnings": result.warnings,
        "failed": result.failed,
        **(_failure(result) if result.failed else {}),
    }


def closing(site: Site, result: Result, address: str) -> Json:
    """The last words of a play; others reach the host at ``address``."""
    return {
        "summary": summary.summary(site, result, address),
        "next_command": summary.next_command(result),
    }


def _failure(result: Result) -> Json:
    facts = {name: result.sandboxes.get(name, {}) for name in result.failed}
    crashes = {name: each["crash"] for name, each in facts.items() if "crash" in each}
    return {"msg": summary.failure(result), **({"crashes": crashes} if crashes else {})}
