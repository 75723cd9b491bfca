# SPDX-License-Identifier: GPL-3.0-or-later
# Copyright: the sandlot developers
"""The frame of every module around its one call into the engine."""

from __future__ import annotations

from typing import Any, Callable, Dict, Iterator, Mapping, NoReturn, Optional, Protocol, Tuple, Type

from .errors import SandlotError
from .kernel import confine, files, signals
from .mask import Discretion, Secrets, hidden_values, without_values
from .oserrors import explained
from .site import Site
from .spec import raw
from .spec.options import SHOWN

Json = Dict[str, Any]

_OF_A_FAILURE = ("actions", "changed", "crashes", "diff", "msg")


class Module(Protocol):
    """The part of AnsibleModule that the engine uses."""

    params: Mapping[str, Any]
    check_mode: bool
    _diff: bool

    def exit_json(self, **kwargs: Any) -> NoReturn:
        """Print the result, and end."""

    def fail_json(self, msg: str, **kwargs: Any) -> NoReturn:
        """Print the failure, and end."""

    def warn(self, warning: str) -> None:
        """Add a warning to the result."""


Action = Callable[[Module, Site], Json]


def start(base: Type[Any], spec: Json, given: Optional[Json], action: Action) -> NoReturn:
    """Run a module: ``base`` is AnsibleModule, ``given`` are its arguments before a conversion.

    Tools that read the argument spec give no arguments.
    """
    rules = _Rules(spec)
    if given is None:
        run(_reticent(base, rules, {})(argument_spec=spec, supports_check_mode=True), action)
    # A core dump would have the values.
    confine.prctl(confine.PR_SET_DUMPABLE, 0)
    options = {key: x for key, x in given.items() if not key.startswith("_ansible_")}
    with Discretion(hidden_values(options, rules.secret)):
        try:
            raw.check(spec, options)
        except SandlotError as error:
            # Given the argument spec proper, Ansible would refuse them with its own message.
            anything = {key: {"type": "raw"} for key in options}
            refused = _reticent(base, rules, given, refused=True)
            refused(argument_spec=anything, supports_check_mode=True).fail_json(msg=str(error))
        run(_reticent(base, rules, given)(argument_spec=spec, supports_check_mode=True), action)


class _Rules:
    """The options of a module that are shown, and those that are not."""

    def __init__(self, spec: Mapping[str, Json]) -> None:
        rows = list(_rows(spec))
        hidden = [name for name, row in rows if row.get("no_log")]
        self.secret: Secrets = {**dict.fromkeys(hidden, frozenset()), **SHOWN}
        aliases = (row.get("aliases", ()) for dummy, row in rows)
        self.known = frozenset(name for name, dummy in rows).union(*aliases)
        self.holders = frozenset(name for name, row in rows if "dict" in _types(row))

    def shown(self, params: Json, *, wrong: bool) -> Json:
        known = self.known if wrong else None
        visible: Json = without_values(params, self.secret, known, self.holders)
        return visible


def _rows(spec: Mapping[str, Json]) -> Iterator[Tuple[str, Json]]:
    """All options of an argument spec, also those of items."""
    for name, row in spec.items():
        yield name, row
        yield from _rows(row.get("options", {}))


def _types(row: Json) -> Tuple[object, object]:
    return row.get("type"), row.get("elements")


def _reticent(base: Type[Any], rules: _Rules, given: Json, *, refused: bool = False) -> Type[Any]:
    """AnsibleModule, with its own reports of the arguments (-v, syslog) without secret values.

    Where the arguments are wrong, unknown options count as secret: one may be a misspelled secret.
    no_log would also take every such value, "1" for instance, out of all other results.
    """

    def shown(module: Any, *, wrong: bool = refused) -> Json:
        return rules.shown(getattr(module, "params", {}), wrong=wrong)

    def load_params(module: Any) -> None:
        # Not read again: what is not for the engine has been taken out.
        module.params = dict(given)

    def log(module: Any, msg: str, log_args: Optional[Json] = None) -> None:
        # Nothing has looked into defaults yet.
        words = (f"{key}={value}" for key, value in shown(module, wrong=True).items())
        base.log(module, f"Invoked with {' '.join(words)}" if log_args else msg)

    def exit_json(module: Any, **kwargs: Any) -> NoReturn:
        base.exit_json(module, **{"invocation": {"module_args": shown(module)}, **kwargs})
        raise AssertionError("exit_json returned")

    def fail_json(module: Any, msg: str, **kwargs: Any) -> NoReturn:
        arguments = {"module_args": shown(module, wrong=True)}
        base.fail_json(module, msg, **{"invocation": arguments, **kwargs})
        raise AssertionError("fail_json returned")

    own = {"_load_params": load_params, "log": log, "exit_json": exit_json, "fail_json": fail_json}
    return type("SandlotModule", (base,), own)


def run(module: Module, action: Action) -> NoReturn:
    """Exit with the result of ``action``; explain an error as the module's failure.

    ``failed`` in the result maps items to messages, and ``msg`` tells of all: the other items
    succeeded, but the module fails. Ansible shows ``warnings``.
    """
    signals.reset()
    files.close_umask()
    try:
        site = Site.from_environment()
        site.require_root("set become: true")
        result = action(module, site)
    except SandlotError as error:
        module.fail_json(msg=str(error))
    except OSError as error:
        module.fail_json(msg=str(explained(error)))
    for warning in result.pop("warnings", ()):
        module.warn(warning)
    failed = result.pop("failed", {})
    if failed:
        # Ansible shows all of a failed result, in alphabetical order: the message comes last.
        shown = {key: result[key] for key in _OF_A_FAILURE if key in result}
        module.fail_json(**shown, failed_items=failed)
    module.exit_json(**result)
