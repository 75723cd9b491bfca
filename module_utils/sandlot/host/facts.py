# SPDX-License-Identifier: GPL-3.0-or-later
# Copyright: the sandlot developers
"""Facts of a host: its abilities, missing packages, and problems with their remedies."""

from __future__ import annotations

import os
import shutil
from dataclasses import asdict
from typing import Any, Dict, Iterable, Sequence

from .. import cgroups, sizes
from ..images import SOURCES, busybox
from ..kernel import mountinfo, program
from ..kernel.hierarchies import READ
from ..launcher.command import interpreter
from ..sandbox import lxcfs
from ..site import Site
from ..spec.text import choice
from . import probe, services

Json = Dict[str, Any]

# importlib.metadata would take three times as long as the rest.
_PROBE = """\
import importlib.util, os, sys
found = importlib.util.find_spec("pyroute2")
names = os.listdir(os.path.dirname(os.path.dirname(found.origin))) if found and found.origin else []
own = [name for name in names if name.startswith("pyroute2-") and name.endswith("-info")]
version = own[0].split("-")[1].replace(".dist", "").replace(".egg", "") if own else "-"
print(sys.version.split()[0], found is not None, version)
"""


def gather(site: Site, image_sources: Iterable[str] = ()) -> Json:
    """Facts of the host, with ``missing_packages`` (Debian's names) and ``problems``.

    Packages for the given sources of images count as well.
    """
    layout = cgroups.detect()
    controllers = {name for hierarchy in layout.hierarchies for name in hierarchy.controllers}
    versions = {
        2 if hierarchy.unified else 1 for hierarchy in layout.hierarchies if hierarchy.controllers
    }
    facts: Json = {
        "kernel": os.uname().release,
        "machine": os.uname().machine,
        "python": python(),
        "cgroups": {
            "versions": sorted(versions),
            "controllers": sorted(controllers),
            "shown": sorted(controllers & READ) if probe.shows_cgroups(layout) else [],
        },
        "lxcfs": mountinfo.server_of(site.lxcfs) == lxcfs.KIND,
        "idmapped_mounts": probe.maps_ids(site.state),
        "overlay": probe.overlay(),
        "sizes": asdict(sizes.choose(site.state)),
        "user_namespaces": probe.user_namespaces(),
        "service_manager": services.manager(site),
        "nft": _nft(),
    }
    missing = missing_packages(image_sources, facts["python"])
    return {**facts, "missing_packages": missing, "problems": _problems(facts)}


def missing_packages(image_sources: Iterable[str], of_python: Json) -> list[str]:
    """Packages that a host lacks, also for these sources of images; ``of_python``: of python()."""
    missing = [] if _nft() else ["nftables"]
    if not of_python["pyroute2"]:
        missing.append("python3-pyroute2")
    missing += busybox.packages()
    for source in sorted(set(image_sources)):
        missing += SOURCES[source].packages()
    return missing


def _nft() -> str | None:
    return shutil.which("nft", path=program.SYSTEM_PATH)


def python() -> Json:
    """Facts of the Python that runs sandboxes; "" for an unknown version of pyroute2."""
    executable = interpreter()
    version, present, pyroute2 = program.check([executable, "-I", "-c", _PROBE]).split()
    return {
        "executable": executable,
        "version": version,
        "pyroute2": present == "True",
        "pyroute2_version": pyroute2.strip("-"),
    }


def known_sources(option: str, names: Sequence[str]) -> list[str]:
    return [choice(f"{option}[{n}]", name, choices=SOURCES) for n, name in enumerate(names)]


def _problems(facts: Json) -> list[Json]:
    controllers = facts["cgroups"]["controllers"]
    lacking = [name for name in ("cpu", "memory", "pids") if name not in controllers]
    rows = [
        (facts["user_namespaces"] == 0, *probe.NO_USER_NAMESPACES),
        (not facts["overlay"], *probe.NO_OVERLAY),
        (
            bool(lacking),
            f"the cgroup controllers {', '.join(lacking)} are missing",
            "mount them, or boot with cgroup_enable=memory if that one is disabled",
        ),
        (
            not facts["idmapped_mounts"],
            "the file system of the state directory can't map ids on a mount",
            "nothing has to be done: each sandbox gets a copy of its image, which takes space",
        ),
        (
            not facts["sizes"]["name"],
            f"sizes of volumes and layers are refused: {facts['sizes']['detail']}",
            facts["sizes"]["remedy"],
        ),
    ]
    return [{"what": what, "remedy": remedy} for wrong, what, remedy in rows if wrong]
