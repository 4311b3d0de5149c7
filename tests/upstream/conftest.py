# Copyright 2026 The clip_hf team. All rights reserved.
# Licensed under the Apache License, Version 2.0; see LICENSE.
"""transformers' own common tests, run on our classes; `make test-transformers` unpacks them and starts pytest here."""

import os
import sys
from collections import Counter, defaultdict
from pathlib import Path

import pytest


# Before transformers reads it: few of the tests that it marks as slow are, with models this small.
os.environ["RUN_SLOW"] = "1"
sys.path.insert(0, str(Path(__file__).resolve().parent))

import unpacked
from skips import justification


unpacked.install()

# The marks that transformers' own conftest.py, which is not in its source distribution, makes known to pytest.
MARKERS = (
    "accelerate_tests",
    "flash_attn_3_test",
    "flash_attn_4_test",
    "flash_attn_test",
    "is_pipeline_test",
    "torch_compile_test",
)


def pytest_configure(config):
    for marker in MARKERS:
        config.addinivalue_line("markers", f"{marker}: one of transformers' marks")


@pytest.hookimpl(wrapper=True)
def pytest_runtest_makereport(item, call):
    """Turn a skip for a reason that is not in skips.py into a failure."""
    report = yield
    if report.skipped and isinstance(report.longrepr, tuple):
        reason = report.longrepr[2].removeprefix("Skipped: ")
        report.justification = justification(reason)
        if report.justification is None:
            report.outcome = "failed"
            report.longrepr = f"Skipped for a reason that tests/upstream/skips.py does not justify: {reason}"
    return report


def pytest_terminal_summary(terminalreporter):
    """Count the outcomes of each class of tests, and the skips for each justification."""
    by_class, by_reason = defaultdict(Counter), Counter()
    for outcome in ("passed", "skipped", "failed", "error"):
        for report in terminalreporter.stats.get(outcome, []):
            if type(report) is pytest.TestReport:  # not of a subtest
                by_class[report.nodeid.split("::")[1]][outcome] += 1
                if outcome == "skipped":
                    by_reason[report.justification] += 1
    terminalreporter.section("transformers' tests on our classes")
    for name, counts in by_class.items():
        described = ", ".join(f"{count} {outcome}" for outcome, count in counts.items())
        terminalreporter.write_line(f"{name:32}{described}")
    for why, count in by_reason.most_common():
        terminalreporter.write_line(f"skipped {count:4}: {why}")
