# SPDX-License-Identifier: GPL-3.0-or-later
# Copyright: the sandlot developers
"""PostgreSQL and MariaDB keep all that they acknowledged, whatever happens to their sandboxes.

Clients write meanwhile. PostgreSQL has a volume that the user names, MariaDB the image's VOLUME.
"""

from __future__ import annotations

import contextlib
import os
import shutil
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import rotation
import searching
from archives import entry
from converge_fixtures import Deployment, deployed, eventually, needs_root
from database_servers import MARIADB, POSTGRESQL, Database, Writer, healthy
from plays import play
from published_images import Published, logged, sandlot, shell
from sandboxes import processes_of
from sandlot import images, volumes
from sandlot.converge import Result
from searching import Marker

pytestmark = needs_root
RECORDS = f"records:{POSTGRESQL.directory}"


class Shop:
    """A host with both databases; ``tags`` are those of its images by their names."""

    def __init__(self, host: Deployment, published: Published) -> None:
        self.host = host
        self.published = published
        self.books = Database(host, "books", POSTGRESQL, volumes=[RECORDS])
        self.goods = Database(host, "goods", MARIADB)
        self.databases = (self.books, self.goods)
        for program in (POSTGRESQL, MARIADB):
            program.publish(published, "first")
            program.publish(published, "second", entry("srv/version", b"2"))
        self.tag = "first"

    def deploy(self, *more: Database, **options: Any) -> Result:
        """One run, as of an inventory."""
        every = [*self.databases, *more]
        sources = {
            each.image: self.published.source(each.image, each.program.tag(self.tag))
            for each in every
        }
        specs = [each.spec() for each in every]
        wanted = images.normalise_all(list(sources.values()))
        result = self.host.converged(*specs, images=wanted, **options)
        healthy(*every)
        return result

    @contextlib.contextmanager
    def in_use(self) -> Iterator[tuple[Writer, ...]]:
        with self.books.written_to() as one, self.goods.written_to() as other:
            yield one, other

    def snapshots(self, **options: Any) -> None:
        """One play, with a task for each database."""
        wanted = [{"sandbox": each.name, **options} for each in self.databases]
        play(self.host.paths, *({"sandbox_snapshot": each} for each in wanted))

    def proved(self) -> None:
        for each in self.databases:
            each.proved()


@pytest.fixture(scope="module")
def shop(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Shop]:
    packages = (*POSTGRESQL.packages, *MARIADB.packages)
    published = Published(tmp_path_factory.mktemp("data"), packages)
    with deployed() as host:
        found = Shop(host, published)
        found.deploy()
        for each in found.databases:
            each.begin()
        yield found
    published.remove()


def stopped(shop: Shop) -> None:
    """By the signal of the image; what it is told to do first, it does."""
    sandlot(shop.host, "stop", "books", "goods")
    for each in shop.databases:
        assert shop.host.info(each.name)["exit_code"] == 0
        assert each.program.goodbye in logged(shop.host, each.name)
    sandlot(shop.host, "start", "books", "goods")


def restarted(shop: Shop) -> None:
    sandlot(shop.host, "restart", "books", "goods")


def killed(shop: Shop) -> None:
    def restarts() -> list[int]:
        return [shop.host.info(each.name)["restarts"] for each in shop.databases]

    before = restarts()
    for each in shop.databases:
        shell(shop.host, each.program.kill, name=each.name)
    eventually(lambda: all(now > then for now, then in zip(restarts(), before)))


def init_killed(shop: Shop) -> None:
    before = [shop.host.pid(each.name) for each in shop.databases]
    for each in shop.databases:
        shop.host.kill(each.name)
    old = {None, *before}
    eventually(lambda: all(shop.host.info(each.name)["pid"] not in old for each in shop.databases))


def updated(shop: Shop) -> None:
    shop.tag = "second"
    shop.deploy()
    for each in shop.databases:
        assert shell(shop.host, "cat /srv/version", name=each.name) == "2"


def moved_to_another_image(shop: Shop) -> None:
    for each in shop.databases:
        each.image = f"another-{each.program.image}"
    shop.deploy()


def recreated(shop: Shop) -> None:
    shop.deploy(recreate=True)


def purged(shop: Shop) -> None:
    result = shop.host.run(purge=True)
    assert not result.failed, result.failed
    shop.deploy()


EVENTS = (
    stopped,
    restarted,
    killed,
    init_killed,
    updated,
    moved_to_another_image,
    recreated,
    purged,
)


@pytest.mark.parametrize("event", EVENTS)
def test_nothing_is_lost(shop: Shop, event: Callable[[Shop], None]) -> None:
    with shop.in_use():
        event(shop)
    healthy(*shop.databases)
    shop.proved()


def test_the_servers_step_down(shop: Shop) -> None:
    for each, user in zip(shop.databases, ("postgres", "mysql")):
        command = f"whoami; stat -c %U:%a {each.program.directory}"
        mode = {"postgres": 700, "mysql": 755}[user]
        answer = shell(shop.host, command, "-u", user, name=each.name)
        assert answer == f"{user}\n{user}:{mode}\n"


