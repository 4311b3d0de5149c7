# Copyright 2026 The clip_hf team. All rights reserved.
# Licensed under the Apache License, Version 2.0; see LICENSE.
"""transformers' own common tests, run on our classes; `make test-transformers` unpacks them and starts pytest here."""

import functools
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
from transformers import PreTrainedModel


unpacked.install()

# How many models there were so far. Many of the tests look a class up by name and pass over one that they do not know.
models_built = 0
build = PreTrainedModel.__init__


@functools.wraps(build)
def build_and_count(self, *args, **kwargs):
    global models_built
    models_built += 1
    build(self, *args, **kwargs)


PreTrainedModel.__init__ = build_and_count

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
def pytest_runtest_call(item):
    """Note whether the test built a model, once it is over: its subtests report before."""
    before = models_built
    try:
        return (yield)
    finally:
        item.built_none = models_built == before


@pytest.hookimpl(wrapper=True)
def pytest_runtest_makereport(item, call):
    """Count a test of models that built none as skipped; turn a skip without a reason in skips.py into a failure."""
    report = yield
    of_a_model = report.when == "call" and item.path.name == "test_modeling.py"
    if of_a_model and report.passed and getattr(item, "built_none", False):
        report.outcome = "skipped"
        report.longrepr = (str(item.path), item.location[1], f"{item.originalname} built no model")
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
