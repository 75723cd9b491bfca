# SPDX-License-Identifier: GPL-3.0-or-later
# Copyright: the sandlot developers
"""Files of a layer that hide what another image changed."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Union

import pytest
from sandlot.idmap import IdRange
from sandlot.sandbox import hidden_files
from sandlot.sandbox.hidden_files import Comparison, Hidden, Trees

# A file's text, an octal mode for a directory, a link's "-> target", a removed file's "gone".
Tree = dict[str, Union[str, int]]
GONE = "gone"


def plant(top: Path, tree: Tree) -> str:
    top.mkdir()
    for path, entry in tree.items():
        place = top / path
        place.parent.mkdir(parents=True, exist_ok=True)
        if entry == GONE:
            os.mknod(place, 0o020000, os.makedev(0, 0))
        elif isinstance(entry, int):
            place.mkdir(exist_ok=True)
            place.chmod(entry)
        elif entry.startswith("-> "):
            place.symlink_to(entry[3:])
        else:
            place.write_text(entry)
    return str(top)


def compared(top: Path, old: list[Tree], new: list[Tree], layer: Tree) -> Hidden | None:
    """``old`` and ``new`` are stacks of trees, the topmost first."""
    stacks = []
    for name, trees in (("old", old), ("new", new)):
        paths = [plant(top / f"{name}{number}", tree) for number, tree in enumerate(trees)]
        stacks.append(Trees(tuple(paths)))
    return Comparison(*stacks).hidden(plant(top / "layer", layer), IdRange(0))


CASES: dict[str, tuple[Tree, Tree, Tree, list[str]]] = {
    "a file that changed": ({"etc/a": "1"}, {"etc/a": "2"}, {"etc/a": "x"}, ["/etc/a"]),
    "a file that did not": ({"etc/a": "1"}, {"etc/a": "1"}, {"etc/a": "x"}, []),
    "a file of the same size": ({"a": "1234"}, {"a": "1235"}, {"a": "mine"}, ["/a"]),
    "the layer does not have it": ({"a": "1", "b": ""}, {"a": "2", "b": ""}, {"b": "x"}, []),
    "the layer has what is new": ({"a": "1"}, {"a": "2"}, {"a": "2"}, []),
    "a new file": ({"b": ""}, {"b": "", "etc/new": "2"}, {"etc/new": "mine"}, ["/etc/new"]),
    "a file that is no more": ({"a": "1"}, {}, {"a": "mine"}, ["/a"]),
    "a removed file that changed": ({"a": "1"}, {"a": "2"}, {"a": GONE}, ["/a"]),
    "a removed file that is no more": ({"a": "1"}, {}, {"a": GONE}, []),
    "a directory's mode": ({"d": 0o755}, {"d": 0o700}, {"d": 0o755}, ["/d"]),
    "a link": ({"a": "-> b"}, {"a": "-> c"}, {"a": "-> d"}, ["/a"]),
    "a link that did not change": ({"a": "-> b"}, {"a": "-> b"}, {"a": "-> d"}, []),
    "a file became a directory": ({"a": "1"}, {"a/b": "2"}, {"a": "x"}, ["/a", "/a/b"]),
    "a directory became a file": ({"a/b": "1"}, {"a": "2"}, {"a/c": "x"}, ["/a"]),
    "a removed directory": ({"a/b/c": "1", "a/d": "1"}, {"a/b/c": "2", "a/d": "1", "a/e": "2"},
        {"a": GONE}, ["/a/e", "/a/b/c"]),
    "a file in place of a directory": ({"a/b": "1"}, {"a/b": "2"}, {"a": "x"}, ["/a/b"]),
    "a link in place of a directory": ({"a/b": "1"}, {"a/b": "2"}, {"a": "-> /etc"}, ["/a/b"]),
    "only the layer's": ({"a": ""}, {"a": ""}, {"srv/x/y": "mine", "etc/z": "mine"}, []),
    "what each sandbox has of its own": ({"etc/hosts": "1", "dev/x": "1", "etc/machine-id": "1"},
        {"etc/hosts": "2", "dev/x": "2", "etc/machine-id": ""},
        {"etc/hosts": "", "dev/x": "", "etc/machine-id": "mine"}, []),
    "names in order": ({}, {"b": "", "a/d": "", "a/c": ""}, {"b": "x", "a/d": "x", "a/c": "x"},
        ["/b", "/a/c", "/a/d"]),
    "names that are not printable": ({"\x1b\udcff": "1"}, {"\x1b\udcff": "2"}, {"\x1b\udcff": "x"},
        ["/\\x1b\\udcff"]),
}  # fmt: skip


@pytest.mark.parametrize("case", CASES.values(), ids=CASES)
def test_what_hides_a_change(case: tuple[Tree, Tree, Tree, list[str]], tmp_path: Path) -> None:
    old, new, layer, expected = case
    found = compared(tmp_path, [old], [new], layer)
    assert found == Hidden(expected, len(expected))


def test_what_a_mount_covers_is_no_matter(tmp_path: Path) -> None:
    trees = [plant(tmp_path / text, {"data/a": text, "b": text}) for text in ("1", "2", "mine")]
    comparison = Comparison(Trees((trees[0],)), Trees((trees[1],)))
    found = comparison.hidden(trees[2], IdRange(0), ["/data"])
    assert found is not None and found.paths == ["/b"]


def test_images_of_several_trees(tmp_path: Path) -> None:
    """A whiteout of an upper tree hides lower files, as it does for the sandbox."""
    base = {"a": "1", "d/b": "1", "d/c": "1"}
    layer: Tree = {"a": "x", "d/b": "x", "d/c": "x"}
    found = compared(tmp_path, [base], [{"a": "2", "d/b": GONE}, base], layer)
    assert found is not None and found.paths == ["/a", "/d/b"]


def test_a_tree_that_is_not_there_or_the_same(tmp_path: Path) -> None:
    tree, layer = plant(tmp_path / "tree", {"a": "1"}), plant(tmp_path / "layer", {"a": "x"})
    here, gone = Trees((tree,)), Trees((f"{tree}-gone",))
    for old, new in ((here, gone), (gone, here), (here, here), (Trees(()), here)):
        assert Comparison(old, new).hidden(layer, IdRange(0)) is None
    assert Comparison(here, Trees((layer,))).hidden(f"{layer}-gone", IdRange(0)) is None


def test_many_files_are_counted(tmp_path: Path) -> None:
    names = [f"{number:04}" for number in range(hidden_files.MOST_PATHS + 7)]
    trees = [dict.fromkeys(names, text) for text in ("1", "2", "mine")]
    found = compared(tmp_path, [trees[0]], [trees[1]], trees[2])
    assert found is not None and found.count == len(names) and found.complete
    assert found.paths == [f"/{name}" for name in names[: hidden_files.MOST_PATHS]]


def test_beyond_the_bound_times_tell(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(hidden_files, "MOST_BYTES", 4)
    tree: Tree = {"a": "same", "b": "same", "c": "same"}
    for number, name in enumerate(("old", "new")):
        plant(tmp_path / name, tree)
        for path in ("a", "b", "c"):
            os.utime(tmp_path / name / path, (1, number if path == "c" else 1))
    layer = plant(tmp_path / "layer", {"a": "x", "b": "x", "c": "x"})
    found = Comparison(*(Trees((str(tmp_path / name),)) for name in ("old", "new"))).hidden(
        layer, IdRange(0)
    )
    assert found == Hidden(["/c"], 1, complete=False)


def test_owners_are_those_inside(tmp_path: Path) -> None:
    """The layer's files have the sandbox's ids."""
    old, new, layer = (
        plant(tmp_path / name, {"a": "1", "b": text})
        for name, text in (("old", "1"), ("new", "2"), ("layer", "2"))
    )
    for start, expected in ((0, []), (5, ["/b"])):
        found = Comparison(Trees((old,)), Trees((new,))).hidden(layer, IdRange(start))
        assert found is not None and found.paths == expected


def test_links_of_the_layer_are_not_followed(tmp_path: Path) -> None:
    """A directory of the layer becomes a link while it is looked at."""
    outside = plant(tmp_path / "outside", {"b": "x"})
    for name, text in (("old", "1"), ("new", "2")):
        plant(tmp_path / name, {"a/b": text})
    layer = Path(plant(tmp_path / "layer", {"a/b": "x"}))
    comparison = Comparison(*(Trees((str(tmp_path / name),)) for name in ("old", "new")))
    own = hidden_files._Search._own

    def swapped(self: hidden_files._Search, fd: int, name: str) -> hidden_files._Entry | None:
        entry = own(self, fd, name)
        if name == "a":
            (layer / "a").rename(layer / "moved")
            (layer / "a").symlink_to(outside)
        return entry

    with pytest.MonkeyPatch.context() as patched:
        patched.setattr(hidden_files._Search, "_own", swapped)
        found = comparison.hidden(str(layer), IdRange(0))
    assert found == Hidden([], 0, complete=False)
