# SPDX-License-Identifier: GPL-3.0-or-later
# Copyright: the sandlot developers
"""Images from registries without one: references, platforms, manifests, configs."""

from __future__ import annotations

import json
from typing import Any

import pytest
from sandlot import images, spec
from sandlot.errors import SandlotError, SpecError
from sandlot.images.oci import config, manifest, platforms, reference
from sandlot.images.oci.manifest import MAX_LAYERS, ImageError

HEX = "0a" * 32
DIGEST = f"sha256:{HEX}"
IMAGE = {"name": "x", "source": "oci", "reference": "r.example/x:1"}

# -- references -----------------------------------------------------------------------------------

REFERENCES = {
    "nginx": ("nginx:latest", "docker.io", "docker://nginx:latest"),
    "docker://nginx:1.25": ("nginx:1.25", "docker.io", "docker://nginx:1.25"),
    "someone/tool": ("someone/tool:latest", "docker.io", "docker://someone/tool:latest"),
    "localhost/x": ("localhost/x:latest", "localhost", "docker://localhost/x:latest"),
    "127.0.0.1:5000/a/b:v1": ("127.0.0.1:5000/a/b:v1", "127.0.0.1:5000", None),
    "[::1]:5000/a": ("[::1]:5000/a:latest", "[::1]:5000", None),
    f"r.example/x@{DIGEST}": (f"r.example/x@{DIGEST}", "r.example", None),
    f"r.example/x:1@{DIGEST}": (
        f"r.example/x:1@{DIGEST}",
        "r.example",
        f"docker://r.example/x@{DIGEST}",
    ),
    "oci:/srv/layout": ("oci:/srv/layout", None, "oci:/srv/layout"),
    "oci:/srv//layout/:a/b:1": ("oci:/srv/layout:a/b:1", None, None),
    "oci-archive:/srv/x.tar:v1": ("oci-archive:/srv/x.tar:v1", None, None),
    "docker-archive:/srv/x.tar": ("docker-archive:/srv/x.tar", None, None),
    "docker-archive:/srv/x.tar:nginx": ("docker-archive:/srv/x.tar:nginx:latest", None, None),
    "docker-archive:/srv/x.tar:@1": ("docker-archive:/srv/x.tar:@1", None, None),
}


@pytest.mark.parametrize("text", REFERENCES)
def test_references(text: str) -> None:
    shown, registry, argument = REFERENCES[text]
    found = reference.parse("reference", text)
    assert str(found) == shown
    assert reference.parse("reference", shown) == found
    assert found.is_remote == (registry is not None)
    assert registry is None or found.registry == registry
    assert found.argument() == (argument or (f"docker://{shown}" if registry else shown))


def test_a_reference_leads_to_an_exact_one() -> None:
    found = reference.parse("reference", "r.example/x:1").at(DIGEST)
    assert str(found) == f"r.example/x@{DIGEST}"
    local = reference.parse("reference", "oci:/srv/x:1")
    assert local.at(DIGEST) == local


@pytest.mark.parametrize(
    "text",
    [
        "", "-x", "--help", "UPPER/case", "a b", "a\nb", "docker://", "a//b", "a/../b",
        "x:", "x:-1", "x@", "x@sha256:00", "x@md5:00", f"x@{DIGEST}00", "a" * 300, "http://r/x",
        "oci:relative:x", "oci:/a/../b", "oci:/srv/x:", "oci-archive:", "docker-archive:/x:UPPER",
        f"docker-archive:/x:a@{DIGEST}", "oci:/x:--all", "dir:/srv/x", "docker-daemon:x",
        "containers-storage:x", "ünï",
    ],
)  # fmt: skip
def test_what_is_no_reference_is_refused(text: str) -> None:
    with pytest.raises(SpecError, match=r"image\.reference"):
        images.normalise({**IMAGE, "reference": text})


@pytest.mark.parametrize(
    "one, other",
    [
        ("busybox", "docker.io/library/busybox:latest"),
        ("docker.io/busybox:1", "busybox:1"),
        ("a/b", "docker.io/a/b:latest"),
        ("localhost/b", "localhost/b:latest"),
    ],
)
def test_names_in_an_archive_are_compared_in_full(one: str, other: str) -> None:
    assert reference.familiar(one) == reference.familiar(other)


# -- options --------------------------------------------------------------------------------------

