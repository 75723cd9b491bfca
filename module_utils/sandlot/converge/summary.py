# SPDX-License-Identifier: GPL-3.0-or-later
# Copyright: the sandlot developers
"""Describes a run in words: sandboxes and their addresses, changes, failures."""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass
from typing import Iterable, List, Sequence, Sized, Tuple

from ..errors import named
from ..network.common.model import ANY, ANY6
from ..sandbox import runtime
from ..sandbox.names import recorded
from ..sandbox.process import process
from ..sandbox.record import STARTED, Record
from ..site import Site
from ..spec.values import PublishedPort
from .report import CHANGES, Result

# With more than this, numbers take the place of names.
FEW = 5
_RUNNING = "running"
_SCHEMES = {80: "http", 443: "https"}
_LOOPBACK = ("127.0.0.1", "::1", "localhost")


@dataclass(frozen=True)
class Row:
    """One sandbox after the run; ``answers`` are the addresses of its published ports."""

    name: str
    state: str = _RUNNING
    health: str = ""
    answers: Tuple[str, ...] = ()


def summary(site: Site, result: Result, address: str) -> str:
    """Describe the run in one row; others reach the host at ``address``."""
    rows = [_row(site, result, record, address) for record in result.records.values()]
    parts = [states(rows, check=result.check), *_others(site, result), changes(result)]
    return "; ".join([*parts, *kept(result)])


def _others(site: Site, result: Result) -> List[str]:
    """The number of the host's sandboxes that the run is not about."""
    number = len({*recorded(site)} - {*result.records, *result.changes, *result.failed})
    return [f"{number} other{'s' if number > 1 else ''} left alone"] if number else []


def kept(result: Result) -> List[str]:
    """The layers that the run set aside, and the way back to them."""
    aside = {
        name: facts["set_aside"] for name, facts in result.sandboxes.items() if "set_aside" in facts
    }
    if not aside:
        return []
    if result.check:
        return [f"what {_listed(sorted(aside))} wrote would be kept as {_number(aside)}"]
    name, entry = sorted(aside.items())[0]
    again = f"deploy {name} again and call " if name not in result.records else ""
    way = f"to get it back, {again}sudo sandlot snapshots restore {name} {entry['id']}"
    return [f"what {_listed(sorted(aside))} wrote is kept as {_number(aside)}; {way}"]


def _number(aside: Sized) -> str:
    return "a snapshot" if len(aside) == 1 else f"{len(aside)} snapshots"


def _row(site: Site, result: Result, record: Record, address: str) -> Row:
    name = record.name
    facts = result.sandboxes[name]
    if name in result.failed:
        return Row(name, "failed")
    if record.wanted != STARTED:
        return Row(name, "stopped")
    answers = tuple(answer(port, address) for port in record.spec.published_ports)
    if result.check or not process(record).healthcheck:
        health = ""
    else:
        health = runtime.status(site.sandbox(name)).get("health", "")
    return Row(name, facts.get("crash", {}).get("state", _RUNNING), health, answers)


def answer(port: PublishedPort, address: str) -> str:
    """The address of a published port; the port inside tells of HTTP."""
    host = address if _includes(port.host_ip, address) else port.host_ip
    text = f"[{host}]:{port.host_port}" if ":" in host else f"{host}:{port.host_port}"
    if port.protocol != "tcp":
        text += f"/{port.protocol}"
    elif port.port in _SCHEMES:
        text = f"{_SCHEMES[port.port]}://{text}/"
    return f"{text} on the host" if host in _LOOPBACK and address not in _LOOPBACK else text


def _includes(host_ip: str, address: str) -> bool:
    """Whether a port bound to ``host_ip`` answers at ``address`` of the host, perhaps a name."""
    if host_ip == ANY:
        return ":" not in address
    if host_ip == ANY6:
        return not address.replace(".", "").isdigit()
    return not host_ip


def states(rows: Sequence[Row], *, check: bool = False) -> str:
    up = [row for row in rows if row.state == _RUNNING]
    parts = [f"{'would run' if check else 'runs'} {_few(up) if len(up) <= FEW else _many(up)}"]
    for state in sorted({row.state for row in rows} - {_RUNNING}):
        names = [row.name for row in rows if row.state == state]
        parts.append(f"{state} {_listed(names)}")
    return "; ".join(parts)


def _few(rows: Sequence[Row]) -> str:
    return ", ".join(_shown(row) for row in rows) or "no sandbox"


def _shown(row: Row) -> str:
    health = f" ({row.health})" if row.health else ""
    return f"{row.name}{health}" + (f" at {_listed(row.answers, ' and ')}" if row.answers else "")


def _many(rows: Sequence[Row]) -> str:
    healths = Counter(row.health for row in rows if row.health)
    health = f" ({', '.join(f'{n} {text}' for text, n in sorted(healths.items()))})"
    public = [row for row in rows if row.answers]
    where = ", ".join(f"{row.name} at {_listed(row.answers, ' and ')}" for row in public)
    if len(public) > FEW:
        where = f"{len(public)} of them with published ports"
    return f"{len(rows)} sandboxes{health if healths else ''}" + (f", {where}" if where else "")


def _listed(names: Iterable[str], between: str = ", ") -> str:
    names = list(names)
    if len(names) <= FEW:
        return between.join(names)
    return f"{between.join(names[: FEW - 1])} and {len(names) - FEW + 1} more"


def changes(result: Result) -> str:
    """The changes of a run, or those that a check foresees."""
    counts = Counter(verb for name, verb in result.changes.items() if name not in result.failed)
    words = [
        f"{counts[verb]} {f'to {due}' if result.check else verb}"
        for verb, due in CHANGES.items()
        if counts[verb]
    ]
    words += _images(result)
    if not words:
        what = "images or networks" if result.changed else "nothing"
        return f"{what} {'to change' if result.check else 'changed'}"
    rest = len(set(result.records) - set(result.changes) - set(result.failed))
    return ", ".join([*words, f"{rest} unchanged"] if rest else words)


def _images(result: Result) -> List[str]:
    if result.check:
        return [f"image {name} to make" for name in result.images_due]
    return [
        f"image {each['name']} {each['verb']} ({each['size'] / 1e6:.1f} MB in {each['seconds']} s)"
        for each in result.images_made
    ]


def next_command(result: Result) -> str:
    """The command to try next, "" where nothing runs."""
    up = [
        name
        for name, record in result.records.items()
        if record.wanted == STARTED and name not in result.failed
    ]
    return f"sudo sandlot exec -i -t {up[-1]} -- sh" if up and not result.check else ""


def failure(result: Result) -> str:
    """The message of a run with failed sandboxes: a line for each, with its remedy."""
    failed = sorted(result.failed)
    lines = [named(name, result.failed[name]) for name in failed]
    total = len(set(result.records) | set(failed))
    if total > 1:
        some = f"{len(failed)} of {total} sandboxes failed, the others did not"
        lines.insert(0, some if len(failed) < total else f"all {total} sandboxes failed")
    crashed = [name for name in failed if "crash" in result.sandboxes.get(name, {})]
    if crashed:
        lines.append(
            f"sudo sandlot logs {crashed[0]} and sudo sandlot inspect {crashed[0]} show more"
        )
    return "\n".join(lines)
