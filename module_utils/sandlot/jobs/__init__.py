# SPDX-License-Identifier: GPL-3.0-or-later
# Copyright: the sandlot developers
"""Jobs: one command each in a sandbox of its own, of which nothing is left."""
