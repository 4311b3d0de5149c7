# Copyright 2026 The clip_hf team. All rights reserved.
# Licensed under the Apache License, Version 2.0; see LICENSE.
"""Faults in embedding jobs on Ray and in launches of several processes."""

from .mutation import Mutation


_FAST, _SLOW = "embedding/test_ray_jobs.py -m 'not slow'", "embedding/test_ray_jobs.py -m slow"
MUTATIONS = [
    Mutation(
        "room is that of all machines together",
        "embedding/ray.py",
        "room = sum(min(int(",
        "room = sum(max(int(",
        f"{_FAST} -k room_of_machines",
    ),
    Mutation(
        "machines that are gone have room",
        "embedding/ray.py",
        'node["Resources"] for node in nodes if node["Alive"]',
        'node["Resources"] for node in nodes',
        f"{_FAST} -k room_of_machines",
    ),
    Mutation(
        "fractions of a processor count above one",
        "embedding/ray.py",
        "or (num_cpus > 1 and num_cpus != int(num_cpus))",
        "",
        f"{_FAST} -k arguments_are_checked",
    ),
    Mutation(
        "errors of the code lose their trace",
        "embedding/ray_workers.py",
        '(f"A worker failed.\\n{trace}",)',
        '("A worker failed.",)',
        f"{_FAST} -k keeps_its_trace",
    ),
    Mutation(
        "errors do not name their machine",
        "embedding/ray_workers.py",
        "if self.host != platform.node():",
        "if False:",
        f"{_FAST} -k the_same_here",
    ),
    Mutation(
        "numbered errors lose their number",
        "embedding/ray_workers.py",
        "arguments = (error.errno, error.strerror, error.filename) if is_numbered else (str(error),)",
        "arguments = (str(error),)",
        f"{_FAST} -k the_same_here",
    ),
    Mutation(
        "relative paths of a worker start elsewhere",
        "embedding/ray_workers.py",
        "            os.chdir(self.folder)",
        "            pass",
        f"{_SLOW} -k relative_paths",
    ),
    Mutation(
        "what a dead worker left is not done",
        "embedding/ray_workers.py",
        "if deaths < _MOST_DEATHS:",
        "if not deaths:",
        f"{_SLOW} -k killed_worker",
    ),
    Mutation(
        "a WORLD_SIZE that is no number",
        "utils/processes.py",
        "if text and (not text.isdecimal() or int(text) < 1):",
        "if False:",
        "utils/test_processes.py -k how_it_was_launched",
    ),
    Mutation(
        "threads for cores that the scheduler gave to others",
        "utils/processor.py",
        "min(8, count_cores() if",
        "min(8, os.cpu_count() or 1 if",
        "embedding/test_bulk_encoding.py -k threads_are_as_many",
    ),
    Mutation(
        "a share that is no number",
        "embedding/encoding_options.py",
        "if isinstance(share, bool) or not isinstance(share, Real) or not 0 <= share <= 1:",
        "if not 0 <= share <= 1:",
        "embedding/test_bulk_encoding.py -k bad_arguments",
    ),
]