def test_a_full_volume_stops_one_only(shop: Shop) -> None:
    """On a root that is read-only; with room again the server goes on."""
    small = Database(
        shop.host, "small", POSTGRESQL, volumes=[f"small:{POSTGRESQL.directory}"],
        read_only=True,
    )  # fmt: skip
    shop.deploy(small, volumes=volumes.normalise([{"name": "small", "size": "128m"}]))
    small.begin()
    with small.written_to():
        pass
    filler = f"{POSTGRESQL.directory}/filler"
    with shop.in_use() as neighbours:
        shell(shop.host, f"! dd if=/dev/zero of={filler} bs=1M", name="small")
        grown = "INSERT INTO bulk SELECT generate_series(1, 1000000)"
        with pytest.raises(AssertionError, match="No space left on device"):
            small.query(f"CREATE TABLE bulk (n INTEGER); {grown}")
        for each in neighbours:
            each.goes_on()
    shell(shop.host, f"rm {filler}", name="small")
    healthy(small)
    small.query("CREATE TABLE again (n INTEGER)")
    small.proved()
    shop.proved()
    with pytest.raises(AssertionError, match="Read-only file system"):
        shell(shop.host, "touch /var/lib/file", name="small")


def test_a_dropped_table_is_restored(shop: Shop) -> None:
    """As of the moment of the snapshot, which was in the middle of a client's work."""
    before = [len(each.acknowledged) for each in shop.databases]
    with shop.in_use():
        shop.snapshots(name="before")
    for each in shop.databases:
        each.query("DROP TABLE numbers")
    shop.snapshots(name="before", state="restore")
    healthy(*shop.databases)
    for each, number in zip(shop.databases, before):
        each.proved(at_least=number)


def test_another_host_has_what_was_exported(shop: Shop, tmp_path: Path) -> None:
    """By a snapshot that was made while a client wrote."""
    before, archive = len(shop.books.acknowledged), str(tmp_path / "books.tar")
    named = {"sandbox": "books", "name": "moved"}
    with shop.in_use():
        export = {**named, "state": "export", "path": archive}
        play(shop.host.paths, *({"sandbox_snapshot": each} for each in (named, export)))
    with deployed() as host:
        books = shop.books.on(host)
        source = shop.published.source(books.image, books.program.tag(shop.tag))
        host.converged(books.spec(), images=images.normalise_all([source]))
        steps = {"state": "import", "path": archive}, {**named, "state": "restore"}
        play(host.paths, *({"sandbox_snapshot": each} for each in steps))
        healthy(books)
        books.proved(at_least=before)


def test_a_password_is_rotated_by_secret(shop: Shop, tmp_path: Path) -> None:
    """Without a restart or a lost connection. ``shown`` is what the search finds everywhere."""
    host, name = shop.host, rotation.NAME
    # As on a host with systemd, so that the values are encrypted at rest.
    keys = Path(host.paths.credential_key).parent
    keys.mkdir(parents=True)
    first, second, shown = Marker(), Marker(), Marker()
    controller = rotation.Controller(host, tmp_path / "controller")
    image = shop.published.source(POSTGRESQL.image, POSTGRESQL.tag(shop.tag))
    host.converged(rotation.documented(password=first.text, shown=shown.text))
    eventually(lambda: host.info(name)["health"] == "healthy", seconds=40)
    client, pid = rotation.Client(host, first.text), host.pid(name)
    assert client.asks("SELECT 1") == "1"
    outputs = [controller.deploy(image, password=second.text, shown=shown.text)]
    eventually(lambda: rotation.connects(host, second), seconds=40)
    assert not rotation.connects(host, first)
    assert client.asks("SELECT 2") == "2"
    assert client.end() == (0, "")
    assert (host.pid(name), host.info(name)["restarts"]) == (pid, 0)
    outputs += rotation.asked(host, archive := tmp_path / "archive.tar")

    places = (host.paths.root, tmp_path, "/var/log")
    inits = processes_of(Path(host.paths.root))
    assert shown.is_in(outputs[0].encode())
    assert {str(archive), str(controller.log)} < searching.in_files(shown, *places)
    # Launcher, zygote, and the inits of three sandboxes, each with its state.
    assert len(inits) >= 5 and pid in searching.in_memory(shown, inits)
    assert searching.in_processes(shown)
    for marker in (first, second):
        assert not any(marker.is_in(text.encode()) for text in outputs)
        assert searching.in_processes(marker) == set()
        assert searching.in_memory(marker, inits) == set()
    assert searching.in_files(first, *places) == set()
    found, memory = searching.in_files(second, *places), f"{host.paths.secrets}/{name}/"
    at_rest = "" if shutil.which("systemd-creds") else host.paths.sandbox(name).stored_secrets
    kept = {path for path in found if at_rest and path.startswith(at_rest)}
    assert found > kept and all(path.startswith(memory) for path in found - kept)
    assert not host.run({"name": name, "state": "absent"}).failed
    assert not os.path.exists(host.paths.secrets)
    shutil.rmtree(keys)
