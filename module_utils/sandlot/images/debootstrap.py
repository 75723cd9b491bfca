# SPDX-License-Identifier: GPL-3.0-or-later
# Copyright: the sandlot developers
"""Source "debootstrap": a Debian or Ubuntu system from its packages, by mmdebstrap or debootstrap.

The tool fills a private directory. The result is packed, then unpacked like any other archive: by a
confined process, within bounds and without devices.
"""

from __future__ import annotations

import glob
import hashlib
import json
import os
import re
import shutil
import tempfile
from functools import partial
from typing import Any, Callable, Pattern, Tuple

from ..errors import HostError, SpecError
from ..spec.names import absolute_path
from ..spec.option import Option
from ..spec.text import brief, choice, flag, line, refusal, sequence, unique
from . import identity, program, tarball
from .extract import extract
from .model import Built, Image, ImageSpec, Job, Source
from .unpack import Bounds

# Part of the digest: raise it when this module builds another tree of the same packages.
LAYOUT = "1"
TOOLS = ("mmdebstrap", "debootstrap")
PACKAGE = "mmdebstrap"
VARIANTS = ("minbase", "buildd", "important", "essential", "apt")
# Variants that only mmdebstrap has.
_SMALLER = ("essential", "apt")
_DIGESTED = (
    "suite",
    "mirror",
    "variant",
    "components",
    "packages",
    "keyring",
    "revision",
    "check_valid_until",
)
# Files that come from the host or from the build, not from packages; empty directories stay.
_LEFT_OUT = (
    "dev/*",
    "proc/*",
    "sys/*",
    "tmp/*",
    "debootstrap",
    "etc/.pwd.lock",
    "etc/hostname",
    "etc/resolv.conf",
    "etc/*-",
    "var/lib/dpkg/*-old",
    "var/lib/apt/lists/*",
    "var/cache/apt/*.bin",
    "var/cache/apt/archives/*",
    "var/cache/debconf/*-old",
    "var/cache/ldconfig/*",
    "var/log/*.log",
    "var/log/apt/*",
    *identity.HOST_KEYS,
    *identity.SEEDS,
)
_PHASE = re.compile(r"I: (.{1,60})")


def digest(spec: ImageSpec, known: Image | None = None) -> str | None:
    """A digest of the parameters; a new revision asks for the suite's newer packages."""
    given = {name: spec.get(name) for name in _DIGESTED if spec.get(name) is not None}
    text = json.dumps(given, sort_keys=True)
    return hashlib.sha256(f"debootstrap layout {LAYOUT}\n{text}".encode()).hexdigest()


def packages() -> list[str]:
    """Packages that this host lacks to build such an image."""
    return [] if program.find(TOOLS) else [PACKAGE]


def build(job: Job) -> Built:
    spec = job.spec
    tree = f"{job.scratch}/tree"
    _bootstrap(job, tree)
    bounds = Bounds(spec.get("max_size"), spec.get("max_files"))
    job.report("pack", 0, 0)
    config = {identity.FIRST_START: True} if _forget_identity(tree) else {}
    with tempfile.TemporaryFile(dir=job.scratch) as archive:
        left_out = [f"--exclude=./{pattern}" for pattern in _LEFT_OUT]
        options = ["--create", "--file=-", "--numeric-owner", "--sort=name", "--anchored"]
        argv = ["tar", *options, "--no-wildcards-match-slash", *left_out, f"--directory={tree}"]
        what = f"image {spec.name!r}: tar"
        env, output = program.environment(), archive.fileno()
        program.run([*argv, "."], what=what, env=env, output=output)
        archive.seek(0)
        shutil.rmtree(tree)
        job.report("unpack", 0, 0)
        return Built(extract(archive.fileno(), job.root, bounds), config)


def _forget_identity(tree: str) -> bool:
    """Empty the machine ids of a tree that packages made; whether it has host keys."""
    for path in (f"{tree}/{name}" for name in identity.MACHINE_IDS):
        if os.path.isfile(path) and not os.path.islink(path):
            os.truncate(path, 0)
    return any(glob.glob(f"{tree}/{pattern}") for pattern in identity.HOST_KEYS)


def _bootstrap(job: Job, tree: str) -> None:
    spec, tool = job.spec, program.find(TOOLS)
    if os.statvfs(job.scratch).f_flag & os.ST_NOEXEC:
        raise HostError(
            f"image {spec.name!r}: packages run programs in {job.scratch}, where none may run",
            hint="mount it without noexec, or make the image elsewhere and use source tarball",
        )
    if tool is None:
        raise HostError(
            f"image {spec.name!r}: this host has neither mmdebstrap nor debootstrap",
            hint=f"install one (Debian: apt install {PACKAGE})",
        )
    variant, keyring, name = spec.get("variant"), spec.get("keyring"), os.path.basename(tool)
    if variant in _SMALLER and name != "mmdebstrap":
        hint = f"install mmdebstrap, or use one of {', '.join(VARIANTS[:3])}"
        raise SpecError("variant", variant, "is one of mmdebstrap only", hint=hint)
    if keyring and not os.path.isfile(keyring):
        hint = "it is a file on the managed host; copy it there first"
        raise SpecError("keyring", keyring, "is no file", hint=hint)
    temporary = f"{job.scratch}/tmp"
    # apt downloads as an unprivileged user of its own, who needs access to the directory.
    os.mkdir(temporary, 0o755)

    def report_phase(line: str) -> None:
        phase = _PHASE.match(line)
        if phase:
            job.report(phase[1].rstrip(". "), 0, 0)

    program.run(
        [tool, *arguments(spec, name, tree)],
        what=f"image {spec.name!r}: {name}",
        env=program.environment(TMPDIR=temporary, DEBIAN_FRONTEND="noninteractive"),
        on_line=report_phase,
        # dpkg syncs each package; its tree is packed and then thrown away.
        unsynced=True,
    )


