# SPDX-License-Identifier: GPL-3.0-or-later
# Copyright: the sandlot developers
"""The parts of networks that all back ends share: names, addresses, ports, policies."""
