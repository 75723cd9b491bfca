# SPDX-License-Identifier: GPL-3.0-or-later
# Copyright: the sandlot developers
"""Tarballs from URLs: resumed, retried, bounded, through proxies, with files of checksums."""

from __future__ import annotations

import hashlib
import multiprocessing
import os
import signal
import subprocess
from collections.abc import Iterator
from pathlib import Path

import deadly
import pytest
from archives import one_file
from image_server import Server, serving
from sandlot import images, lock
from sandlot.errors import HostError, SandlotError, SpecError
from sandlot.images import download
from sandlot.plan import apply_all, descriptions
from sandlot.site import Site

pytestmark = pytest.mark.skipif(os.geteuid() != 0, reason="needs root")
FORK = multiprocessing.get_context("fork")
CONTENT = os.urandom(3 << 20)


ARCHIVE = one_file(CONTENT)


def checksum(data: bytes) -> str:
    return f"sha256:{hashlib.sha256(data).hexdigest()}"


@pytest.fixture
def paths(tmp_path: Path) -> Site:
    return Site(str(tmp_path / "root"))


@pytest.fixture
def server(monkeypatch: pytest.MonkeyPatch) -> Iterator[Server]:
    monkeypatch.setenv("no_proxy", "*")
    monkeypatch.setattr(download, "DELAYS", (0.0, 0.0))
    with serving() as server:
        server.files["/a.tar.gz"] = ARCHIVE
        yield server


def wish(server: Server, data: bytes = ARCHIVE, **options: object) -> dict:
    raw = {"name": "t", "source": "tarball", "url": f"{server.url}/a.tar.gz"}
    return {**raw, "checksum": checksum(data), **options}


def converge(paths: Site, *raw: dict) -> list[str]:
    specs = images.normalise_all(list(raw))
    operations = images.operations(paths, specs)
    apply_all(operations)
    assert images.operations(paths, specs) == []
    return [each.partition(": ")[2].split()[0] for each in descriptions(operations)]


def fails(paths: Site, raw: dict, match: str, kind: type[SandlotError] = HostError) -> None:
    with pytest.raises(kind, match=match):
        converge(paths, raw)


def content(paths: Site) -> bytes:
    return Path(images.lookup(paths, "t").root, "f").read_bytes()


def left(paths: Site) -> list[str]:
    """Besides images: what an unfinished run left."""
    return [name for name in os.listdir(paths.images) if name.startswith(".")]


# -- resuming -------------------------------------------------------------------------------------


def test_a_lost_connection_is_resumed(paths: Site, server: Server) -> None:
    server.script = ["cut 1000000", "cut 1000000"]
    converge(paths, wish(server))
    assert content(paths) == CONTENT and left(paths) == []
    assert server.sent == len(ARCHIVE)
    asked = [(each.get("range"), each.get("if-range")) for _, each in server.asked]
    assert asked == [(None, None), ("bytes=1000000-", '"1"'), ("bytes=2000000-", '"1"')]


def test_progress_begins_the_attempts_again(paths: Site, server: Server) -> None:
    server.script = ["cut 1048576"] * 3 + ["status 503"]
    converge(paths, wish(server))
    assert content(paths) == CONTENT and len(server.asked) == 5