BAD = {
    "no reference": ({"reference": None}, "has no reference"),
    "pull": ({"pull": "sometimes"}, r"image\.pull"),
    "platform": ({"platform": "windows/amd64"}, r"image\.platform"),
    "platform alone": ({"platform": "arm64"}, r"image\.platform"),
    "relative CA": ({"ca_path": "ca.pem"}, r"image\.ca_path"),
    "user alone": ({"username": "me"}, "only one of username and password"),
    "password alone": ({"password": "s3cret"}, "only one of username and password"),
    "empty password": ({"username": "me", "password": ""}, r"image\.password"),
    "colon": ({"username": "a:b", "password": "s3cret"}, r"image\.username"),
    "both": (
        {"username": "me", "password": "s3cret", "auth_file": "/x"},
        "both a password and an auth_file",
    ),
    "local": (
        {"reference": "oci:/x", "tls_verify": False},
        r"image\.tls_verify.*is for registries",
    ),
    "local pull": ({"reference": "oci:/x", "pull": "always"}, r"image\.pull.*is for registries"),
}


@pytest.mark.parametrize("options, message", BAD.values(), ids=BAD.keys())
def test_bad_options_are_named(options: dict[str, Any], message: str) -> None:
    with pytest.raises(SpecError, match=message) as caught:
        images.normalise({**IMAGE, **options})
    assert "s3cret" not in str(caught.value)


def test_a_bad_password_is_not_shown() -> None:
    for password in ("s3cret\0", ["s3cret"], "s3cret" * 100_000):
        with pytest.raises(SpecError) as caught:
            images.normalise({**IMAGE, "username": "me", "password": password})
        assert "s3cret" not in str(caught.value)


def test_how_an_image_is_got_is_not_stored() -> None:
    found = images.normalise(
        {
            **IMAGE,
            "platform": "linux/aarch64",
            "username": "me",
            "password": "s3cret",
            "pull": "always",
            "tls_verify": False,
            "ca_path": "/ca.pem",
        }
    )
    assert images.SOURCES["oci"].parameters(found) == {
        "reference": "r.example/x:1",
        "platform": "linux/arm64",
        "max_size": 8 << 30,
        "max_files": 500_000,
    }


def test_ansible_knows_the_secret() -> None:
    rows = images.argument_spec()
    assert [name for name, row in rows.items() if row.get("no_log")] == ["password"]
    assert all("no_log" not in row for row in spec.documentation(images.options()).values())


# -- platforms ------------------------------------------------------------------------------------


def _entry(name: str, **more: Any) -> dict[str, Any]:
    system, architecture, *variant = name.split("/")
    described = {"os": system, "architecture": architecture}
    described.update({"variant": variant[0]} if variant else {})
    return {"digest": name, "platform": described, **more}


OFFERED = [
    _entry("unknown/unknown"), _entry("windows/amd64"), _entry("linux/amd64/v3"),
    _entry("linux/amd64"), _entry("linux/arm64/v8"), _entry("linux/arm/v6"), _entry("linux/386"),
    {"digest": "nothing"}, {"digest": "odd", "platform": "linux/amd64"},
    {"digest": "odder", "platform": {"os": "linux", "architecture": ["amd64"]}},
]  # fmt: skip


@pytest.mark.parametrize(
    "wanted, chosen",
    [
        ("linux/amd64", "linux/amd64"), ("linux/x86_64", "linux/amd64"),
        ("linux/amd64/v3", "linux/amd64/v3"), ("linux/arm64", "linux/arm64/v8"),
        ("linux/arm64/v8", "linux/arm64/v8"), ("linux/arm/v7", "linux/arm/v6"),
        ("linux/arm", "linux/arm/v6"), ("linux/386", "linux/386"),
    ],
)  # fmt: skip
def test_platforms(wanted: str, chosen: str) -> None:
    want = platforms.parse("platform", wanted)
    assert platforms.choose(OFFERED, want, "it")["digest"] == chosen


def test_a_platform_that_is_not_offered_is_an_error_with_those_that_are() -> None:
    want = platforms.parse("platform", "linux/s390x")
    with pytest.raises(SandlotError, match="nothing for linux/s390x.*linux/386, linux/amd64"):
        platforms.choose(OFFERED, want, "it")


# -- manifests ------------------------------------------------------------------------------------

LAYER = {
    "mediaType": "application/vnd.oci.image.layer.v1.tar+gzip",
    "digest": DIGEST,
    "size": 10,
}
MANIFEST: dict[str, Any] = {
    "schemaVersion": 2,
    "mediaType": "application/vnd.oci.image.manifest.v1+json",
    "config": {**LAYER, "mediaType": "application/vnd.oci.image.config.v1+json"},
    "layers": [LAYER],
}


def _layer(**changes: Any) -> dict[str, Any]:
    return {"layers": [LAYER, {**LAYER, **changes}]}


