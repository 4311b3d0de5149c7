# Copyright 2026 The clip_hf team. All rights reserved.
# Licensed under the Apache License, Version 2.0; see LICENSE.
"""Run the mutations: `python -m mutations` in `tests`, or `make test-mutations`."""

import argparse
import os
import re
import shlex
import sys
from concurrent.futures import ThreadPoolExecutor

from tqdm import tqdm

from . import Mutation, all_mutations
from .running import run_tests


# Share of the mutations that must be noticed, those judged to be unnoticeable counted as not.
GOAL = 0.95


def files_of(mutation: Mutation) -> set[str]:
    return {word.partition("::")[0] for word in shlex.split(mutation.tests) if ".py" in word}


def run_sound(file: str) -> tuple[int, str]:
    return run_tests(f"{file} -m 'not slow'")


def progress(results, items, name: str) -> tqdm:
    return tqdm(results, total=len(items), desc=name)


def first_failure(output: str) -> str:
    found = re.search(r"^(?:FAILED|ERROR) (.*?)(?: - |$)", output, re.MULTILINE)
    return found.group(1) if found else ""


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--only", default="", help="run those whose name or file matches this regular expression")
    parser.add_argument("--jobs", type=int, default=os.cpu_count(), help="how many at a time")
    parser.add_argument("--sound", action="store_true", help="the tests are known to pass on the library as it is")
    parser.add_argument("--list", action="store_true", help="print the table, run nothing")
    options = parser.parse_args()
    mutations = [one for one in all_mutations() if re.search(options.only, f"{one.file} {one.name}")]
    if options.list:
        for one in mutations:
            print(f"{one.file}: {one.name}: {one.tests}")
        return 0
    files = sorted({file for one in mutations for file in files_of(one)})
    with ThreadPoolExecutor(options.jobs) as pool:
        sound = {} if options.sound else dict(zip(files, progress(pool.map(run_sound, files), files, "sound files")))
        broken = {file: output for file, (status, output) in sound.items() if status != 0}
        for file, output in broken.items():
            print(f"These must pass before a mutation can fail them: {file}\n{output[-2000:]}", file=sys.stderr)
        mutations = [one for one in mutations if not broken.keys() & files_of(one)]
        runs = pool.map(lambda one: run_tests(one.tests, one), mutations)
        results = []
        for one, (status, output) in zip(mutations, progress(runs, mutations, "mutations")):
            results.append((status, output))
            if status != 1:  # said at once, because a run takes long
                tqdm.write(f"{'survives' if status == 0 else f'pytest ended with {status}'}: {one.file}: {one.name}")
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
