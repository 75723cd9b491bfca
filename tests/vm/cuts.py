# SPDX-License-Identifier: GPL-3.0-or-later
# Copyright: the sandlot developers
"""Power cuts in the middle of runs, at moments that the guest itself notices."""

from __future__ import annotations

import shlex
import time
from typing import Any

from guest import PLAY_SECONDS, Guest
from hosts import inspected

STATE = "/var/lib/sandlot"
# Tells on the console when files that match a pattern have come, or have gone, and stops the kernel
# there: the rest of a run may take less time than the news takes to get out of the guest.
_WATCH = """\
import glob, os, sys, termios, time
came, pattern, mark = sys.argv[1][0] == "+", sys.argv[1][1:], sys.argv[2]
def seen():
    found = set()
    for path in glob.glob(pattern):
        try:
            found.add((path, os.stat(path).st_ino))
        except FileNotFoundError:
            pass
    return found
before = seen()
open("/dev/ttyS0", "w").write(f"watching-{mark}\\n")
while not (seen() - before if came else before - seen()):
    time.sleep(0.01)
console = os.open("/dev/ttyS0", os.O_WRONLY | os.O_NOCTTY)
os.write(console, f"reached-{mark}\\n".encode())
termios.tcdrain(console)
open("/proc/sysrq-trigger", "w").write("c")
"""


def unplugged(guest: Guest, playbook: str, variables: dict[str, Any], moment: str) -> None:
    """Cut the power once the guest says that the moment has come, and boot again."""
    mark = str(time.monotonic_ns())
    # Before all else that runs, as it looks every hundredth of a second.
    first = ["-p", "CPUSchedulingPolicy=fifo", "-p", "CPUSchedulingPriority=50"]
    guest.root(shlex.join(["systemd-run", "-q", *first, "python3", "-c", _WATCH, moment, mark]))
    _await(guest, f"watching-{mark}", lambda: True)
    play = guest.play(playbook, variables)
    try:
        _await(guest, f"reached-{mark}", play.running)
        guest.cut_power()
    except AssertionError as error:
        raise AssertionError(f"{moment}: {error}\n{play.output()}") from None
    finally:
        play.end()
    guest.boot()


def _await(guest: Guest, words: str, going_on: Any) -> None:
    deadline = time.monotonic() + PLAY_SECONDS
    while words not in guest.console():
        assert going_on(), f"it ended without {words}"
        assert time.monotonic() < deadline, f"no {words} within {PLAY_SECONDS:.0f} seconds"
        time.sleep(0.01)


def readable(guest: Guest) -> dict[str, dict[str, Any]]:
    """Everything there is of sandlot can be read, and no unit of it has failed at boot."""
    assert "sandlot" not in guest.output("systemctl --failed --plain --no-legend")
    listed = guest.json("test ! -x /usr/local/bin/sandlot && echo [] || sandlot list --format json")
    names = [entry["name"] for entry in listed]
    found = inspected(guest, names) if names else {}
    assert {name: entry["spec"]["name"] for name, entry in found.items()} == {n: n for n in names}
    return found
