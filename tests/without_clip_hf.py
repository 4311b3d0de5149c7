# Copyright 2026 The clip_hf team. All rights reserved.
# Licensed under the Apache License, Version 2.0; see LICENSE.
"""Programs that run as if clip_hf were not installed."""

import json
import os
import subprocess
import sys


# Runs before each script: clip_hf cannot be imported, as if it were not installed.
WITHOUT_CLIP_HF = """
import json, sys

class Blocked:
    def find_spec(self, name, path=None, target=None):
        if name.split(".")[0] == "clip_hf":
            raise ModuleNotFoundError("No module named 'clip_hf' (blocked by the test)")

sys.meta_path.insert(0, Blocked())
try:
    import clip_hf
except ModuleNotFoundError:
    pass
else:
    raise AssertionError("clip_hf is not blocked")

repo, folder = sys.argv[1:3]

def is_remote(thing):
    assert type(thing).__module__.startswith("transformers_modules."), type(thing).__module__
    return type(thing).__name__
"""


def run_without_clip_hf(script, repo, folder):
    """Run `script` on `repo` in a fresh process without clip_hf; what it leaves in result.json."""
    environment = dict(os.environ)
    environment.update(HF_MODULES_CACHE=str(folder / "modules"), HF_HUB_OFFLINE="1", OMP_NUM_THREADS="1")
    environment.update(HF_HUB_CACHE=str(folder / "hub"))
    environment.pop("PYTHONPATH", None)
    command = [sys.executable, "-c", WITHOUT_CLIP_HF + script, str(repo), str(folder)]
    done = subprocess.run(command, cwd=folder, env=environment, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    return json.loads((folder / "result.json").read_text())
