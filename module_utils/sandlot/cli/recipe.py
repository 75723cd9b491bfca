# SPDX-License-Identifier: GPL-3.0-or-later
# Copyright: the sandlot developers
"""Commands for a sandbox's namespaces, network, cgroup, root and process."""

from __future__ import annotations

import re
from dataclasses import dataclass
from shlex import quote
from typing import Any, Dict, Iterator, List, Mapping, NamedTuple, Sequence

from .. import profiles
from ..build.operations import RootOperation
from ..cgroups import CgroupState
from ..cgroups.knobs import VERSION_2
from ..cgroups.layout import Hierarchy
from ..cgroups.state import wanted
from ..network import IPV6_BY_US, Interface, Network, default_routes
from ..site import Site
from ..spec import Spec, stored
from ..spec.confinement import CAPABILITIES
from ..spec.netmode import HOST

CALL = """
# A mount namespace of its own: whatever happens, no mount is left behind.
export -f sandbox enter prepare_root
exec unshare --mount --propagation private \\
  bash -euo pipefail -c 'sandbox "$1"' bash "${1:?DIRECTORY}"
"""
_CLEANUP = """\
make_cgroup() {
  [ -d "$1" ] || { mkdir "$1"; made=("$1" "${made[@]}"); }
}
cleanup() {
  trap - EXIT
  [ -z "${pid:-}" ] || kill -KILL "$pid" 2>/dev/null || :
  [ -z "${holder:-}" ] || kill -KILL "$holder" 2>/dev/null || :
  wait
  for link in "${links[@]}"; do ip link delete "$link" 2>/dev/null || :; done
  for directory in "${made[@]}"; do rmdir "$directory"; done
  rm -f "$scratch/to" "$scratch/from"
}
trap cleanup EXIT
trap 'exit 130' INT
trap 'exit 143' TERM
"""
_RELEASE = """\
exec {to}>&- {from}<&-
wait "$holder"
holder=
"""
_START = """\
export scratch
enter <"$scratch/to" >"$scratch/from" &
init=$!
exec {to}>"$scratch/to" {from}<"$scratch/from"
read -r -u "$from"
pid=$(<"/proc/$init/task/$init/children")
pid=${pid% }
nsenter --target "$pid" --mount --wd pivot_root . .
# the old root lies on the new one now, and is what a newcomer finds at /
nsenter --target "$pid" --mount umount --lazy --no-canonicalize /
echo go >&"$to"
"""
_WAIT = """\
code=0
cat <&"$from" &
output=$!
wait "$init" || code=$?
wait "$output"
pid=
exit "$code"
"""
_NETNS = 'nsenter --net="$scratch/ns/net"'
_IPV6 = "/proc/sys/net/ipv6/conf/{}/disable_ipv6"
# The shell waits until the root is in place, then exec's the workload.
_WAITING = 'echo ready; read -r go; {secrets}cd "$0"; unset PWD OLDPWD; exec "$@" </dev/null 2>&1'
# Secret values come by a pipe, a line each: they are in no argument and no other environment.
_RECEIVED = 'IFS= read -r {0}; {0}=$(printf "%b." "${0}"); export {0}="${{{0}%.}}"; '
_SEND = r"""send() {
  text=$(cat "$1" && echo .)
  text=${text%.}
  text=${text//\\/\\\\}
  printf '%s\n' "${text//$'\n'/\\n}" >&"$to"
}"""
_NAME = re.compile(r"[A-Za-z_][A-Za-z0-9_]*")
_NO_LIMITS = stored.from_json({"name": "none", "pids_limit": -1})


@dataclass(frozen=True)
class Section:
    """A titled list of commands; those of a ``function`` run in another process."""

    title: str
    commands: List[str]
    function: str = ""


class CgroupFiles(NamedTuple):
    """The sandbox's directory in one hierarchy, with the values to write above and in it."""

    parent: str
    directory: str
    above: List[tuple[str, str]]
    inside: List[tuple[str, str]]


