# SPDX-License-Identifier: GPL-3.0-or-later
# Copyright: the sandlot developers
"""Paths of the host that no sandbox is shown: the kernel's, sandlot's own, well-known secrets."""

from __future__ import annotations

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Sequence

# The state and sockets of all sandboxes.
OURS = ("/var/lib/sandlot", "/run/sandlot")
KERNEL_TREES = ("/proc", "/sys", "/dev")
# Programs and configuration of the host: no sandbox writes here with the ids of the host.
SYSTEM = ("/bin", "/boot", "/etc", "/lib", "/lib32", "/lib64", "/libx32", "/sbin", "/usr")
# File systems whose files are the kernel's, wherever they are mounted.
KERNEL_FILE_SYSTEMS = frozenset(
    """
    binfmt_misc bpf cgroup cgroup2 configfs debugfs devpts devtmpfs efivarfs fusectl nfsd proc
    pstore rpc_pipefs securityfs selinuxfs smackfs sysfs tracefs
    """.split()
)
# Without a leading slash, as the masks of the host's root have them.
SECRETS = (
    *("etc/shadow", "etc/shadow-", "etc/gshadow", "etc/gshadow-", "etc/sudoers", "etc/sudoers.d"),
    *("etc/krb5.keytab", "etc/machine-id", "etc/ssl/private", "etc/letsencrypt", "etc/wireguard"),
    *("etc/security/opasswd", "etc/subuid", "etc/subgid", "etc/ppp", "etc/NetworkManager"),
    *(f"etc/ssh/ssh_host_{kind}_key" for kind in ("rsa", "dsa", "ecdsa", "ed25519")),
)
# Directories of keys, in the home of whomever.
_KEYS = (".ssh", ".gnupg")


def why_refused(path: str, ours: Sequence[str] = OURS, *, as_root: bool = False) -> str:
    """The reason not to mount a path of the host into a sandbox; "" when there is none.

    ``ours`` are directories of sandlot. A directory that holds one of these paths is refused too.
    With ``as_root``, the sandbox would write there with the ids of the host.
    """
    if path == "/":
        return "is the whole host"
    for tree in KERNEL_TREES:
        if _is_below(path, tree):
            return f"is in {tree}, the kernel's"
    for own in ours:
        if _is_below(path, own):
            return "is sandlot's own"
        if _is_below(own, path):
            return f"holds {own}, which is sandlot's own"
    for secret in (*(f"/{entry}" for entry in SECRETS), *(f"/root/{name}" for name in _KEYS)):
        if _is_below(path, secret):
            return "is a secret of the host"
        if _is_below(secret, path):
            return f"holds a secret of the host, {secret}"
    if as_root and is_system(path):
        return "is the host's own, and a sandbox would write there as root: set read_only"
    if any(part in _KEYS for part in path.split("/")):
        return "is a secret of a user of the host"
    return ""


def is_system(path: str) -> bool:
    return any(_is_below(path, top) for top in SYSTEM)


def _is_below(path: str, top: str) -> bool:
    return path == top or path.startswith(f"{top}/")
