# SPDX-License-Identifier: GPL-3.0-or-later
# Copyright: the sandlot developers
"""Values of `files`, `secrets` and `env`: contents that a sandbox gets, some of them secret.

No message shows a content. A stored spec has digests in place of contents: ``load`` makes of them
what the parsers take, so that users can't write digests.
"""

from __future__ import annotations

import base64
import binascii
import re
import signal
from typing import TYPE_CHECKING, Any, Dict, Iterable, Iterator, Mapping, Sequence, Tuple

from ..kernel.signals import NOT_FORWARDED
from ..kernel.text import name_part
from ..plan import Change
from .confinement import KERNEL_TREES
from .mounts import TMPFS, depth
from .names import MAX_ID, Pairs, absolute_path, environment_name
from .option import Option, read
from .quantities import signal_name, signal_number
from .text import THE_VALUE, mapping, refusal, sequence, text, unique
from .values import NONE, RELOAD, RESTART, SECRETS, File, Placed, Sealed, Secret

if TYPE_CHECKING:
    from .model import Environment, Spec

UTF8, BASE64 = "utf-8", "base64"
ENCODINGS = (UTF8, BASE64)
ON_CHANGE = (NONE, RELOAD, RESTART)
# Options by which the controller finds a content; the plugins of the modules replace them.
ELSEWHERE = ("src", "template_src")
# Podman's limit for a secret.
LONGEST = {"content": 1 << 20, "value": 512_000}
_DIGEST = re.compile(r"[0-9a-f]{32}")
_OWNER = re.compile(r"[a-zA-Z_][a-zA-Z0-9_.-]{0,31}")
_MODE = re.compile(r"0?[0-7]{3}")
_SECRET = re.compile(r"[a-zA-Z0-9][a-zA-Z0-9_.-]{0,252}")
# Init takes SIGCHLD for itself; the kernel ends init by SIGKILL.
_NO_RELOAD = NOT_FORWARDED | {int(signal.SIGCHLD)}
_DIRECTORIES = frozenset({"/tmp", "/run", "/var/tmp", "/dev/shm", SECRETS})
_HOST_MADE = {
    "/etc/hosts": "set etc_hosts, which adds names to it",
    "/etc/resolv.conf": "set dns_servers",
    "/etc/hostname": "set hostname",
    "/etc/machine-id": "leave it out: each sandbox has an id of its own",
}


def content(option: str, value: Any) -> str | Sealed:
    """The text of a content; what its encoding makes of it is checked with the whole entry."""
    if isinstance(value, Sealed):
        return value
    if isinstance(value, (Mapping, list)):
        kind = "mapping" if isinstance(value, Mapping) else "list"
        hint = "write it as text: after a template, add | to_json"
        raise refusal(option, THE_VALUE, f"is a {kind}, not a string", hint=hint)
    return value if isinstance(value, str) else text(option, value, secret=True)


def elsewhere(option: str, value: Any) -> Any:
    """Refuse a path of the controller: no file of it is on the host."""
    if value is None or value == []:
        return value
    problem = "is a file of the controller, and nothing has read it"
    hint = "call the module by its name in a task, so that its action plugin runs"
    raise refusal(option, value, problem, hint=hint)


def secret_name(option: str, value: Any) -> str:
    name = text(option, value)
    if not _SECRET.fullmatch(name):
        hint = "use 1 to 253 ASCII letters, digits, '_', '.' and '-', first a letter or digit"
        raise refusal(option, value, "is not the name of a secret", hint=hint)
    return name


def target(option: str, value: Any) -> str:
    """The place of a file in the sandbox."""
    path = absolute_path(option, value, hint="write it from the sandbox's root, like /etc/app.conf")
    if path == "/" or str(value).endswith(("/", "/.")) or path in _DIRECTORIES:
        raise refusal(option, value, "is a directory", hint="name the file")
    if KERNEL_TREES.fullmatch(path):
        problem = "would hide what sandlot mounts there"
        raise refusal(option, value, problem, hint="put it elsewhere")
    if path in _HOST_MADE:
        raise refusal(option, value, "is made by sandlot", hint=_HOST_MADE[path])
    return path


