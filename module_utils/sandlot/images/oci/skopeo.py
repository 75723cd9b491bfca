# SPDX-License-Identifier: GPL-3.0-or-later
# Copyright: the sandlot developers
"""Runs skopeo as a user without rights; credentials are in a file in memory and nowhere else."""

from __future__ import annotations

import contextlib
import os
import re
import shutil
import subprocess
import tempfile
import time
from typing import IO, Callable, Tuple

from ...errors import HostError, SandlotError
from ...kernel.program import PATH
from ..model import ImageSpec
from . import confined, credentials
from .manifest import MAX_MANIFEST
from .platforms import Platform
from .reference import Reference

PACKAGE = "skopeo"
_ASK_SECONDS = 120.0
# A transfer without new bytes for that long is ended.
_STALLED_SECONDS = 120.0
_INTERVAL = 0.1
_SLACK = 16 << 20
_MAX_TOLD = 4096
_FATAL = re.compile(r'level=fatal msg="((?:[^"\\]|\\.)*)"')
# Hints by the text that a message ends with.
_REMEDIES = (
    ("HTTP response to HTTPS client", "set tls_verify: false for a registry without TLS"),
    ("x509", "name the registry's CA with ca_path, or set tls_verify: false"),
    ("unauthorized", "give username and password, or auth_file; or the name is wrong"),
    ("authentication required", "give username and password, or auth_file"),
    ("denied", "give credentials that may read it; or the name is wrong"),
    ("manifest unknown", "check name and tag; skopeo list-tags docker://NAME shows the tags"),
    ("name unknown", "check the name"),
    ("policy.json", "install what has it (Debian: golang-github-containers-common)"),
    ("no space left", "make room in the state directory"),
)
_REMEDY = "check the reference, and that this host reaches it"


def find() -> str | None:
    return shutil.which(PACKAGE, path=PATH)


def missing() -> Tuple[str, ...]:
    """Debian packages that the host lacks for skopeo."""
    return () if find() else (PACKAGE,)


def program() -> str:
    path = find()
    if path is None:
        raise HostError(
            "this host has no skopeo, which source oci needs",
            hint=f"install it (Debian: apt install {PACKAGE})",
        )
    return path


def manifest(spec: ImageSpec, reference: Reference) -> bytes:
    """The manifest that the reference names, or a list of manifests."""
    with credentials.access(spec, reference) as access, tempfile.TemporaryFile() as errors:
        verify = _tls(spec, reference, "--tls-verify")
        words = [program(), "inspect", *access.options, *verify, "--raw", reference.argument()]
        start = confined.Start(reference, access, errors.fileno(), subprocess.PIPE)
        with start.process(words) as process:
            try:
                data, dummy = process.communicate(timeout=_ASK_SECONDS)
            except subprocess.TimeoutExpired as error:
                problem = f"{reference} gave no answer within {_ASK_SECONDS:.0f} seconds"
                raise HostError(f"image {spec.name!r}: {problem}", hint=_REMEDY) from error
        _check(spec, reference, process, errors)
    if len(data) > MAX_MANIFEST:
        raise SandlotError(f"image {spec.name!r}: the manifest of {reference} is too large")
    return data


def copy(
    spec: ImageSpec,
    reference: Reference,
    platform: Platform,
    directory: str,
    watch: Callable[[int], None],
    limit: int,
) -> None:
    """Bring an image's manifest and blobs into a new directory, as they are.

    ``watch`` gets the bytes so far; more than ``limit`` end the copy.
    """
    scratch = os.path.dirname(directory)
    chosen = ["--override-os", "linux", "--override-arch", platform.architecture]
    chosen += ["--override-variant", platform.variant] if platform.variant else []
    inside = confined.SCRATCH
    with contextlib.ExitStack() as stack:
        access = stack.enter_context(credentials.access(spec, reference))
        errors = stack.enter_context(tempfile.TemporaryFile(dir=scratch))
        verify = _tls(spec, reference, "--src-tls-verify")
        words = [program(), "--tmpdir", inside, *chosen, "copy", "--quiet", "--retry-times", "2"]
        target = f"dir:{inside}/{os.path.basename(directory)}"
        words += [*access.options, *verify, reference.argument(), target]
        start = confined.Start(reference, access, errors.fileno(), subprocess.DEVNULL, scratch)
        with start.process(words) as process:
            _follow(process, spec, reference, scratch, watch, limit)
        _check(spec, reference, process, errors)
    confined.check_plain(directory, f"image {spec.name!r}: {reference}")


def _follow(
    process: subprocess.Popen[bytes],
    spec: ImageSpec,
    reference: Reference,
    scratch: str,
    watch: Callable[[int], None],
    limit: int,
) -> None:
    done, since = -1, time.monotonic()
    while True:
        with contextlib.suppress(subprocess.TimeoutExpired):
            process.wait(_INTERVAL)
            return
        now = _used(scratch)
        watch(now)
        if now != done:
            done, since = now, time.monotonic()
        problem = ""
        if now > limit + _SLACK:
            problem = f"sends more than the {limit} bytes that its manifest tells"
        elif time.monotonic() - since > _STALLED_SECONDS:
            problem = f"has sent nothing for {_STALLED_SECONDS:.0f} seconds"
        if problem:
            process.kill()
            raise HostError(f"image {spec.name!r}: {reference} {problem}", hint="run again")


def _used(directory: str) -> int:
    total = 0
    for parent, dummy, files in os.walk(directory):
        for name in files:
            with contextlib.suppress(FileNotFoundError):  # renamed when complete
                total += os.lstat(f"{parent}/{name}").st_size
    return total


def _check(
    spec: ImageSpec, reference: Reference, process: subprocess.Popen[bytes], errors: IO[bytes]
) -> None:
    if process.returncode == 0:
        return
    errors.seek(0, os.SEEK_END)
    errors.seek(max(0, errors.tell() - _MAX_TOLD))
    output = errors.read().decode("utf-8", "replace").strip()
    fatal, code = _FATAL.findall(output), process.returncode
    ended = f"skopeo was killed by signal {-code}" if code < 0 else f"skopeo ended with {code}"
    reason = (fatal[-1].replace('\\"', '"') if fatal else output) or ended
    # A server may repeat the credentials in its error.
    for secret in (spec.get("password"), credentials.basic(spec)):
        reason = reason.replace(secret, "********") if secret else reason
    hint = next((hint for end, hint in _REMEDIES if end in reason), _REMEDY)
    raise HostError(f"image {spec.name!r}: {reference}: {reason}", hint=hint)


def _tls(spec: ImageSpec, reference: Reference, option: str) -> list[str]:
    """The option for tls_verify; left out when it is not set, so that registries.conf decides."""
    if not reference.is_remote or spec.get("tls_verify") is None:
        return []
    return [f"{option}={'true' if spec.get('tls_verify') else 'false'}"]
