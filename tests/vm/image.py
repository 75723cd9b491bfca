# SPDX-License-Identifier: GPL-3.0-or-later
# Copyright: the sandlot developers
"""Stock Debian for QEMU: a disk, a kernel and an initrd, made once and kept outside the tree.

The directory's name holds a hash of all that is in here, so a changed recipe makes a new image.
"""

from __future__ import annotations

import dataclasses
import fcntl
import hashlib
import os
import re
import shlex
import shutil
import subprocess
from pathlib import Path

USER = "deploy"
# What an administrator's server has; sandlot's own needs are there, for guests have no network.
PACKAGES = (
    "busybox-static",
    "dbus",
    "iproute2",
    "libpam-systemd",
    "linux-image-cloud-amd64",
    "nftables",
    "openssh-server",
    "python3",
    "python3-pyroute2",
    "sudo",
    "systemd-sysv",
    "udev",
)
FILES = {
    "etc/fstab": "/dev/vda / ext4 defaults 0 1\n",
    "etc/hostname": "guest\n",
    "etc/hosts": "127.0.0.1 localhost\n127.0.1.1 guest\n",
    "etc/sudoers.d/deploy": f"{USER} ALL=(ALL) NOPASSWD: ALL\n",
    # The key of a run is the content of the second disk.
    "etc/ssh/sshd_config.d/run.conf": (
        "AuthorizedKeysCommand /usr/bin/head --bytes=512 /dev/vdb\n"
        "AuthorizedKeysCommandUser root\n"
        "UseDNS no\n"
    ),
    "etc/systemd/logind.conf.d/kill.conf": "[Login]\nKillUserProcesses=yes\n",
    "etc/systemd/network/10-ethernet.network": (
        "[Match]\nType=ether\nName=en* eth*\n\n[Network]\nAddress=10.0.2.15/24\nGateway=10.0.2.2\n"
    ),
}
# There before the kernel makes an initrd, which is not used.
EARLY_FILES = {"etc/initramfs-tools/conf.d/guest": "MODULES=list\nRESUME=none\n"}
# The used one mounts the disk and does nothing else, for udev takes an emulated machine long.
MODULES = ("virtio_pci", "virtio_blk", "ext4")
INIT = """\
#!/bin/busybox sh
/bin/busybox mount -t devtmpfs dev /dev
for module in $(/bin/busybox cat /order); do /bin/busybox insmod "$module"; done
/bin/busybox mount -t ext4 /dev/vda /root
/bin/busybox umount /dev
exec /bin/busybox switch_root /root /sbin/init
"""
# By the guest's own tools: its arguments are the kernel's release and the modules.
MAKE_INITRD = """\
set -e
release=$1; shift
mkdir -p /initrd/bin /initrd/dev /initrd/root
cp /usr/bin/busybox /initrd/bin
cat > /initrd/init
chmod 755 /initrd/init
cd /initrd
for name; do /sbin/modprobe -S "$release" --show-depends "$name"; done |
  sed -n 's/^insmod //p' | while read -r path; do
    case $path in *.xz) busybox xzcat "$path" ;; *) cat "$path" ;; esac > "$(basename "$path" .xz)"
    basename "$path" .xz >> names
  done
# What two modules need is loaded once.
sed 's|^|/|' names | awk '!seen[$0]++' > order
find . | busybox cpio -o -H newc
"""
# What a guest with nothing but one disk and SSH has no use for.
DISABLED = (
    "apt-daily.timer",
    "apt-daily-upgrade.timer",
    "dev-hugepages.mount",
    "dpkg-db-backup.timer",
    "e2scrub_all.timer",
    "e2scrub_reap.service",
    "fstrim.timer",
    "getty.target",
    "ldconfig.service",
    "logrotate.timer",
    "man-db.timer",
    "modprobe@drm.service",
    "networking.service",
    "proc-sys-fs-binfmt_misc.automount",
    "sys-kernel-debug.mount",
    "sys-kernel-tracing.mount",
    "systemd-binfmt.service",
    "systemd-journal-catalog-update.service",
    "systemd-network-generator.service",
    "systemd-pstore.service",
    "systemd-udev-load-credentials.service",
)
ENABLED = ("systemd-networkd.service", "nftables.service")
DISK_SIZE = "3G"


