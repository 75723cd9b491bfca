# SPDX-License-Identifier: GPL-3.0-or-later
# Copyright: the sandlot developers
"""Power cuts in each phase of a first deploy; the tests of other files go on with what is left.

Each run goes on where the one before it was cut off, and is cut off later.
"""

from __future__ import annotations

import pytest
from cuts import STATE, readable, unplugged
from guest import Guest
from hosts import DEMO, DEPLOY, NAMES, SUITES_CUT

SUITES_WANTED = SUITES_CUT
# What has come to be on the host when the power goes, and what the run lacks of the demo. Networks
# are declared after the first records: a run without sandboxes comes to them alone.
NETWORKS_ALONE = {"sandbox_images": [], "sandbox_instances": []}
PHASES = {
    "runtime": ("+/usr/local/lib/sandlot/upgrade-pending", {}),
    "networks": (f"+{STATE}/networks.json", NETWORKS_ALONE),
    "image": (f"+{STATE}/images/*", {}),
    "records": (f"+{STATE}/sandboxes/*/record.json", {}),
    "start": ("+/run/sandlot/*/init.json", {}),
}


@pytest.mark.parametrize("phase", PHASES)
def test_during_the_first_deploy(guest: Guest, phase: str) -> None:
    moment, less = PHASES[phase]
    unplugged(guest, DEPLOY, {**DEMO, **less}, moment)
    assert readable(guest).keys() <= set(NAMES)
