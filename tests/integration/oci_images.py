# SPDX-License-Identifier: GPL-3.0-or-later
# Copyright: the sandlot developers
"""Images built by hand, and Debian's docker-registry on loopback to push them to."""

from __future__ import annotations

import contextlib
import gzip
import hashlib
import http.client
import json
import os
import shutil
import signal
import socket
import ssl
import subprocess
import sys
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import static_busybox
from archives import entry, folder, link, pack
from sandboxes import until

# `make` has put it beside the interpreter.
_PATH = f"{Path(sys.executable).parent}:{os.environ['PATH']}"
REGISTRY = shutil.which("docker-registry", path=_PATH) or ""

REF_NAME = "org.opencontainers.image.ref.name"
MANIFEST = "application/vnd.oci.image.manifest.v1+json"
INDEX = "application/vnd.oci.image.index.v1+json"
CONFIG = "application/vnd.oci.image.config.v1+json"
LAYER = "application/vnd.oci.image.layer.v1.tar"
ARCHITECTURE = {"x86_64": "amd64", "aarch64": "arm64"}[os.uname().machine]


def compressed(data: bytes) -> bytes:
    return gzip.compress(data, mtime=0)


def digest(data: bytes) -> str:
    return f"sha256:{hashlib.sha256(data).hexdigest()}"


class Layout:
    """An OCI layout directory."""

    def __init__(self, path: Path) -> None:
        self.path = path
        (path / "blobs/sha256").mkdir(parents=True)
        (path / "oci-layout").write_text('{"imageLayoutVersion": "1.0.0"}')
        self._entries: list[dict[str, Any]] = []

    def blob(self, data: bytes, kind: str) -> dict[str, Any]:
        """A descriptor of it."""
        name = digest(data)
        (self.path / "blobs/sha256" / name.partition(":")[2]).write_bytes(data)
        return {"mediaType": kind, "digest": name, "size": len(data)}

    def image(
        self,
        tag: str,
        layers: Sequence[bytes],
        settings: dict[str, Any] | None = None,
        *,
        compress: Callable[[bytes], bytes] = compressed,
        kind: str = f"{LAYER}+gzip",
        architecture: str = ARCHITECTURE,
        **changes: Any,
    ) -> str:
        """An image under this tag; returns its manifest's digest. ``changes`` are the config's."""
        config = {
            "architecture": architecture,
            "os": "linux",
            "config": settings or {},
            "rootfs": {"type": "layers", "diff_ids": [digest(each) for each in layers]},
            **changes,
        }
        manifest = {
            "schemaVersion": 2,
            "mediaType": MANIFEST,
            "config": self.blob(json.dumps(config).encode(), CONFIG),
            "layers": [self.blob(compress(each), kind) for each in layers],
        }
        return self.tag(tag, self.blob(json.dumps(manifest).encode(), MANIFEST))

    def index(self, tag: str, manifests: dict[str, str]) -> str:
        """A list of manifests by platform."""
        entries = [
            {
                **self._descriptor(name),
                "platform": dict(zip(("os", "architecture", "variant"), platform.split("/"))),
            }
            for platform, name in manifests.items()
        ]
        data = {"schemaVersion": 2, "mediaType": INDEX, "manifests": entries}
        return self.tag(tag, self.blob(json.dumps(data).encode(), INDEX))

    def _descriptor(self, name: str) -> dict[str, Any]:
        size = (self.path / "blobs/sha256" / name.partition(":")[2]).stat().st_size
        return {"mediaType": MANIFEST, "digest": name, "size": size}

    def tag(self, tag: str, descriptor: dict[str, Any]) -> str:
        self._entries = [each for each in self._entries if each["annotations"][REF_NAME] != tag]
        self._entries.append({**descriptor, "annotations": {REF_NAME: tag}})
        index = {"schemaVersion": 2, "manifests": self._entries}
        (self.path / "index.json").write_text(json.dumps(index))
        name: str = descriptor["digest"]
        return name