def owner(option: str, value: Any) -> str:
    """The name of a user or group in the sandbox, or an id."""
    name = text(option, value)
    if name.isascii() and name.isdigit():
        # Bounded before int(), which refuses thousands of digits.
        if len(name) > 10 or int(name) > MAX_ID:
            hint = f"a sandbox has the ids 0 to {MAX_ID}"
            raise refusal(option, value, "is an id out of range", hint=hint)
        return str(int(name))
    if not _OWNER.fullmatch(name):
        hint = "use a name from the sandbox's /etc/passwd or /etc/group, or a number"
        raise refusal(option, value, "is not a user or group", hint=hint)
    return name


def mode(option: str, value: Any) -> int:
    string = text(option, value)
    if not _MODE.fullmatch(string):
        hint = "write it in octal and in quotes, from '0000' to '0777'"
        raise refusal(option, value, "is not the mode of a file", hint=hint)
    return int(string, 8)


def reload_signal(option: str, value: Any) -> int:
    """The number of a signal that init passes on to the workload."""
    number = signal_number(option, value)
    if number in _NO_RELOAD:
        problem = "ends the sandbox, or never reaches its workload"
        raise refusal(option, value, problem, hint="use SIGHUP, SIGUSR1 or the like")
    return number


def files(option: str, value: Any, *, fields: Sequence[Option]) -> Tuple[File, ...]:
    made = [_file(name, given, fields) for name, given in _entries(option, value)]
    unique(option, (entry.target for entry in made), what="target")
    return tuple(sorted(made, key=lambda entry: depth(entry.target)))


def _entries(option: str, value: Any) -> Iterator[Tuple[str, Dict[str, Any]]]:
    """Yield each mapping with its path as an option."""
    for index, item in enumerate(sequence(option, value, secret=True)):
        yield f"{option}[{index}]", mapping(f"{option}[{index}]", item, secret=True)


def _file(option: str, given: Mapping[str, Any], fields: Sequence[Option]) -> File:
    known = _read(option, given, "content", fields)
    if known["target"] == SECRETS or known["target"].startswith(f"{SECRETS}/"):
        hint = "list it in secrets, or put it elsewhere"
        raise refusal(f"{option}.target", known["target"], "is a place of secrets", hint=hint)
    return File(**known)


def secrets(option: str, value: Any, *, fields: Sequence[Option]) -> Tuple[Secret, ...]:
    made = [_secret(name, given, fields) for name, given in _entries(option, value)]
    unique(option, (entry.name for entry in made), what="name")
    unique(option, (entry.target for entry in made), what="target")
    return tuple(sorted(made, key=lambda entry: entry.name))


def _secret(option: str, given: Mapping[str, Any], fields: Sequence[Option]) -> Secret:
    known = _read(option, given, "value", fields)
    known["content"] = known.pop("value")
    place = known["target"] = known["target"] or f"{SECRETS}/{known['name']}"
    made = Secret(**known)
    if place.startswith(f"{SECRETS}/") and not made.shared_name:
        hint = f"put it into {SECRETS} itself, or elsewhere"
        raise refusal(f"{option}.target", place, "is below the directory of secrets", hint=hint)
    return made


def _read(
    option: str, given: Mapping[str, Any], key: str, fields: Sequence[Option]
) -> Dict[str, Any]:
    """The fields of an entry, with its content under ``key``."""
    sources = [name for name in (key, *ELSEWHERE) if given.get(name) is not None]
    if len(sources) != 1:
        problem = f"has {' and '.join(sources)}" if sources else "has no content"
        shown = given.get("name" if key == "value" else "target")
        hint = f"give it one of {key}, {', '.join(ELSEWHERE)}"
        raise refusal(option, shown if isinstance(shown, str) else THE_VALUE, problem, hint=hint)
    if given.get("reload_signal") is not None and given.get("on_change", NONE) != RELOAD:
        hint = f"set on_change: {RELOAD}, or leave it out"
        problem = f"has no effect without on_change: {RELOAD}"
        raise refusal(f"{option}.reload_signal", given["reload_signal"], problem, hint=hint)
    known = read(fields, given, f"{option}.")
    encoding = known.pop("encoding")
    for name in ELSEWHERE:
        del known[name]
    known[key] = _sealable(f"{option}.{key}", known[key], encoding, LONGEST[key])
    known["group"] = known["group"] or ""
    known["reload_signal"] = known["reload_signal"] or int(signal.SIGHUP)
    return known


