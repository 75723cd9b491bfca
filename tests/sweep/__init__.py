# SPDX-License-Identifier: GPL-3.0-or-later
# Copyright: the sandlot developers
"""One fault at the Nth system call of a run, for every N: docs/faults.md."""
