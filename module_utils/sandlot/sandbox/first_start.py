# SPDX-License-Identifier: GPL-3.0-or-later
# Copyright: the sandlot developers
"""The command that init runs before the workload, if the host keys were left out of the image.

The image's own programs make the keys, as the sandbox's user and with its rights: no process of
the host touches the sandbox's tree. Keys that are there stay, so each start may run it.
"""

from __future__ import annotations

SCRIPT = """\
if [ -w /etc/ssh ] && command -v ssh-keygen >/dev/null; then ssh-keygen -A || exit; fi
if [ -w /etc/dropbear ] && command -v dropbearkey >/dev/null; then
  for kind in rsa ecdsa ed25519; do
    key=/etc/dropbear/dropbear_${kind}_host_key
    [ -e "$key" ] || dropbearkey -t "$kind" -f "$key" || exit
  done
fi
"""
# By the name that setup steps use: an image of host programs has no /bin.
ARGV = ("sh", "-c", SCRIPT)
