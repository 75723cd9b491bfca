# SPDX-License-Identifier: GPL-3.0-or-later
# Copyright: the sandlot developers
"""Tells what would help a workload that ended: by its spec, its status, its files, its last words.

The words are those of the C library and of common programs. A remedy is given only where a fact
agrees: a capability that is not granted, a limit that was reached, a file that is missing.
"""

from __future__ import annotations

import posixpath
import re
from typing import Callable, List, Mapping, Sequence, Tuple

from .. import profiles
from ..errors import SandlotError
from ..idmap import SIZE
from ..init.child import NOT_EXECUTABLE, NOT_FOUND
from ..kernel.signals import signal
from ..site import Site
from ..spec.quantities import readable
from . import programs, remedies_network, runtime, surroundings
from .crash_case import Case, Facts, last_path
from .process import capabilities, process
from .record import Record
from .root_view import HEAD, Unknown

# Programs that want to be PID 1, or to run containers, by the name that starts them.
_INITS = frozenset(("systemd", "init", "openrc-init", "runit-init", "s6-svscan"))
_MANAGERS = frozenset(("dockerd", "containerd", "podman", "crio", "snapd", "lxd", "kubelet"))
_HOST_FILES = {"hosts": "etc_hosts", "resolv.conf": "dns_servers", "hostname": "hostname"}
_NOT_PID_1 = re.compile(
    r"not been booted with systemd|must be run as pid 1|can only run as pid 1|not running as pid 1"
    r"|trying to run as user instance|system has not been booted",
    re.I,
)
_SHELLS = frozenset(("sh", "ash", "bash", "dash", "zsh", "busybox", "python", "python3", "node"))
# Servers that go into the background, and the options that keep them in the foreground.
_FOREGROUND: Mapping[str, Tuple[str, ...]] = {
    "nginx": ("daemon off;",),
    "httpd": ("-f", "-DFOREGROUND"),
    "apache2": ("-DFOREGROUND",),
    "sshd": ("-D",),
    "cron": ("-f",),
    "crond": ("-f",),
    "php-fpm": ("-F",),
    "haproxy": ("-db", "-W"),
    "rsyslogd": ("-n",),
    "dnsmasq": ("-k",),
    "named": ("-f", "-g"),
    "inetd": ("-f",),
    "telnetd": ("-F",),
    "ntpd": ("-n",),
    "udhcpd": ("-f",),
    "syslogd": ("-n",),
}
# Calls by their names in messages, and the capabilities that allow them.
_CAPABILITIES: Sequence[Tuple[str, Tuple[str, ...]]] = (
    (r"\bsu: ", ("SETUID", "SETGID")),
    (r"set ?groups|initgroups|setgid|setresgid|setegid", ("SETGID",)),
    (r"setuid|setresuid|seteuid|switching (user|to)|su-exec|gosu|setpriv", ("SETUID", "SETGID")),
    (r"chown|changing owner", ("CHOWN",)),
    (r"chroot", ("SYS_CHROOT",)),
    (r"raw socket|\bping\b|packet socket", ("NET_RAW",)),
    (r"chmod|utime|setting times", ("FOWNER",)),
    (r"\bnice[:(]|setpriority|sched_set", ("SYS_NICE",)),
    (r"mlock|lock memory", ("IPC_LOCK",)),
)
_VARIABLE = re.compile(r"\b[A-Z][A-Z0-9]*_[A-Z0-9_]*[A-Z0-9]\b")
_WANTED = re.compile(
    r"\b(must|needs?|requires|required|missing|not set|unset|not specified|specify|undefined)\b"
    r"|environment variable|parameter (null or )?not set|KeyError",
    re.I,
)
# Names of errors and constants look like variables; perl complains of locales, and goes on.
_CONSTANTS = ("ERR_", "CAP_", "AF_", "SIG", "SO_", "O_", "LC_")
_REFUSALS = re.compile(
    "not permitted|permission denied|read-only file ?system|no space left|address (already )?in use"
    "|no such file|connection refused|cannot allocate memory",
    re.I,
)
# A workload that dies by these says nothing about it: what it logged before is something else.
_FAULTS = frozenset(
    128 + n for n in (signal.SIGSEGV, signal.SIGBUS, signal.SIGILL, signal.SIGFPE, signal.SIGKILL)
)
_NAMESPACE = r"\bu?mount\b|unshare|pivot_root|(?:user|mount|pid|net|network|new) namespace"
_COMMANDS = (
    re.compile(r"exec:? (\S+?):? (?:not found|no such file)", re.I),
    re.compile(r"(?:^|: )([^\s:]+): (?:command )?not found", re.I),
    re.compile(r"env: [\u2018'`]?([^\s\u2019':]+)[\u2019']?: no such file", re.I),
    re.compile(r"(?:^|: )(/[^\s:]+): (?:permission denied|bad interpreter|cannot execute)", re.I),
    re.compile(r"exec (/[^\s:]+): (?:exec format error|permission denied)", re.I),
)


