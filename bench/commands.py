# SPDX-License-Identifier: GPL-3.0-or-later
# Copyright: the sandlot developers
"""A command in a sandbox, the whole command line, by turns with podman's."""

from __future__ import annotations

from ours import names
from peer import names as peer_names
from rows import Figures, Row, ms
from setting import Bench


def measure(bench: Bench) -> Figures:
    peer = bench.peer()
    figures: Figures = {"sandlot": [], "podman": []}
    with bench.ours() as ours:
        ours.deploy(1)
        if peer is not None:
            peer.run_seconds(peer_names(1)[0])
        for _ in range(bench.sizes.quick):
            figures["sandlot"].append(ours.command("exec", names(1)[0], "--", "true").seconds)
            if peer is not None:
                figures["podman"].append(peer.podman("exec", peer_names(1)[0], "true").seconds)
    return figures


def rows(figures: Figures) -> list[Row]:
    labels = {"sandlot": "sandlot exec NAME -- true", "podman": "podman exec NAME true"}
    return [Row(label, ms(figures[key])) for key, label in labels.items() if figures[key]]