def skopeo(*words: str) -> None:
    done = subprocess.run(["skopeo", *words], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr


class Registry:
    """Debian's docker-registry, on a port of its own, ended by its pid."""

    def __init__(self, directory: Path, **sections: Any) -> None:
        directory.mkdir(exist_ok=True)
        with socket.socket() as free:
            free.bind(("127.0.0.1", 0))
            self.port = free.getsockname()[1]
        self.address = f"127.0.0.1:{self.port}"
        self.tls = sections.get("tls")
        self._directory = directory
        settings: dict[str, Any] = {
            "version": "0.1",
            "log": {"level": "error", "accesslog": {"disabled": False}},
            "storage": {
                "filesystem": {"rootdirectory": str(directory / "storage")},
                "delete": {"enabled": True},
            },
            "http": {"addr": self.address, **({"tls": self.tls} if self.tls else {})},
        }
        if "auth" in sections:
            settings["auth"] = sections["auth"]
        # JSON is YAML.
        (directory / "config.yml").write_text(json.dumps(settings))
        self._process: subprocess.Popen[bytes] | None = None

    def start(self) -> None:
        with open(self._directory / "log", "ab") as log:
            self._process = subprocess.Popen(
                [REGISTRY, "serve", str(self._directory / "config.yml")],
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
                env={"PATH": os.environ["PATH"], "OTEL_TRACES_EXPORTER": "none"},
            )
        until(self._answers, what=f"a registry on {self.address}")

    def stop(self) -> None:
        if self._process:
            self._process.send_signal(signal.SIGTERM)
            self._process.wait(timeout=20)
            self._process = None

    def _answers(self) -> bool:
        assert self._process and self._process.poll() is None, self.log()
        context = ssl._create_unverified_context()
        with contextlib.suppress(OSError):
            if self.tls:
                connection: http.client.HTTPConnection = http.client.HTTPSConnection(
                    "127.0.0.1", self.port, context=context, timeout=5
                )
            else:
                connection = http.client.HTTPConnection("127.0.0.1", self.port, timeout=5)
            with contextlib.closing(connection):
                connection.request("GET", "/v2/")
                return connection.getresponse().status in (200, 401)
        return False

    def log(self) -> str:
        return (self._directory / "log").read_text()

    def requests(self) -> int:
        return self.log().count('"GET /v2/')

    def push(self, layout: Layout, tag: str, name: str, *options: str) -> str:
        """Returns the reference."""
        reference = f"{self.address}/{name}"
        words = ["copy", "--all", "--quiet", "--dest-tls-verify=false", *options]
        skopeo(*words, f"oci:{layout.path}:{tag}", f"docker://{reference}")
        return reference


@contextlib.contextmanager
def registry(directory: Path, **sections: Any) -> Iterator[Registry]:
    served = Registry(directory, **sections)
    try:
        served.start()
        yield served
    finally:
        served.stop()


def password_file(path: Path, user: str, password: str) -> dict[str, Any]:
    """The registry takes bcrypt only; perl's crypt makes it."""
    salt = "$2y$05$" + "sandlotsandlotsandlotu"
    command = ["perl", "-e", "print crypt($ARGV[0], $ARGV[1])", password, salt]
    hashed = subprocess.run(command, capture_output=True, text=True, check=True).stdout
    assert hashed.startswith("$2y$05$"), hashed
    path.write_text(f"{user}:{hashed}\n")
    return {"htpasswd": {"realm": "sandlot", "path": str(path)}}


def certificate(directory: Path) -> dict[str, str]:
    """A certificate for loopback that vouches for itself."""
    names = {"certificate": str(directory / "ca.pem"), "key": str(directory / "key.pem")}
    command = ["openssl", "req", "-x509", "-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:P-256"]
    command += ["-nodes", "-days", "2", "-subj", "/CN=127.0.0.1"]
    command += ["-addext", "subjectAltName=IP:127.0.0.1"]
    command += ["-keyout", names["key"], "-out", names["certificate"]]
    subprocess.run(command, capture_output=True, check=True)
    return names


def busybox_layer() -> bytes:
    """Static busybox with the applets that the tests use."""
    content = static_busybox.PROGRAM.read_bytes()
    applets = ["cat", "env", "httpd", "id", "ls", "nc", "pwd", "sh", "sleep", "test", "touch"]
    passwd = b"root:x:0:0:root:/root:/bin/sh\nweb:x:33:44:web:/srv:/bin/sh\n"
    return pack(
        folder("bin"),
        folder("etc"),
        folder("root", 0o700),
        entry("bin/busybox", content, mode=0o755),
        *(link(f"bin/{name}", "busybox") for name in applets),
        entry("etc/passwd", passwd),
        entry("etc/group", b"root:x:0:\nweb:x:44:\n"),
    )