@dataclass(frozen=True)
class Subject:
    """The data of a sandbox for its script."""

    name: str
    launch: Mapping[str, Any]
    root: Sequence[RootOperation]
    interfaces: tuple[Interface, ...]
    networks: Mapping[str, Network]
    cgroups: List[CgroupFiles]
    published: tuple[str, ...]
    rates: str
    rlimits: Mapping[str, tuple[int, int]]
    uid: int
    gid: int
    groups: tuple[int, ...]
    masked: bool = False
    """Whether digests stand for the values of env."""

    @property
    def kinds(self) -> List[str]:
        """Namespaces that are pinned."""
        net = [] if self.joined else ["net"]
        return ["user", *net, "uts", "ipc", *(["time"] if self.launch["time_offset"] else [])]

    @property
    def secrets(self) -> Dict[str, str]:
        """The paths of the values of secret variables that a shell can set, by name."""
        paths = self.launch.get("secret_env", {})
        return {name: path for name, path in paths.items() if _NAME.fullmatch(name)}

    @property
    def joined(self) -> Mapping[str, str] | None:
        """The foreign network namespace that the sandbox joins; None when it has its own."""
        netns: Mapping[str, str] | None = self.launch.get("netns")
        return netns

    @property
    def join(self) -> str:
        """The option of nsenter(1) that joins that namespace; "" without one."""
        if self.joined is None or self.joined["mode"] == HOST:
            return ""
        return f"--net={quote(self.joined['path'])}"


def sections(subject: Subject) -> List[Section]:
    root = [line for operation in subject.root for line in operation.outside()]
    return [
        Section("Where things go", list(_scratch(subject))),
        Section("Taken down at the end: all but the files in DIRECTORY", _CLEANUP.splitlines()),
        Section(
            "Namespaces, made under the sandbox's own uid so that limits per user are its own",
            list(_namespaces(subject)),
        ),
        Section("Pins, host name and settings of the namespaces", list(_pins(subject))),
        *(
            Section(
                f"Interface {entry.ifname} on network {entry.network}",
                [*_plug(subject, entry), *_address(subject, entry)],
            )
            for entry in subject.interfaces
        ),
        Section("The pins hold the namespaces now", _RELEASE.splitlines()),
        Section("Cgroup and limits", list(_cgroups(subject))),
        Section("Runs in the cgroup: joins the namespaces", list(_enter(subject)), "enter"),
        Section(
            "Runs inside: mounts, then gives up all rights and waits for its root",
            list(_inside(subject)),
            "prepare_root",
        ),
        Section(
            "Root: the sandbox's layer over the shared image, and files that the host makes",
            ['mount -t tmpfs -o mode=755 none "$scratch/root"', *root],
        ),
        Section("Process 1, whose old root is taken away from outside", list(_start(subject))),
        Section("Its output, until it ends", _WAIT.splitlines()),
    ]


def _start(subject: Subject) -> Iterator[str]:
    if subject.secrets:
        yield from _SEND.splitlines()
    yield from _START.splitlines()
    for path in subject.secrets.values():
        yield f"send {quote(path)}"
    yield 'echo "running as process $pid: nsenter --target $pid --all" >&2'


def show_env(subject: Subject) -> str:
    return f"sandlot explain --show-env {subject.name}"


def _scratch(subject: Subject) -> Iterator[str]:
    if subject.masked:
        yield f"echo {quote(f'the values of env are hidden; {show_env(subject)} prints them')} >&2"
        yield "exit 1"
    yield "umask 022"
    yield 'scratch=$(realpath "$1")'
    yield 'chmod 711 "$scratch"'
    yield "made=() links=()"
    for entry in subject.interfaces:
        yield f'if ip link show up dev {entry.link} 2>&1 | grep -q ",UP"; then'
        text = (
            f"{subject.name} holds {entry.address}, so first: "
            f"sandlot stop {subject.name}; ip link set dev {entry.link} down"
        )
        yield f"  echo {quote(text)} >&2"
        yield "  exit 1"
        yield "fi"
    yield 'mkdir "$scratch/ns" "$scratch/root"'
    yield 'mkfifo "$scratch/to" "$scratch/from"'


def _namespaces(subject: Subject) -> Iterator[str]:
    ids = subject.launch["ids"]
    kinds = " ".join(f"--{kind}" for kind in subject.kinds)
    offsets = subject.launch["time_offset"] or {}
    clocks = "".join(f" --{clock}={int(seconds // 1)}" for clock, seconds in offsets.items())
    yield f"setpriv --reuid={ids['uid']} --regid={ids['gid']} --clear-groups \\"
    yield "  --inh-caps=-all,+sys_admin --ambient-caps=-all,+sys_admin \\"
    yield f'  unshare {kinds}{clocks} cat <"$scratch/to" >"$scratch/from" &'
    yield "holder=$!"
    yield 'exec {to}>"$scratch/to" {from}<"$scratch/from"'
    yield "# cat runs once they are made, and keeps them until they are pinned"
    yield 'echo made >&"$to"'
    yield 'read -r -u "$from"'
    for kind in ("uid", "gid"):
        yield f'echo "0 {ids[kind]} {ids["size"]}" >"/proc/$holder/{kind}_map"'


