# SPDX-License-Identifier: GPL-3.0-or-later
# Copyright: the sandlot developers
"""A user's way through the collection, from one controller to one host; each kind of plugin."""

from __future__ import annotations

import json
import re
import shutil
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from controllers import Controller

Json = dict[str, Any]
FILES = {
    "vault-password": "correct-horse\n",
    "templates/page.j2": "{{ greeting | default('hello') }} from {{ inventory_hostname }}\n",
    "app.env": "COLOUR=blue\n",
    "compose.yml": "services:\n  db:\n    image: postgres:17\n    command: [postgres]\n",
    "sandboxes.yml": "plugin: sandlot.sandlot.sandbox\n",
}
SECRET = "battery-staple"
_ENVIRONMENT = {
    "ANSIBLE_NOCOLOR": "1",
    "ANSIBLE_DEPRECATION_WARNINGS": "1",
    "ANSIBLE_VAULT_PASSWORD_FILE": "vault-password",
}
_WEB = {
    "name": "web",
    "image": "busybox",
    "command": ["httpd", "-f", "-h", "/etc"],
    "labels": {"app": "web"},
    "env_file": "{{ inventory_dir }}/app.env",
    "files": [{"target": "/etc/page", "template_src": "{{ inventory_dir }}/templates/page.j2"}],
    "secrets": [{"name": "key", "src": "{{ inventory_dir }}/key"}],
}
_PLAY = """\
- name: From the host
  hosts: sandbox_hosts
  become: true
  gather_facts: true
  environment: "{{ sandbox_environment }}"
  tasks:
    - name: Run a command by a default of all modules
      sandlot.sandlot.sandbox_exec:
        argv: [sh, -c, 'cat /etc/page /run/secrets/key; echo; echo $COLOUR']
      module_defaults:
        group/sandlot.sandlot.sandbox:
          name: web
      register: tour_shown
    - ansible.builtin.assert:
        that: tour_shown.stdout_lines == ['hello again from alpha', '%(secret)s', 'blue']
    - name: Run a command in the background
      sandlot.sandlot.sandbox_exec:
        name: web
        argv: [echo, later]
      async: 60
      poll: 1
      register: tour_later
    - name: Run a job
      sandlot.sandlot.sandbox_run:
        image: busybox
        argv: [echo, job]
      register: tour_job
    - name: Look
      sandlot.sandlot.sandbox_info:
      register: tour_info
    - ansible.builtin.assert:
        that:
          - tour_later.stdout == 'later'
          - tour_job.stdout == 'job'
          - tour_info.sandboxes | map(attribute='state') == ['running']
    - name: Convert a Compose file
      ansible.builtin.assert:
        that: tour_compose.sandbox_instances | map(attribute='name') == ['db']
      vars:
        tour_compose: "{{ lookup('sandlot.sandlot.compose', 'compose.yml') }}"

- name: From inside
  hosts: label_app_web
  gather_facts: false
  vars:
    ansible_sandbox_python: host
  tasks:
    - ansible.builtin.raw: cat /etc/page
      register: tour_raw
    - ansible.builtin.copy:
        content: "{{ tour_raw.stdout }}"
        dest: /tmp/page
        mode: "0600"
    - ansible.builtin.slurp:
        src: /tmp/page
      register: tour_page
    - ansible.builtin.assert:
        that:
          - tour_page.content | b64decode == tour_raw.stdout
          - tour_raw.stdout is match('hello again from alpha')
"""


@dataclass(frozen=True)
class Tour:
    controller: Controller
    place: Path
    """The directory of the controller, as this machine sees it."""
    root: Path
    """Root of sandlot on the host."""

    def lay_out(self, archive: Path, host: Json) -> None:
        """Write the inventory and its files, with ``host`` as the variables of the one host."""
        for name, text in FILES.items():
            (self.place / name).parent.mkdir(exist_ok=True)
            (self.place / name).write_text(text)
        (self.place / "key").write_text(SECRET)
        (self.place / "play.yml").write_text(_PLAY % {"secret": SECRET})
        shutil.copy(archive, self.place / "collection.tar.gz")
        variables = {
            "sandbox_environment": {"SANDLOT_ROOT": str(self.root)},
            "sandbox_images": [{"name": "busybox", "source": "busybox"}],
            "sandbox_instances": [_WEB],
        }
        inventory = {"sandbox_hosts": {"hosts": {"alpha": host}, "vars": variables}}
        (self.place / "hosts.yml").write_text(json.dumps(inventory))

    def go(self) -> None:
        self._run("ansible-galaxy", "collection", "install", "collection.tar.gz")
        self._run("ansible-vault", "encrypt", "key")
        assert self._play("deploy_sandbox")
        assert not self._play("deploy_sandbox", "--check", "--diff")
        again = ("-e", '{"greeting": "hello again"}')
        assert self._play("update_sandbox", "-e", "sandbox_update_label=app=web", *again)
        report = ("-e", f"sandbox_audit_report={self.controller.works_in}/audit.html")
        assert not self._play("audit_sandbox", *again, *report)
        assert "web" in (self.place / "audit.html").read_text()
        inventories = ("-i", "hosts.yml", "-i", "sandboxes.yml")
        self._run("ansible-playbook", *inventories, "play.yml")
        assert self._play("teardown_sandbox")
        assert not (self.root / "var/lib/sandlot").exists()

    def _play(self, name: str, *words: str) -> bool:
        """Whether one of the collection's plays has changed the host."""
        out = self._run("ansible-playbook", "-i", "hosts.yml", f"sandlot.sandlot.{name}", *words)
        (changed,) = re.findall(r"^alpha .* changed=(\d+) +unreachable=0 +failed=0", out, re.M)
        return changed != "0"

    def _run(self, *words: str) -> str:
        known = [f"{name}={text}" for name, text in _ENVIRONMENT.items()]
        out = self.controller.run("env", *known, *words)
        assert not (warned := _warnings(out)), "\n".join(warned)
        return out


def _warnings(output: str) -> Sequence[str]:
    return re.findall(r"^\[(?:DEPRECATION )?WARNING\].*", output, re.M)
