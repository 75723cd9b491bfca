# SPDX-License-Identifier: GPL-3.0-or-later
# Copyright: the sandlot developers
"""Does the jobs of one queue: it turns texts round."""

from __future__ import annotations

import os
import socket
import sys

import kit

broker = kit.Redis(os.environ["BROKER_URL"])
queue = sys.argv[sys.argv.index("--queue") + 1]
print(f"waiting for {queue}", flush=True)
while True:
    job = broker("BRPOP", f"queue:{queue}", 0)[1]
    number, _, text = job.partition(" ")
    result = f"{text[::-1]} by {socket.gethostname()}"
    broker("SET", f"result:{number}", result, "EX", os.environ["RESULT_TTL"])
