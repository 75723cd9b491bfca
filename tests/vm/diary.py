# SPDX-License-Identifier: GPL-3.0-or-later
# Copyright: the sandlot developers
"""A program that writes line after line to disk, and what it said to be written.

Its lines go to a volume, to a volume with a size, and to a layer with a size.
"""

from __future__ import annotations

from guest import Guest
from hosts import DIARY, until

NAME = DIARY["name"]
FILES = ("/records/lines", "/limited/lines", "/lines")
MIB = 1 << 20
LIMITS = {"/limited": 16 * MIB, "/": 24 * MIB}
# A line is acknowledged when the disk has it.
_WRITE = f"""
rm -f {" ".join(FILES)}
n=0
while :; do
  n=$((n + 1))
  for file in {" ".join(FILES)}; do
    echo $n | dd of=$file oflag=append conv=notrunc,fsync 2> /dev/null || exit
  done
  echo $n
done
"""


class Diary:
    """A run of the program from the first line, through a connection of its own."""

    def __init__(self, guest: Guest) -> None:
        self._guest = guest
        self._log = guest.directory / "diary.log"
        with open(self._log, "w") as log:
            self._process = guest.background(f"sandlot exec {NAME} -- sh -c '{_WRITE}'", log)
        until(lambda: len(self._lines()) > 2, "lines are written")

    def _lines(self) -> list[str]:
        return self._log.read_text().split("\n")[:-1]

    def end(self) -> int:
        """The last line that was acknowledged. The guest may be gone, or its program."""
        self._process.kill()
        self._process.wait()
        return int(self._lines()[-1])


def has_all(guest: Guest, last: int) -> None:
    """Each file has all lines up to the last acknowledged one, in order."""
    script = f'for file in {" ".join(FILES)}; do tr "\\n" " " < $file; echo; done'
    for numbers in guest.root(f"sandlot exec {NAME} -- sh -c '{script}'").splitlines():
        found = [int(number) for number in numbers.split()]
        assert found == list(range(1, len(found) + 1)), numbers
        # The news of later ones may have been lost on its way.
        assert last <= len(found)


def is_limited(guest: Guest) -> None:
    """By quotas that refuse more, where a write below them succeeds."""
    for path, size in LIMITS.items():
        fill = f"dd if=/dev/zero of={path}/fill bs=64k count={size >> 16} 2>&1; rm {path}/fill"
        output = guest.root(f"sandlot exec {NAME} -- sh -c '{fill}'")
        assert "No space left" in output or "quota exceeded" in output, output
        guest.root(f"sandlot exec {NAME} -- dd if=/dev/zero of={path}/fill bs=64k count=32")
        guest.root(f"sandlot exec {NAME} -- rm {path}/fill")
