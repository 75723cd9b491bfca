# SPDX-License-Identifier: GPL-3.0-or-later
# Copyright: the sandlot developers
"""The result of a run, and what a host tells of its sandboxes: actions, diffs and facts."""

from __future__ import annotations

import json
from dataclasses import dataclass, field, replace
from typing import Any, Dict, Iterable, List, Mapping, Optional, Sequence, Union

from .. import cgroups, images, network, security, sizes, volumes
from ..mask import Mask
from ..network import Network
from ..plan import Failures, Operation
from ..sandbox import crash, last_words, layers, mounts, process, reloading, runtime
from ..sandbox import facts as sandbox_facts
from ..sandbox.record import STARTED, Record, load_all
from ..site import Site
from ..snapshots import store as snapshots
from ..spec import Difference, Spec, render, render_differences, stored
from ..spec.grants import relaxations
from ..spec.options import SECRET
from . import drops, hidden
from .context import Context
from .planner import Plan

Json = Dict[str, Any]

# The changes of a sandbox, and the words of a check for them.
CHANGES = {
    "made": "make",
    "rebuilt": "rebuild",
    "restarted": "restart",
    "started": "start",
    "stopped": "stop",
    "changed": "change",
    "removed": "remove",
}


@dataclass(frozen=True)
class Result:
    """The outcome of a run.

    ``sandboxes`` are facts of the requested sandboxes; ``failed`` maps names to messages.
    ``images``, ``networks`` and ``volumes`` are facts of all of the host, None for a kind that was
    left alone.
    ``started`` names the sandboxes that the run started, ``reloaded`` those whose workload it
    signalled. ``images_made`` has the duration and size
    of each build, ``images_due`` the names of those that a check foresees. With ``uploads_needed``,
    the run did nothing. ``removals`` counts the last actions, which a run with a failure skips.
    ``changes`` maps sandboxes to a key of CHANGES, ``records`` has those that are to exist.
    ``snapshots_due`` names the snapshots that are not kept any longer.
    """

    changed: bool
    actions: List[str]
    sandboxes: Dict[str, Json]
    diff: Union[Json, List[Json]]
    relaxed: Dict[str, List[str]]
    relaxed_networks: Dict[str, List[str]] = field(default_factory=dict)
    failed: Dict[str, str] = field(default_factory=dict)
    warnings: Sequence[str] = ()
    images: Optional[Dict[str, Json]] = None
    networks: Optional[Dict[str, Json]] = None
    volumes: Optional[Dict[str, Json]] = None
    images_made: Sequence[Json] = ()
    uploads_needed: Sequence[str] = ()
    removals: int = 0
    started: Sequence[str] = ()
    reloaded: Mapping[str, reloading.Signalled] = field(default_factory=dict)
    changes: Mapping[str, str] = field(default_factory=dict)
    records: Mapping[str, Record] = field(default_factory=dict, repr=False)
    images_due: Sequence[str] = ()
    snapshots_due: Sequence[str] = ()
    check: bool = False


NOTHING = Result(False, [], {}, {}, {})


def result(plan: Plan, failures: Failures, before: Sequence[Operation] = ()) -> Result:
    """``before`` are operations that the run applied before it could plan."""
    announced = [operation for operation in (*before, *plan.operations) if not operation.silent]
    context = plan.context
    sandboxes = {
        name: {**facts(target.record), "digest": target.launch["digest"]}
        for name, target in context.resolved.targets.items()
    }
    sandboxes.update({name: {"name": name, "state": "absent"} for name in context.resolved.removed})
    lines_of = lines(announced)
    for name, entry in sandboxes.items():
        entry.update({"changed": name in lines_of, "actions": lines_of.get(name, [])})
        failure = failures.get(name)
        if name in plan.hidden and not failure:
            entry.update(hidden.facts(plan.hidden[name]))
        if failure:
            entry["failed"] = str(failure)
        if isinstance(failure, crash.Crashed):
            entry["crash"] = failure.crash.to_json()
        entry.update(_dropped(context, name) if name not in failures else {})
    relaxed = {name: entry["relaxed"] for name, entry in sandboxes.items() if entry.get("relaxed")}
    request = context.request
    mask = Mask(context.site, keep=not request.check, is_first=request.has_no_mask)
    planned = context.request.image_plan
    image_facts = _images(context, mask)
    networks, opened = None, {}
    if context.request.networks is not None:
        networks, left = (
            _network_facts(context.final_networks),
            sorted(context.final_networks.items()),
        )
        opened = {name: relaxations(item.egress, item.host_access) for name, item in left}
    return Result(
        changed=bool(announced),
        actions=[operation.describe() for operation in announced],
        sandboxes=sandboxes,
        diff=_diff(context, mask, plan.texts),
        relaxed=relaxed,
        relaxed_networks={name: lines for name, lines in opened.items() if lines},
        failed={name: str(error) for name, error in failures.items()},
        warnings=_warnings(plan, failures, image_facts if announced else None),
        images=image_facts,
        networks=networks,
        volumes=_volumes(context),
        started=[*(name for name, d in context.decisions.items() if d.start), *context.followers],
        reloaded=context.reloaded,
        removals=sum(not operation.silent for operation in plan.last),
        changes=changes(context, lines_of),
        records={name: target.record for name, target in context.resolved.targets.items()},
        images_due=images.due(planned.makings) if planned else (),
        snapshots_due=[entry.snapshot.name for entry in context.due],
        check=context.request.check,
    )


