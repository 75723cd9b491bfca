# SPDX-License-Identifier: GPL-3.0-or-later
# Copyright: the sandlot developers
"""Images as they are published: Debian's packages in two layers, and what a Dockerfile adds.

No script of a package runs: as in a Dockerfile, users and configuration are the image's own.
"""

from __future__ import annotations

import functools
import io
import os
import re
import shutil
import subprocess
import tarfile
import threading
import urllib.request
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import isolation
import session_trees
from archives import entry, folder, link, pack
from converge_fixtures import Deployment, eventually
from debian_mirror import mirror
from image_fixtures import prepare
from oci_images import LAYER, Layout

BASE = (
    *("base-files", "bash", "bsdutils", "coreutils", "dash", "findutils", "gosu", "grep"),
    *("hostname", "libc-bin", "login", "mawk", "sed", "tini", "util-linux"),
)
# Nothing here needs them: for scripts of packages, or 100 MB for PostgreSQL's compiler of queries.
LEFT_OUT = frozenset(
    """
    adduser debconf dpkg init-system-helpers libllvm14 libperl5.36 libz3-4 locales logrotate perl
    perl-base perl-modules-5.36 postgresql-common readline-common systemd tar ucf usrmerge
    libapt-pkg6.0 libdbi-perl libicu-dev libc-l10n
    """.split()
)
_FIELD = re.compile(r"^([A-Z][A-Za-z-]+): (.*)$", re.MULTILINE)
_DOCUMENTS = ("usr/share/doc", "usr/share/man", "usr/share/locale", "usr/share/info")
# For the compiler of queries.
_BITCODE = "usr/lib/postgresql/15/lib/bitcode"
_MERGED = ("bin", "sbin", "lib", "lib64")
PATH = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"


class Archive:
    """Packages of Debian, with all that they depend on, by apt with a state of its own."""

    def __init__(self, directory: Path) -> None:
        self._directory = directory
        self._files: dict[str, Path] = {}
        self._fields: dict[str, dict[str, str]] = {}
        for name in ("lists/partial", "archives/partial"):
            (directory / name).mkdir(parents=True)
        (directory / "status").touch()
        source = f"deb [check-valid-until=no] {mirror()} bookworm main\n"
        (directory / "sources.list").write_text(source)
        (directory / "apt.conf").write_text(
            f'Dir::State "{directory}";\nDir::State::status "{directory}/status";\n'
            f'Dir::Cache "{directory}";\nDir::Etc::SourceList "{directory}/sources.list";\n'
            'Dir::Etc::SourceParts "/dev/null";\nAPT::Install-Recommends "0";\n'
            'APT::Sandbox::User "root";\nAcquire::Languages "none";\n'
            'Acquire::Retries "3";\nAPT::Update::Error-Mode "any";\n'
        )
        with isolation.outside():
            self._apt("apt-get", "-qq", "update")

    def fetch(self, packages: Sequence[str]) -> None:
        with isolation.outside():
            self._apt("apt-get", "-qqy", "install", "--download-only", *BASE, *packages)
        found = (self._directory / "archives").glob("*.deb")
        self._files = {path.name.partition("_")[0]: path for path in found}
        self._fields = self._described()

    def _apt(self, *words: str) -> str:
        environment = {**os.environ, "APT_CONFIG": str(self._directory / "apt.conf")}
        done = subprocess.run(words, env=environment, capture_output=True, text=True)
        assert done.returncode == 0, done.stderr
        return done.stdout

    def _described(self) -> dict[str, dict[str, str]]:
        """What the index says of each package that is here."""
        shown = self._apt("apt-cache", "show", "--no-all-versions", *self._files)
        rows = [dict(_FIELD.findall(paragraph)) for paragraph in shown.split("\n\n")]
        return {row["Package"]: row for row in rows if row}

    def _needed(self, packages: Sequence[str]) -> list[str]:
        """The packages and what they depend on; of alternatives, what apt has chosen."""
        provided = {
            name.split()[0]: package
            for package, row in self._fields.items()
            for name in row.get("Provides", package).split(",")
        }
        provided.update((name, name) for name in self._fields)
        found: set[str] = set()
        ahead = list(packages)
        while ahead:
            name = ahead.pop()
            if name in found | LEFT_OUT:
                continue
            found.add(name)
            row = self._fields[name]
            for group in f"{row.get('Pre-Depends', '')},{row.get('Depends', '')}".split(","):
                names = [re.split(r"[ :(]", each.strip())[0] for each in group.split("|")]
                ahead += [provided[each] for each in names if each in provided][:1]
        return sorted(found)

    @functools.cached_property
    def _base(self) -> list[str]:
        return self._needed(BASE)

    @functools.cached_property
    def base(self) -> bytes:
        """The lower layer of all images."""
        return self._layer(self._base, *(link(name, f"usr/{name}") for name in _MERGED))

    def layer(self, *packages: str) -> bytes:
        """What these packages add to the base."""
        return self._layer([name for name in self._needed(packages) if name not in self._base])

    def whole(self, *packages: str) -> bytes:
        """These packages alone, with all that they depend on."""
        return self._layer(self._needed(packages))

    def _layer(self, names: Sequence[str], *first: tuple[tarfile.TarInfo, bytes]) -> bytes:
        buffer = io.BytesIO()
        seen: set[str] = set()
        with tarfile.open(fileobj=buffer, mode="w", format=tarfile.GNU_FORMAT) as archive:
            for member, content in first:
                archive.addfile(member, io.BytesIO(content))
            for name in names:
                _add(archive, self._files[name], seen)
        return buffer.getvalue()


