# SPDX-License-Identifier: GPL-3.0-or-later
# Copyright: the sandlot developers
"""From a bare machine to running sandboxes and back, beside bare unshare and podman."""

from __future__ import annotations

from collections import defaultdict
from typing import Dict, List

import bare
from peer import Peer
from peer import names as peer_names
from rows import Figures, Row, at_most, middle, ms, ratios, seconds, times
from setting import Bench, Sizes, say

Series = Dict[str, List[float]]


def measure(bench: Bench) -> Figures:
    sizes, peer = bench.sizes, bench.peer()
    ours: Series = defaultdict(list)
    theirs: Series = defaultdict(list)
    with bench.ours() as root:
        for turn in range(sizes.repetitions):
            say(f"turn {turn + 1} of {sizes.repetitions}")
            ours["bare"].append(bare.seconds_per_item(sizes.many))
            ours["few"].append(root.deploy(sizes.few).seconds)
            root.teardown()
            ours["many"].append(root.deploy(sizes.many).seconds)
            ours["teardown"].append(root.teardown().seconds)
            if peer is not None:
                _podman(peer, sizes, theirs)
    more = sizes.many - sizes.few
    ours["more"] = [(high - low) / more for low, high in zip(ours["few"], ours["many"])]
    return {"few": sizes.few, "many": sizes.many, "sandlot": ours, "podman": theirs}


def _podman(peer: Peer, sizes: Sizes, series: Series) -> None:
    """The same job in three ways, one more of each."""
    few, many = sizes.peer_few, sizes.peer_many
    small = [peer.converge(few, state).seconds for state in ("started", "started", "absent")]
    large = [peer.converge(many, state).seconds for state in ("started", "started", "absent")]
    for key, low, high in zip(("create", "again", "remove"), small, large):
        series[key].append((high - low) / (many - few))
    series["run"].append(middle([peer.run_seconds(name) for name in peer_names(few)]))
    peer.remove_all()
    low = peer.converge_batch(few).seconds
    peer.remove_all()
    series["batch"].append((peer.converge_batch(many).seconds - low) / (many - few))
    peer.remove_all()


def rows(figures: Figures) -> list[Row]:
    ours, theirs = figures["sandlot"], figures["podman"]
    ratio = ratios(ours["more"], ours["bare"])
    figure = f"{times(ratio)}: {ms(ours['more'])}, {ms(ours['bare'])}"
    few, many = figures["few"], figures["many"]
    found = [
        at_most("one more sandbox in a deploy: bare unshare", ratio, 4.5, figure),
        Row(f"a bare machine to {few} sandboxes", seconds(ours["few"])),
        Row(f"a bare machine to {many}", seconds(ours["many"])),
        Row(f"teardown of {many} and of the runtime", seconds(ours["teardown"])),
    ]
    return found + [Row(label, ms(theirs[key])) for key, label in LABELS.items() if theirs]


LABELS = {
    "create": "podman_container, one more",
    "again": "podman_container, one more that exists",
    "remove": "podman_container, one more to remove",
    "batch": "podman_containers (batch), one more",
    "run": "podman run, without Ansible",
}
