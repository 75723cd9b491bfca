# SPDX-License-Identifier: GPL-3.0-or-later
# Copyright: the sandlot developers
"""A host, its LAN and its sandboxes, played by network namespaces.

The machine's own network is never touched: the engine runs in a child process inside the
namespace that plays the host, with a moved root.
"""

from __future__ import annotations

import os
import pickle
import socket
import struct
import subprocess
import time
from dataclasses import dataclass, field
from pathlib import Path

import pyroute2  # noqa: F401 - once here, not in each child
from sandlot import network
from sandlot.errors import SandlotError
from sandlot.kernel import netlink
from sandlot.kernel.namespaces import CLONE_NEWNET, setns
from sandlot.network import SandboxPolicy
from sandlot.plan import apply_all, descriptions
from sandlot.site import Site
from sandlot.spec import grants
from sandlot.spec.values import Attachment, PublishedPort

HOST_LAN = "192.0.2.2"
PEER_LAN = "192.0.2.9"
HOST_LAN6 = "2001:db8::2"
PEER_LAN6 = "2001:db8::9"
# A dropped packet is silence; this is how long we listen to it.
SILENCE = 0.3
# Those who ask and answer come before the load of a busy machine, which silence is not to be.
PROMPT = -15


class Failed(SandlotError):
    """The function failed in the namespace; the message says how."""


def call(netns, function, *arguments):
    """``function(*arguments)`` run by a child process in a network namespace."""
    return started(netns, function, *arguments)()


def started(netns, function, *arguments):
    """The same, begun; its answer is that of the function that is returned."""
    reading, writing = os.pipe()
    pid = os.fork()
    if pid == 0:
        os.close(reading)
        outcome = _outcome(netns, function, arguments)
        with os.fdopen(writing, "wb") as pipe:
            pickle.dump(outcome, pipe)
        os._exit(0)
    os.close(writing)
    return lambda: _answered(pid, reading)


def _answered(pid, reading):
    with os.fdopen(reading, "rb") as pipe:
        data = pipe.read()
    os.waitpid(pid, 0)
    value, error = pickle.loads(data)
    if error is None:
        return value
    kind, message, hint = error
    # Exceptions with keyword arguments don't survive pickling.
    raised = kind.__new__(kind, message)
    SandlotError.__init__(raised, message, hint=hint)
    raise raised


def _outcome(netns, function, arguments):
    try:
        with netlink.opened(netns) as fd:
            setns(fd, CLONE_NEWNET)
        return function(*arguments), None
    except SandlotError as error:
        return None, (type(error), error.message, error.hint)
    except Exception as error:  # handed to the parent, which raises it
        return None, (Failed, f"{type(error).__name__}: {error}", "")


def make_netns(path):
    Path(path).parent.mkdir(parents=True, exist_ok=True)
    Path(path).touch()
    subprocess.run(["unshare", f"--net={path}", "true"], check=True)


def drop_netns(path):
    subprocess.run(["umount", path], check=True)
    os.unlink(path)


def ip(netns, *words):
    run(netns, "ip", *words)


def run(netns, *command, text=None, check=True):
    def in_child():
        return subprocess.run(command, input=text, capture_output=True, text=True, check=False)

    result = call(netns, in_child)
    if check and result.returncode:
        raise Failed(f"{command}: {result.stderr}")
    return result.stdout