@functools.cache
def archive() -> Archive:
    """The archive of this process, which lasts as long as the trees that its tests share."""
    return Archive(session_trees.directory("packages"))


class Published:
    """A layout of images, and sandboxes of them with no option but name, image, ports and env."""

    def __init__(self, directory: Path, packages: Sequence[str]) -> None:
        self._directory = directory
        self._archive = archive()
        self._archive.fetch(packages)
        self._layout = Layout(directory / "layout")
        self._layers: dict[tuple[str, ...], bytes] = {}

    def image(
        self,
        name: str,
        packages: Sequence[str],
        files: Sequence[tuple[tarfile.TarInfo, bytes]] = (),
        users: Mapping[str, tuple[int, str]] | None = None,
        **settings: Any,
    ) -> None:
        """``users`` has the ids and homes of what a Dockerfile's useradd makes."""
        names = tuple(packages)
        if names not in self._layers:
            self._layers[names] = self._archive.layer(*names)
        layers = [self._archive.base, self._layers[names]]
        last = pack(*accounts(users or {}), *files)
        settings = {"Env": [f"PATH={PATH}"], **settings}
        self._layout.image(name, [*layers, last], settings, compress=bytes, kind=LAYER)

    def remove(self) -> None:
        """Hundreds of megabytes, which pytest would keep."""
        shutil.rmtree(self._directory)

    def source(self, name: str, tag: str = "") -> dict[str, Any]:
        """The image's entry among the images of a host."""
        reference = f"oci:{self._layout.path}:{tag or name}"
        return {"name": name, "source": "oci", "reference": reference}

    def start(self, host: Deployment, image: str, **options: Any) -> None:
        prepare(host, self.source(image))
        host.converged({"name": "web", "image": image, **options})


def accounts(users: Mapping[str, tuple[int, str]]) -> Iterator[tuple[tarfile.TarInfo, bytes]]:
    """The files of users, and directories that no package has."""
    ids = {"root": (0, "/root"), "nobody": (65534, "/nonexistent"), **users}
    rows = [f"{name}:x:{uid}:{uid}::{home}:/bin/sh" for name, (uid, home) in ids.items()]
    groups = [f"{name}:x:{uid}:" for name, (uid, home) in ids.items()]
    yield entry("etc/passwd", "\n".join([*rows, ""]).encode())
    yield entry("etc/group", "\n".join([*groups, "tty:x:5:", ""]).encode())
    shadow = "".join(f"{name}:*:19000::::::\n" for name in ids)
    yield entry("etc/shadow", shadow.encode(), mode=0o640)
    yield folder("tmp", 0o1777)
    yield folder("var/tmp", 0o1777)
    yield link("var/run", "/run")
    yield link("usr/bin/awk", "mawk")


