# SPDX-License-Identifier: GPL-3.0-or-later
# Copyright: the sandlot developers
"""sandlot doctor."""

from __future__ import annotations

import argparse
import sys

from ..host import doctor, facts
from ..site import Site
from . import output


def run(site: Site, options: argparse.Namespace) -> int:
    """Print the findings; fail if one of them keeps sandboxes from working."""
    findings = doctor.examine(site, facts.gather(site))
    if options.format == "json":
        output.print_json([finding.to_json() for finding in findings])
    else:
        rows = [(finding.status, finding.name, finding.detail) for finding in findings]
        sys.stdout.write(output.table(("STATUS", "WHAT", "FOUND"), rows))
        for finding in findings:
            if finding.status != doctor.OK:
                sys.stdout.write(f"\n{finding.name}: {finding.detail}\n  {finding.remedy}\n")
    return 1 if doctor.worst(findings) == doctor.FAILURE else 0