HOSTILE = {
    "schema 1": ({"schemaVersion": 1}, "no image manifest"),
    "another type": ({"mediaType": "text/html"}, "no image manifest.*text/html"),
    "type of a wrong type": ({"mediaType": []}, "no image manifest"),
    "an artifact": (
        {"config": {**LAYER, "mediaType": "application/vnd.cncf.helm.config.v1+json"}},
        "not an image but an artifact",
    ),
    "no config": ({"config": None}, "config of it has no sha256 digest"),
    "a config of text": ({"config": "x"}, "config of it has no sha256 digest"),
    "a large config": ({"config": {**MANIFEST["config"], "size": 5 << 20}}, "more than"),
    "no layers": ({"layers": []}, "has no layers"),
    "layers of text": ({"layers": "x"}, "has no list of layers"),
    "many layers": ({"layers": [LAYER] * (MAX_LAYERS + 1)}, "129 layers, more than 128"),
    "a layer of text": ({"layers": ["x"]}, "layer 1 of it is of the type"),
    "dot-dot": (_layer(digest="sha256:../../etc/passwd"), "layer 2 of it has no sha256 digest"),
    "another hash": (_layer(digest="sha512:" + "0" * 128), "layer 2 of it has no sha256 digest"),
    "a number": (_layer(digest=5), "layer 2 of it has no sha256 digest"),
    "negative": (_layer(size=-1), "layer 2 of it has the size '-1'"),
    "size of text": (_layer(size="1"), "layer 2 of it has the size"),
    "true": (_layer(size=True), "layer 2 of it has the size"),
    "foreign": (
        _layer(mediaType="application/vnd.docker.image.rootfs.foreign.diff.tar.gzip"),
        "layer 2 of it is kept elsewhere",
    ),
    "nondistributable": (
        _layer(mediaType="application/vnd.oci.image.layer.nondistributable.v1.tar+gzip"),
        "layer 2 of it is kept elsewhere",
    ),
    "encrypted": (
        _layer(mediaType="application/vnd.oci.image.layer.v1.tar+gzip+encrypted"),
        "no layer of files",
    ),
}


@pytest.mark.parametrize("changes, message", HOSTILE.values(), ids=HOSTILE.keys())
def test_bad_manifests_are_named(changes: dict[str, Any], message: str) -> None:
    with pytest.raises(ImageError, match=message):
        manifest.parse({**MANIFEST, **changes}, "it")


def test_a_manifest() -> None:
    found = manifest.parse({**MANIFEST, "layers": [LAYER, LAYER]}, "it")
    assert (found.size, [blob.hex for blob in found.layers]) == (20, [HEX, HEX])
    del MANIFEST["mediaType"]
    assert manifest.parse(MANIFEST, "it")


@pytest.mark.parametrize(
    "data", [b"", b"{", b"[]", b"1", b"\xff", b'{"a":' * 100_000, b"[" * 1_000_000]
)
def test_what_is_no_json_object_is_named(data: bytes) -> None:
    with pytest.raises(ImageError, match="it is not"):
        manifest.document(data, "it")


def test_a_list_in_a_list_is_refused() -> None:
    kind = "application/vnd.oci.image.index.v1+json"
    entry = _entry("linux/amd64", mediaType=kind, size=1)
    with pytest.raises(ImageError, match="no image manifest"):
        manifest.choose({"manifests": [entry]}, platforms.parse("p", "linux/amd64"), "it")


@pytest.mark.parametrize(
    "rootfs",
    [None, "x", {}, {"diff_ids": None}, {"diff_ids": [DIGEST]}, {"diff_ids": [DIGEST, "../x"]},
     {"diff_ids": [DIGEST, 5]}, {"diff_ids": DIGEST}],
)  # fmt: skip
def test_digests_of_layers_must_be_told(rootfs: object) -> None:
    with pytest.raises(ImageError, match="digests of its 2 layers"):
        manifest.diff_ids({"rootfs": rootfs}, 2, "it")


# -- configs --------------------------------------------------------------------------------------


def test_a_config_is_defaults_of_sandboxes() -> None:
    data = {
        "Entrypoint": ["/run.sh"],
        "Cmd": ["a", "b c"],
        "Env": ["A=1", "B=x=y", "A=2", "EMPTY="],
        "User": "www-data:33",
        "WorkingDir": "srv/app",
        "StopSignal": "SIGRTMIN+3",
        "Labels": {"k": "v"},
        "ExposedPorts": {"80/tcp": {}, "53/udp": {}},
        "Volumes": {"/data": {}},
        "Healthcheck": {
            "Test": ["CMD", "true"],
            "Interval": 90_000_000_000,
            "Timeout": 0,
            "Retries": 5,
            "StartPeriod": 1_500_000_000,
            "StartInterval": 1,
        },
        "Hostname": "ignored",
    }
    assert config.defaults({"config": data}, "it") == ({
        "entrypoint": ["/run.sh"],
        "command": ["a", "b c"],
        "env": {"A": "2", "B": "x=y", "EMPTY": ""},
        "user": "www-data:33",
        "working_dir": "/srv/app",
        "stop_signal": "SIGRTMIN+3",
        "labels": {"k": "v"},
        "exposed_ports": ["53/udp", "80/tcp"],
        "volumes": ["/data"],
        "healthcheck": {
            "test": ["CMD", "true"], "interval": "1m30s", "retries": 5, "start_period": "1s500ms",
        },
    }, [])  # fmt: skip


