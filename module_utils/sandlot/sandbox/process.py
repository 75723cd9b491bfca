# SPDX-License-Identifier: GPL-3.0-or-later
# Copyright: the sandlot developers
"""The workload of a sandbox: options of its spec override its image's, as with docker run."""

from __future__ import annotations

import os
import signal
from dataclasses import dataclass, replace
from typing import Any, Dict, List, Mapping, Sequence, Tuple

from .. import image_change, profiles
from ..errors import SpecError
from ..kernel.program import PATH
from ..plan import Change
from ..spec import Difference, Healthcheck, Spec, differences
from ..spec.quantities import signal_number
from ..spec.table.supervision import parse_healthcheck
from ..spec.text import MAX_STRING
from ..spec.values import Sealed
from ..wire import LOGIN
from .record import ImageRef, Record

# Arguments and environment take a quarter of the stack's soft limit, with a minimum and a maximum,
# and each costs a pointer (bprm_stack_limits() in the kernel's fs/exec.c).
_STACK, _LEAST, _MOST, _POINTER = 8 << 20, 128 << 10, 6 << 20, 8
# For the path of the program, the interpreter's with its argument, and login variables.
_RESERVED = 3 * 4096
_IMAGE = "image"


@dataclass(frozen=True)
class Process:
    argv: Tuple[str, ...]
    env: Dict[str, str]
    secret_env: Dict[str, Sealed]
    login: Tuple[str, ...] | None
    """Variables of the passwd file of the sandbox, if ``env`` does not tell; see users.login."""
    working_dir: str
    user: str
    stop_signal: int
    healthcheck: Healthcheck | None


def process(record: Record) -> Process:
    """The workload of a record; SpecError when neither spec nor image names a command."""
    spec, config = record.spec, record.image.config
    _check(spec, record.image)
    ours = {"PATH": PATH, "HOME": "/root", "HOSTNAME": spec.hostname}
    secret_env = {name: value for name, value in spec.env if isinstance(value, Sealed)}
    own = {name: value for name, value in spec.env if isinstance(value, str)}
    of_image = config.get("env", {}).items()
    env = {**{name: text for name, text in of_image if name not in secret_env}, **own}
    check = spec.healthcheck
    if check is None and config.get("healthcheck"):
        check = parse_healthcheck("healthcheck", config["healthcheck"])
    argv = _argv(spec, config)
    _check_size(spec, argv, {**ours, **env}, secret_env)
    return Process(
        argv=argv,
        env={**ours, **env},
        secret_env=secret_env,
        login=tuple({*LOGIN} - {*env, *secret_env})
        if env.get("HOME") == ours["HOME"] or not secret_env.keys().isdisjoint(LOGIN)
        else None,
        working_dir=spec.working_dir or config.get("working_dir") or "/",
        user=spec.user or config.get("user") or "0",
        stop_signal=spec.stop_signal
        or signal_number("stop_signal", config.get("stop_signal") or int(signal.SIGTERM)),
        healthcheck=None if check is None or check.disabled else check,
    )


def labels(record: Record) -> Dict[str, str]:
    return {**record.image.config.get("labels", {}), **dict(record.spec.labels)}


def security_profile(record: Record) -> str:
    return profiles.chosen(record.spec.security_profile, record.image.config)


def on_image_change(record: Record) -> str:
    return image_change.chosen(record.spec.on_image_change, record.image.config)


def capabilities(record: Record) -> Tuple[str, ...]:
    """The capabilities that root of the sandbox has, and no process beyond them."""
    return profiles.effective(security_profile(record), record.spec.capabilities)


def changes(before: Record, after: Record) -> List[Difference]:
    """The differences between the specs of two records, with the images and profiles in effect."""
    listed = {entry.option: entry for entry in differences(before.spec, after.spec)}
    old, new = security_profile(before), security_profile(after)
    if old != new:
        listed[profiles.OPTION] = Difference(profiles.OPTION, old, new, Change.RESTART)
    elif profiles.OPTION in listed:
        # The image's default is the same.
        listed[profiles.OPTION] = replace(listed[profiles.OPTION], change=Change.LIVE)
    image = _image_change(before, after)
    return list({**listed, **({image.option: image} if image else {})}.values())


