# SPDX-License-Identifier: GPL-3.0-or-later
# Copyright: the sandlot developers
"""Draws path.svg from path.txt, which explains its format. Run it after a change of the text."""

from __future__ import annotations

import textwrap
from dataclasses import dataclass, field
from pathlib import Path
from xml.sax.saxutils import escape

HERE = Path(__file__).resolve().parent
SOURCE, PICTURE = HERE / "path.txt", HERE / "path.svg"

MARGIN, LANE, BOX, CELLS, GAP = 16, 272, 252, 5, 14
LINE, PAD = 17, 11
# Widths of a character, with room for a font that is wider than the first choice.
PROSE, CODE = 6.8, 6.6
INK, GREY, PAPER = "#1f2933", "#52606d", "#ffffff"
COLOURS = {
    "ansible": ("#fdf3d7", "#b7791f"),
    "module": ("#e3f0fb", "#2b6cb0"),
    "launcher": ("#eceff3", "#52606d"),
    "worker": ("#fde8e4", "#c0502f"),
    "init": ("#e2f5e6", "#2f855a"),
}
MARKS = {"|": "prose", "@": "code", ">": "file"}
STYLE = f"""
text {{ font-family: "DejaVu Sans", Verdana, sans-serif; font-size: 12px; fill: {INK} }}
.title {{ font-size: 18px; font-weight: bold }}
.name, .heading {{ font-weight: bold }}
.name {{ font-size: 13px }}
.role, .sent {{ font-size: 11px; fill: {GREY} }}
.code, .file {{ font-family: "DejaVu Sans Mono", monospace; font-size: 10.5px }}
.code {{ fill: {GREY} }}
"""


@dataclass
class Item:
    """One statement of the text, and the lines that belong to it."""

    kind: str
    lanes: list[str] = field(default_factory=list)
    text: str = ""
    lines: list[tuple[str, str]] = field(default_factory=list)

    def wrapped(self, width: int) -> list[tuple[str, str]]:
        """The lines as they fit into a box, with the style of each."""
        room = width - 2 * PAD
        found = []
        for mark, words in self.lines:
            if mark == "|":
                found += [("prose", part) for part in textwrap.wrap(words, int(room / PROSE))]
            else:
                shown = f"→ {words}" if mark == ">" else words
                if len(shown) * CODE > room:
                    raise ValueError(f"{self.text}: {words!r} is too long for its box")
                found.append((MARKS[mark], shown))
        return found


def parsed(source: str) -> list[Item]:
    items: list[Item] = []
    for line in source.splitlines():
        kind, dummy, rest = line.strip().partition(" ")
        if not kind or kind.startswith("#"):
            continue
        if kind in MARKS:
            items[-1].lines.append((kind, rest.strip()))
            continue
        count = {"lane": 1, "cell": 1, "box": 1, "send": 2}.get(kind, 0)
        words = rest.split(maxsplit=count)
        items.append(Item(kind, words[:count], " ".join(words[count:])))
    return items


