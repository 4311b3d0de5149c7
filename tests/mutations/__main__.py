# Copyright 2026 The clip_hf team. All rights reserved.
# Licensed under the Apache License, Version 2.0; see LICENSE.
"""Run the mutations: `python -m mutations` in `tests`, or `make test-mutations`."""

import argparse
import os
import re
import sys
from concurrent.futures import ThreadPoolExecutor

from tqdm import tqdm

from . import Mutation, all_mutations
from .running import run_tests


# Share of the mutations that must be noticed, those judged to be unnoticeable counted as not.
GOAL = 0.95


def first_failure(output: str) -> str:
    found = re.search(r"^(?:FAILED|ERROR) (.*?)(?: - |$)", output, re.MULTILINE)
    return found.group(1) if found else ""


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--only", default="", help="run those whose name or file matches this regular expression")
    parser.add_argument("--jobs", type=int, default=os.cpu_count(), help="how many at a time")
    parser.add_argument("--list", action="store_true", help="print the table, run nothing")
    options = parser.parse_args()
    mutations = [one for one in all_mutations() if re.search(options.only, f"{one.file} {one.name}")]
    if options.list:
        for one in mutations:
            print(f"{one.file}: {one.name}: {one.tests}")
        return 0
    selections = sorted({one.tests for one in mutations})
    with ThreadPoolExecutor(options.jobs) as pool:
        bar = {"total": len(selections), "desc": "tests on the sound library"}
        sound = dict(zip(selections, tqdm(pool.map(run_tests, selections), **bar)))
        broken = {tests: output for tests, (status, output) in sound.items() if status != 0}
        for tests, output in broken.items():
            print(f"These must pass before a mutation can fail them: {tests}\n{output[-2000:]}", file=sys.stderr)
        mutations = [one for one in mutations if one.tests not in broken]
        runs = pool.map(lambda one: run_tests(one.tests, one), mutations)
        results = list(tqdm(runs, total=len(mutations), desc="mutations"))
    return print_score(mutations, results) or int(bool(broken))


def print_score(mutations: list[Mutation], results: list[tuple[int, str]]) -> int:
    """Print a table, the survivors and the score; returns the exit status."""
    print("\n| file | mutation | noticed by |\n|---|---|---|")
    survivors, unusable = [], []
    for one, (status, output) in zip(mutations, results):
        if status not in (0, 1):
            unusable.append(f"{one.file}: {one.name}: pytest ended with {status}\n{output[-1000:]}")
        elif status == 0:
            survivors.append(one)
        print(f"| {one.file} | {one.name} | {first_failure(output) if status == 1 else '**nothing**'} |")
    noticed = len(mutations) - len(survivors) - len(unusable)
    for one in survivors:
        print(f"survives: {one.file}: {one.name}: {one.survives or 'NOT JUDGED: write the test that it lacks'}")
    print("\n".join(unusable))
    share = noticed / max(1, len(mutations))
    print(f"{noticed} of {len(mutations)} mutations noticed ({share:.1%}; the goal is {GOAL:.0%}).")
    unjudged = any(not one.survives for one in survivors)
    return int(share < GOAL or unjudged or bool(unusable))


if __name__ == "__main__":
    sys.exit(main())