def test_the_next_run_goes_on(paths: Site, server: Server, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(download, "DELAYS", ())
    server.script = ["cut 1000000"]
    fails(paths, wish(server), "the connection ended .* bytes early|IncompleteRead")
    assert [name[:6] for name in left(paths)] == [".part-"]
    assert converge(paths, wish(server)) == ["make"]
    assert content(paths) == CONTENT and server.sent == len(ARCHIVE) and left(paths) == []


def _killed_while_downloading(paths: Site, server: Server, number: int) -> None:
    server.script = [f"stall {number}"]
    job = FORK.Process(target=converge, args=(paths, wish(server)))
    job.start()
    assert server.stalled.wait(60) and job.pid
    part = Path(paths.images, f".part-{checksum(ARCHIVE)[7:]}", "data")
    while not (part.exists() and part.stat().st_size == number):
        assert job.is_alive()
    os.kill(job.pid, signal.SIGKILL)
    job.join()
    server.released.set()


def test_a_killed_run_is_gone_on_with(paths: Site, server: Server) -> None:
    _killed_while_downloading(paths, server, 1_000_000)
    assert converge(paths, wish(server)) == ["clean", "make"]
    assert content(paths) == CONTENT and server.sent == len(ARCHIVE) and left(paths) == []


def test_what_nobody_wants_is_cleaned_once(paths: Site, server: Server) -> None:
    _killed_while_downloading(paths, server, 1_000_000)
    assert len(left(paths)) == 2
    assert converge(paths) == ["clean"]
    assert left(paths) == [] and converge(paths) == []


def test_all_had_arrived_when_the_run_was_killed(paths: Site, server: Server) -> None:
    part = Path(paths.images, f".part-{checksum(ARCHIVE)[7:]}")
    _killed_while_downloading(paths, server, 1_000_000)
    with open(part / "data", "ab") as handle:
        handle.write(ARCHIVE[1_000_000:])
    assert converge(paths, wish(server))[-1] == "make"
    assert content(paths) == CONTENT and len(server.asked) == 1


def test_a_partial_file_in_the_way_is_refused(paths: Site, server: Server, tmp_path: Path) -> None:
    converge(paths)
    os.makedirs(paths.images)
    os.symlink(tmp_path, f"{paths.images}/.part-{checksum(ARCHIVE)[7:]}")
    fails(paths, wish(server), "is not a directory of user 0", SandlotError)
    assert not (tmp_path / "data").exists()


def _die_at(paths: Site, raw: dict, call: str, number: int) -> None:
    deadly.arm(call, number)
    _apply(paths, raw)
    os._exit(0)


@pytest.mark.parametrize("call", ["mkdir", "rename", "fsync", "unlink", "rmdir", "open", "pwrite"])
def test_killed_anywhere_it_goes_on(paths: Site, server: Server, call: str) -> None:
    raw = wish(server)
    for number in range(1, 1000):
        server.script = ["cut 1500000"]
        job = FORK.Process(target=_die_at, args=(paths, raw, call, number))
        job.start()
        job.join()
        server.script = []
        converge(paths, raw)
        assert content(paths) == CONTENT and left(paths) == []
        converge(paths, {"name": "t", "state": "absent"})
        assert os.listdir(paths.images) == ["trees"] and not os.listdir(f"{paths.images}/trees")
        if job.exitcode == 0:
            break
    assert number > 1 and job.exitcode == 0


CHANGED = one_file(CONTENT[::-1])


@pytest.mark.parametrize("etag", ['"2"', 'W/"2"', None])
def test_the_file_has_changed_meanwhile(
    paths: Site, server: Server, etag: str | None, monkeypatch: pytest.MonkeyPatch
) -> None:
    """With an entity tag the server tells; without one, the checksum does, and all is fetched."""
    server.etag = None if etag is None else '"1"'
    server.script = ["cut 1000000"]
    monkeypatch.setattr(download, "DELAYS", ())
    fails(paths, wish(server, CHANGED), "can't be downloaded")
    server.etag, server.files["/a.tar.gz"] = etag, CHANGED
    converge(paths, wish(server, CHANGED))
    assert content(paths) == CONTENT[::-1] and left(paths) == []


@pytest.mark.parametrize("word", ["whole", "shifted 5"])
def test_a_server_that_cannot_resume(paths: Site, server: Server, word: str) -> None:
    server.script = ["cut 1000000", word]
    converge(paths, wish(server))
    assert content(paths) == CONTENT and left(paths) == []


def test_more_has_arrived_than_there_is(
    paths: Site, server: Server, monkeypatch: pytest.MonkeyPatch
) -> None:
    short = one_file(b"short")
    server.script = ["cut 1000000"]
    monkeypatch.setattr(download, "DELAYS", ())
    fails(paths, wish(server, short), "can't be downloaded")
    monkeypatch.setattr(download, "DELAYS", (0.0,))
    server.files["/a.tar.gz"] = short
    converge(paths, wish(server, short))
    assert content(paths) == b"short"


# -- retries and refusals -------------------------------------------------------------------------


@pytest.mark.parametrize("status", [408, 429, 500, 502, 503, 504])
def test_a_passing_refusal_is_tried_again(paths: Site, server: Server, status: int) -> None:
    server.script = [f"status {status}"] * 2
    converge(paths, wish(server))
    assert len(server.asked) == 3


def test_attempts_end(paths: Site, server: Server) -> None:
    server.script = ["status 503"] * 9
    fails(paths, wish(server), "image 't': .*/a.tar.gz can't be downloaded: .*503.*; check the URL")
    assert len(server.asked) == 3


@pytest.mark.parametrize("status", [401, 403, 404, 410])
def test_a_lasting_refusal_is_not(paths: Site, server: Server, status: int) -> None:
    server.script = [f"status {status}"] * 9
    fails(paths, wish(server), str(status))
    assert len(server.asked) == 1 and os.listdir(paths.images) != []


@pytest.mark.parametrize("target", ["file:///etc/passwd", "ftp://127.0.0.1/x", "gopher://x/"])
def test_redirections_lead_to_the_web_only(paths: Site, server: Server, target: str) -> None:
    server.script = [f"moved {target}"]
    fails(paths, wish(server), "can't be downloaded")
    assert len(server.asked) == 1


def test_a_redirection_is_followed(paths: Site, server: Server) -> None:
    server.script = ["moved /a.tar.gz"]
    converge(paths, wish(server, url=f"{server.url}/elsewhere"))
    assert content(paths) == CONTENT


def test_a_server_that_is_too_slow(
    paths: Site, server: Server, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(download, "TIMEOUT", 0.3)
    monkeypatch.setattr(download, "DELAYS", ())
    server.script = ["drip 10"]
    fails(paths, wish(server), "bytes arrived in")


def test_an_unreachable_server(
    paths: Site, server: Server, monkeypatch: pytest.MonkeyPatch
) -> None:
    fails(paths, wish(server, url="http://127.0.0.1:9/x"), "127.0.0.1:9/x can't be .*refused")


def test_a_token_is_not_shown(paths: Site, server: Server) -> None:
    with pytest.raises(HostError) as caught:
        converge(paths, wish(server, url=f"{server.url}/none?token=hush"))
    assert "hush" not in str(caught.value)


# -- bounds and damage ----------------------------------------------------------------------------


@pytest.mark.parametrize("word", ["", "endless"])
def test_size_is_bounded(paths: Site, server: Server, word: str) -> None:
    server.script = [word]
    fails(paths, wish(server, max_size="1m"), "larger than 1048576 bytes", SandlotError)
    assert left(paths) == [] and os.listdir(f"{paths.images}/trees") == []


def test_a_wrong_checksum_leaves_nothing(paths: Site, server: Server) -> None:
    converge(paths, wish(server))
    before = images.lookup(paths, "t")
    server.files["/a.tar.gz"] = b"<html>sorry</html>"
    fails(paths, wish(server, b"else"), "an HTML page.* has the checksum", SandlotError)
    assert left(paths) == [] and images.lookup(paths, "t") == before
    assert content(paths) == CONTENT


# -- proxies --------------------------------------------------------------------------------------


def test_a_proxy_of_the_environment(
    paths: Site, server: Server, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The name can't be looked up: only the proxy, asked for the whole URL, knows the file."""
    monkeypatch.setenv("http_proxy", server.url)
    monkeypatch.setenv("no_proxy", "")
    url = "http://images.invalid/a.tar.gz"
    server.files[url] = ARCHIVE
    converge(paths, wish(server, url=url))
    assert content(paths) == CONTENT and server.paths() == [url]
    monkeypatch.setenv("no_proxy", "images.invalid")
    fails(paths, wish(server, b"x", url=url), "can't be downloaded")


# -- https ----------------------------------------------------------------------------------------


@pytest.fixture
def certificate(tmp_path: Path) -> Path:
    path = tmp_path / "both.pem"
    command = ["openssl", "req", "-x509", "-newkey", "rsa:2048", "-nodes", "-subj", "/CN=t"]
    command += ["-addext", "subjectAltName=IP:127.0.0.1", "-keyout", str(path)]
    done = subprocess.run([*command, "-out", "-"], capture_output=True, check=True)
    with open(path, "ab") as handle:
        handle.write(done.stdout)
    return path


def test_https(
    paths: Site, server: Server, certificate: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with serving(certificate) as safe:
        safe.files = server.files
        fails(paths, wish(safe), "CERTIFICATE_VERIFY_FAILED")
        assert safe.asked == []
        monkeypatch.setenv("SSL_CERT_FILE", str(certificate))
        # The checksum vouches for an archive, wherever it comes from; nothing does for checksums.
        server.files["/sums"] = hashlib.sha256(ARCHIVE).hexdigest().encode()
        safe.script = [f"moved {server.url}/sums"]
        fails(paths, wish(safe, checksum=f"{safe.url}/sums"), "leads from https to http:")
        safe.script = ["", f"moved {server.url}/a.tar.gz"]
        converge(paths, wish(safe, checksum=f"{safe.url}/sums", url=f"{safe.url}/a.tar.gz"))
    assert content(paths) == CONTENT


# -- files of checksums ---------------------------------------------------------------------------

HEX = hashlib.sha256(ARCHIVE).hexdigest()
LONG = hashlib.sha512(ARCHIVE).hexdigest()
OTHER = "0" * 64
LISTS = {
    "coreutils": f"{OTHER}  b.tar.gz\n{HEX}  a.tar.gz\n",
    "coreutils, binary": f"{HEX} *a.tar.gz\n{OTHER} *b.tar.gz\n",
    "with a path": f"{HEX}  ./images/a.tar.gz\r\n",
    "BSD": f"SHA256 (b.tar.gz) = {OTHER}\nSHA256 (a.tar.gz) = {HEX}\n",
    "BSD, several kinds": f"MD5 (a.tar.gz) = {'0' * 32}\nSHA512 (a.tar.gz) = {LONG}\n",
    "alone": f"{HEX}\n",
    "signed": f"-----BEGIN PGP SIGNED MESSAGE-----\nHash: SHA512\n\n{HEX} *a.tar.gz\n",
    "capitals": f"{HEX.upper()}  a.tar.gz\n",
}


@pytest.mark.parametrize("text", LISTS.values(), ids=LISTS.keys())
def test_a_file_of_checksums(paths: Site, server: Server, tmp_path: Path, text: str) -> None:
    server.files["/SHA256SUMS"] = text.encode()
    converge(paths, wish(server, checksum=f"{server.url}/SHA256SUMS"))
    assert content(paths) == CONTENT
    (tmp_path / "sums").write_text(text)
    (tmp_path / "a.tar.gz").write_bytes(ARCHIVE)
    raw = {"name": "t", "source": "tarball", "path": str(tmp_path / "a.tar.gz")}
    assert converge(paths, {**raw, "checksum": str(tmp_path / "sums")}) == ["record"]


BAD_LISTS = {
    "another file": (f"{HEX}  b.tar.gz\n", "has no SHA-256 or SHA-512 for a.tar.gz"),
    "weak": (f"{'0' * 32}  a.tar.gz\n", "has no SHA-256"),
    "two": (f"{HEX}  a.tar.gz\n{OTHER}  x/a.tar.gz\n", "several checksums for a.tar.gz"),
    "a page": ("<html></html>", "has no SHA-256"),
    "wrong length": (f"SHA256 (a.tar.gz) = {LONG}", "has no SHA-256"),
    "empty": ("", "has no SHA-256"),
}


@pytest.mark.parametrize("text, message", BAD_LISTS.values(), ids=BAD_LISTS.keys())
def test_a_file_of_other_things(paths: Site, server: Server, text: str, message: str) -> None:
    server.files["/sums"] = text.encode()
    fails(paths, wish(server, checksum=f"{server.url}/sums"), message, SpecError)
    assert not os.path.exists(paths.images)


def test_a_huge_file_of_checksums(paths: Site, server: Server) -> None:
    server.script = ["endless"]
    fails(paths, wish(server, checksum=f"{server.url}/sums"), "larger than")


def test_checksums_are_asked_for_once(paths: Site, server: Server) -> None:
    server.files["/sums"] = f"{HEX}  a.tar.gz".encode()
    raw = wish(server, checksum=f"{server.url}/sums")
    converge(paths, raw)
    server.asked.clear()
    new = one_file(b"new")
    server.files["/sums"] = f"{hashlib.sha256(new).hexdigest()}  a.tar.gz".encode()
    server.files["/a.tar.gz"] = new
    assert converge(paths, raw) == [] and server.asked == []
    assert converge(paths, {**raw, "pull": "always"})[0] == "replace" and content(paths) == b"new"
    # An origin that is away is an error only where it was to be asked.
    server.script = ["status 404"]
    assert converge(paths, raw) == []
    fails(paths, {**raw, "pull": "always"}, "sums can't be downloaded")
    assert content(paths) == b"new"


def test_a_file_on_the_host_is_read_each_time(paths: Site, server: Server, tmp_path: Path) -> None:
    sums = tmp_path / "SHA512SUMS"
    sums.write_text(f"{LONG}  a.tar.gz\n")
    raw = wish(server, checksum=str(sums))
    converge(paths, raw)
    server.files["/a.tar.gz"] = one_file(b"new")
    sums.write_text(f"{hashlib.sha512(one_file(b'new')).hexdigest()}  a.tar.gz\n")
    assert converge(paths, raw)[0] == "replace" and content(paths) == b"new"
    sums.unlink()
    assert converge(paths, raw) == []


# -- several at once ------------------------------------------------------------------------------


def test_two_runs_do_the_work_once(paths: Site, server: Server) -> None:
    server.script = ["stall 1000"]
    jobs = [FORK.Process(target=_apply, args=(paths, wish(server))) for _ in range(2)]
    for job in jobs:
        job.start()
    assert server.stalled.wait(60)
    # The other one waits for the same tree by now, or will.
    server.released.set()
    for job in jobs:
        job.join()
    assert [job.exitcode for job in jobs] == [0, 0]
    assert content(paths) == CONTENT and left(paths) == []
    assert len([each for _, each in server.asked if "range" not in each]) == 1


def _apply(paths: Site, raw: dict) -> None:
    apply_all(images.operations(paths, images.normalise_all([raw])))


def test_the_host_can_be_written_to_meanwhile(paths: Site, server: Server) -> None:
    server.script = ["stall 1000"]
    job = FORK.Process(target=_apply, args=(paths, wish(server)))
    job.start()
    assert server.stalled.wait(60)
    with lock.exclusive(paths, wait=0):
        assert job.is_alive()
    small = one_file(b"small")
    server.files["/small.tar.gz"] = small
    converge(paths, wish(server, small, name="small", url=f"{server.url}/small.tar.gz"))
    assert job.is_alive()
    server.released.set()
    job.join()
    assert job.exitcode == 0 and sorted(images.observe(paths)) == ["small", "t"]
