# SPDX-License-Identifier: GPL-3.0-or-later
# Copyright: the sandlot developers
"""Commands for the root of a sandbox and for its process."""

from __future__ import annotations

from shlex import quote
from typing import Any, Iterator, List, Mapping

from ..build import lower_layers, rootfs
from ..security.capabilities import NAMES
from . import recipe_host
from .recipe import Section, Subject

CALL = """
# A mount namespace of its own: whatever happens, no mount is left behind.
export -f sandbox enter prepare_root
exec unshare --mount --propagation private \\
  bash -euo pipefail -c 'sandbox "$1"' bash "${1:?DIRECTORY}"
"""
_SAFE = "nosuid,nodev,noexec"
# The shell stays until the root is in place; then the workload takes its place.
_WAITING = 'echo ready; read -r go; cd "$0"; unset PWD OLDPWD; exec "$@" </dev/null 2>&1'


def root_and_start(subject: Subject) -> List[Section]:
    return [
        Section("Runs in the cgroup: joins the namespaces", list(_enter(subject)), "enter"),
        Section(
            "Runs inside: mounts, then gives up all rights and waits for its root",
            list(_inside(subject)),
            "prepare_root",
        ),
        Section("Root: the sandbox's layer over the shared image", list(_root(subject))),
        Section("Files that the host makes", list(_files(subject))),
        Section("Process 1, whose old root is taken away from outside", list(_start())),
        Section("Its output, until it ends", list(_wait())),
    ]


def _root(subject: Subject) -> Iterator[str]:
    launch = subject.launch
    uid, gid = launch["ids"]["uid"], launch["ids"]["gid"]
    yield from _layer(launch)
    yield f'chown {uid}:{gid} "$scratch/layer/upper"'
    yield 'mount -t tmpfs -o mode=755 none "$scratch/root"'
    yield 'mkdir "$scratch/root/merged" "$scratch/root/files"'
    directories = []
    for number, lower in enumerate(lower_layers.paths(launch)):
        yield from _lower(launch, quote(lower), number)
        directories.append(f"$scratch/root/lower{number}")
    if launch.get("host_root"):
        yield from recipe_host.veiled(launch)
        directories.append("$scratch/root/veiled")
    layers = (
        f"lowerdir={':'.join(directories)},"
        "upperdir=$scratch/layer/upper,workdir=$scratch/layer/work"
    )
    yield "mount -t overlay -o nosuid,nodev,index=off,metacopy=off \\"
    yield f'  -o "{layers}" overlay "$scratch/root/merged"'
    if subject.joined:
        yield "# the sandbox's own root may not mount it for a network that is another's"
        yield 'mkdir "$scratch/root/sys"'
        enter = f"nsenter {subject.join} " if subject.join else ""
        yield f'{enter}mount -t sysfs -o ro,{_SAFE} none "$scratch/root/sys"'


def _layer(launch: Mapping[str, Any]) -> Iterator[str]:
    options, mode = launch.get("tmpfs_root", ""), 0o755
    if options:
        mode = lower_layers.tmpfs_mode(options)
        yield f'mount -t tmpfs -o {options} none "$scratch/layer"'
        yield 'mkdir "$scratch/layer/upper" "$scratch/layer/work"'
    yield f'chmod {mode:o} "$scratch/layer/upper"'


def _lower(launch: Mapping[str, Any], lower: str, number: int) -> Iterator[str]:
    """One layer of the image, where the sandbox's ids own what host root owns."""
    target = f"$scratch/root/lower{number}"
    yield f'mkdir "{target}"'
    if launch["idmap"]:
        yield from recipe_host.asks_for_idmap()
        yield f'  mount --bind -o X-mount.idmap="$scratch/ns/user" {lower} "{target}"'
        yield "else"
        yield from _shifted(launch, lower, f"$scratch/images/{number}")
        yield f'  mount --bind "$scratch/images/{number}" "{target}"'
        yield "fi"
    else:
        yield f'mount --bind {lower} "{target}"'
    yield f'mount -o remount,bind,ro,nosuid,nodev "{target}"'


