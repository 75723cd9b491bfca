# SPDX-License-Identifier: GPL-3.0-or-later
# Copyright: the sandlot developers
"""Copies extended attributes of files, with the ids in them moved as their owners are."""

from __future__ import annotations

import errno
import os
import struct
from typing import Callable, Dict

Owner = Callable[[int], int]

# The kernel's and the host's own (SELinux labels, IMA hashes) belong to the inode that has them.
_CAPABILITY = "security.capability"
_ACLS = ("system.posix_acl_access", "system.posix_acl_default")
_PREFIXES = ("user.", "trusted.")

# struct vfs_cap_data and vfs_ns_cap_data of linux/capability.h; the second has the uid of the
# root that the capabilities are for, which is 0 in the first.
_MAGIC = struct.Struct("<I")
_REVISION = 0xFF000000
_REVISION_2, _REVISION_3 = 0x02000000, 0x03000000
_SIZE_2, _SIZE_3 = 20, 24

# posix_acl_xattr_entry of linux/posix_acl_xattr.h: tag, permissions, id.
_ACL_HEADER = 4
_ACL_ENTRY = struct.Struct("<HHI")
_ACL_USER, _ACL_GROUP = 0x02, 0x08


def copy_attributes(source: int, target: int, owner: Owner) -> None:
    """Copy what a program or overlayfs stored with the file, ACLs and file capabilities."""
    for name, value in collected(source, owner).items():
        try:
            os.setxattr(target, name, value)
        except OSError as error:
            what = f"the file system can't keep {name}: {error.strerror}"
            raise OSError(error.errno, what) from error


def collected(source: int, owner: Owner) -> Dict[str, bytes]:
    """The attributes of a file that go with a copy."""
    try:
        names = os.listxattr(source)
    except OSError as error:
        if error.errno == errno.EOPNOTSUPP:
            return {}
        raise
    values = {}
    for name in names:
        if name.startswith(_PREFIXES) or name in _ACLS or name == _CAPABILITY:
            value = _value(source, name)
            if value is not None:
                values[name] = moved(name, value, owner)
    return values


def _value(source: int, name: str) -> bytes | None:
    """The value of an attribute; None when it has been removed meanwhile."""
    try:
        return os.getxattr(source, name)
    except OSError as error:
        if error.errno == errno.ENODATA:
            return None
        raise


def moved(name: str, value: bytes, owner: Owner) -> bytes:
    if name in _ACLS:
        return _moved_acl(value, owner)
    return _moved_capability(value, owner) if name == _CAPABILITY else value


def _moved_acl(value: bytes, owner: Owner) -> bytes:
    parts = [value[:_ACL_HEADER]]
    for tag, permissions, who in _ACL_ENTRY.iter_unpack(value[_ACL_HEADER:]):
        new = owner(who) if tag in (_ACL_USER, _ACL_GROUP) else who
        parts.append(_ACL_ENTRY.pack(tag, permissions, new))
    return b"".join(parts)


def _moved_capability(value: bytes, owner: Owner) -> bytes:
    (magic,) = _MAGIC.unpack_from(value)
    revision = magic & _REVISION
    if (revision, len(value)) not in ((_REVISION_2, _SIZE_2), (_REVISION_3, _SIZE_3)):
        return value
    root = owner(_MAGIC.unpack_from(value, _SIZE_2)[0] if revision == _REVISION_3 else 0)
    new = magic & ~_REVISION | (_REVISION_3 if root else _REVISION_2)
    tail = _MAGIC.pack(root) if root else b""
    return _MAGIC.pack(new) + value[_MAGIC.size : _SIZE_2] + tail