@dataclasses.dataclass(frozen=True)
class Image:
    disk: Path
    kernel: Path
    initrd: Path


def cached(suite: str) -> Image:
    """The image of a Debian suite, made when there is none of this recipe."""
    directory = _cache() / f"{suite}-{_recipe(suite)}"
    directory.parent.mkdir(parents=True, exist_ok=True)
    with open(directory.with_suffix(".lock"), "w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        if not directory.exists():
            _make(suite, directory)
    return Image(directory / "disk", directory / "kernel", directory / "initrd")


def _cache() -> Path:
    base = os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache"
    return Path(base) / "sandlot" / "vm"


def _recipe(suite: str) -> str:
    return hashlib.sha256(suite.encode() + Path(__file__).read_bytes()).hexdigest()[:16]


def _make(suite: str, directory: Path) -> None:
    work = directory.with_suffix(".new")
    shutil.rmtree(work, ignore_errors=True)  # of a run that was killed
    root, made = work / "root", work / "made"
    made.mkdir(parents=True)
    _write(work / "early", EARLY_FILES)
    _bootstrap(suite, root, work / "early")
    _configure(root)
    kernel = next((root / "boot").glob("vmlinuz-*"))
    shutil.copy(kernel, made / "kernel")
    _initrd(root, kernel.name.removeprefix("vmlinuz-"), made / "initrd")
    _disk(root, made / "disk")
    made.rename(directory)
    shutil.rmtree(work)


def _write(root: Path, files: dict[str, str]) -> None:
    for name, text in files.items():
        path = root / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)


def _bootstrap(suite: str, root: Path, early: Path) -> None:
    subprocess.run(
        [
            "mmdebstrap",
            "--quiet",
            "--mode=root",
            "--variant=important",
            f"--include={','.join(PACKAGES)}",
            '--aptopt=APT::Install-Recommends "false"',
            f'--essential-hook=cp -r {shlex.quote(str(early))}/. "$1"/',
            suite,
            str(root),
            "-",
        ],
        input=sources(suite),
        text=True,
        check=True,
    )


def sources(suite: str) -> str:
    """apt's lines for a suite on the mirrors that this host's apt uses for its own."""
    found = subprocess.run(
        [
            "apt-get",
            "indextargets",
            "--format",
            "$(REPO_URI)\t$(RELEASE)",
            "Created-By: Packages",
            "Origin: Debian",
        ],
        capture_output=True,
        text=True,
        check=True,
    ).stdout
    lines = set()
    for line in found.splitlines():
        uri, release = line.split("\t")
        lines.add(f"deb {uri} {re.sub('^[a-z]+', suite, release)} main")
    if not lines:
        raise RuntimeError("apt has no Debian archive among its sources; run apt-get update")
    return "".join(f"{line}\n" for line in sorted(lines))


def _configure(root: Path) -> None:
    _write(root, FILES)
    _chroot(root, "useradd", "--create-home", "--shell", "/bin/bash", USER)
    _chroot(root, "systemctl", "enable", *ENABLED)
    _chroot(root, "systemctl", "mask", *DISABLED)
    # It would have systemd take the boot for the first one, and settle things anew.
    (root / "etc/machine-id").write_text(f"{hashlib.md5(b'guest').hexdigest()}\n")
    # Older than /usr, they would have it make the linker's cache and others again.
    for directory in ("etc", "var"):
        (root / directory / ".updated").touch()


def _chroot(root: Path, *command: str) -> None:
    subprocess.run(["chroot", str(root), *command], check=True, stdout=subprocess.DEVNULL)


def _initrd(root: Path, release: str, initrd: Path) -> None:
    command = ["chroot", str(root), "sh", "-c", MAKE_INITRD, "sh", release, *MODULES]
    with open(initrd, "wb") as output:
        subprocess.run(command, input=INIT.encode(), stdout=output, check=True)
    shutil.rmtree(root / "initrd")


def _disk(root: Path, disk: Path) -> None:
    subprocess.run(
        ["mke2fs", "-q", "-t", "ext4", "-d", str(root), str(disk), DISK_SIZE], check=True
    )