def _shifted(launch: Mapping[str, Any], lower: str, image: str) -> Iterator[str]:
    """A copy in which the sandbox's ids own all, with overlayfs's marks for what is removed.

    By host root, as a user namespace can make none of these marks; its directory is closed, for
    the copy holds setuid programs.
    """
    xattrs = "--xattrs --xattrs-include='trusted.overlay.*'"
    yield '  [ -d "$scratch/images" ] || mkdir -m 700 "$scratch/images"'
    yield f'  mkdir "{image}"'
    for file, letter, kind in (("owners", "U", "uid"), ("groups", "G", "gid")):
        yield f"  find {lower} -printf '+%{letter}\\n' | sort -u | while read -r id; do"
        yield f'    echo "$id shifted:$((id + {launch["ids"][kind]}))"'
        yield f'  done >"$scratch/images/{file}"'
    yield f"  tar --create --file=- --directory={lower} --exclude='./dev/*' {xattrs} \\"
    yield '    --owner-map="$scratch/images/owners" --group-map="$scratch/images/groups" . |'
    yield f'    tar --extract --file=- --directory="{image}" {xattrs} \\'
    yield "      --preserve-permissions --numeric-owner"


def _files(subject: Subject) -> Iterator[str]:
    for number, content in enumerate(subject.files.values()):
        target = f'"$scratch/root/files/{number}"'
        yield f"printf %s {quote(content)} >{target} && chmod 644 {target}"


def _enter(subject: Subject) -> Iterator[str]:
    for directory in subject.launch["cgroups"]:
        yield f'echo "$BASHPID" >{quote(f"{directory}/cgroup.procs")}'
    yield 'cd "$scratch/root/merged"'
    rlimits = " ".join(f"--{name}={_pair(pair)}" for name, pair in subject.rlimits.items())
    pins = " ".join(f'--{kind}="$scratch/ns/{kind}"' for kind in subject.kinds)
    yield f"exec prlimit {rlimits} setsid \\"
    yield f"  nsenter {' '.join(filter(None, (subject.join, pins)))} \\"
    yield "  unshare --mount --pid --cgroup --fork --kill-child \\"
    yield "  bash -euo pipefail -c prepare_root"


def _pair(pair: tuple[int, int]) -> str:
    return ":".join("unlimited" if value < 0 else str(value) for value in pair)


def _inside(subject: Subject) -> Iterator[str]:
    launch = subject.launch
    yield "umask 022"
    yield "for fd in /proc/self/fd/*; do"
    yield '  [ "${fd##*/}" -le 2 ] || eval "exec ${fd##*/}>&-"'
    yield "done"
    yield "# the inherited mounts are locked; a copy of this one can become the root"
    yield "mount --rbind . ."
    yield "cd ../merged"
    yield f"mkdir -p {' '.join(_directories(subject))}"
    yield f"mount -t proc -o {_SAFE} none ./proc"
    if subject.joined:
        yield "mount --bind ../sys ./sys"
    else:
        yield f"mount -t sysfs -o ro,{_SAFE} none ./sys"
    yield from _dev()
    for path, options in {"/tmp": "", **launch["tmpfs"]}.items():
        yield f"mount -t tmpfs -o {quote(_tmpfs(options))} none {_below(path)}"
    yield from _protected(launch["readonly"], launch["masked"])
    for number, path in enumerate(subject.files):
        yield f"rm -f {_below(path)} && touch {_below(path)}"
        yield f"mount --bind ../files/{number} {_below(path)}"
        yield f"mount -o remount,bind,ro,{_SAFE} {_below(path)}"
    if launch["read_only"]:
        yield "mount -o remount,bind,ro,nosuid,nodev ."
    yield from _become(subject)


def _directories(subject: Subject) -> List[str]:
    files = [path.rpartition("/")[0] for path in subject.files]
    wanted = ["/proc", "/sys", "/dev", "/tmp", *subject.launch["tmpfs"], *files]
    wanted.append(subject.launch["cwd"])
    return [_below(path) for path in dict.fromkeys(wanted) if path.strip("/")]


def _below(path: str) -> str:
    return quote("./" + path.strip("/"))


