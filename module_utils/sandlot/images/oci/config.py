# SPDX-License-Identifier: GPL-3.0-or-later
# Copyright: the sandlot developers
"""An image's config as defaults of sandboxes, checked before the image is made.

A bad value is no obstacle to the image, as a sandbox may have one of its own: ``wrong`` has the
problem by option. Parts of lists and sets that docker passes over as well are left out.
"""

from __future__ import annotations

import os
from typing import Any, Callable, Dict, Iterable, Iterator, List, Mapping, Tuple

from ...errors import SpecError
from ...spec import healthcheck, names, quantities, text
from ...spec.table.supervision import parse_healthcheck
from .manifest import ImageError

Json = Dict[str, Any]

_HINT = "build the image again with a value that a sandbox can have, or use another image"


def defaults(config: Json, what: str) -> Tuple[Json, List[str]]:
    """The config of the image ``what`` as options of a sandbox, and warnings.

    Unset keys are left out.
    """
    data = config.get("config")
    if data is None:
        return {}, []
    if not isinstance(data, Mapping):
        raise ImageError(f"the config of {what} has no mapping config", hint=_HINT)
    options: Json = {}
    wrong: Dict[str, str] = {}
    warnings: List[str] = []
    for key, (option, parse) in _KEYS.items():
        if not data.get(key):
            continue
        try:
            options[option] = parse(f"{key} in its config", data[key])
        except SpecError as error:
            wrong[option] = error.message
    for key, (option, parse_part) in _COLLECTIONS.items():
        if data.get(key):
            options[option] = parse_part(f"{key} in its config", data[key], warnings)
    if wrong:
        options["wrong"] = wrong
    return options, [*wrong.values(), *warnings]


def _words(option: str, value: Any) -> List[str]:
    items = enumerate(text.sequence(option, value))
    return [_string(f"{option}[{index}]", item) for index, item in items]


def _string(option: str, value: Any) -> str:
    if not isinstance(value, str):
        raise text.refusal(option, value, f"is {text.a_type(value)}, not a string")
    return text.text(option, value)


def _environment(option: str, value: Any, warnings: List[str]) -> Dict[str, str]:
    """The variables; of a name that is set twice the last value counts, as in docker."""
    return dict(_each(_items(option, value, warnings), _variable, warnings))


def _variable(option: str, value: Any) -> Tuple[str, str]:
    name, equals, content = _string(option, value).partition("=")
    if not equals:
        raise text.refusal(option, value, "is not NAME=VALUE")
    return names.environment_name(option, name), content


def _items(option: str, value: Any, warnings: List[str]) -> Iterator[Tuple[str, Any]]:
    """Yield the path and value of each item of a list; a warning when it is none."""
    try:
        items = text.sequence(option, value)
    except SpecError as error:
        warnings.append(f"left out {error.message}")
        return
    for index, item in enumerate(items):
        yield f"{option}[{index}]", item


def _each(
    items: Iterable[Tuple[str, Any]], parse: Callable[[str, Any], Any], warnings: List[str]
) -> Iterator[Any]:
    """Yield the items that can be parsed; a warning for each of the others."""
    for path, item in items:
        try:
            yield parse(path, item)
        except SpecError as error:
            warnings.append(f"left out {error.message}")


def _directory(option: str, value: Any) -> str:
    """The absolute path of a directory; as in docker, it starts at the root, and ".." is a step."""
    return names.absolute_path(option, os.path.normpath(f"/{_string(option, value)}"))


def _user(option: str, value: Any) -> str:
    """USER or USER:GROUP; as in docker, each may be empty."""
    user, colon, group = _string(option, value).partition(":")
    return names.user(option, f"{user or 0}{colon}{group}")


def _signal(option: str, value: Any) -> str:
    quantities.signal_number(option, _string(option, value))
    return str(value)


def _labels(option: str, value: Any, warnings: List[str]) -> Dict[str, str]:
    return dict(_each(_pairs(option, value, warnings), _label, warnings))


def _label(option: str, value: Any) -> Tuple[str, str]:
    key, item = value
    return names.label_name(option, key), _string(f"{option}[{text.brief(key)}]", item)


def _pairs(option: str, value: Any, warnings: List[str]) -> Iterator[Tuple[str, Any]]:
    try:
        pairs = text.mapping(option, value)
    except SpecError as error:
        warnings.append(f"left out {error.message}")
        return
    for pair in pairs.items():
        yield option, pair


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


def _keys(option: str, value: Any, warnings: List[str]) -> List[str]:
    """The keys of a mapping; docker stores a set as a mapping to empty objects."""
    keys = ((path, pair[0]) for path, pair in _pairs(option, value, warnings))
    return sorted(_each(keys, _string, warnings))


def _directories(option: str, value: Any, warnings: List[str]) -> List[str]:
    keys = ((path, pair[0]) for path, pair in _pairs(option, value, warnings))
    return sorted(set(_each(keys, _directory, warnings)))


_DURATIONS = {"Interval": "interval", "Timeout": "timeout", "StartPeriod": "start_period"}
_KEYS: Mapping[str, Tuple[str, Callable[[str, Any], Any]]] = {
    "Entrypoint": ("entrypoint", _words),
    "Cmd": ("command", _words),
    "User": ("user", _user),
    "WorkingDir": ("working_dir", _directory),
    "StopSignal": ("stop_signal", _signal),
    "Healthcheck": ("healthcheck", _healthcheck),
}
_COLLECTIONS: Mapping[str, Tuple[str, Callable[[str, Any, List[str]], Any]]] = {
    "Env": ("env", _environment),
    "Labels": ("labels", _labels),
    "ExposedPorts": ("exposed_ports", _keys),
    "Volumes": ("volumes", _directories),
}