@dataclass
class Lab:
    """The host under test; ``sandboxes`` maps names to their interfaces."""

    directory: Path
    networks: list = field(default_factory=lambda: [{"name": "default"}])
    sandboxes: dict = field(default_factory=dict)
    ports: list = field(default_factory=list)
    rates: dict = field(default_factory=dict)
    servers: list = field(default_factory=list)
    policies: dict = field(default_factory=dict)

    def __post_init__(self):
        self.paths = Site(str(self.directory / "root"))
        self.host = str(self.directory / "host")
        self.peer = str(self.directory / "peer")
        self.namespaces = []
        for path in (self.host, self.peer):
            self._make(path)
        # A new namespace inherits what this machine happens to have set.
        settings = ("net.ipv4.ip_forward=0", "net.ipv4.conf.all.accept_redirects=1")
        run(self.host, "sysctl", "-qw", *settings)
        ip(self.host, "link", "set", "lo", "up")
        ip(self.peer, "link", "set", "lo", "up")
        pair = ("link", "add", "lan0", "type", "veth", "peer", "name", "lan0", "netns", self.peer)
        ip(self.host, *pair)
        for netns, address in ((self.host, HOST_LAN), (self.peer, PEER_LAN)):
            # Its link-local address would come up some time during a test.
            run(netns, "sysctl", "-qw", "net.ipv6.conf.lan0.disable_ipv6=1")
            ip(netns, "address", "add", f"{address}/24", "dev", "lan0")
            ip(netns, "link", "set", "lan0", "up")
        # The kernel says so a little later; a fingerprint has to find it the same twice.
        deadline = time.monotonic() + 10
        while "state UP" not in run(self.host, "ip", "link", "show", "lan0"):
            assert time.monotonic() < deadline

    def enable_ipv6(self):
        """IPv6 between host and peer; nothing waits for duplicate address detection."""
        for netns, address in ((self.host, HOST_LAN6), (self.peer, PEER_LAN6)):
            settings = ("accept_dad=0", "accept_ra=1", "disable_ipv6=0")
            run(netns, "sysctl", "-qw", *(f"net.ipv6.conf.lan0.{text}" for text in settings))
            ip(netns, "address", "add", f"{address}/64", "dev", "lan0", "nodad")

    def _make(self, path):
        make_netns(path)
        self.namespaces.append(path)

    def close(self):
        for pid in self.servers:
            os.kill(pid, 9)
            os.waitpid(pid, 0)
        for path in self.namespaces:
            drop_netns(path)

    def pin(self, sandbox):
        return self.paths.sandbox(sandbox).pin("net")

    def add(self, *names, network_name="default"):
        wanted = {name: [Attachment(network_name)] for name in names}
        known = network.normalise(self.paths, self.networks)
        self.sandboxes.update(network.allocate(self.paths, known, wanted, self.sandboxes))
        for name in names:
            self._make(self.pin(name))

    def address(self, sandbox):
        return self.sandboxes[sandbox][0].address

    def address6(self, sandbox):
        return self.sandboxes[sandbox][0].address6

    def publish(self, sandbox, host_port, port, host_ip="0.0.0.0", protocol="tcp"):
        wanted = [PublishedPort(host_ip, host_port, port, protocol)]
        self.ports += network.publications(sandbox, self.sandboxes[sandbox], wanted)

    def operations(self):
        known = network.normalise(self.paths, self.networks)
        interfaces = [item for items in self.sandboxes.values() for item in items]
        members = [
            network.Member(name, "bridge", items, self.rates.get(name, network.Rates()))
            for name, items in self.sandboxes.items()
        ]
        desired = network.Desired(known, interfaces, self.ports, self.policies, members)
        plan = network.plan(self.paths, desired, network.observe(self.paths))
        steps = plan.members.values()
        return [*plan.shared, *(each for step in steps for part in step for each in part)]

    def plan(self):
        """What a run would do now."""
        return call(self.host, lambda: descriptions(self.operations()))

    def apply(self):
        """A run, by a process in the host's namespace."""
        return _applied(self.operations())

    def remove(self):
        return _applied(network.teardown_operations(self.paths, network.observe(self.paths)))

    def converge(self):
        return call(self.host, self.apply)

    def teardown(self):
        return call(self.host, self.remove)

    def serve(self, netns, port, protocol="tcp", address="0.0.0.0"):
        """Answer each connection or datagram with the client's address."""
        reading, writing = os.pipe()
        pid = os.fork()
        if pid == 0:
            os.close(reading)
            os.nice(PROMPT)
            with netlink.opened(netns) as fd:
                setns(fd, CLONE_NEWNET)
            kind = socket.SOCK_STREAM if protocol == "tcp" else socket.SOCK_DGRAM
            with socket.socket(family(address), kind) as sock:
                if sock.family == socket.AF_INET6:
                    sock.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, 1)
                sock.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
                sock.bind((address, port))
                _answer(sock, writing)
        os.close(writing)
        os.read(reading, 1)
        os.close(reading)
        self.servers.append(pid)

    def fingerprint(self):
        """Everything of the host's network that a teardown has to leave as it was."""
        commands = (
            ("ip", "-details", "link"),
            ("ip", "address"),
            ("ip", "route", "show", "table", "all"),
            ("ip", "-6", "route", "show", "table", "all"),
            ("nft", "list", "ruleset"),
            ("sysctl", "-a", "--pattern", r"^net\.(ipv4|ipv6)\.(ip_forward|conf)"),
        )
        text = "".join(run(self.host, *command) for command in commands)
        volatile = ("_lft", "mtu_expires")
        return [line for line in text.splitlines() if not any(word in line for word in volatile)]


def own_lists(**lists):
    """What a sandbox has of its own, as it is written in a playbook."""
    return SandboxPolicy(**{name: getattr(grants, name)(name, lists[name]) for name in lists})


def _applied(operations):
    with network.session():
        apply_all(operations)
    return descriptions(operations)


def _answer(sock, ready):
    stream = sock.type == socket.SOCK_STREAM
    if stream:
        sock.listen()
    os.close(ready)
    while True:
        if stream:
            connection, client = sock.accept()
            with connection:
                connection.sendall(client[0].encode())
        else:
            _, client = sock.recvfrom(2048)
            sock.sendto(client[0].encode(), client)


def ask(netns, address, port, protocol="tcp"):
    """Which client address the server at the other end sees; None when nothing answers.

    A busy machine may be late once, so silence is asked again.
    """
    return call(netns, _question, address, port, protocol)


