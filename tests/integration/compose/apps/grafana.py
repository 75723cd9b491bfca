# SPDX-License-Identifier: GPL-3.0-or-later
# Copyright: the sandlot developers
"""A dashboard: asks the data source of its provisioning for what a board shows."""

from __future__ import annotations

import os
import re
from pathlib import Path

import kit

password = Path(os.environ["GF_SECURITY_ADMIN_PASSWORD__FILE"]).read_text().strip()
provisioning = Path("/etc/grafana/provisioning")


def answer(_method: str, path: str, _body: str) -> tuple[int, str]:
    if path == "/api/health":
        return 200, "ok"
    path, _, given = path.partition("?password=")
    if given != password:
        return 401, "wrong password"
    board = provisioning / "dashboards" / f"{path.rpartition('/')[2]}.yml"
    if not board.exists():
        return 404, "no such board"
    source = (provisioning / "datasources/prometheus.yml").read_text()
    host, port = re.findall(r"http://([\w.-]+):(\d+)", source)[0]
    query = re.findall(r"query: (\w+)", board.read_text())[0]
    return 200, f"{query} is {kit.request(host, int(port), 'GET', f'/api/v1/query?query={query}')}"


Path("/var/lib/grafana/grafana.db").write_text("a database")
kit.serve(3000, answer)