def script(name: str, text: str) -> tuple[tarfile.TarInfo, bytes]:
    return entry(name, text.encode(), mode=0o755)


def shell(host: Deployment, command: str, *options: str, name: str = "web") -> str:
    """The output of a command in a sandbox, by `sandlot exec`."""
    words = [host.paths.command, "exec", *options, name, "--", "sh", "-c", command]
    done = subprocess.run(words, env=environment(host), capture_output=True, text=True, timeout=60)
    assert done.returncode == 0, f"{command}: {done.stdout}{done.stderr}{logged(host, name)}"
    return done.stdout


def environment(host: Deployment) -> dict[str, str]:
    return {**os.environ, "SANDLOT_ROOT": host.paths.root}


def sandlot(host: Deployment, *words: str) -> str:
    command = [host.paths.command, *words]
    output = {"stdout": subprocess.PIPE, "stderr": subprocess.STDOUT}
    done = subprocess.run(command, env=environment(host), text=True, timeout=90, **output)
    assert done.returncode == 0, done.stdout
    return done.stdout


def logged(host: Deployment, name: str = "web") -> str:
    return sandlot(host, "logs", name)


def says(host: Deployment, text: str, *, times: int = 1, seconds: float = 40.0) -> None:
    """Wait until lines of the log have the text; no run of the workload may have failed."""
    command = [host.paths.command, "logs", "--follow", "web"]
    output = {"stdout": subprocess.PIPE, "stderr": subprocess.STDOUT}
    with subprocess.Popen(command, env=environment(host), text=True, **output) as process:
        alarm = threading.Timer(seconds, process.kill)
        alarm.start()
        assert process.stdout
        try:
            for line in process.stdout:
                times -= text in line
                if not times or _restarted(host):
                    break
        finally:
            alarm.cancel()
            process.kill()
    assert not times, logged(host)


def _restarted(host: Deployment) -> bool:
    return bool(host.info("web")["restarts"])


def page(port: int, path: str = "/") -> str:
    try:
        with urllib.request.urlopen(f"http://127.0.0.1:{port}{path}", timeout=10) as answer:
            return str(answer.read().decode())
    except OSError:
        return ""


def healthy(host: Deployment, name: str = "web") -> None:
    try:
        eventually(lambda: _is_healthy(host, name), seconds=40)
    except AssertionError as error:
        raise AssertionError(logged(host)) from error


def _is_healthy(host: Deployment, name: str) -> bool:
    found = host.info(name)
    assert found["state"] == "running" and not found["restarts"]
    return bool(found["health"] == "healthy")


def _add(archive: tarfile.TarFile, package: Path, seen: set[str]) -> None:
    command = ["dpkg-deb", "--fsys-tarfile", str(package)]
    with subprocess.Popen(command, stdout=subprocess.PIPE) as process:
        with tarfile.open(fileobj=process.stdout, mode="r|") as source:
            for member in source:
                name = member.name.removeprefix("./")
                if name in (".", *_MERGED) or name.startswith((*_DOCUMENTS, _BITCODE)):
                    continue
                if member.isdir() and name in seen:
                    continue
                seen.add(name)
                member.name = _merged(name)
                if member.islnk():
                    member.linkname = _merged(member.linkname.removeprefix("./"))
                archive.addfile(member, source.extractfile(member) if member.isreg() else None)
    assert process.returncode == 0, package


def _merged(name: str) -> str:
    return f"usr/{name}" if name.partition("/")[0] in _MERGED else name
