# SPDX-License-Identifier: GPL-3.0-or-later
# Copyright: the sandlot developers
"""Files of kept layers that hide what other images changed, for all sandboxes of a run."""

from __future__ import annotations

import os
from typing import Any, Dict, List, Mapping, Tuple

from ..sandbox.hidden_files import Comparison, Hidden, Trees
from ..sandbox.launchfile import is_shifted
from ..sandbox.record import Record
from ..site import Site
from .decide import Decision, Observed

# Paths in a warning.
_FEW = 5


def hidden_files(
    site: Site, decisions: Mapping[str, Decision], observed: Mapping[str, Observed]
) -> Dict[str, Hidden]:
    """The sandboxes that keep their layer above another image, where both images have trees."""
    comparisons: Dict[Tuple[Trees, Trees], Comparison] = {}
    hiding = {}
    for name, decision in decisions.items():
        # A killed run may have written the new record.
        old, new = decision.way_back(observed[name]) or observed[name].record, decision.record
        if decision.rebuild or old is None or old.image.digest == new.image.digest:
            continue
        if old.image.host or new.image.host or new.image.tmpfs:
            continue
        key = _trees(old), _trees(new)
        comparison = comparisons.setdefault(key, Comparison(*key))
        hidden = comparison.hidden(site.sandbox(name).upper, new.ids, _mounted(new))
        if hidden is not None:
            hiding[name] = hidden
    return hiding


def _mounted(record: Record) -> List[str]:
    spec = record.spec
    places = [mount.target for mount in (*spec.volumes, *spec.mounts)]
    return [*places, *(entry.path for entry in spec.tmpfs), *record.volumes]


def _trees(record: Record) -> Trees:
    """The trees as they were built; a copy with moved owners may not be there yet."""
    layers = record.image.layers
    if is_shifted(record.image):
        layers = tuple(f"{os.path.dirname(path)}/root" for path in layers)
    return Trees(layers)


def facts(hidden: Hidden) -> Dict[str, Any]:
    return {
        "hidden_files": hidden.paths,
        "hidden_files_count": hidden.count,
        "hidden_files_complete": hidden.complete,
    }


def warning(name: str, image: str, hidden: Hidden) -> str:
    few = hidden.paths[:_FEW]
    more = f" and {hidden.count - len(few)} more" if hidden.count > len(few) else ""
    files = "a file of its layer hides" if hidden.count == 1 else "files of its layer hide"
    return (
        f"{name}: {files} what image {image} changed: {', '.join(few)}{more}; "
        "docs/rebuild.md tells what to do about it"
    )