def ask_all(netns, places):
    """The same of each (address, port[, protocol]), all at once, as silence takes its time."""
    asked = {place: started(netns, _question, *place) for place in places}
    return {place: answer() for place, answer in asked.items()}


def reached(netns, asked, wanted):
    """Which places answer; on a busy machine a wanted answer may take more than one question."""
    found, missing = set(), set(asked)
    for _ in range(5):
        answers = ask_all(netns, missing)
        found |= {place for place, answer in answers.items() if answer is not None}
        missing = wanted - found
        if not missing:
            break
    return found


def _question(address, port, protocol="tcp"):
    os.nice(PROMPT)

    def connect(patience):
        kind = socket.SOCK_STREAM if protocol == "tcp" else socket.SOCK_DGRAM
        with socket.socket(family(address), kind) as sock:
            sock.settimeout(patience)
            try:
                sock.connect(socket.getaddrinfo(address, port)[0][4])
                if protocol == "udp":
                    sock.send(b"?")
                return sock.recv(64).decode()
            except (TimeoutError, ConnectionError, OSError):
                return None

    return connect(SILENCE) or connect(2 * SILENCE)


def family(address):
    return socket.AF_INET6 if ":" in address else socket.AF_INET


def pings(netns, address):
    result = run(netns, "busybox", "ping", "-c", "1", "-W", "1", address, check=False)
    return " 1 received" in result or "1 packets received" in result


def frames(netns, device, send, accept):
    """Whether, after ``send()``, a frame for which ``accept`` is true comes out of ``device``."""

    def listen():
        with socket.socket(socket.AF_PACKET, socket.SOCK_RAW, socket.htons(3)) as sock:
            sock.bind((device, 0))
            send()
            deadline = time.monotonic() + SILENCE
            while (left := deadline - time.monotonic()) > 0:
                sock.settimeout(left)
                try:
                    if accept(sock.recv(4096)):
                        return True
                except TimeoutError:
                    return False
                except OSError:
                    return False
            return False

    return call(netns, listen)


def inject(netns, device, frame):
    def send():
        with socket.socket(socket.AF_PACKET, socket.SOCK_RAW) as sock:
            sock.bind((device, 0))
            sock.send(frame)

    return call(netns, send)


def raw(mac):
    return bytes.fromhex(mac.replace(":", ""))


def ethernet(destination, source, kind, payload):
    return raw(destination) + raw(source) + struct.pack("!H", kind) + payload


def arp_reply(source_mac, source, target_mac, target):
    head = struct.pack("!HHBBH", 1, 0x0800, 6, 4, 2)
    return (
        head
        + raw(source_mac)
        + socket.inet_aton(source)
        + raw(target_mac)
        + socket.inet_aton(target)
    )


def udp(source, destination, port, payload=b"spoof", sport=4000):
    datagram = struct.pack("!HHHH", sport, port, 8 + len(payload), 0) + payload
    head = struct.pack(
        "!BBHHHBBH4s4s",
        0x45,
        0,
        20 + len(datagram),
        0,
        0,
        64,
        17,
        0,
        socket.inet_aton(source),
        socket.inet_aton(destination),
    )
    return head[:10] + struct.pack("!H", _checksum(head)) + head[12:] + datagram


def _checksum(data):
    data += bytes(len(data) % 2)
    total = sum(struct.unpack(f"!{len(data) // 2}H", data))
    while total >> 16:
        total = (total & 0xFFFF) + (total >> 16)
    return ~total & 0xFFFF


def ipv6(source, destination, following, payload, hops=255):
    """An IPv6 packet; ``following`` is the number of what comes behind its header."""
    head = struct.pack("!IHBB", 0x60000000, len(payload), following, hops)
    ends = (socket.inet_pton(socket.AF_INET6, text) for text in (source, destination))
    return head + b"".join(ends) + payload


def udp6(source, destination, port, payload=b"spoof", sport=4000):
    length = 8 + len(payload)
    data = struct.pack("!HHHH", sport, port, length, 0) + payload
    checksum = _checksum6(source, destination, 17, data)
    return ipv6(source, destination, 17, data[:6] + struct.pack("!H", checksum) + data[8:])


def icmp6(source, destination, kind, body):
    data = struct.pack("!BBH", kind, 0, 0) + body
    checksum = _checksum6(source, destination, 58, data)
    return ipv6(source, destination, 58, data[:2] + struct.pack("!H", checksum) + data[4:])


def _checksum6(source, destination, following, data):
    ends = (socket.inet_pton(socket.AF_INET6, text) for text in (source, destination))
    return _checksum(b"".join(ends) + struct.pack("!II", len(data), following) + data)


def flush(lab):
    for family in ("inet", "bridge"):
        run(lab.host, "nft", "delete", "table", family, lab.paths.nft_table)


def arrives(lab, frame, accept):
    """Whether a frame that the sandbox "attacker" sends gets to "victim"."""
    attacker, victim = lab.pin("attacker"), lab.pin("victim")
    return frames(victim, "eth0", lambda: inject(attacker, "eth0", frame), accept)
