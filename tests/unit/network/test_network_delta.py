# SPDX-License-Identifier: GPL-3.0-or-later
# Copyright: the sandlot developers

from __future__ import annotations

import pytest
from sandlot.network.bridge import nft_delta


def table(elements="", rule="accept", name="inet sandlot", kind="set"):
    held = f"\t\telements = {{ {elements} }}\n" if elements else ""
    return (
        f"table {name} {{\n\t{kind} s {{\n\t\ttype ipv4_addr\n{held}\t}}\n"
        f"\tchain c {{\n\t\t{rule}\n\t}}\n}}\n"
    )


@pytest.mark.parametrize(
    ("before", "after", "script"),
    [
        (table("1.1.1.1"), table("1.1.1.1"), ""),
        (table("1.1.1.1"), table("1.1.1.1, 2.2.2.2"), "add element inet sandlot s { 2.2.2.2 }\n"),
        (
            table("1.1.1.1, 2.2.2.2"),
            table("2.2.2.2"),
            "delete element inet sandlot s { 1.1.1.1 }\n",
        ),
        (table(""), table("2.2.2.2"), "add element inet sandlot s { 2.2.2.2 }\n"),
        (
            table("1.1.1.1 : 80", kind="map"),
            table("1.1.1.1 : 81", kind="map"),
            "delete element inet sandlot s { 1.1.1.1 : 80 }\n"
            "add element inet sandlot s { 1.1.1.1 : 81 }\n",
        ),
        (
            table("1.1.1.1") + table("a, b", name="bridge sandlot"),
            table("1.1.1.1") + table("b, c", name="bridge sandlot"),
            "delete element bridge sandlot s { a }\nadd element bridge sandlot s { c }\n",
        ),
        (table("1.1.1.1"), table("1.1.1.1", rule="drop"), None),
        (table("1.1.1.1"), table("1.1.1.1", kind="map"), None),
        (table("1.1.1.1"), table("1.1.1.1") + table("x", name="bridge sandlot"), None),
        ("", table("1.1.1.1"), None),
    ],
)
def test_script(before, after, script):
    assert nft_delta.script(before, after) == script


def test_rules_contain_those_of_some_sandboxes():
    whole = table("1.1.1.1, 2.2.2.2")
    assert nft_delta.contains(whole, whole)
    assert nft_delta.contains(whole, table("2.2.2.2"))
    assert not nft_delta.contains(whole, table("3.3.3.3"))
    assert not nft_delta.contains(whole, table(rule="drop"))
    assert not nft_delta.contains(whole, table(kind="map"))
    assert not nft_delta.contains(whole, table(name="bridge sandlot"))
    assert not nft_delta.contains("", whole)