def arguments(spec: ImageSpec, tool: str, tree: str) -> list[str]:
    """Arguments of either tool; only the variant is spelled in two ways."""
    variant = spec.get("variant")
    words = ["--mode=root", "--format=directory"] if tool == "mmdebstrap" else []
    # debootstrap has no name for its default variant.
    words += [f"--variant={variant}"] if tool == "mmdebstrap" or variant != "important" else []
    words.append(f"--components={','.join(spec.get('components'))}")
    words += [f"--include={','.join(spec.get('packages'))}"] if spec.get("packages") else []
    words += [f"--keyring={spec.get('keyring')}"] if spec.get("keyring") else []
    if tool == "mmdebstrap" and not spec.get("check_valid_until"):
        words.append('--aptopt=Acquire::Check-Valid-Until "false"')
    mirror = spec.get("mirror")
    return [*words, spec.get("suite"), tree, *([mirror] if mirror else [])]


# -- options


def _word(pattern: Pattern[str], problem: str, hint: str) -> Callable[[str, Any], str]:
    def parse(option: str, value: Any) -> str:
        text = line(option, value)
        if not pattern.fullmatch(text):
            raise refusal(option, value, problem, hint=hint)
        return text

    return parse


_suite = _word(
    re.compile(r"[a-z][a-z0-9.-]{0,63}"), "is not the name of a suite", "write bookworm or trixie"
)
_component = _word(
    re.compile(r"[a-z][a-z0-9-]{0,63}"), "is not a component", "write main or contrib"
)
_package = _word(
    re.compile(r"[a-z0-9][a-z0-9+.-]{1,127}"),
    "is not the name of a package",
    "use names as apt does, without version and architecture",
)
_url = _word(
    re.compile(r"https?://[a-zA-Z0-9_.:\[\]-]+(?:/[a-zA-Z0-9_.~/%+-]*)?"),
    "is not the URL of a mirror",
    "write http://HOST/PATH or https://HOST/PATH, without user and password",
)


def _mirror(option: str, value: Any) -> str:
    try:
        return _url(option, value)
    except SpecError as error:
        # It may hold a password.
        raise refusal(option, brief("a URL"), "can't be used", hint=error.hint) from None


def _words(parse: Callable[[str, Any], str], what: str) -> Callable[[str, Any], Tuple[str, ...]]:
    def parse_all(option: str, value: Any) -> Tuple[str, ...]:
        items = enumerate(sequence(option, value))
        words = tuple(parse(f"{option}[{index}]", item) for index, item in items)
        unique(option, words, what=what)
        return words

    return parse_all


def _check(option: str, spec: ImageSpec) -> None:
    if not spec.get("suite"):
        hint = "name one, such as bookworm"
        raise SpecError(option, spec.name, "has no suite", hint=hint)
    if not spec.get("components"):
        raise SpecError(option, spec.name, "has no components", hint="give it main")


SOURCE = Source(
    description="a Debian or Ubuntu system made of packages by mmdebstrap or debootstrap",
    digest=digest,
    build=build,
    check=_check,
    packages=packages,
    settled=True,
    options=(
        Option("suite", "str", _suite, ["Release to install, such as V(bookworm). Required."]),
        Option(
            "mirror",
            "str",
            _mirror,
            [
                "Mirror the packages come from, http or https.",
                "Without it, the default of the tool, which for Debian includes security updates.",
            ],
        ),
        Option(
            "variant",
            "str",
            partial(choice, choices=VARIANTS),
            [
                "How much is installed. V(minbase) is what is required and apt, V(buildd) has "
                "compilers, V(important) is a small server.",
                "V(essential) and V(apt) are smaller and need mmdebstrap.",
            ],
            default="minbase",
            choices=VARIANTS,
        ),
        Option(
            "components",
            "list",
            _words(_component, "component"),
            ["Parts of the archive to use."],
            default=["main"],
            elements="str",
        ),
        Option(
            "packages",
            "list",
            _words(_package, "package"),
            ["More packages to install."],
            elements="str",
        ),
        Option(
            "keyring",
            "path",
            absolute_path,
            [
                "File on the managed host with the keys that packages are signed with.",
                "Without it, the one that the tool knows for the suite.",
            ],
        ),
        Option(
            "check_valid_until",
            "bool",
            flag,
            [
                "Whether a mirror whose index has expired is refused, by mmdebstrap and by apt in "
                "the image; debootstrap never does. V(false) is for frozen mirrors.",
            ],
            default=True,
        ),
        Option(
            "revision",
            "str",
            line,
            [
                "Any text. Another text makes the image again, from the mirror's packages by then.",
                "Nothing else does: an archive that changed is no change of these options.",
            ],
        ),
        *tarball.BOUNDS,
    ),
)
