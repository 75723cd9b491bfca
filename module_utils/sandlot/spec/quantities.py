# SPDX-License-Identifier: GPL-3.0-or-later
# Copyright: the sandlot developers
"""Numbers of a spec: sizes, counts, CPU sets, signals."""

from __future__ import annotations

import re
import signal
from typing import Any

from ..kernel import cpulist
from .text import MAX_INTEGER, a_type, refusal

MEMORY_MINIMUM = 6 << 20
LOG_MINIMUM = 64 << 10
# A file system in a file needs room for its journal.
DISK_MINIMUM = 16 << 20
UNLIMITED = -1
# NR_CPUS of the largest distribution kernels.
MAX_CPUS = 8192
MAX_SIGNAL = 64
RATE_MINIMUM = 8_000
# The kernel's token bucket counts bytes a second in 32 bits.
RATE_MAXIMUM = 34_000_000_000

_SIZE = re.compile(r"([0-9]{1,19})(?:\.([0-9]{1,9}))? ?(?:([kmgt])i?)?b?", re.I | re.A)
_RATE = re.compile(r"([0-9]{1,19})(?:\.([0-9]{1,9}))? ?([kmg]?)(?:bit)?", re.I | re.A)
_NUMBER = re.compile(r"[+-]?[0-9]{1,19}(?:\.[0-9]{1,19})?")
_INTEGER = re.compile(r"[+-]?[0-9]{1,19}")
_CPU_RANGE = re.compile(r"([0-9]{1,4})(?:-([0-9]{1,4}))?")
_REALTIME = re.compile(r"(RTMIN|RTMAX)(?:([+-])([0-9]{1,2}))?")
_AGE = re.compile(r"(?:([0-9]{1,5})d)?(?:([0-9]{1,6})h)?(?:([0-9]{1,7})m)?", re.A)
_AGES = {"d": 86400, "h": 3600, "m": 60}
_SHIFTS = {"": 0, "k": 10, "m": 20, "g": 30, "t": 40}


def size(option: str, value: Any, *, minimum: int = 1) -> int:
    """Parse docker's notation of a size (units of 1024), or a plain number; bytes."""
    match = _SIZE.fullmatch(_digits(value))
    if not match:
        hint = "write it like 512m or 1.5g (b, k, m, g, t), or as a number of bytes"
        raise refusal(option, value, "is not a size", hint=hint)
    whole, fraction, unit = match.groups(default="")
    shift = _SHIFTS[unit.lower()]
    amount = int(whole) << shift
    if fraction:
        amount += (int(fraction) << shift) // 10 ** len(fraction)
    if amount < minimum:
        hint = f"use {readable(minimum)} or more"
        raise refusal(option, value, f"is below {readable(minimum)}", hint=hint)
    if amount > MAX_INTEGER:
        raise refusal(option, value, "is more than the kernel can count", hint="use a smaller size")
    return amount


def _digits(value: Any) -> str:
    """The text of a number, "" for any other value."""
    if isinstance(value, bool) or not isinstance(value, (str, int, float)):
        return ""
    if isinstance(value, int) and abs(value) > MAX_INTEGER:
        return ""
    return str(value)


def readable(amount: int) -> str:
    for unit in ("t", "g", "m", "k"):
        if amount % (1 << _SHIFTS[unit]) == 0:
            return f"{amount >> _SHIFTS[unit]}{unit}"
    return f"{amount}b"


def bit_rate(option: str, value: Any) -> int:
    """Parse tc's and Incus's notation of a rate (units of 1000), or a number; bits a second."""
    match = _RATE.fullmatch(_digits(value))
    hint = "write it like 10mbit or 1.5gbit (bit, kbit, mbit, gbit), or as bits a second"
    if not match:
        raise refusal(option, value, "is not a rate", hint=hint)
    whole, fraction, unit = match.groups(default="")
    scale = int(1000 ** ("", "k", "m", "g").index(unit.lower()))
    amount = int(whole) * scale
    if fraction:
        amount += int(fraction) * scale // 10 ** len(fraction)
    if RATE_MINIMUM <= amount <= RATE_MAXIMUM:
        return amount
    raise refusal(option, value, "is out of range", hint="use a rate from 8kbit to 34gbit")


def swap(option: str, value: Any) -> int:
    """Memory and swap together, or -1 for unlimited swap."""
    return UNLIMITED if _digits(value) == "-1" else size(option, value)


