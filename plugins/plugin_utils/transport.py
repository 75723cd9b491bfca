# SPDX-License-Identifier: GPL-3.0-or-later
# Copyright: the sandlot developers
"""Runs sandlot on a host, as root, over the host's own connection and become plugins."""

from __future__ import annotations

import base64
import os
import secrets
import shlex
from collections.abc import Mapping, Sequence
from typing import Any

from ansible import constants as C
from ansible import context, errors
from ansible.errors import AnsibleConnectionFailure, AnsibleError
from ansible.module_utils.parsing.convert_bool import boolean
from ansible.playbook.play_context import PlayContext
from ansible.plugins.loader import become_loader, connection_loader

from ..module_utils.sandlot.kernel import text
from ..module_utils.sandlot.site import Site
from . import facts

# The name by which the connection plugin of sandboxes calls itself.
SANDBOX = "sandlot.sandlot.sandbox"
# A connection without pipelining has the input in its command, which Linux takes up to 128 KiB.
MAX_INLINE = 64 << 10
# Each of the shells on the way takes quotes, which triple the quotes of what is quoted.
_QUOTED = 8 << 10
# "omit" as a value; ansible-core before 2.19 has no such error.
_Omitted = getattr(errors, "AnsibleValueOmittedError", ())
# The exit code without a note, when something on the way has ended the shell.
_ENDED = 255