def _sealable(option: str, value: str | Sealed, encoding: str, longest: int) -> Sealed:
    if isinstance(value, Sealed):
        return value
    try:
        data = _decoded(value, encoding)
    except UnicodeEncodeError as error:
        raise refusal(option, THE_VALUE, "is not valid Unicode", hint="use UTF-8 text") from error
    except (ValueError, binascii.Error) as error:
        hint = "write it as b64encode does, or set encoding: utf-8"
        raise refusal(option, THE_VALUE, "is not base64", hint=hint) from error
    if len(data) > longest:
        problem = f"has {len(data)} bytes, and {longest} are the most"
        raise refusal(option, THE_VALUE, problem, hint="shorten it, or mount it by volumes")
    if not data and option.endswith(".value"):
        raise refusal(option, THE_VALUE, "is empty", hint="give it a value, or leave it out")
    return Sealed(value=data)


def _decoded(value: str, encoding: str) -> bytes:
    # Base64 comes in lines from most tools.
    return (
        base64.b64decode("".join(value.split()), validate=True)
        if encoding == BASE64
        else (value.encode())
    )


def dump(entries: Iterable[Placed], *, fields: Sequence[Option]) -> list[dict[str, Any]]:
    """Entries with digests in place of contents, without fields at their default."""
    return [_dumped(entry, fields) for entry in entries]


def _dumped(entry: Placed, fields: Sequence[Option]) -> dict[str, Any]:
    usual = {row.name: row.value(None) for row in fields if not row.required}
    name = {"name": entry.name} if isinstance(entry, Secret) else {}
    data = {**name, "target": entry.target, "digest": entry.content.digest, "owner": entry.owner}
    if entry.group:
        data["group"] = entry.group
    data["mode"] = f"{entry.mode:04o}"
    if entry.on_change != usual["on_change"]:
        data["on_change"] = entry.on_change
    if entry.on_change == RELOAD:
        data["reload_signal"] = str(signal_name(entry.reload_signal))
    return data


def load(value: Any, *, key: str) -> Any:
    """Entries of a stored spec as the parsers take them."""
    if not isinstance(value, list):
        return value
    return [_loaded(item, key) if isinstance(item, dict) else item for item in value]


def _loaded(item: Mapping[str, Any], key: str) -> dict[str, Any]:
    others = {name: field for name, field in item.items() if name != "digest"}
    return {**others, key: _sealed(item)}


def _sealed(item: Mapping[str, Any]) -> Sealed | None:
    digest = item.get("digest")
    known = isinstance(digest, str) and _DIGEST.fullmatch(digest)
    return Sealed(digest) if known and isinstance(digest, str) else None


def environment(option: str, value: Any, *, fields: Sequence[Option]) -> Environment:
    """Variables; errors show no value, as it may be a secret."""
    raw = mapping(option, value, secret=True)
    sealed: Dict[str, Sealed] = {}
    plain: Dict[str, Any] = {}
    for name, item in raw.items():
        given = _variable(f"{option}[{name_part(name)!r}]", item, fields)
        if isinstance(given, Sealed):
            sealed[environment_name(option, name)] = given
        else:
            plain[name] = given
    listed = _plain(option, plain)
    return tuple(sorted((*listed, *sealed.items()), key=lambda pair: pair[0]))


def _plain(option: str, value: Mapping[str, Any]) -> Pairs:
    names = {name: environment_name(option, name) for name in value}
    return tuple(
        (name, text(f"{option}[{name_part(name)!r}]", value[name], secret=True)) for name in names
    )


