# SPDX-License-Identifier: GPL-3.0-or-later
# Copyright: the sandlot developers
"""Env files: what each line means, and errors without its text."""

from __future__ import annotations

import re
from collections.abc import Mapping

import pytest
from sandlot_plugins.plugin_utils import dotenv
from sandlot_plugins.plugin_utils.dotenv import Entry, EnvFileError, parse


def values(text: str) -> dict[str, str | None]:
    return {entry.name: entry.value for entry in parse(text)}


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("", {}),
        ("\ufeffA=1", {"A": "1"}),
        ("# A=1\n\n  # B=2\nC=3 # comment\n", {"C": "3"}),
        ("A=1\r\nB=2\r\n", {"A": "1", "B": "2"}),
        ("A=a#b # c", {"A": "a#b"}),
        ("A=#b", {"A": "#b"}),
        ("A= # b", {"A": ""}),
        ("A=", {"A": ""}),
        ("A=\nB=2", {"A": "", "B": "2"}),
        ("  export  A=1\nexport=2", {"A": "1", "export": "2"}),
        ("A = 1 2 \nB: 3", {"A": "1 2", "B": "3"}),
        ("A=b=c==", {"A": "b=c=="}),
        ("A\nB # comment\nexport C", {"A": None, "B": None, "C": None}),
        ("A='a # \\n $B \\'q\\''  # comment", {"A": "a # \\n $B 'q'"}),
        (r'A="a # \n\t\"q\" \\n \$B $C \x"', {"A": 'a # \n\t"q" \\n $B $C \\x'}),
        (r'A="\0101\012\0"', {"A": "A\n\\0"}),
        ("A='1\n2'\nB=3", {"A": "1\n2", "B": "3"}),
        ('A="1\n2" \nB=3', {"A": "1\n2", "B": "3"}),
        (r"A='C:\dir\'" + "\nB='x'", None),
        ("A=it's", {"A": "it's"}),
        ("A=${B} $$", {"A": "${B} $$"}),
        ("A=1\nA=2", {"A": "2"}),
        ("spring.profiles[0]-x=1", {"spring.profiles[0]-x": "1"}),
        ("A=\u00e4\u2028x", {"A": "\u00e4\u2028x"}),
    ],
)
def test_a_file_is_read_as_compose_reads_it(text: str, expected: Mapping[str, str] | None) -> None:
    if expected is None:
        with pytest.raises(EnvFileError):
            parse(text)
    else:
        assert values(text) == expected


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("A=1\nhunter2 x", "line 2 does not start with the name of a variable; write NAME=value"),
        ("=hunter2", "line 1 does not start with the name of a variable"),
        ("A=1\n\n'hunter2'=3", "line 3 does not start with the name"),
        ("A='hunter2", "line 1 has a value without its final '; add the quote"),
        ('A="x\nhunter2\nB=1', 'line 1 has a value without its final "; add the quote'),
        ("A='x\n'hunter2", "line 2 goes on after a value; quote the whole value"),
        ('A="x"hunter2', "line 1 goes on after a value"),
    ],
)
def test_an_error_has_the_line_and_no_text_of_it(text: str, message: str) -> None:
    with pytest.raises(EnvFileError, match=re.escape(message)) as error:
        parse(text)
    assert "hunter2" not in repr(error.value)


def test_other_variables_are_put_in_by_the_caller() -> None:
    calls: list[tuple[str, int, dict[str, str]]] = []

    def expand(text: str, line: int, before: Mapping[str, str]) -> str:
        calls.append((text, line, dict(before)))
        return text.replace("$A", before.get("A", ""))

    text = "A=1\nB=\"$A\n\\$A\"\nC='$A'\nD=$A\nE\n"
    entries = dotenv.parse(text, expand)
    assert [entry.value for entry in entries] == ["1", "1\n$1", "$A", "1", None]
    assert [call[:2] for call in calls] == [("1", 1), ("$A\n$$A", 2), ("$A", 5)]
    assert calls[-1][2] == {"A": "1", "B": "1\n$1", "C": "$A"}
    assert entries[-1] == Entry("E", None, 6)


def test_a_large_file_is_read_in_linear_time() -> None:
    assert len(parse("A=1 # x\n" * 20000)) == 20000