def _warnings(plan: Plan, failures: Failures, image_facts: Mapping[str, Json] | None) -> List[str]:
    left_out = [
        f"image {name}: {text}"
        for name, item in (image_facts or {}).items()
        for text in item["warnings"]
    ]
    targets = plan.context.resolved.targets
    hiding = [
        hidden.warning(name, targets[name].record.image.name, entry)
        for name, entry in plan.hidden.items()
        if entry.count and name not in failures
    ]
    request = plan.context.request
    asked = (request.sandboxes, request.networks) != (None, None)
    names = network.name_warnings(plan.context.site) if asked else []
    return [*plan.warnings, *left_out, *hiding, *names]


def _dropped(context: Context, name: str) -> Json:
    """The fact about a layer that the run dropped; a check foresees it."""
    drop, site = context.drops.get(name), context.site
    if drop is None or not (drop.is_kept or drop.is_lost):
        return {}
    held = drop.contents
    if drop.snapshot is None:
        lost = {"size": held.size, "files": held.files, "more": held.more}
        return {"layer_removed": lost}
    if context.request.check:
        return {"set_aside": {**drop.snapshot.facts(), "id": None}}
    made = drop.snapshot.id in snapshots.identifiers(site, name)
    return {"set_aside": snapshots.load(site, name, drop.snapshot.id).facts()} if made else {}


def lines(announced: Iterable[Operation]) -> Dict[str, List[str]]:
    """The lines of operations by what they change."""
    of_targets: Dict[str, List[str]] = {}
    for operation in announced:
        of_targets.setdefault(operation.target, []).append(operation.describe())
    return of_targets


def changes(context: Context, lines_of: Mapping[str, Sequence[str]]) -> Dict[str, str]:
    """The greatest change of each sandbox, a key of CHANGES, from their lines of the run."""
    most = {name: "restarted" for name in context.followers}
    restarts = {*context.restarts}
    for name, decision in context.decisions.items():
        ways = {
            "made": decision.new,
            "rebuilt": bool(decision.rebuild),
            "restarted": name in restarts and bool(decision.start),
            "started": bool(decision.start),
            "stopped": decision.stop,
            "changed": name in lines_of,
        }
        most.update((name, way) for way, is_so in reversed(ways.items()) if is_so)
    most.update((name, "removed") for name in context.resolved.removed if name in lines_of)
    return most


def _images(context: Context, mask: Mask) -> Dict[str, Json] | None:
    """Facts of all images after the run; a recorded image has more facts than a planned one."""
    planned = context.request.image_plan
    if planned is None:
        return None
    known = images.observe(context.site)
    after = planned.after(context.observed.before.images)
    return {
        name: images.facts(context.site, known[name] if known.get(name) == image else image, mask)
        for name, image in after.items()
    }


def _volumes(context: Context) -> Dict[str, Json] | None:
    """Facts of all volumes after the run."""
    if context.request.volumes is None:
        return None
    return volumes.all_facts(context.site, context.volume_plan.after, context.volume_users)


def _network_facts(networks: Mapping[str, Network]) -> Dict[str, Json]:
    return {
        name: {**item.to_json(), "bridge": item.bridge} for name, item in sorted(networks.items())
    }


def facts(record: Record) -> Json:
    """Facts of a sandbox that do not depend on what runs."""
    return {
        "name": record.name,
        "state": record.wanted,
        "image": record.image.name,
        "on_image_change": process.on_image_change(record),
        "ids": {"uid": record.ids.start, "gid": record.ids.start, "size": record.ids.size},
        "network_mode": record.spec.network_mode,
        "addresses": [text for interface in record.interfaces for text in interface.addresses],
        "interfaces": [interface.to_json() for interface in record.interfaces],
        "published_ports": [str(port) for port in record.spec.published_ports],
        "security_profile": process.security_profile(record),
        "capabilities": list(process.capabilities(record)),
        "relaxed": relaxed(record),
        "volumes": mounts.volumes(record),
        "labels": process.labels(record),
    }


