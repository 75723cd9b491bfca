# SPDX-License-Identifier: GPL-3.0-or-later
# Copyright: the sandlot developers
"""The class of a row of the option table; functions that read a mapping by such rows."""

from __future__ import annotations

import difflib
import enum
from dataclasses import dataclass, field
from functools import cached_property
from typing import AbstractSet, Any, Callable, Iterable, Mapping, Protocol, Sequence, TypeVar

from ..errors import SpecError
from ..plan import Change
from .text import brief, mapping, missing, refusal, sequence, unique

Parser = Callable[[str, Any], Any]
Dumper = Callable[[Any], Any]


class Named(Protocol):
    @property
    def name(self) -> str:
        """The name of the item."""


Item = TypeVar("Item", bound=Named)


class Reach(enum.Enum):
    """The parts of the engine that act on an option."""

    CONVERGE = "converge"
    """The run itself: names, order, actions, and reports about a sandbox."""
    IMAGE = "image"
    ROOT = "root"
    """The sandbox's root, put together by the builder."""
    NAMESPACES = "namespaces"
    """Fixed when the namespaces are made; a change makes them again."""
    CONFINEMENT = "confinement"
    """Ids, rights and resource limits that init takes before the workload starts."""
    INIT = "init"
    """Init's settings, passed on as launch.json has them."""
    CGROUP = "cgroup"
    NETWORK = "network"
    INTERFACES = "interfaces"
    """Interfaces that only a sandbox with network_mode bridge has."""
    HOSTS = "hosts"
    """The files hosts, resolv.conf and hostname."""


# Options in launch.json, for the processes that make and run the sandbox.
LAUNCHED = frozenset({Reach.ROOT, Reach.NAMESPACES, Reach.CONFINEMENT, Reach.INIT})


def as_is(value: Any) -> Any:
    return value


def strings(items: Iterable[Any]) -> list[str]:
    return [str(item) for item in items]


@dataclass(frozen=True)
class Option:
    """One option: its name, values, default, cost of a change, and the parts that act on it.

    Every list of options follows from ``reaches``, ``change`` and ``key``: its place in launch.json
    where the launch file has a notation of its own. ``default`` is raw, as a user would write it;
    ``change`` is None for an action, which is no part of the stored spec. ``type``, ``elements``
    and ``choices`` are Ansible's. ``cost(before, after)`` is for an option whose changes are not
    all of one class; ``check(whole)`` refuses a value that other options contradict. ``load`` is
    for a stored notation that users must not write: it makes of it what ``parse`` takes. ``no_log``
    is for values that Ansible must not show; ``secret`` marks an option with values that are shown
    as digests only, ``numeric`` a text that may be a number as well. ``later`` is for options that
    dd050e5 does not know: at their default they are in no record, digest or launch file, so that an
    upgrade changes none.
    """

    name: str
    type: str
    parse: Parser
    description: Sequence[str]
    change: Change | None = None
    default: Any = None
    dump: Dumper = as_is
    load: Dumper = as_is
    elements: str | None = None
    choices: Sequence[str] = ()
    suboptions: Sequence[Option] = field(default=())
    required: bool = False
    cost: Callable[[Any, Any], Change] | None = None
    no_log: bool = False
    secret: bool = False
    numeric: bool = False
    reaches: AbstractSet[Reach] = frozenset()
    key: str = ""
    later: bool = False
    check: Callable[[Any], None] | None = None

    @property
    def launch_key(self) -> str:
        """The option's key in launch.json, "" when it is not there."""
        return (self.key or self.name) if LAUNCHED & frozenset(self.reaches) else ""

    def value(self, raw: Any, prefix: str = "") -> Any:
        """The normalised value; None stands for "not given", as it does in Ansible."""
        if raw is not None:
            return self.parse(f"{prefix}{self.name}", raw)
        if self.required and self.default is None:
            raise missing(f"{prefix}{self.name}")
        return self._of_default

    @cached_property
    def _of_default(self) -> Any:
        return None if self.default is None else self.parse(self.name, self.default)

    @cached_property
    def stored_default(self) -> Any:
        """The default as records have it."""
        return None if self._of_default is None else self.dump(self._of_default)


def read(options: Iterable[Option], raw: Mapping[str, Any], prefix: str = "") -> dict[str, Any]:
    """Every option's normalised value; an unknown key is a SpecError."""
    rows = list(options)
    check_known([row.name for row in rows], raw, prefix)
    return {row.name: row.value(raw.get(row.name), prefix) for row in rows}


def check(options: Iterable[Option], value: Any, prefix: str = "") -> None:
    """SpecError for an option that contradicts others."""
    for row in options:
        if row.check:
            try:
                row.check(value)
            except SpecError as error:
                error.rename(f"{prefix}{error.option}")
                raise


def named(option: str, raw: Any, parse: Callable[[str, Any], Item]) -> list[Item]:
    """Parse the items of a list; their names must differ."""
    items = enumerate(sequence(option, raw))
    parsed = [parse(f"{option}[{index}]", item) for index, item in items]
    unique(option, (item.name for item in parsed), what="name")
    return parsed


# Words for the same in the other of files and secrets, and in modules of Ansible.
_OTHERS = {
    **{"content": "value", "value": "content", "data": "value"},
    **{"dest": "target", "path": "target", "template": "template_src"},
}


def check_known(names: Sequence[str], raw: Mapping[str, Any], prefix: str = "") -> None:
    for key in raw:
        if key in names:
            continue
        near = [name for name in names if name == _OTHERS.get(key)]
        near = near or difflib.get_close_matches(key[:64], names, n=1, cutoff=0.5)
        hint = f"did you mean {near[0]}?" if near else f"known options: {', '.join(names)}"
        shown = key if key.isidentifier() and len(key) <= 64 else brief(key)
        raise refusal(f"{prefix}{shown}", key, "is not an option of this sandlot", hint=hint)


def record(option: str, value: Any, *, fields: Sequence[Option], make: Callable[..., Any]) -> Any:
    """Parse a mapping of suboptions into a value object."""
    return make(**read(fields, mapping(option, value), f"{option}."))


def records(option: str, value: Any, *, fields: Sequence[Option], make: Callable[..., Any]) -> Any:
    items = enumerate(sequence(option, value))
    return tuple(record(f"{option}[{i}]", item, fields=fields, make=make) for i, item in items)