def _image_change(before: Record, after: Record) -> Difference | None:
    """The change of image; another name for the same one changes nothing that runs."""
    names = before.spec.image, after.spec.image
    if before.image.digest == after.image.digest:
        return None if names[0] == names[1] else Difference(_IMAGE, *names, Change.LIVE)
    if names[0] == names[1]:
        names = _with_digest(before.image), _with_digest(after.image)
    fresh = image_policy(before, after) == image_change.FRESH
    return Difference(_IMAGE, *names, Change.REBUILD if fresh else Change.RESTART)


def _with_digest(image: ImageRef) -> str:
    """A short pin; an image that a check foresees may have no digest yet."""
    return f"{image.name}@sha256:{image.digest[:12]}" if image.digest else image.name


def image_policy(before: Record, after: Record) -> str:
    """Whether the layer survives the change between the images of two records.

    Without the option, an update follows the default that came with the layer. Another image has a
    say as well, as a layer of a whole system is of no use above the image of one program.
    """
    own, default = after.spec.on_image_change, before.image.config
    if image_change.plain(before.spec.image) != image_change.plain(after.spec.image):
        default = {**after.image.config, **default}
    return image_change.chosen(own, default)


def _check(spec: Spec, image: ImageRef) -> None:
    """Refuse a bad value of the image's config, unless the spec has its own."""
    for option, problem in image.config.get("wrong", {}).items():
        own = getattr(spec, option) or (option == "command" and spec.entrypoint)
        if not own:
            hint = f"set {option} in the sandbox, or use another image"
            raise SpecError(option, image.name, f"has no usable default: {problem}", hint=hint)


def _argv(spec: Spec, config: Mapping[str, Any]) -> Tuple[str, ...]:
    """The command line; an entry point in the spec drops the image's command, as in docker."""
    entrypoint = spec.entrypoint or tuple(config.get("entrypoint", ()))
    command = spec.command or (() if spec.entrypoint else tuple(config.get("command", ())))
    if not entrypoint + command:
        raise SpecError(
            "command", [], f"leaves sandbox {spec.name} nothing to run", hint="give it a command"
        )
    return entrypoint + command


def _check_size(
    spec: Spec, argv: Sequence[str], env: Mapping[str, str], secret_env: Mapping[str, Sealed]
) -> None:
    """Refuse arguments and variables that execve(2) would refuse, without showing them.

    Values that an earlier run brought were checked by that one.
    """
    variables = {f"env[{name!r}]": f"{name}={value}" for name, value in env.items()}
    words = {f"command[{index}]": word for index, word in enumerate(argv)}
    sizes = {
        option: len(os.fsencode(word)) for option, word in (*variables.items(), *words.items())
    }
    sizes.update(
        (f"env[{name!r}]", len(f"{name}=".encode()) + len(sealed.value or b""))
        for name, sealed in secret_env.items()
    )
    for option, size in sizes.items():
        if size > MAX_STRING:
            problem = f"of sandbox {spec.name}, with its name, is more than {MAX_STRING} bytes"
            raise SpecError(option, size, problem, hint="shorten it, or put it into a file")
    total = sum(sizes.values()) + len(sizes) * (_POINTER + 1)
    stack = next((entry.soft for entry in spec.ulimits if entry.name == "stack"), _STACK)
    limit = min(_MOST, stack // 4 if stack >= 0 else _MOST)
    if total > max(limit, _LEAST) - _RESERVED:
        raise SpecError(
            "env",
            total,
            f"bytes of variables and arguments of sandbox {spec.name}, with those of its image, are"
            f" more than the kernel takes with a stack of {stack} bytes",
            hint=f"put them into files{_roomier(total)}",
        )


def _roomier(total: int) -> str:
    """The limit of the stack by which the kernel takes them, if there is one."""
    if total > _MOST - _RESERVED:
        return ""
    return f", or raise the soft limit: ulimits: ['stack:{(total + _RESERVED) * 4}:-1']"


def for_init(check: Healthcheck) -> Dict[str, Any]:
    """The workload as init needs it: parsed and looked up already."""
    times = {"interval": check.interval, "timeout": check.timeout}
    rules = {"retries": check.retries, "start_period": check.start_period, "action": check.action}
    target = check.target
    if target is None:
        kind, *words = check.test or ()
        argv = ["/bin/sh", "-c", *words] if kind == "CMD-SHELL" else words
        return {**times, **rules, "argv": argv}
    where = {**times, **rules, "address": target.address, "port": target.port}
    if target.path is None:
        return where
    head = f"GET {target.path} HTTP/1.0\r\nHost: {target.host}\r\nUser-Agent: sandlot\r\n"
    return {**where, "request": f"{head}Connection: close\r\n\r\n"}
