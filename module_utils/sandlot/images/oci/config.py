# SPDX-License-Identifier: GPL-3.0-or-later
# Copyright: the sandlot developers
"""An image's config as defaults of sandboxes, checked before the image is made."""

from __future__ import annotations

import os
from typing import Any, Callable, Dict, List, Mapping

from ...errors import SpecError
from ...spec import healthcheck, names, quantities, text
from ...spec.table.supervision import parse_healthcheck
from .manifest import ImageError

Json = Dict[str, Any]

_HINT = "build the image again with a value that a sandbox can have, or use another image"


def defaults(config: Json, what: str) -> Json:
    """The config as options of a sandbox; unset keys are left out."""
    data = config.get("config")
    if data is None:
        return {}
    if not isinstance(data, Mapping):
        raise ImageError(f"the config of {what} has no mapping config", hint=_HINT)
    words = {}
    for key, (option, parse) in _KEYS.items():
        if not data.get(key):
            continue
        try:
            words[option] = parse(f"{what}: {key} in its config", data[key])
        except SpecError as error:
            raise ImageError(error.message, hint=_HINT) from error
    return words


def _words(option: str, value: Any) -> List[str]:
    items = enumerate(text.sequence(option, value))
    return [_string(f"{option}[{index}]", item) for index, item in items]


def _string(option: str, value: Any) -> str:
    if not isinstance(value, str):
        raise text.refusal(option, value, f"is {text.a_type(value)}, not a string")
    return text.text(option, value)


def _environment(option: str, value: Any) -> Dict[str, str]:
    """The variables; of a name that is set twice the last value counts, as in docker."""
    variables = {}
    for index, item in enumerate(text.sequence(option, value)):
        path = f"{option}[{index}]"
        name, equals, content = _string(path, item).partition("=")
        if not equals:
            raise text.refusal(path, item, "is not NAME=VALUE")
        variables[names.environment_name(path, name)] = content
    return variables


def _directory(option: str, value: Any) -> str:
    """The absolute path of a directory; as in docker, a relative path starts at the root."""
    return names.absolute_path(option, os.path.join("/", _string(option, value)))


def _signal(option: str, value: Any) -> str:
    quantities.signal_number(option, _string(option, value))
    return str(value)


def _labels(option: str, value: Any) -> Dict[str, str]:
    labels = text.mapping(option, value)
    return {
        names.label_name(option, key): _string(f"{option}[{text.brief(key)}]", item)
        for key, item in labels.items()
    }


def _healthcheck(option: str, value: Any) -> Json:
    """Convert nanoseconds to durations; zero and missing values get the default, as in docker."""
    given = text.mapping(option, value)
    check: Json = {"test": _words(f"{option}.Test", given.get("Test") or ["NONE"])}
    for key, name in _DURATIONS.items():
        if given.get(key):
            nanoseconds = quantities.integer(
                f"{option}.{key}", given[key], minimum=0, maximum=text.MAX_INTEGER
            )
            check[name] = healthcheck.shown(nanoseconds / 1e9)
    if given.get("Retries"):
        check["retries"] = given["Retries"]
    parse_healthcheck(option, check)
    return check


def _keys(option: str, value: Any) -> List[str]:
    """The keys of a mapping; docker stores a set as a mapping to empty objects."""
    return sorted(_string(option, key) for key in text.mapping(option, value))


_DURATIONS = {"Interval": "interval", "Timeout": "timeout", "StartPeriod": "start_period"}
_KEYS: Mapping[str, tuple[str, Callable[[str, Any], Any]]] = {
    "Entrypoint": ("entrypoint", _words),
    "Cmd": ("command", _words),
    "Env": ("env", _environment),
    "User": ("user", lambda option, value: names.user(option, _string(option, value))),
    "WorkingDir": ("working_dir", _directory),
    "StopSignal": ("stop_signal", _signal),
    "Labels": ("labels", _labels),
    "Healthcheck": ("healthcheck", _healthcheck),
    "ExposedPorts": ("exposed_ports", _keys),
    "Volumes": ("volumes", _keys),
}
