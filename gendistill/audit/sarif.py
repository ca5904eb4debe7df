"""An audit as SARIF 2.1.0 (OASIS, https://docs.oasis-open.org/sarif/sarif/v2.1.0/): checks are rules, their findings
results."""

from __future__ import annotations

from typing import Any
from urllib.parse import quote

from gendistill._version import __version__
from gendistill.audit.result import Audit

SCHEMA = "https://json.schemastore.org/sarif-2.1.0.json"


def sarif(audit: Audit) -> dict[str, Any]:
    """One run; each result lies at its line of the audited file. What checks say of the whole set is in their rules."""
    uri = quote(audit.file)
    return {
        "$schema": SCHEMA,
        "version": "2.1.0",
        "runs": [
            {
                "tool": {
                    "driver": {
                        "name": "gendistill",
                        "version": __version__,
                        "rules": [
                            {
                                "id": check.name,
                                "name": check.name,
                                "shortDescription": {"text": check.title},
                                "fullDescription": {"text": check.summary},
                                "properties": {"status": check.status, **check.figures},
                            }
                            for check in audit.checks
                        ],
                    }
                },
                "artifacts": [{"location": {"uri": uri}}],
                "columnKind": "unicodeCodePoints",
                "results": [
                    {
                        "ruleId": check.name,
                        "ruleIndex": index,
                        "level": finding.level,
                        "message": {"text": finding.message},
                        "locations": [
                            {
                                "physicalLocation": {
                                    "artifactLocation": {"uri": uri, "index": 0},
                                    "region": {"startLine": finding.row},
                                }
                            }
                        ],
                        "partialFingerprints": {"row/v1": f"{check.name}:{finding.id}"},
                        "properties": {"excerpt": finding.excerpt, "real": finding.real},
                    }
                    for index, check in enumerate(audit.checks)
                    for finding in check.findings
                ],
            }
        ],
    }