def _pins(subject: Subject) -> Iterator[str]:
    for kind in subject.kinds:
        source = "time_for_children" if kind == "time" else kind
        yield f': >"$scratch/ns/{kind}"'
        yield f'mount --bind "/proc/$holder/ns/{source}" "$scratch/ns/{kind}"'
    yield f'nsenter --uts="$scratch/ns/uts" hostname {quote(subject.launch["hostname"])}'
    if not subject.joined:
        yield f"{_NETNS} ip link set dev lo up"
    for key, value in subject.launch["sysctls"].items():
        path = "/proc/sys/" + key.replace(".", "/")
        yield _write_inside(subject, path, str(value))


def _write_inside(subject: Subject, path: str, value: str) -> str:
    """Commands that write sysctls inside, as /proc/sys is about the namespaces of its opener."""
    kinds = [kind for kind in subject.kinds if kind in ("net", "ipc")]
    pins = " ".join(f'--{kind}="$scratch/ns/{kind}"' for kind in kinds)
    write = f'sh -c \'echo "$2" >"$1"\' sh {quote(path)} {quote(value)}'
    if path.startswith("/proc/sys/net/"):
        return f"nsenter {pins} {write}"
    ids = subject.launch["ids"]
    owner = f"setpriv --reuid={ids['uid']} --regid={ids['gid']} --clear-groups"
    return f"nsenter {pins} {write} 2>/dev/null || nsenter {pins} {owner} {write}"


def _plug(subject: Subject, entry: Interface) -> Iterator[str]:
    network = subject.networks[entry.network]
    yield f"if [ ! -e /sys/class/net/{network.bridge} ]; then"
    yield f"  ip link add name {network.bridge} type bridge stp_state 0 mcast_snooping 0"
    yield f"  links+=({network.bridge})"
    for address in network.bridge_addresses:
        yield f"  ip address add {address} dev {network.bridge}{_nodad(address)}"
    yield f"  ip link set dev {network.bridge} up"
    yield "fi"
    # Another name, as the sandbox's own is in use while it is deployed.
    link = entry.link.replace("sb-", "sx-", 1)
    mtu = f" mtu {network.mtu}" if network.mtu else ""
    queues = "numtxqueues 1 numrxqueues 1"
    yield f"ip link add name {link}{mtu} {queues} type veth \\"
    yield f'  peer name {entry.ifname} address {entry.mac}{mtu} {queues} netns "$holder"'
    yield f"links+=({link})"
    yield f"[ ! -e {_IPV6.format(link)} ] || echo 1 >{_IPV6.format(link)}"
    yield f"ip link set dev {link} master {network.bridge} up"
    isolated, hairpin = ("on", "off") if network.isolated else ("off", "on")
    modes = f"isolated {isolated} hairpin {hairpin} learning off"
    yield f"ip link set dev {link} type bridge_slave {modes}"
    yield f"bridge fdb append {entry.mac} dev {link} master static"


def _address(subject: Subject, entry: Interface) -> Iterator[str]:
    path = _IPV6.format(entry.ifname)
    yield f"{_NETNS} sh -c '[ ! -e {path} ] || echo 1 >{path}'"
    if entry.ipv6:
        for key, value in IPV6_BY_US.items():
            yield _write_inside(subject, f"/proc/sys/net/{key.format(entry.ifname)}", value)
    for address in entry.inner_addresses:
        yield f"{_NETNS} ip address add {address} dev {entry.ifname}{_nodad(address)}"
    yield f"{_NETNS} ip link set dev {entry.ifname} up"
    for home, via in default_routes(subject.networks, subject.interfaces):
        if home == entry:
            route = f"default via {via} dev {entry.ifname} proto static"
            yield f"{_NETNS} ip -{6 if ':' in via else 4} route add {route}"


def _nodad(address: str) -> str:
    return " nodad" if ":" in address else ""