def remedy(site: Site, known: Record, facts: Facts) -> str:
    """The most likely remedy; "" when no fact gives one."""
    try:
        case = Case(site, known, process(known), facts)
    except SandlotError:
        return ""
    return next((text for rule in _RULES if (text := rule(case))), "")


# -- the program


def _init(case: Case) -> str:
    name = posixpath.basename(case.runs.argv[0])
    if name in _INITS or any(_NOT_PID_1.search(line) for line in case.facts.lines):
        return (
            f"{name} has to be PID 1, which is the sandbox's own init: name the service's own "
            "program as its command, one sandbox for each service"
        )
    if name in _MANAGERS:
        return (
            f"{name} makes mounts, namespaces and cgroups, which a sandbox may not: make its "
            "containers sandboxes of the host"
        )
    return ""


def _foreign(case: Case) -> str:
    """A refused 32-bit program dies of its own next instruction, or ends with any code."""
    spec, runs, root = case.spec, case.runs, case.facts.root
    open_already = spec.seccomp_architectures or spec.seccomp_profile == "unconfined"
    if open_already or root is None or not programs.is_32_bit(root, runs.argv[0], runs.env):
        return ""
    return f"{runs.argv[0]} is a 32-bit program: give it seccomp_architectures: [x86]"


def _no_user(case: Case) -> str:
    name = case.runs.user.partition(":")[0]
    if case.facts.code != NOT_EXECUTABLE or name.isdigit():
        return ""
    entry = case.entry("/etc/passwd")
    rows = entry.head if entry else b""
    names = {row.partition(b":")[0].decode("utf-8", "replace") for row in rows.split(b"\n")}
    # A longer file may have it further down.
    if name in names or len(rows) == HEAD:
        return ""
    return f"user {name} is not in its /etc/passwd: add it to the image, or use a uid"


def _directory(case: Case) -> str:
    if case.facts.code != NOT_EXECUTABLE:
        return ""
    place = case.runs.working_dir
    entry = case.entry(place)
    if entry is None:
        return f"working_dir {place} is not in its root: name a directory that the image has"
    return "" if entry.is_directory else f"working_dir {place} is no directory: name one"


def _program(case: Case) -> str:
    root, runs = case.facts.root, case.runs
    if case.facts.code not in (NOT_FOUND, NOT_EXECUTABLE) or root is None:
        return ""
    refused = case.facts.code == NOT_EXECUTABLE
    text = programs.problem(root, runs.argv[0], runs.env, failed=refused)
    if text:
        return text
    for line in reversed(case.facts.lines):
        names = (match[1] for pattern in _COMMANDS for match in pattern.finditer(line))
        for name in names:
            text = programs.problem(root, name, runs.env, failed=refused)
            if text:
                return text
    return ""


def _ends(case: Case) -> str:
    """A workload that ends with success, and that its restart policy starts again."""
    if case.facts.code or not case.facts.again:
        return ""
    program, *words = case.runs.argv
    name = posixpath.basename(program)
    keeps = _FOREGROUND.get(name, ())
    if keeps and not any(option in word for option in keeps for word in words):
        how = " or ".join(repr(option) if " " in option else option for option in keeps)
        return f"{name} goes into the background: keep it in the foreground ({how})"
    if name in _SHELLS and not words:
        return (
            f"{name} ends at once without a terminal: give it a command that stays, such as "
            "[sleep, infinity], and use sandlot exec -i -t"
        )
    return (
        "a job that ends wants restart_policy: on-failure; a server has to stay in the foreground"
    )


# -- what it wants


def _variables(case: Case) -> str:
    names: List[str] = []
    asks = False
    for line in case.facts.lines:
        if _REFUSALS.search(line):
            # The workload went on after what it had asked for.
            names, asks = [], False
            continue
        # A list may follow the line that asks.
        asks = bool(_WANTED.search(line)) or (asks and bool(re.match(r"\s*[-*]\s", line)))
        names += _VARIABLE.findall(line) if asks else []
    missing = [
        name
        for name in dict.fromkeys(names)
        if not case.runs.env.get(name)
        and name not in case.runs.secret_env
        and not name.startswith(_CONSTANTS)
    ]
    if not missing:
        return ""
    return f"it asks for variables that are not set: give it env with {' or '.join(missing[:3])}"


