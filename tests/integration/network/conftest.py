# SPDX-License-Identifier: GPL-3.0-or-later
# Copyright: the sandlot developers

from __future__ import annotations

import os

import pytest
from lab import Lab


@pytest.fixture
def lab(tmp_path):
    if os.geteuid():
        pytest.skip("needs root")
    made = Lab(tmp_path)
    yield made
    made.close()