def info(site: Site, names: Iterable[str] | None = None, *, show_env: bool = False) -> list[Json]:
    """Facts of the named sandboxes (None: of all); names without a sandbox are skipped."""
    records, mask = load_all(site), Mask(site)
    layout, kept = cgroups.detect(), _snapshots(site)
    entries = []
    for name in sorted(records.names() if names is None else records.names() & set(names)):
        sandbox = site.sandbox(name)
        if name in records.broken:
            entries.append(sandbox_facts.broken(sandbox, str(records.broken[name])))
            continue
        known = records.good[name]
        usage = cgroups.usage(site, name, layout)
        live = sandbox_facts.of_runtime(sandbox, known.phase, known.wanted, usage)
        entry = {
            **facts(known),
            "wanted": known.wanted,
            **live,
            "cgroups_shown": cgroups.shown_inside(site, name, live["pid"], layout)
            if live["pid"]
            else None,
            "disk": _disk(site, name),
            "health_output": last_words.last_output(sandbox) if live["health"] else None,
            "last_log": last_words.last_log(sandbox),
            "crash": _crash(site, name, layout)
            if known.wanted == STARTED and live["state"] in runtime.ENDED
            else None,
            "snapshots": kept.get(name, []),
            "spec": mask.options(name, stored.to_json(known.spec), SECRET, clear=show_env),
        }
        entries.append(entry)
    return entries


def _snapshots(site: Site) -> Dict[str, List[Json]]:
    """The snapshots of each sandbox, oldest first; a broken one has an error."""
    loaded = snapshots.load_all(site)
    kept: Dict[str, List[Json]] = {}
    for entry in loaded.good:
        kept.setdefault(entry.sandbox, []).append(entry.facts())
    for name, error in loaded.broken.items():
        sandbox, dummy, identifier = name.partition("/")
        kept.setdefault(sandbox, []).append({"id": identifier, "error": str(error)})
    return kept


def _disk(site: Site, name: str) -> Json | None:
    bound = sizes.look(site, layers.place(site.sandbox(name)))
    return bound.to_json() if bound.way else None


def _crash(site: Site, name: str, layout: cgroups.Layout) -> Json | None:
    end = crash.look(site, name, lambda: layout)
    return None if end is None else {"what": end.what, "remedy": end.remedy}


def relaxed(record: Record) -> list[str]:
    """Relaxations by spec and image."""
    shown = record.image.host.get("show", [])
    host = [f"image: {record.image.name} (the host's programs and configuration)"]
    host += [f"image: {record.image.name} (the host's {path})" for path in shown]
    return [
        *(host if record.image.host else []),
        *security.relaxed(record.spec, process.security_profile(record)),
    ]


def _diff(context: Context, mask: Mask, texts: Sequence[Json]) -> Json | List[Json]:
    """The diff of each requested kind, and of files; a single one has no header."""
    request, before = context.request, context.observed.before
    kinds: Dict[str, Json] = {}
    if request.image_plan is not None:
        after = request.image_plan.after(before.images)
        sides = {"before": before.images, "after": after}
        kinds["images"] = {
            side: {name: images.shown(image, mask) for name, image in known.items()}
            for side, known in sides.items()
        }
    if request.networks is not None:
        left = context.final_networks
        kinds["networks"] = {"before": _text(before.networks), "after": _text(left)}
    if request.volumes is not None:
        kinds["volumes"] = {
            "before": volumes.shown(context.observed.volumes.good),
            "after": volumes.shown(context.volume_plan.after),
        }
    if request.sandboxes is not None:
        kinds["sandboxes"] = _sandboxes_diff(context, mask)
    if len(kinds) == 1 and not texts:
        return next(iter(kinds.values()))
    headers = ("before_header", "after_header")
    return [*({**dict.fromkeys(headers, kind), **kinds[kind]} for kind in kinds), *texts]


def _text(networks: Mapping[str, Network]) -> str:
    return json.dumps(_network_facts(networks), indent=4, sort_keys=True) + "\n"


def _sandboxes_diff(context: Context, mask: Mask) -> Json:
    """Specs before and after; each changed option names its cost (live, restart, rebuild)."""
    before: Json = {}
    after: Json = {}
    known = context.observed.records.good
    for name, decision in context.decisions.items():
        old = known.get(name)
        spec = decision.record.spec
        if old is None:
            shown: Mapping[str, Json] = {"before": {}, "after": _rendered(spec, mask)}
        else:
            changes = process.changes(old, decision.record)
            shown = render_differences(_masked(item, name, mask) for item in changes)
        if shown["before"] or shown["after"]:
            before[name], after[name] = shown["before"], shown["after"]
    for name in context.resolved.removed:
        before[name] = _rendered(known[name].spec, mask) if name in known else {}
    for name, drop in context.drops.items():
        if drop.is_kept or drop.is_lost:
            fate = "set aside as a snapshot" if drop.is_kept else "removed for good"
            before[name] = {**before.get(name, {}), "layer": drops.amount(drop.contents)}
            after[name] = {**after.get(name, {}), "layer": fate}
    return {"before": before, "after": after}


def _rendered(spec: Spec, mask: Mask) -> Json:
    shown: Json = mask.options(spec.name, render(spec), SECRET)
    return shown


def _masked(item: Difference, owner: str, mask: Mask) -> Difference:
    if item.option not in SECRET:
        return item
    before, after = (mask.value(owner, side) for side in (item.before, item.after))
    return replace(item, before=before, after=after)
