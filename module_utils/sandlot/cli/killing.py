# SPDX-License-Identifier: GPL-3.0-or-later
# Copyright: the sandlot developers
"""sandlot kill."""

from __future__ import annotations

import argparse

from ..errors import SandlotError
from ..reach import killing
from ..site import Site
from ..spec import quantities
from . import output


def run(site: Site, options: argparse.Namespace) -> int:
    number = quantities.signal_number("--signal", options.signal)
    for word in options.name:
        # argparse takes a negative number for a name.
        if word.startswith("-"):
            raise SandlotError(f"kill: {word!r} is not an option", hint=f"write -s {word[1:]}")
    failed = False
    for name in dict.fromkeys(options.name):
        try:
            killing.kill(site, name, number)
        except SandlotError as error:
            failed = True
            output.complain(error)
    return 1 if failed else 0
