# SPDX-License-Identifier: GPL-3.0-or-later
# Copyright: the sandlot developers
"""A teardown leaves the host as it was found, also after one that the power was cut in."""

from __future__ import annotations

import json

from guest import Guest, finish
from hosts import TEARDOWN, VOLUMES, changed, compare


def test_teardown(guest: Guest, raised: object) -> None:
    volumes = json.dumps({"sandbox_remove_volumes": VOLUMES})
    assert changed(finish(guest.play(TEARDOWN, {}, "-e", volumes))) > 0
    compare(guest)
    assert changed(finish(guest.play(TEARDOWN, {}))) == 0
