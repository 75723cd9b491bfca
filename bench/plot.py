# SPDX-License-Identifier: GPL-3.0-or-later
# Copyright: the sandlot developers
"""One picture: cost of one more sandbox, second run, memory; ours beside the others."""

from __future__ import annotations

from pathlib import Path
from typing import Any, List, Mapping, Tuple

import matplotlib

matplotlib.use("Agg")

from matplotlib import pyplot  # noqa: E402
from matplotlib.axes import Axes  # noqa: E402
from verdicts import KIB, median  # noqa: E402

OURS = "#1f6feb"
OTHERS = "#9aa4af"
Bars = List[Tuple[str, float]]


def draw(result: Mapping[str, Any], path: Path) -> None:
    figure, axes = pyplot.subplots(1, 3, figsize=(13, 3.4))
    _bars(axes[0], "One more sandbox (ms)", _additions(result), log=True)
    _bars(axes[1], "Second run, nothing to do (s)", _second(result))
    _bars(axes[2], "Memory per idle sandbox (kB)", _memory(result))
    figure.tight_layout()
    figure.savefig(path, dpi=110, metadata={"Software": None})
    pyplot.close(figure)


def _additions(result: Mapping[str, Any]) -> Bars:
    ours, theirs = result["sandlot"], result["podman"]
    bars = [
        ("bare unshare", median(ours, "bare") * 1000),
        ("sandlot", median(ours, "additional") * 1000),
    ]
    if theirs:
        bars += [
            (label, median(theirs, key) * 1000)
            for label, key in (
                ("podman run", "run"),
                ("podman_containers", "batch"),
                ("podman_container", "create"),
            )
        ]
    return bars


def _second(result: Mapping[str, Any]) -> Bars:
    ours, many = result["sandlot"], result["sizes"]["many"]
    modules = ours["modules"]
    return [
        (f"{modules} pings", median(ours, "pings")),
        (f"sandlot, {many} sandboxes", median(ours, "again")),
    ]


def _memory(result: Mapping[str, Any]) -> Bars:
    bars = [("sandlot", result["sandlot"]["memory_per_sandbox"] / KIB)]
    if result["podman"]:
        bars.append(("podman's conmon", result["podman"]["memory_conmon"] / KIB))
    return bars


def _bars(axes: Axes, title: str, bars: Bars, *, log: bool = False) -> None:
    labels, values = zip(*bars)
    colours = [OURS if label.startswith("sandlot") else OTHERS for label in labels]
    drawn = axes.barh(labels, values, color=colours, log=log)
    axes.bar_label(drawn, [_number(value) for value in values], padding=3)
    axes.margins(x=0.3)
    axes.invert_yaxis()
    axes.set_title(title, loc="left", fontsize=10)
    for side in ("top", "right"):
        axes.spines[side].set_visible(False)


def _number(value: float) -> str:
    return f"{value:,.0f}" if value >= 100 else f"{value:.3g}"