def cgroup_files(site: Site, name: str, spec: Spec, state: CgroupState) -> List[CgroupFiles]:
    hierarchies = []
    for hierarchy in state.layout.hierarchies:
        parent = hierarchy.parent(site)
        above = list(_above(hierarchy, parent, state))
        # Without a cpuset of its own, no process may enter a cgroup of version 1.
        inside = [
            (knob.file, knob.spelled(value))
            for home, knob, value in wanted(spec, state)
            if home == hierarchy
            and (value != knob.wanted(_NO_LIMITS, state.host) or "cpuset.cpus" in dict(above))
        ]
        # Version 1 takes no limit of memory and swap below that of memory.
        inside.sort(key=lambda item: item[0].startswith("memory.memsw"))
        hierarchies.append(CgroupFiles(parent, hierarchy.sandbox(site, name), above, inside))
    return hierarchies


def _above(hierarchy: Hierarchy, parent: str, state: CgroupState) -> Iterator[tuple[str, str]]:
    if hierarchy.unified:
        ours = {knob.controller for knob in VERSION_2} & hierarchy.controllers
        words = " ".join(f"+{controller}" for controller in sorted(ours))
        if words:
            yield f"{hierarchy.directory}/cgroup.subtree_control", words
            yield f"{parent}/cgroup.subtree_control", words
    elif "cpuset" in hierarchy.controllers:
        for home, knob, value in wanted(_NO_LIMITS, state):
            if home == hierarchy:
                yield f"{parent}/{knob.file}", value


def _cgroups(subject: Subject) -> Iterator[str]:
    for cgroup in subject.cgroups:
        yield f"make_cgroup {quote(cgroup.parent)}"
        for path, value in cgroup.above:
            yield f"echo {quote(value)} >{quote(path)}"
        yield f"make_cgroup {quote(cgroup.directory)}"
        for file, value in cgroup.inside:
            yield f"echo {quote(value)} >{quote(f'{cgroup.directory}/{file}')}"


def _enter(subject: Subject) -> Iterator[str]:
    for directory in subject.launch["cgroups"]:
        yield f'echo "$BASHPID" >{quote(f"{directory}/cgroup.procs")}'
    yield 'cd "$scratch/root/merged"'
    rlimits = [
        f"--{name}=" + ":".join("unlimited" if value < 0 else str(value) for value in pair)
        for name, pair in subject.rlimits.items()
    ]
    pins = " ".join(f'--{kind}="$scratch/ns/{kind}"' for kind in subject.kinds)
    yield f"exec prlimit {' '.join(rlimits)} setsid \\"
    yield f"  nsenter {' '.join(filter(None, (subject.join, pins)))} \\"
    yield "  unshare --mount --pid --cgroup --fork --kill-child \\"
    yield "  bash -euo pipefail -c prepare_root"


def _inside(subject: Subject) -> Iterator[str]:
    yield "for fd in /proc/self/fd/*; do"
    yield '  [ "${fd##*/}" -le 2 ] || eval "exec ${fd##*/}>&-"'
    yield "done"
    yield "# the inherited mounts are locked; a copy of this one can become the root"
    yield "mount --rbind . ."
    yield "cd ../merged"
    for operation in subject.root:
        yield from operation.command()
    launch = subject.launch
    granted = _capabilities(launch["capabilities"])
    ambient = _capabilities(launch.get("ambient", launch["capabilities"]) if subject.uid else 0)
    groups = ",".join(map(str, subject.groups))
    secrets = "".join(_RECEIVED.format(name) for name in subject.secrets)
    env = " ".join(quote(f"{key}={value}") for key, value in launch["env"].items())
    yield f"# security_profile: {launch.get(profiles.OPTION, profiles.STRICT)}"
    yield f"exec setpriv --reuid={subject.uid} --regid={subject.gid} --groups={groups} \\"
    yield f"  --bounding-set={granted} --inh-caps={ambient} --ambient-caps={ambient} \\"
    if launch.get("no_new_privileges", True):
        yield "  --no-new-privs \\"
    yield f"  env --ignore-environment --default-signal {env} \\"
    yield f"  sh -euc {quote(_WAITING.format(secrets=secrets))} {quote(launch['cwd'])} \\"
    yield f"  {' '.join(quote(word) for word in launch['argv'])}"


def _capabilities(mask: int) -> str:
    kept = [f"+{name.lower()}" for bit, name in enumerate(CAPABILITIES) if mask >> bit & 1]
    return ",".join(["-all", *kept])
