# SPDX-License-Identifier: GPL-3.0-or-later
# Copyright: the sandlot developers
"""The kernel's jhash (include/linux/jhash.h) of an IPv6 address, as nft computes it."""

from __future__ import annotations

import ipaddress
import struct

MODULUS = 0xFFFFFFFF
WORD = 0xFFFFFFFF
START = 0xDEADBEEF
MIX = (("a", "c", 4, "b"), ("b", "a", 6, "c"), ("c", "b", 8, "a"),
       ("a", "c", 16, "b"), ("b", "a", 19, "c"), ("c", "b", 4, "a"))  # fmt: skip
FINAL = (("c", "b", 14), ("a", "c", 11), ("b", "a", 25), ("c", "b", 16),
         ("a", "c", 4), ("b", "a", 14), ("c", "b", 24))  # fmt: skip


def of_address(address: str, seed: int) -> int:
    packed = ipaddress.IPv6Address(address).packed
    start = START + len(packed) + seed
    # Words are in host byte order, the rest at the end byte by byte.
    words: tuple[int, ...] = (
        *struct.unpack("=3I", packed[:12]),
        int.from_bytes(packed[12:], "little"),
    )
    state: dict[str, int] = {name: (start + word) & WORD for name, word in zip("abc", words)}
    for one, other, bits, third in MIX:
        state[one] = ((state[one] - state[other]) & WORD) ^ _rotated(state[other], bits)
        state[other] = (state[other] + state[third]) & WORD
    state["a"] = (state["a"] + words[3]) & WORD
    for one, other, bits in FINAL:
        state[one] ^= state[other]
        state[one] = (state[one] - _rotated(state[other], bits)) & WORD
    return (state["c"] * MODULUS) >> 32


def _rotated(word: int, bits: int) -> int:
    return ((word << bits) | (word >> (32 - bits))) & WORD