class Picture:
    """The SVG so far, and how far down it has got."""

    def __init__(self, lanes: list[Item]) -> None:
        self.lanes = {item.lanes[0]: item.text for item in lanes}
        self.width = 2 * MARGIN + LANE * len(lanes)
        self.parts: list[str] = []
        self.y = 44
        self.row: list[Item] = []
        self.heads = (0, 0)

    def centre(self, lane: str) -> int:
        return MARGIN + LANE * list(self.lanes).index(lane) + LANE // 2

    def text(self, x: int, y: int, words: str, style: str, anchor: str = "start") -> None:
        self.parts.append(
            f'<text x="{x}" y="{y}" class="{style}" text-anchor="{anchor}">{escape(words)}</text>'
        )

    def rectangle(self, x: int, y: int, width: int, height: int, look: str) -> None:
        self.parts.append(f'<rect x="{x}" y="{y}" width="{width}" height="{height}" {look}/>')

    def arrow(self, x1: int, x2: int, y: int, colour: str) -> None:
        tip = x2 - 4 if x2 > x1 else x2 + 4
        look = f'stroke="{colour}" stroke-width="1.6" marker-end="url(#tip)"'
        self.parts.append(f'<line x1="{x1}" y1="{y}" x2="{tip}" y2="{y}" {look}/>')

    def framed(self, item: Item, left: int, width: int, height: int) -> None:
        fill, edge = COLOURS[item.lanes[0]]
        self.rectangle(left, self.y, width, height, f'rx="6" fill="{fill}" stroke="{edge}"')
        y = self.y + PAD + 11
        self.text(left + PAD, y, item.text, "heading")
        for style, words in item.wrapped(width):
            y += LINE
            self.text(left + PAD, y, words, style)

    def cells(self) -> None:
        """The row gathered so far, as boxes of one height with arrows between them."""
        width = (self.width - 2 * MARGIN - GAP * (CELLS - 1)) // CELLS
        height = max(_height(item, width) for item in self.row)
        for number, item in enumerate(self.row):
            left = MARGIN + number * (width + GAP)
            self.framed(item, left, width, height)
            if number:
                self.arrow(left - GAP, left + 1, self.y + height // 2, GREY)
        self.y += height + 12
        self.row = []

    def box(self, item: Item) -> None:
        height = _height(item, BOX)
        self.framed(item, self.centre(item.lanes[0]) - BOX // 2, BOX, height)
        self.y += height + 12

    def send(self, item: Item) -> None:
        start, end = (self.centre(lane) for lane in item.lanes)
        width = int(PROSE * len(item.text)) + 8
        middle = (start + end) // 2
        self.rectangle(middle - width // 2, self.y, width, 14, f'fill="{PAPER}" opacity="0.9"')
        self.text(middle, self.y + 11, item.text, "sent", "middle")
        self.arrow(start, end, self.y + 18, COLOURS[item.lanes[0]][1])
        self.y += 32

    def phase(self, item: Item) -> None:
        look = 'fill="#f5f7fa" stroke="#cbd2d9"'
        self.rectangle(MARGIN, self.y, self.width - 2 * MARGIN, 24, look)
        self.text(MARGIN + PAD, self.y + 16, item.text, "heading")
        self.y += 36

    def columns(self) -> None:
        self.y += 6
        for lane, text in self.lanes.items():
            name, dummy, role = text.partition(" / ")
            fill, edge = COLOURS[lane]
            centre = self.centre(lane)
            look = f'rx="6" fill="{fill}" stroke="{edge}"'
            self.rectangle(centre - BOX // 2, self.y, BOX, 40, look)
            self.text(centre, self.y + 17, name, "name", "middle")
            self.text(centre, self.y + 33, role, "role", "middle")
        self.y += 40
        self.heads = (len(self.parts), self.y)
        self.y += 12

    def draw(self, item: Item) -> None:
        if item.kind == "cell":
            self.row.append(item)
            return
        if self.row:
            self.cells()
        if item.kind == "lanes":
            self.columns()
        elif item.kind in ("box", "send", "phase"):
            getattr(self, item.kind)(item)

    def finished(self) -> list[str]:
        """Everything, with the lines of the columns behind what stands in them."""
        place, top = self.heads
        lines = [
            f'<line x1="{self.centre(lane)}" y1="{top}" x2="{self.centre(lane)}" y2="{self.y}" '
            f'stroke="{COLOURS[lane][1]}" stroke-dasharray="2 4"/>'
            for lane in self.lanes
        ]
        return [*self.parts[:place], *lines, *self.parts[place:]]


def _height(item: Item, width: int) -> int:
    return 2 * PAD + LINE * (1 + len(item.wrapped(width))) - 4


def rendered(source: str) -> str:
    items = parsed(source)
    title = next(item.text for item in items if item.kind == "title")
    picture = Picture([item for item in items if item.kind == "lane"])
    for item in items:
        picture.draw(item)
    width, height = picture.width, picture.y + MARGIN
    tip = f'<path d="M0,0 L8,4 L0,8 z" fill="{GREY}"/>'
    place = 'markerWidth="8" markerHeight="8" refX="6" refY="4" orient="auto"'
    lines = [
        "<!-- SPDX-License-Identifier: GPL-3.0-or-later -->",
        "<!-- Copyright: the sandlot developers. Made by render.py from path.txt. -->",
        f'<svg xmlns="http://www.w3.org/2000/svg" width="{width}" height="{height}" '
        f'viewBox="0 0 {width} {height}" role="img">',
        f"<title>{escape(title)}</title><style>{STYLE}</style>",
        f'<defs><marker id="tip" {place}>{tip}</marker></defs>',
        f'<rect width="100%" height="100%" fill="{PAPER}"/>',
        f'<text x="{MARGIN}" y="30" class="title">{escape(title)}</text>',
        *picture.finished(),
        "</svg>",
    ]
    return "\n".join(lines) + "\n"


if __name__ == "__main__":
    PICTURE.write_text(rendered(SOURCE.read_text(encoding="utf-8")), encoding="utf-8")