def _host_files(case: Case) -> str:
    """Files that the host mounts, as entry points of images write to them."""
    words = r"/etc/(hosts|resolv\.conf|hostname)\b.*(?:permission denied|busy|read-only)"
    for line in case.lines(words):
        match = re.search(words, line, re.I)
        if match:
            return f"the host writes /etc/{match[1]}: set {_HOST_FILES[match[1]]} instead"
    return ""


def _refused(case: Case) -> str:
    for line in case.lines("not permitted|permission denied"):
        for calls, needed in _CAPABILITIES:
            missing = [name for name in needed if name not in case.capabilities]
            if missing and re.search(calls, line, re.I):
                return _grant(case, missing)
        if re.search(_NAMESPACE, line, re.I):
            return "a sandbox makes no mounts and namespaces: list what it mounts in tmpfs"
    return ""


def _ids(case: Case) -> str:
    for line in case.lines(r"\b(chown|chgrp|changing (owner|group)|set[a-z]*[ug]id).*invalid arg"):
        path = last_path(line)
        if path.startswith(("/proc", "/sys")):
            continue
        return f"a sandbox has the ids 0 to {SIZE - 1}: use those for users and owners"
    return ""


def _grant(case: Case, missing: Sequence[str]) -> str:
    """A profile where it has several that are missing: one is seldom all that a daemon needs."""
    of_profile = profiles.CAPABILITIES[profiles.DAEMON]
    if case.is_root and len(missing) > 1 and set(missing) <= set(of_profile):
        return f"it may need security_profile: {profiles.DAEMON}, which has {', '.join(missing)}"
    return f"it may need capabilities: [{', '.join(missing)}]"


def _unexplained(case: Case) -> str:
    """Without a better fact, a traced run knows which call was refused."""
    words = "operation not permitted|permission denied|function not implemented|bad system call"
    if case.facts.code == 128 + signal.SIGSYS or case.says(words):
        return f"see which call was refused: sandlot trace {case.record.name}"
    return ""


# -- files


def _read_only(case: Case) -> str:
    lines = case.lines("read-only file ?system")
    if not lines:
        return ""
    path = last_path(lines[0])
    if path.startswith(("/proc", "/sys")) or not case.spec.read_only:
        return "files of the kernel are read-only inside: see sysctls for those below /proc/sys"
    place = posixpath.dirname(path)
    if place in ("", "/"):
        return "its root is read-only: list the directories that it writes to in tmpfs"
    return f"its root is read-only: give it tmpfs: ['{place}'], and each other place it writes to"


def _not_executable_there(case: Case) -> str:
    """A file of a tmpfs, which is mounted noexec unless its options say else."""
    for line in case.lines("permission denied|cannot execute|failed to map segment|not permitted"):
        path = last_path(line)
        place = _tmpfs_of(case, path)
        mounted = next((entry for entry in case.spec.tmpfs if entry.path == place), None)
        if mounted and not mounted.executable and re.search(_RUNS, line, re.I):
            return f"{place} is a tmpfs without exec: give it tmpfs: ['{place}:exec']"
    return ""


_RUNS = r"exec|failed to map segment|shared object|(?:^|: )/[^\s:]+: permission denied"


def _tmpfs_of(case: Case, path: str) -> str:
    places = [entry.path for entry in case.spec.tmpfs if f"{path}/".startswith(f"{entry.path}/")]
    return max(places, key=len, default="")


def _set_user_id(case: Case) -> str:
    """sudo names the kernel's flag; without the bits, it and busybox's su find no rights."""
    words = "no new privileges|must be suid|effective uid is not 0"
    if case.spec.no_new_privileges is False or not case.says(words):
        return ""
    needed = "no_new_privileges: false"
    if not {"SETUID", "SETGID"} <= set(capabilities(case.record)):
        needed += f" and security_profile: {profiles.DAEMON}"
    return f"a set-user-id program gains no rights: give it {needed}"


def _user(case: Case) -> str:
    words = "unknown user|invalid (user|group)|no such user|unable to find user|getpwnam"
    if case.says(f"{words}|no matching entries"):
        return "add the user to the image, or name one that it has"
    for line in case.lines("permission denied|EACCES"):
        path = last_path(line)
        return _permission(case, path) if path else ""
    return ""


def _permission(case: Case, path: str) -> str:
    user = case.runs.user
    try:
        owned = _owner(case, path)
    except Unknown:
        if case.is_root:
            return _of_root(case, "")
        return f"{path} has to be {user}'s, or user has to be another one"
    if owned is None:
        return ""  # no file: an address, or a name of the program's own
    place, owner = owned
    if case.is_root:
        return _of_root(case, f"{place} belongs to user {owner}; ") if owner else ""
    if str(owner) == user.partition(":")[0]:
        return f"{place} is its own, and its mode does not let it: change the mode in the image"
    return (
        f"{place} belongs to user {owner}, and the workload runs as {user}: set user: "
        f"'{owner}', or change the owner in the image"
    )


