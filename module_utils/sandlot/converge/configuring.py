# SPDX-License-Identifier: GPL-3.0-or-later
# Copyright: the sandlot developers
"""Phases for files, secrets and secret variables: values on the host, and reloads.

New values are kept before the record names them, so that a boot after a killed run has them. A mark
keeps the signal of a reload from before the change until it is sent.
"""

from __future__ import annotations

from functools import partial
from typing import Iterable, Sequence

from .. import configuration
from ..errors import StateError
from ..plan import Failures, Operation, batch
from ..sandbox import reloading
from ..sandbox.record import Record
from ..site import Site
from ..spec.quantities import signal_name
from .context import Context
from .decide import Decision


def keep_for_rebuilds(context: Context) -> list[Operation]:
    return _keep(context, [d for d in context.decisions.values() if d.next_slot])


def keep(context: Context) -> list[Operation]:
    return _keep(context, [d for d in context.decisions.values() if not d.next_slot])


def _keep(context: Context, decisions: Iterable[Decision]) -> list[Operation]:
    return [
        Operation(
            decision.name,
            "keep values again",
            partial(_keep_one, context.site, decision.record),
            subject=decision.name,
            silent=bool(decision.write_record or decision.start),
        )
        for decision in decisions
        if configuration.has_contents(decision.record) and _is_to_keep(context, decision)
    ]


def _is_to_keep(context: Context, decision: Decision) -> bool:
    """Whether a run writes values; it brings back those that only memory still has."""
    changes = decision.write_record or decision.start
    return bool(changes) or not configuration.is_kept(context.site, decision.record)


def _keep_one(site: Site, known: Record) -> None:
    """Keep the values that a run brings; StateError before a stop when a start would lack some."""
    configuration.keep(site, known)
    lost = configuration.missing(site, known)
    if lost and not configuration.is_placed(site, known):
        problem = f"{known.name}: this host does not have the {', '.join(lost)}"
        raise StateError(problem, hint="deploy it again, with the content")


def mark(context: Context) -> list[Operation]:
    """Mark before the record, as no run knows afterwards what a withdrawn file asked for."""
    return [
        Operation(
            name,
            "mark for a reload",
            partial(reloading.mark, context.site.sandbox(name), decision.signals),
            subject=name,
            silent=True,
        )
        for name, decision in context.decisions.items()
        if decision.signals
    ]


def place(context: Context) -> list[Operation]:
    """Bring values to where a start, or a running sandbox, finds them."""
    due = {name: d.record for name, d in context.decisions.items() if _is_due(context, d)}
    due.update((name, context.resolved.bystanders[name]) for name in context.followers)
    return [
        Operation(
            name,
            "place values in memory again",
            partial(configuration.place, context.site, entry),
            subject=name,
            silent=name not in context.decisions or _is_announced(context.decisions[name]),
        )
        for name, entry in due.items()
        if configuration.has_contents(entry) or _has_any_now(context, name)
    ]


def _is_due(context: Context, decision: Decision) -> bool:
    """Whether values have to be placed; a stopped sandbox gets them at its start."""
    stays = context.observed.sandboxes[decision.name].running and not decision.stop
    if decision.start or decision.configuration:
        return True
    return bool(stays) and not configuration.is_placed(context.site, decision.record)


def _has_any_now(context: Context, name: str) -> bool:
    """Whether the sandbox has values of the record before."""
    known = context.observed.sandboxes[name].record
    return known is not None and configuration.has_contents(known)


def _is_announced(decision: Decision) -> bool:
    return bool(decision.announced or decision.write_record or decision.start) or bool(
        decision.configuration
    )


def announce(context: Context) -> list[Operation]:
    """Lines for what a running sandbox gets and loses; other steps make the changes."""
    return [
        Operation(name, change.line)
        for name, decision in context.decisions.items()
        for change in decision.configuration
    ]


def reload(context: Context) -> list[Operation]:
    """Signal workloads, each once, after all changes in its sandbox."""

    def send(name: str, signals: Sequence[int]) -> None:
        sent = reloading.send(context.site.sandbox(name), signals)
        if sent is not None:
            context.reloaded[name] = sent

    return [
        Operation(
            name,
            f"send {_listed(decision.signals)} to the workload",
            partial(send, name, decision.signals),
            subject=name,
        )
        for name, decision in context.decisions.items()
        if decision.signals
    ]


def _listed(signals: Iterable[int]) -> str:
    return ", ".join(str(signal_name(number)) for number in signals)


def tidy(context: Context) -> list[Operation]:
    """Remove what no record names, also what a killed run has left."""
    records = {name: decision.record for name, decision in context.decisions.items()}
    due = [n for n, entry in records.items() if not configuration.is_tidy(context.site, entry)]

    def tidy_all(names: Sequence[str], failures: Failures) -> None:
        for name in names:
            configuration.tidy(context.site, records[name])

    return batch("tidy values", due, tidy_all)