@pytest.mark.parametrize(
    "given", [{"Test": []}, {"Test": None}, {"Test": ["NONE"]}, {"Retries": 3}]
)
def test_a_healthcheck_without_a_test_is_none(given: dict[str, Any]) -> None:
    found, warnings = config.defaults({"config": {"Healthcheck": given}}, "it")
    assert not warnings and found["healthcheck"]["test"] == ["NONE"]


@pytest.mark.parametrize("data", [{}, {"config": None}, {"config": {"Cmd": None, "User": ""}}])
def test_what_is_not_set_is_left_out(data: dict[str, Any]) -> None:
    assert config.defaults(data, "it") == ({}, [])


@pytest.mark.parametrize(
    ("key", "value", "expected"),
    [
        ("User", "1000:", "1000"), ("User", ":5", "0:5"), ("User", "a:b", "a:b"),
        ("WorkingDir", "a//b/", "/a/b"), ("WorkingDir", "/a/../../b", "/b"),
    ],
)  # fmt: skip
def test_values_are_taken_as_docker_takes_them(key: str, value: str, expected: str) -> None:
    found, warnings = config.defaults({"config": {key: value}}, "it")
    assert (list(found.values()), warnings) == ([expected], [])


@pytest.mark.parametrize(
    ("key", "value", "kept"),
    [
        ("Env", ["A=1", "PATH", "B=2"], {"A": "1", "B": "2"}), ("Env", ["=x"], {}),
        ("Env", {"A": "1"}, {}), ("Env", "A=1", {}), ("Env", [["A=1"]], {}), ("Labels", ["a"], {}),
        ("Labels", {"a": 1, "b": "c"}, {"b": "c"}), ("Labels", {"a\nb": "x"}, {}),
        ("ExposedPorts", ["80/tcp"], []), ("Volumes", "/data", []),
    ],
)  # fmt: skip
def test_bad_parts_of_collections_are_left_out(key: str, value: object, kept: object) -> None:
    data = json.loads(json.dumps({"config": {key: value}}))
    found, warnings = config.defaults(data, "it")
    assert list(found.values()) == [kept]
    assert [each.startswith(f"left out {key} in its config") for each in warnings] == [True]


@pytest.mark.parametrize(
    "key, value",
    [
        ("Entrypoint", "/bin/sh"), ("Entrypoint", ["/bin/sh", 5]), ("Cmd", {"a": 1}),
        ("Cmd", ["a\0b"]), ("Cmd", ["x" * 200_000]), ("User", "a b"), ("User", 5),
        ("User", "../x"), ("User", "root\n0:0"), ("User", "70000"), ("User", "-1"),
        ("WorkingDir", "/a\nb"), ("WorkingDir", ["/"]),
        ("StopSignal", "SIGNOTHING"), ("StopSignal", "99"), ("StopSignal", 9),
        ("Healthcheck", ["CMD", "true"]), ("Healthcheck", {"Test": "true"}),
        ("Healthcheck", {"Test": ["true"]}), ("Healthcheck", {"Test": ["CMD", "x"], "Retries": -1}),
        ("Healthcheck", {"Test": ["CMD", "x"], "Interval": "30s"}),
        ("Healthcheck", {"Test": ["CMD", "x"], "Interval": 1}),
    ],
)  # fmt: skip
def test_bad_configs_are_named(key: str, value: object) -> None:
    """The image can be made, for sandboxes that have a value of their own."""
    data = json.loads(json.dumps({"config": {key: value, "Labels": {"a": "b"}}}))
    found, warnings = config.defaults(data, "it")
    (problem,) = found["wrong"].values()
    assert problem.startswith(f"{key} in its config") and warnings == [problem]
    assert found == {"labels": {"a": "b"}, "wrong": found["wrong"]}


def test_a_config_that_is_no_mapping_is_named() -> None:
    with pytest.raises(ImageError, match="no mapping"):
        config.defaults({"config": ["x"]}, "it")
