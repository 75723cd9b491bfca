# SPDX-License-Identifier: GPL-3.0-or-later
# Copyright: the sandlot developers
"""Sends a mail for each order."""

from __future__ import annotations

import os
import smtplib

import kit


def answer(_method: str, _path: str, body: str) -> tuple[int, str]:
    with smtplib.SMTP(os.environ["SMTP_HOST"], int(os.environ["SMTP_PORT"])) as smtp:
        text = f"Subject: your order\r\n\r\nYou ordered {body}."
        smtp.sendmail("shop@example.org", ["ann@example.org"], text)
    return 200, "ordered"


kit.serve(5000, answer)
