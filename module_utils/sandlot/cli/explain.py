# SPDX-License-Identifier: GPL-3.0-or-later
# Copyright: the sandlot developers
"""sandlot explain: prints a sandbox as a script of unshare, mount, ip and nsenter.

For util-linux 2.36 and later, iproute2, setpriv, prlimit, tar and bash.
"""

from __future__ import annotations

import argparse
import base64
import os
import resource
import sys
from typing import Any, Dict, Iterator, List

from .. import cgroups, network, store
from ..build import rootplan
from ..errors import SandlotError
from ..init import limits, users
from ..mask import Mask
from ..sandbox import names, record
from ..site import Site
from . import output, recipe
from .recipe import Subject

_INSTRUCTION = 8  # bytes of struct sock_filter
# Names of prlimit(1). RLIMIT_OFILE is another name of RLIMIT_NOFILE.
_RLIMITS = {
    getattr(resource, constant): constant[len("RLIMIT_") :].lower()
    for constant in dir(resource)
    if constant.startswith("RLIMIT_") and constant != "RLIMIT_OFILE"
}
_USAGE = """\
#!/bin/bash
# Sandbox {name} of this host as commands, by "sandlot explain {name}".
#
# As root: bash THIS_FILE DIRECTORY     an empty one, somewhere all may enter, as below /tmp
#
# It runs until the workload ends or it is told to (control-C), then takes everything down but the
# files in DIRECTORY.
#
# What it does differently:
"""


def run(site: Site, options: argparse.Namespace) -> int:
    subject = look(site, names.check(site, options.name), show_env=options.show_env)
    if options.format == "json":
        steps = [{"title": s.title, "commands": s.commands} for s in recipe.sections(subject)]
        data = {"name": subject.name, "differences": list(differences(subject)), "steps": steps}
        output.print_json(data)
    else:
        sys.stdout.write(script(subject))
    return 0


def look(site: Site, name: str, *, show_env: bool = False) -> Subject:
    """Read everything for the script, which itself reads no file of sandlot."""
    known = record.load(site, name)
    launch = store.read(site.sandbox(name).launch)
    if known is None or launch is None:
        raise SandlotError(f"{name} has not been deployed completely", hint="deploy it again")
    # The script reads the values of secret variables from where they are.
    plain = {key: text for key, text in known.spec.env if isinstance(text, str)}
    hidden = {} if show_env else plain
    launch["env"].update(Mask(site).value(name, hidden))
    rlimits = limits.complete(launch["rlimits"])
    uid, gid, groups, login = _user(launch)
    observed = cgroups.observe(site, [])
    login = {name: text for name, text in login.items() if name in users.login_names(launch)}
    return Subject(
        name=name,
        launch={**launch, "env": {**launch["env"], **login}},
        root=rootplan.plan(launch, cgroups.shown(observed.layout), site.lxcfs),
        interfaces=known.interfaces,
        networks=network.load_for(site, {entry.network for entry in known.interfaces}),
        cgroups=recipe.cgroup_files(site, name, known.spec, observed),
        published=tuple(str(port) for port in known.spec.published_ports),
        rates=str(network.Rates(known.spec.ingress_rate, known.spec.egress_rate)),
        rlimits={_RLIMITS[number]: pair for number, pair in rlimits.items()},
        uid=uid,
        gid=gid,
        groups=tuple(groups),
        masked=bool(hidden),
    )


def _user(launch: Dict[str, Any]) -> tuple[int, int, List[int], Dict[str, str]]:
    """Look up the user in the image only, as a sandbox can change its own passwd."""
    layers = [*rootplan.lower_paths(launch), *(["/"] if launch.get("host_root") else [])]
    known = (layer for layer in layers if os.path.lexists(f"{layer}/etc/passwd"))
    root = os.open(next(known, layers[-1]), os.O_PATH | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        return users.resolve(root, launch["user"])
    finally:
        os.close(root)


def differences(subject: Subject) -> Iterator[str]:
    program = subject.launch["seccomp"]
    if program:
        count = len(base64.b64decode(program)) // _INSTRUCTION
        yield f"no seccomp filter ({count} instructions): no command loads one"
    yield "no session keyring of its own, and its processes can be dumped"
    yield (
        "mounts are made by path inside, following links of the image; sandlot attaches "
        "detached mounts by descriptor and refuses links"
    )
    yield (
        "before util-linux 2.39 the image and volumes are copied with shifted owners, not "
        "id-mapped: what it writes to a volume is then not kept"
    )
    yield (
        "process 1 is the workload: no init that restarts it, forwards signals, reaps orphans, "
        "bounds its log and serves exec"
    )
    yield "it starts with an empty layer in DIRECTORY, not with the files the sandbox has written"
    if subject.masked:
        yield f"it does not run, without the values of env: {recipe.show_env(subject)} prints them"
    left_out = [n for n in subject.launch.get("secret_env", ()) if n not in subject.secrets]
    if left_out:
        yield f"secret variables with names that no shell takes are left out: {len(left_out)}"
    if subject.interfaces:
        yield "packet filter and NAT are the host's: nft list ruleset"
    if subject.joined:
        yield f"it joins a network namespace that has to be there: {subject.joined['mode']}"
    if subject.published:
        yield f"ports are not published: {' '.join(subject.published)}"
    if subject.rates:
        yield f"bandwidth is not limited: {subject.rates}"
    if any(float(seconds) % 1 for seconds in (subject.launch["time_offset"] or {}).values()):
        yield "offsets of its clocks are whole seconds"


def script(subject: Subject) -> str:
    notes = "".join(f"# - {text}\n" for text in differences(subject))
    parts = [_USAGE.format(name=subject.name), notes, "set -euo pipefail\n"]
    body: List[str] = []
    for section in recipe.sections(subject):
        text = "".join(f"{command}\n" for command in section.commands)
        if section.function:
            parts.append(f"\n# {section.title}\n{section.function}() {{\n{text}}}\n")
        else:
            body.append(f"\n# {section.title}\n{text}")
    parts.append("\nsandbox() {\n" + "".join(body) + "}\n")
    parts.append(recipe.CALL)
    return "".join(parts)
