# SPDX-License-Identifier: GPL-3.0-or-later
# Copyright: the sandlot developers
"""The program that decides about devices in version 2 of cgroups, run by a small interpreter."""

from __future__ import annotations

import struct
import sys

import pytest
from sandlot.build.rootplan import DEVICES
from sandlot.kernel import device_rules
from sandlot.kernel.device_rules import Rule

RULES = [Rule("c", 10, 229, "rw"), Rule("b", 7, None, "r")]
BITS = {"m": 1, "r": 2, "w": 4}
TYPES = {"b": 1, "c": 2}
MASK = (1 << 64) - 1


def verdict(code: bytes, kind: str, major: int, minor: int, access: str) -> int:
    """What the program returns; the verifier of the kernel is for integration tests."""
    context = [sum(BITS[letter] for letter in access) << 16 | TYPES[kind], major, minor]
    registers, place = [0] * 11, 0
    while True:
        opcode, pair, offset, constant = struct.unpack_from("=BBhi", code, 8 * place)
        target, source = pair & 15, pair >> 4
        place += 1
        if opcode == 0x61:
            registers[target] = context[offset // 4]
        elif opcode == 0xBF:
            registers[target] = registers[source]
        elif opcode == 0x57:
            registers[target] &= constant & MASK
        elif opcode == 0x77:
            registers[target] >>= constant
        elif opcode == 0xB7:
            registers[target] = constant
        elif opcode == 0x55:
            place += offset if registers[target] != constant & MASK else 0
        else:
            assert opcode == 0x95, hex(opcode)
            return registers[0]


@pytest.mark.skipif(sys.byteorder != "little", reason="registers change places")
@pytest.mark.parametrize(
    ("kind", "major", "minor", "access", "allowed"),
    [
        ("c", 10, 229, "r", 1),
        ("c", 10, 229, "rw", 1),
        ("c", 10, 229, "m", 0),
        ("c", 10, 229, "rwm", 0),
        ("b", 10, 229, "r", 0),
        ("c", 10, 228, "r", 0),
        ("c", 11, 229, "r", 0),
        ("b", 7, 0, "r", 1),
        ("b", 7, 99, "r", 1),
        ("b", 7, 0, "w", 0),
        ("c", 7, 0, "r", 0),
        ("c", 1, 1, "r", 0),
    ],
)
def test_verdict(kind: str, major: int, minor: int, access: str, allowed: int) -> None:
    code = device_rules.program(RULES)
    assert verdict(code, kind, major, minor, access) == allowed
    assert verdict(device_rules.program([]), kind, major, minor, access) == 0


def test_what_every_sandbox_has_is_allowed() -> None:
    code = device_rules.program(device_rules.USUAL)
    for major, minor in [*DEVICES.values(), (5, 2), (136, 0), (136, 255)]:
        assert verdict(code, "c", major, minor, "rw") == 1
    assert verdict(code, "c", 5, 1, "r") == verdict(code, "c", 1, 11, "r") == 0


def test_rules_are_written_as_the_kernel_does() -> None:
    assert [str(rule) for rule in RULES] == ["c 10:229 rw", "b 7:* r"]