def _dev() -> Iterator[str]:
    yield "mount -t tmpfs -o nosuid,noexec,mode=755,size=64k,nr_inodes=64 none ./dev"
    yield f"for name in {' '.join(rootfs.DEVICES)}; do"
    yield '  touch "./dev/$name" && mount --bind "/dev/$name" "./dev/$name"'
    yield "done"
    for name, target in rootfs.DEV_LINKS.items():
        yield f"ln -s {target} ./dev/{name}"
    yield "mkdir ./dev/pts ./dev/shm ./dev/mqueue"
    options = [f"{key}={value}" if value else key for key, value in rootfs.DEVPTS.items()]
    yield f"mount -t devpts -o nosuid,noexec,{','.join(options)} none ./dev/pts"
    yield f"mount -t tmpfs -o {_SAFE},mode=1777,size=64m none ./dev/shm"
    yield f"mount -t mqueue -o {_SAFE} none ./dev/mqueue"


def _tmpfs(text: str) -> str:
    given = [word for word in text.split(",") if word]
    named = {word.partition("=")[0] for word in given}
    defaults = [f"{key}={value}" for key, value in rootfs.TMPFS.items() if key not in named]
    return ",".join(["nosuid", "nodev", *defaults, *given])


def _protected(readonly: List[str], masked: List[str]) -> Iterator[str]:
    yield f"for path in {' '.join(_below(path) for path in readonly)}; do"
    yield '  [ -e "$path" ] || continue'
    yield '  mount --rbind "$path" "$path"'
    yield f'  mount -o remount,bind,ro,{_SAFE} "$path"'
    yield "done"
    yield f"for path in {' '.join(_below(path) for path in masked)}; do"
    yield '  if [ -d "$path" ]; then'
    yield f'    mount -t tmpfs -o ro,{_SAFE},size=4k,nr_inodes=1,mode=555 none "$path"'
    yield '  elif [ -e "$path" ]; then'
    yield '    mount --bind ./dev/null "$path"'
    yield "  fi"
    yield "done"


def _become(subject: Subject) -> Iterator[str]:
    launch = subject.launch
    kept = [name.lower() for bit, name in enumerate(NAMES) if launch["capabilities"] >> bit & 1]
    granted = ",".join(["-all", *(f"+{name}" for name in kept)])
    ambient = granted if subject.uid else "-all"
    groups = ",".join(map(str, subject.groups))
    yield f"exec setpriv --reuid={subject.uid} --regid={subject.gid} --groups={groups} \\"
    yield f"  --bounding-set={granted} --inh-caps={ambient} --ambient-caps={ambient} \\"
    yield "  --no-new-privs \\"
    yield f"  env --ignore-environment --default-signal {_assignments(launch['env'])} \\"
    yield f"  sh -euc {quote(_WAITING)} {quote(launch['cwd'])} \\"
    yield f"  {' '.join(quote(word) for word in launch['argv'])}"


def _assignments(env: Mapping[str, str]) -> str:
    return " ".join(quote(f"{key}={value}") for key, value in env.items())


def _start() -> Iterator[str]:
    yield "export scratch"
    yield 'enter <"$scratch/to" >"$scratch/from" &'
    yield "init=$!"
    yield 'exec {to}>"$scratch/to" {from}<"$scratch/from"'
    yield 'read -r -u "$from"'
    yield 'pid=$(<"/proc/$init/task/$init/children")'
    yield "pid=${pid% }"
    yield 'nsenter --target "$pid" --mount --wd pivot_root . .'
    yield "# the old root lies on the new one now, and is what a newcomer finds at /"
    yield 'nsenter --target "$pid" --mount umount --lazy --no-canonicalize /'
    yield 'echo go >&"$to"'
    yield 'echo "running as process $pid: nsenter --target $pid --all" >&2'


def _wait() -> Iterator[str]:
    yield "code=0"
    yield 'cat <&"$from" &'
    yield "output=$!"
    yield 'wait "$init" || code=$?'
    yield 'wait "$output"'
    yield "pid="
    yield 'exit "$code"'