def pids(option: str, value: Any, *, maximum: int) -> int:
    """The most processes: at least two, for init and the workload; -1 is unlimited."""
    return (
        UNLIMITED if _digits(value) == "-1" else integer(option, value, minimum=2, maximum=maximum)
    )


def integer(option: str, value: Any, *, minimum: int, maximum: int) -> int:
    span = f"from {minimum} to {maximum}"
    if not isinstance(value, float) and _INTEGER.fullmatch(_digits(value)):
        number = int(value)
        if minimum <= number <= maximum:
            return number
        raise refusal(option, value, "is out of range", hint=f"use a number {span}")
    problem = f"is {a_type(value)}, not a number"
    if isinstance(value, (str, float)):
        problem = "is not a whole number"
    elif isinstance(value, int) and not isinstance(value, bool):
        problem = "is out of range"
    raise refusal(option, value, problem, hint=f"use a number {span}")


def number(option: str, value: Any, *, minimum: float, maximum: float, digits: int) -> float:
    """A finite number, rounded to ``digits`` decimals, the finest step that the kernel gets."""
    hint = f"use a number from {minimum:g} to {maximum:.10g}"
    if isinstance(value, bool) or not isinstance(value, (int, float, str)):
        raise refusal(option, value, f"is {a_type(value)}, not a number", hint=hint)
    if isinstance(value, str) and not _NUMBER.fullmatch(value):
        raise refusal(option, value, "is not a number", hint=hint)
    amount = float(value) if isinstance(value, str) else value
    # NaN compares false with everything.
    if not minimum <= amount <= maximum:
        raise refusal(option, value, "is out of range", hint=hint)
    return round(float(amount), digits) + 0.0


def age(option: str, value: Any) -> int:
    """Parse days, hours and minutes, at least one minute; seconds."""
    hint = "write it like 30d, 12h or 1d12h (d, h, m)"
    match = _AGE.fullmatch(value) if isinstance(value, str) and value else None
    if match is None:
        raise refusal(option, value, "is not an age with a unit", hint=hint)
    numbers = zip(match.groups(default="0"), _AGES.values())
    seconds = sum(int(count) * length for count, length in numbers)
    if not seconds:
        raise refusal(option, value, "is no time at all", hint="use 1m or more, or leave it out")
    return seconds


def show_age(seconds: int | None) -> str | None:
    if seconds is None:
        return None
    words = ""
    for unit, length in _AGES.items():
        count, seconds = divmod(seconds, length)
        words += f"{count}{unit}" if count else ""
    return words


def cpu_set(option: str, value: Any) -> frozenset[int]:
    """Parse CPU numbers in the kernel's list format."""
    hint = "write it like 0-3 or 0,2"
    parts = [part.strip(" ") for part in _digits(value).split(",")]
    for part in parts:
        match = _CPU_RANGE.fullmatch(part)
        if match is None:
            raise refusal(option, value, "is not a set of CPU numbers", hint=hint)
        if not int(match[1]) <= int(match[2] or match[1]) < MAX_CPUS:
            raise refusal(option, value, "has a range that is reversed or too high", hint=hint)
    return cpulist.parse(",".join(parts))


def show_cpus(cpus: frozenset[int] | None) -> str | None:
    return None if cpus is None else cpulist.render(cpus)


def signal_number(option: str, value: Any) -> int:
    """The number of a signal, given by number or by name, with or without SIG, in any case."""
    digits = _digits(value)
    number_given = int(digits) if _INTEGER.fullmatch(digits) else _named_signal(digits)
    if not 1 <= number_given <= MAX_SIGNAL:
        hint = f"use a name such as SIGTERM, or a number from 1 to {MAX_SIGNAL}"
        raise refusal(option, value, "is not a signal", hint=hint)
    return number_given


def _named_signal(name: str) -> int:
    """The number of a signal given by name, 0 if it does not exist."""
    upper = name.upper() if name.isascii() else ""
    short = upper[3:] if upper.startswith("SIG") else upper
    realtime = _REALTIME.fullmatch(short)
    if realtime:
        base, sign, offset = realtime.groups(default="0")
        number_found = signal.Signals[f"SIG{base}"] + int(f"{sign.strip('0')}{offset}")
        return number_found if signal.SIGRTMIN <= number_found <= signal.SIGRTMAX else 0
    known = signal.Signals.__members__.get(f"SIG{short}")
    return int(known) if known else 0


def signal_name(number_given: int) -> str | int:
    try:
        return signal.Signals(number_given).name
    except ValueError:
        return number_given
