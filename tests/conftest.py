# SPDX-License-Identifier: GPL-3.0-or-later
# Copyright: the sandlot developers
"""Makes the engine importable as `sandlot`, as it is on hosts; commands can be interrupted."""

from __future__ import annotations

import signal
import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parent.parent / "module_utils"))
sys.path.insert(0, str(Path(__file__).resolve().parent))
# A shell ignores SIGINT in what it runs in the background (POSIX.1, XCU 2.12), as .ci/run does the
# parts of a run; all that tests start would inherit that.
if signal.getsignal(signal.SIGINT) == signal.SIG_IGN:
    signal.signal(signal.SIGINT, signal.default_int_handler)