def _of_root(case: Case, whose: str) -> str:
    if "DAC_OVERRIDE" in case.capabilities:
        return ""
    return (
        f"{whose}root of a sandbox may not pass over the permissions of files: run it as "
        "their owner (user), or give it capabilities: [DAC_OVERRIDE]"
    )


def _owner(case: Case, path: str) -> Tuple[str, int] | None:
    """The file, or the directory in which it would be made, with its owner; None for neither."""
    for place in (path, posixpath.dirname(path)):
        entry = case.entry(place)
        if entry:
            return place, entry.owner
    return None


_ABSENT = "no(?: such file or|nexistent) directory|can't open|cannot find|cannot open|ENOENT"


def _missing(case: Case) -> str:
    for line in case.lines(_ABSENT):
        path = last_path(line)
        if not path:
            continue
        place = posixpath.dirname(path)
        if re.search(r"creat|mkdir|touch|writ", line, re.I) and case.entry(place) is None:
            return f"directory {place} is not in its root: make it in the image (setup)"
        if case.entry(path) is None:
            return f"{path} is not in its root: use an image that has it, or another command"
    if case.facts.code == NOT_FOUND:
        return "a program that it needs is not in its root: compare the image and PATH"
    return ""


# -- limits


def _memory(case: Case) -> str:
    limit = case.spec.memory
    words = "cannot allocate memory|out of memory|bad_alloc|OutOfMemoryError|MemoryError"
    if case.facts.kills and case.facts.code == runtime.KILLED:
        if not limit:
            return "the host ran out of memory: make room, or limit what uses it (memory)"
        return f"its memory is {readable(limit)}: give it more memory, or make it use less"
    if limit and case.says(words):
        return f"its memory is {readable(limit)}: give it more memory, or make it use less"
    return ""


def _memory_of_children(case: Case) -> str:
    if not case.facts.kills or not case.spec.memory:
        return ""
    return f"a process was killed for its memory of {readable(case.spec.memory)}: give it more"


def _limits(case: Case) -> str:
    limit = case.spec.pids_limit
    words = r"resource temporarily unavailable|\bfork\b|create.{0,20}thread|EAGAIN"
    if limit and case.facts.refused_processes != 0 and case.says(words):
        return f"pids_limit is {limit}: give it more"
    if case.says("too many open files|EMFILE"):
        return "raise nofile in ulimits"
    return ""


def _watches(case: Case) -> str:
    """inotify(7) answers with the errors of full disks and of too many open files."""
    words = "inotify|file ?watch"
    for line in case.lines("no space left on device|ENOSPC|too many open files|EMFILE"):
        if re.search(words, line, re.I):
            full = re.search("ENOSPC|no space", line, re.I)
            name = "max_user_watches" if full else "max_user_instances"
            return f"the host's limit is reached: raise its sysctl fs.inotify.{name}"
    return ""


def _space(case: Case) -> str:
    for line in case.lines("no space left on device|ENOSPC|disk quota exceeded"):
        place = _tmpfs_of(case, last_path(line))
        if place:
            return f"its tmpfs {place} is full: give it tmpfs: ['{place}:size=SIZE'] with more"
        if re.search("shared memory|/dev/shm", line, re.I):
            return "give it a larger /dev/shm: tmpfs: ['/dev/shm:size=SIZE']"
        return surroundings.space(case.site) or (
            "free space on the host, or give the tmpfs that it fills a larger size"
        )
    # A full disk takes no words either.
    return surroundings.space(case.site) if case.facts.lost_log_bytes else ""


def _guarded(rule: Callable[[Case], str]) -> Callable[[Case], str]:
    def guarded(case: Case) -> str:
        try:
            return rule(case)
        except Unknown:
            return ""

    return guarded


def _of_errors(rule: Callable[[Case], str]) -> Callable[[Case], str]:
    """A rule that reads what a program says of its own end."""
    return lambda case: "" if case.facts.code in _FAULTS else rule(case)


_BY_FACTS = (_memory, _foreign, _init, _no_user, _directory, _program, _ends)
_BY_WORDS = (
    *(_variables, _host_files, _set_user_id, _refused, _ids, _read_only, _not_executable_there),
    *(_user, _watches, _limits, _space),
    *(remedies_network.address, remedies_network.names, remedies_network.not_yet, _missing),
)
_RULES: Tuple[Callable[[Case], str], ...] = (
    *map(_guarded, _BY_FACTS),
    *map(_of_errors, map(_guarded, _BY_WORDS)),
    _guarded(_memory_of_children),
    _guarded(_unexplained),
)