def _variable(option: str, value: Any, fields: Sequence[Option]) -> Any:
    if not isinstance(value, Mapping):
        return value
    if not {*value} <= {row.name for row in fields}:
        # A key may be a secret as well.
        hint = "write it as {value: TEXT, secret: true}"
        raise refusal(option, THE_VALUE, "is a mapping with other keys", hint=hint)
    if not isinstance(value.get("secret"), (bool, type(None))):
        hint = "use true or false; the secret itself is the value"
        raise refusal(f"{option}.secret", THE_VALUE, "is not a boolean", hint=hint)
    known = read(fields, mapping(option, value, secret=True), f"{option}.")
    given = known["value"]
    if isinstance(given, Sealed) or not known["secret"]:
        return given
    return Sealed(value=text(f"{option}.value", given, secret=True).encode())


def dump_environment(variables: Environment) -> dict[str, Any]:
    return {
        name: {"digest": value.digest} if isinstance(value, Sealed) else value
        for name, value in variables
    }


def load_environment(value: Any) -> Any:
    if not isinstance(value, dict):
        return value
    return {
        name: {"value": _sealed(item)} if isinstance(item, dict) else item
        for name, item in value.items()
    }


def check_targets(spec: Spec) -> None:
    """SpecError for a target that another option hides, or has itself."""
    mounted = {mount.target: ("volumes", mount.type != TMPFS) for mount in spec.volumes}
    mounted.update({mount.target: ("mounts", mount.type != TMPFS) for mount in spec.mounts})
    mounted.update({entry.path: ("tmpfs", False) for entry in spec.tmpfs})
    used: Dict[str, str] = {}
    for option, entry in placed(spec):
        shared = isinstance(entry, Secret) and entry.shared_name
        _check_mounts(option, entry.target, SECRETS if shared else entry.target, mounted)
        for place, other in used.items():
            if place == entry.target:
                problem = f"is a target of {other}, too"
                raise refusal(f"{option}", place, problem, hint="keep one of them")
            long, short = sorted((place, entry.target), key=len, reverse=True)
            if long.startswith(f"{short}/"):
                problem = f"is below {short}, which is a file"
                raise refusal(option, long, problem, hint="put one of them elsewhere")
        used[entry.target] = option


def _check_mounts(
    option: str, shown: str, place: str, mounted: Mapping[str, Tuple[str, bool]]
) -> None:
    for path, (other, is_kept) in mounted.items():
        if path == place:
            problem = f"is a target of {other}, too"
            raise refusal(option, shown, problem, hint="keep one of them")
        if path.startswith(f"{place}/"):
            problem = f"is where {path} of {other} would be mounted"
            raise refusal(option, shown, problem, hint="put one of them elsewhere")
        if is_kept and place.startswith(f"{path}/"):
            problem = f"lies in {path}, which {other} mounts"
            raise refusal(option, shown, problem, hint="put it beside, or into that directory")


def placed(spec: Spec) -> Iterator[Tuple[str, Placed]]:
    """Yield all that a spec places, with its option."""
    for entry in spec.files:
        yield "files", entry
    for secret in spec.secrets:
        yield "secrets", secret


def cost(before: Sequence[Mapping[str, Any]] | None, after: Sequence[Mapping[str, Any]]) -> Change:
    """The cost of a change, by what ``on_change`` says of each entry that differs."""
    old, new = ({_identity(entry): entry for entry in side or ()} for side in (before, after))
    for key in {*old, *new}:
        sides = [_matter(side[key]) for side in (old, new) if key in side]
        last = new.get(key) or old[key]
        if (len(sides) == 1 or sides[0] != sides[1]) and last.get("on_change") == RESTART:
            return Change.RESTART
    return Change.LIVE


def _identity(entry: Mapping[str, Any]) -> str:
    return str(entry.get("name") or entry["target"])


def _matter(entry: Mapping[str, Any]) -> dict[str, Any]:
    """The fields that a reader sees."""
    return {key: x for key, x in entry.items() if key not in ("on_change", "reload_signal")}
