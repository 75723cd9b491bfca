# SPDX-License-Identifier: GPL-3.0-or-later
# Copyright: the sandlot developers
"""Classic BPF for seccomp, composed of blocks.

A block is a list of instructions that is entered at its start and always ends in a return, so
blocks nest without labels. Loads address ``struct seccomp_data``; words are in native order.
"""

from __future__ import annotations

import struct
import sys
from typing import List, Sequence, Tuple

Instruction = Tuple[int, int, int, int]  # code, jump if true, jump if false, constant
Block = List[Instruction]

LOAD = 0x20  # BPF_LD | BPF_W | BPF_ABS
AND = 0x54  # BPF_ALU | BPF_AND | BPF_K
JUMP = 0x05  # BPF_JMP | BPF_JA
EQUAL = 0x15  # BPF_JMP | BPF_JEQ | BPF_K
AT_LEAST = 0x35  # BPF_JMP | BPF_JGE | BPF_K
ANY_BIT = 0x45  # BPF_JMP | BPF_JSET | BPF_K
RETURN = 0x06  # BPF_RET | BPF_K

NUMBER_OFFSET = 0
ARCHITECTURE_OFFSET = 4
_ARGUMENTS_OFFSET = 16
_LOW_WORD = 0 if sys.byteorder == "little" else 4

_RET_ERRNO = 0x00050000
_RET_ALLOW = 0x7FFF0000
_LONGEST_CONDITIONAL_JUMP = 255
MAXIMUM_LENGTH = 4096  # BPF_MAXINSNS

ALLOW: Block = [(RETURN, 0, 0, _RET_ALLOW)]


def fail(error: int) -> Block:
    """The call returns ``error`` without being made."""
    return [(RETURN, 0, 0, _RET_ERRNO | error)]


def load(offset: int, then: Block) -> Block:
    return [(LOAD, 0, 0, offset), *then]


def load_argument(index: int, then: Block) -> Block:
    """Load the low word of an argument: all the kernel looks at when it declares 32 bits."""
    return load(_ARGUMENTS_OFFSET + 8 * index + _LOW_WORD, then)


def masked(bits: int, then: Block) -> Block:
    return [(AND, 0, 0, bits), *then]


def branch(test: int, constant: int, yes: Block, no: Block) -> Block:
    """``yes`` or ``no``, by comparing the loaded word with ``constant``."""
    if len(no) <= _LONGEST_CONDITIONAL_JUMP:
        return [(test, len(no), 0, constant), *no, *yes]
    return [(test, 0, 1, constant), (JUMP, 0, 0, len(no)), *no, *yes]


def select(cases: Sequence[Tuple[int, Block]], otherwise: Block) -> Block:
    """The block of the case that equals the loaded word."""
    block = otherwise
    for constant, matched in reversed(cases):
        block = branch(EQUAL, constant, matched, block)
    return block


def search(ranges: Sequence[Tuple[int, Block]]) -> Block:
    """Binary search: ``ranges`` are (first value, block), sorted, the first one starting at 0."""
    if len(ranges) == 1:
        return ranges[0][1]
    middle = len(ranges) // 2
    first = ranges[middle][0]
    return branch(AT_LEAST, first, search(ranges[middle:]), search(ranges[:middle]))


def pack(block: Block) -> bytes:
    """The block as an array of ``struct sock_filter``."""
    if len(block) > MAXIMUM_LENGTH:
        raise ValueError(f"{len(block)} BPF instructions, the kernel takes {MAXIMUM_LENGTH}")
    return b"".join(struct.pack("=HBBI", *instruction) for instruction in block)