class Transport:
    """The way to a host.

    ``variables`` are those of the host in the inventory, such as ``hostvars[host]``; their
    ``ansible_connection``, ``ansible_become_method`` and others choose and set up the plugins.
    ``password`` and ``become_password`` are those that Ansible has asked for (-k, -K).
    """

    def __init__(
        self,
        host: str,
        variables: Mapping[str, Any],
        *,
        password: str | None = None,
        become_password: str | None = None,
        timeout: int | None = None,
        no_log: bool = False,
    ) -> None:
        self.host = host
        self._variables = variables
        self._become_password = become_password
        self._root = _root_of(host, variables)
        self._connection = self._connected(password, timeout, no_log=no_log)
        self._become = self._become_plugin()
        self._connection.set_become_plugin(self._become)

    @property
    def pipelining(self) -> bool:
        """Whether the host's connection passes any amount of standard input."""
        return bool(self._connection.has_pipelining)

    def run(self, arguments: Sequence[str], stdin: bytes = b"") -> tuple[int, bytes, bytes]:
        """Exit code, output and error output of ``sandlot ARGUMENTS`` on the host, as root.

        AnsibleConnectionFailure when the host is unreachable or has no sandlot, AnsibleError when
        root's rights are refused.
        """
        token = secrets.token_hex(16)
        command = self._script(arguments, token, has_input=bool(stdin))
        if stdin and not self.pipelining:
            command, stdin = _inline(command, stdin), b""
        command = self._as_root(command)
        try:
            code, out, err = self._connection.exec_command(command, stdin or None)
        except AnsibleConnectionFailure as error:
            raise AnsibleConnectionFailure(self._said("can't be reached", error)) from error
        except AnsibleError as error:
            raise AnsibleError(self._said("has run nothing", error)) from error
        out = self._without_marker(out)
        err, dummy, note = err.partition(token.encode())
        if not note:
            return code or _ENDED, out, err
        word = note.split(maxsplit=1)[0]
        if not word.isdigit():
            raise AnsibleConnectionFailure(self._not_installed())
        return int(word), out, err

    def reset(self) -> None:
        self._connection.reset()

    def close(self) -> None:
        self._connection.close()

    # -- commands

    def _script(self, arguments: Sequence[str], token: str, *, has_input: bool) -> str:
        """A shell's text; it leaves a note on stderr, by a token that nobody inside knows.

        The note has the exit code, and the shell's own is 0: connections take some codes for
        failures of their own, as 255 and, where a password is used, 5, and look at error output
        then. Without input, connections leave standard input open.
        """
        closed = "" if has_input else " </dev/null"
        program = shlex.quote(Site(self._root).command)
        environment = f"SANDLOT_ROOT={shlex.quote(self._root)} " if self._root else ""
        return (
            f"[ -x {program} ] || {{ echo {token} missing >&2; exit 0; }}; "
            f"{environment}{program} {shlex.join(arguments)}{closed}; "
            f"echo {token} $? >&2; exit 0"
        )

    def _as_root(self, command: str) -> str:
        if len(command) > _QUOTED:
            command = f'eval "$(printf %s {_base64(command.encode())} | base64 -d)"'
        if self._become is None:
            return self._shell_command(command)
        become = self._become.build_become_command(command, self._connection._shell)
        # Plugins of connections wait for this mark, whoever prints it.
        mark = f"echo {self._become.success}"
        return self._shell_command(
            f'if [ "$(id -u)" = 0 ]; then {mark}; {command}; else {become}; fi'
        )

    @staticmethod
    def _shell_command(command: str) -> str:
        return f"/bin/sh -c {shlex.quote(command)}"

    def _without_marker(self, out: bytes) -> bytes:
        """The output without the mark of become, which some connections leave in it."""
        if self._become is None or not self._become.success:
            return out
        return out.rpartition(self._become.success.encode() + b"\n")[2]

    # -- plugins

    def _connected(self, password: str | None, timeout: int | None, *, no_log: bool) -> Any:
        name = self._variables.get("ansible_connection") or C.DEFAULT_TRANSPORT
        play = self._play_context(password, timeout, no_log=no_log)
        play.connection = name = "ssh" if name == "smart" else str(name)
        ids = {"task_uuid": "", "ansible_playbook_pid": str(os.getppid())}
        connection = connection_loader.get(name, play, os.devnull, **ids)
        if connection is None:
            problem = f"ansible_connection {name!r} of host {self.host} is no connection plugin"
            raise AnsibleError(f"{problem}; install its collection, or correct the name")
        if connection.transport == SANDBOX:
            problem = f"host {self.host} is itself a sandbox (ansible_connection: {name})"
            raise AnsibleError(f"{problem}; name the host that runs the sandbox")
        keys = {"timeout": play.timeout, "password": password or None, **self._login_keys()}
        # Without a terminal, bytes come as they are.
        direct = {"use_tty": False, "pty": False, "pipelining": True}
        connection.set_options(
            task_keys={key: value for key, value in keys.items() if value is not None},
            var_options=self._options("connection", connection._load_name),
            direct={key: direct[key] for key in direct.keys() & connection.option_definitions},
        )
        return connection

    def _play_context(self, password: str | None, timeout: int | None, *, no_log: bool) -> Any:
        play = PlayContext(passwords={"conn_pass": password, "become_pass": self._become_password})
        play.remote_addr = str(self._variables.get("ansible_host") or self.host)
        play.remote_user = self._variables.get("ansible_user") or C.DEFAULT_REMOTE_USER
        play.shell, play.executable = "sh", "/bin/sh"
        play.no_log = no_log
        if timeout is not None:
            play.timeout = timeout
        return play

    def _login_keys(self) -> dict[str, Any]:
        """The host's user by ansible.cfg; a user on the command line (-u) is one of the sandbox."""
        given = (context.CLIARGS or {}).get("remote_user")
        if C.DEFAULT_REMOTE_USER or not given:
            return {"remote_user": C.DEFAULT_REMOTE_USER}
        return {"remote_user": ""}

    def _become_plugin(self) -> Any:
        """The host's way to become root; None when its user is root or has none."""
        wanted = self._variables.get("ansible_become")
        if wanted is not None and not boolean(wanted):
            return None
        if self._is_root():
            return None
        name = self._variables.get("ansible_become_method") or C.DEFAULT_BECOME_METHOD
        become = become_loader.get(str(name))
        if become is None:
            problem = f"ansible_become_method {name!r} of host {self.host} is no become plugin"
            raise AnsibleError(f"{problem}; install its collection, or correct the name")
        become.set_options(
            task_keys={"become_pass": self._become_password or None},
            var_options=self._options("become", become._load_name),
            direct={"become_user": "root"},
        )
        return become

    def _is_root(self) -> bool:
        if self._connection.transport == "local":
            return os.geteuid() == 0
        try:
            return bool(self._connection.get_option("remote_user") == "root")
        except KeyError:
            return False

    def _options(self, kind: str, name: str) -> dict[str, Any]:
        """The host's values of the variables that a plugin reads."""
        values = {"inventory_hostname": self.host, "_extras": {}}
        names = C.config.get_plugin_vars(kind, name)
        facts.refuse(self._variables, names, f"of host {self.host}", name)
        for variable in names:
            try:
                if variable in self._variables:
                    values[variable] = self._variables[variable]
            except _Omitted:
                continue
        return values

    # -- messages

    def _said(self, problem: str, error: AnsibleError) -> str:
        return f"host {self.host} {problem}: {text.harmless(error.message.strip())}"

    def _not_installed(self) -> str:
        place = Site(self._root).command
        remedy = "install it by the role sandbox_host, or correct ansible_sandbox_host"
        return f"host {self.host} has no sandlot ({place} is missing); {remedy}"


def _root_of(host: str, variables: Mapping[str, Any]) -> str:
    """The root of sandlot on the host, which only tests move."""
    # Facts of a sandbox to which a task of the host was delegated would choose the program here.
    facts.refuse(variables, ["sandbox_environment"], f"of host {host}", "")
    given = variables.get("sandbox_environment") or {}
    if not isinstance(given, Mapping):
        problem = f"sandbox_environment of host {host} is no mapping"
        raise AnsibleError(f"{problem}; write it as names and values")
    return str(given.get("SANDLOT_ROOT") or "").rstrip("/")


def _inline(command: str, stdin: bytes) -> str:
    if len(stdin) > MAX_INLINE:
        problem = f"{len(stdin)} bytes of input are too many for a connection without pipelining"
        raise AnsibleError(f"{problem}; use ansible_connection: ssh for the host")
    return f"printf %s {_base64(stdin)} | base64 -d | ( {command} )"


def _base64(data: bytes) -> str:
    return base64.b64encode(data).decode()
