# SPDX-License-Identifier: GPL-3.0-or-later
# Copyright: the sandlot developers
"""A teardown leaves the host as it was found."""

from __future__ import annotations

from guest import Guest, finish
from hosts import BEFORE, FINGERPRINT, TEARDOWN, changed


def test_teardown(guest: Guest, deployed: str) -> None:
    assert changed(finish(guest.play(TEARDOWN, {}))) > 0
    done = guest.ssh(f"sudo python3 {FINGERPRINT} --compare {BEFORE}", check=False)
    assert done.returncode == 0, done.stdout
    assert changed(finish(guest.play(TEARDOWN, {}))) == 0
