# Copyright 2026 The clip_hf team. All rights reserved.
# Licensed under the Apache License, Version 2.0; see LICENSE.
"""The rules of the house: which file imports which, how long files and functions are, which versions are pinned.

Imports are read with `ast`, nothing is imported. Below the checks, each is given made-up packages that break its rule.
"""

import ast
import configparser
import re
import subprocess
import textwrap
from collections import Counter
from collections.abc import Iterator
from pathlib import Path

import pytest
from packaging.requirements import Requirement

from import_graph import (
    PACKAGE,
    Import,
    find_circles,
    folder_graph,
    import_graph,
    imported_modules,
    module_files,
    own_imports,
    python_files,
)


ROOT = Path(__file__).resolve().parent.parent

# The exportable model, in layers: a file imports only from files before it. These files are copied next to a saved
# model and run there without clip_hf. The loss comes first: it uses nothing of ours, and `return_loss` uses it.
LAYERS = (
    "loss_clip_hf",
    "architectures_clip_hf",
    "checks_clip_hf",
    "linear_clip_hf",
    "configuration_clip_hf",
    "modeling_clip_hf_base",
    "modeling_clip_hf_resnet",
    "modeling_clip_hf_transformer",
    "modeling_clip_hf",
    "configuration_clip_hf_video",
    "video_loss_clip_hf",
    "modeling_clip_hf_video",
    "image_reading_clip_hf",
    "video_opening_clip_hf",
    "video_reading_clip_hf",
    "image_resizing_clip_hf",
    "image_transform_clip_hf",
    "image_processing_clip_hf",
    "video_processing_clip_hf",
    "bpe_clip_hf",
    "tokenization_clip_hf",
    "processing_clip_hf",
    "prompts_clip_hf",
    "text_state_clip_hf",
    "zero_shot_clip_hf",
    "label_scores_clip_hf",
    "pipeline_clip_hf",
    "video_pipeline_clip_hf",
)
# The library around it, folder by folder: a file imports only from its own folder and from folders before it.
FOLDERS = (
    "model",
    "utils",
    "video",
    "model_card",
    "checkpoints",
    "export",
    "clip_hf",
    "explain",
    "guidance",
    "data",
    "evaluation.numerics",
    "metrics",
    "embedding",
    "search",
    "evaluation.registry",
    "evaluation.tasks",
    "evaluation",
    "training",
    "adaptation",
    "serving",
    "cli",
)
MAX_FOLDERS = 21
# A new folder brings the arrows to what it builds on, and those of its users.
MAX_ARROWS_PER_FOLDER = 4.0

# transformers exports the pipeline's file only where an exported file imports it, and nothing below the pipeline may
# import it while it is itself being imported. So one import of each inside a function is allowed.
FUNCTION_LEVEL_MODULES = ("pipeline_clip_hf", "video_pipeline_clip_hf")

# All other file names are unique in `src/clip_hf` and in `tests`, so that a search by name finds one file.
SHARED_NAMES = ("__init__.py", "__main__.py", "conftest.py")

MAX_FILE_LINES = 700
MAX_FUNCTION_LINES = 60
MAX_PARAMETERS = 8
# "file::function": why it needs more parameters. Only for signatures that transformers or its users fix.
MANY_PARAMETERS: dict[str, str] = {
    "model/modeling_clip_hf.py::ClipHFModel.forward": "transformers' has six of them, Trainer passes the ids by name",
}

HEADER = (
    "# Copyright 2026 The clip_hf team. All rights reserved.",
    "# Licensed under the Apache License, Version 2.0; see LICENSE.",
)


def is_exported(path: Path, package_folder: Path) -> bool:
    return path.parent == package_folder / "model" and path.stem != "__init__"


# ------------------------------------------------------------------------------------------------ the exportable model


def check_exported_files(package_folder: Path) -> list[str]:
    """What breaks the rules of the exportable model, one message for each."""
    problems = []
    function_level = []
    for path in python_files(package_folder):
        if not is_exported(path, package_folder):
            continue
        if path.stem not in LAYERS:
            problems.append(f"{path.name}: not in LAYERS; give it a place among the layers")
            continue
        imports = own_imports(path, package_folder.name)
        for item in imports:
            problem = _exported_import_problem(path.stem, item)
            if problem:
                problems.append(f"{path.name}:{item.line}: {problem}")
        function_level += [(item.module, f"{path.name}:{item.line}") for item in imports if item.in_function]
        problems += _textual_problems(path, package_folder.name, {item.line for item in imports})
    for module in FUNCTION_LEVEL_MODULES:
        places = [place for imported, place in function_level if imported == module]
        if len(places) > 1:
            problems.append(
                f"{', '.join(places)}: more than one import inside a function of {module}; export needs one"
            )
    return problems


def _exported_import_problem(stem: str, item: Import) -> str | None:
    sibling = item.module
    if item.level == 0:
        return f"imports {sibling} by its full name; only `from .module import name` works in a saved model"
    if item.level > 1 or not sibling or "." in sibling:
        return "only `from .module import name` works in a saved model, of a file in the same folder"
    if "*" in item.names:
        return f"`from .{sibling} import *` hides what is used; name it"
    if sibling not in LAYERS:
        return f"imports {sibling}, which is not part of the exportable model"
    if item.in_function:
        if sibling in FUNCTION_LEVEL_MODULES and stem not in FUNCTION_LEVEL_MODULES:
            return None
        return f"imports {sibling} inside a function; only {', '.join(FUNCTION_LEVEL_MODULES)} may be, for the export"
    if LAYERS.index(sibling) >= LAYERS.index(stem):
        return f"imports {sibling}, which is not a layer below it"
    return None


def _textual_problems(path: Path, package: str, import_lines: set[int]) -> list[str]:
    # transformers finds the files to export with a search in the text, so a line of a docstring counts as an import.
    pattern = re.compile(rf"^\s*(from\s+\.|import\s+\.|import\s+{package}\b|from\s+{package}\b)")
    return [
        f"{path.name}:{number}: reads like an import to transformers' export, but is text; write it otherwise"
        for number, line in enumerate(path.read_text(encoding="utf-8").splitlines(), 1)
        if pattern.match(line) and number not in import_lines
    ]


# --------------------------------------------------------------------------------------------- the library around it


def check_library_files(package_folder: Path) -> list[str]:
    """What breaks the rules of the files that are not exported: imports inside functions, circles, no `__init__`."""
    problems = []
    for path in python_files(package_folder):
        if is_exported(path, package_folder):
            continue
        if not (path.parent / "__init__.py").exists():
            folder = path.parent.relative_to(package_folder)
            problems.append(f"{folder}/: no __init__.py, so {path.name} would be left out of the installed package")
        problems += [
            f"{path.relative_to(package_folder)}:{item.line}: imports {item.module or '.'} inside a function"
            for item in own_imports(path, package_folder.name)
            if item.in_function
        ]
    return problems + [f"circle: {' -> '.join(circle)}" for circle in find_circles(import_graph(package_folder))]


def check_private_imports(package_folder: Path) -> list[str]:
    """Imports of names that begin with an underscore from our own modules."""
    return [
        f"{path.relative_to(package_folder)}:{item.line}: imports {name} from {item.module}; make it public"
        for path in python_files(package_folder)
        for item in own_imports(path, package_folder.name)
        for name in item.names
        if name.startswith("_") and not name.startswith("__")
    ]


def check_targets(package_folder: Path) -> list[str]:
    """Imports from modules of ours that do not exist, and lists of names in files that are no packages."""
    modules, problems = module_files(package_folder), []
    for name, path in modules.items():
        file = path.relative_to(package_folder)
        for item in own_imports(path, package_folder.name):
            missing = set(imported_modules(name, item, modules)) - modules.keys()
            problems += [f"{file}:{item.line}: imports {target}, which does not exist" for target in sorted(missing)]
        if path.name != "__init__.py" and "\n__all__ = " in path.read_text(encoding="utf-8"):
            problems.append(f"{file}: has __all__; only packages list their names")
    return problems


def check_folders(graph: dict[str, set[str]], folders: tuple[str, ...]) -> list[str]:
    """Folders without a place among `folders`, imports from a folder that is not below, and circles."""
    problems = [f"{folder}/: not in FOLDERS; give it a place" for folder in graph if folder not in folders]
    for folder in folders:
        higher = [target for target in sorted(graph.get(folder, ())) if target not in folders[: folders.index(folder)]]
        problems += [f"{folder}/: imports from {target}/, which is not a layer below it" for target in higher]
    return problems + [f"circle: {' -> '.join(circle)}" for circle in find_circles(graph)]


# ------------------------------------------------------------------------------------------------------ size and form


def check_sizes(folder: Path, many_parameters: dict[str, str]) -> list[str]:
    """Files and functions that are too long, functions with too many parameters, and files without the header."""
    problems, unused = [], set(many_parameters)
    for path in python_files(folder):
        text = path.read_text(encoding="utf-8")
        lines = text.splitlines()
        name = str(path.relative_to(folder))
        if tuple(lines[:2]) != HEADER:
            problems.append(f"{name}: does not start with the two lines of the licence header")
        if len(lines) > MAX_FILE_LINES:
            problems.append(f"{name}: {len(lines)} lines, at most {MAX_FILE_LINES}")
        for qualified_name, function in functions(ast.parse(text)):
            label = f"{name}::{qualified_name}"
            length, parameters = code_lines(function), parameter_count(function)
            if length > MAX_FUNCTION_LINES:
                problems.append(f"{label}: {length} lines, at most {MAX_FUNCTION_LINES}")
            if parameters > MAX_PARAMETERS and label not in many_parameters:
                problems.append(f"{label}: {parameters} parameters, at most {MAX_PARAMETERS}")
            if parameters > MAX_PARAMETERS:
                unused.discard(label)
    return problems + [f"{label}: in MANY_PARAMETERS without need" for label in sorted(unused)]


def functions(tree: ast.AST, prefix: str = "") -> Iterator[tuple[str, ast.FunctionDef | ast.AsyncFunctionDef]]:
    """Every function of a module with its qualified name, nested ones and methods too."""
    for node in ast.iter_child_nodes(tree):
        name = f"{prefix}{node.name}" if hasattr(node, "name") else prefix
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef):
            yield name, node
        yield from functions(node, f"{name}." if hasattr(node, "name") else prefix)


def code_lines(function: ast.FunctionDef | ast.AsyncFunctionDef) -> int:
    """Lines from `def` to the end, without the docstring: what a reader has to follow."""
    length = function.end_lineno - function.lineno + 1
    if ast.get_docstring(function, clean=False) is not None:
        length -= function.body[0].end_lineno - function.body[0].lineno + 1
    return length


def parameter_count(function: ast.FunctionDef | ast.AsyncFunctionDef) -> int:
    """Named parameters; self, cls, *args and **kwargs are not counted."""
    arguments = function.args
    names = [argument.arg for argument in arguments.posonlyargs + arguments.args]
    return len(names) - (names[:1] in (["self"], ["cls"])) + len(arguments.kwonlyargs)


def check_import_effects(package_folder: Path) -> list[str]:
    """Environment variables that are set anywhere in the package, and warnings silenced when a module is imported."""
    problems = []
    for path in python_files(package_folder):
        tree = ast.parse(path.read_text(encoding="utf-8"))
        inside_functions = {id(node) for _, function in functions(tree) for node in ast.walk(function)}
        for node in ast.walk(tree):
            # Only what can be one of them is unparsed, and of a call what is called: of all nodes it takes long.
            if isinstance(node, ast.Subscript) and isinstance(node.ctx, ast.Store | ast.Del):
                source = ast.unparse(node)
                sets = source.startswith(("os.environ[", "environ["))
            elif isinstance(node, ast.Call):
                source = f"{ast.unparse(node.func)}("
                sets = bool(re.match(r"(os\.)?(environ\.(setdefault|update|pop|clear)|putenv|unsetenv)\(", source))
            else:
                continue
            silences = isinstance(node, ast.Call) and source.startswith(
                ("warnings.filterwarnings(", "warnings.simplefilter(", "filterwarnings(", "simplefilter(")
            )
            if sets:
                problems.append(f"{path.relative_to(package_folder)}:{node.lineno}: sets an environment variable")
            if silences and id(node) not in inside_functions:
                problems.append(f"{path.relative_to(package_folder)}:{node.lineno}: silences warnings on import")
    return problems


def requirements(lines: str) -> list[Requirement]:
    """The requirements in a text of one a line, without comments."""
    return [Requirement(line) for line in lines.splitlines() if line.strip() and not line.strip().startswith("#")]


def pins(constraints: str) -> dict[str, str]:
    """The versions in a constraints file, by name."""
    return {
        _canonical(pin.name): str(pin.specifier).removeprefix("==").removesuffix(".*")
        for pin in requirements(constraints)
    }


def check_pins(setup_cfg: str, constraints: str) -> list[str]:
    """Direct dependencies without a pin, pins outside their range, and pins of what is no direct dependency."""
    config = configparser.ConfigParser()
    config.read_string(setup_cfg)
    ranges = requirements(config["options"]["install_requires"])
    for extra in config["options.extras_require"].values():
        ranges += requirements(extra)
    own = config["metadata"]["name"]
    pinned = pins(constraints)
    problems = []
    for requirement in ranges:
        name = _canonical(requirement.name)
        if name == _canonical(own):
            continue
        if name not in pinned:
            problems.append(f"{requirement.name}: no pin in constraints.txt")
        elif not requirement.specifier.contains(pinned[name]):
            problems.append(f"{requirement.name}: pinned at {pinned[name]}, outside {requirement.specifier}")
    unused = pinned.keys() - {_canonical(requirement.name) for requirement in ranges}
    return problems + [f"{name}: pinned, but not a dependency in setup.cfg" for name in sorted(unused)]


def check_lowest(setup_cfg: str, constraints: str) -> list[str]:
    """Lower bounds of `install_requires` that are not the pins of the lowest versions."""
    config = configparser.ConfigParser()
    config.read_string(setup_cfg)
    lowest, problems = pins(constraints), []
    for requirement in requirements(config["options"]["install_requires"]):
        bounds = [spec.version for spec in requirement.specifier if spec.operator == ">="]
        pinned = lowest.get(_canonical(requirement.name))
        if [pinned] != bounds:
            bound = bounds[0] if bounds else "none"
            problems.append(f"{requirement.name}: lower bound {bound}, but {pinned} in constraints-lowest.txt")
    return problems


def _canonical(name: str) -> str:
    return re.sub(r"[-_.]+", "-", name).lower()


# ----------------------------------------------------------------------------------------------------- our own package


def test_exported_files_keep_their_layers():
    assert check_exported_files(PACKAGE) == []


def test_library_imports_have_no_circles():
    assert check_library_files(PACKAGE) == []


def test_folders_form_layers():
    graph = folder_graph(PACKAGE)
    assert check_folders(graph, FOLDERS) == []
    assert len(graph) <= MAX_FOLDERS
    assert sum(map(len, graph.values())) <= MAX_ARROWS_PER_FOLDER * len(graph)


@pytest.mark.parametrize("folder", ["src/clip_hf", "tests"])
def test_file_names_are_unique(folder):
    names = Counter(path.name for path in python_files(ROOT / folder))
    assert [name for name, count in names.items() if count > 1 and name not in SHARED_NAMES] == []


def test_imports_lead_somewhere():
    assert check_targets(PACKAGE) == []


def test_no_module_imports_another_ones_private_names():
    assert check_private_imports(PACKAGE) == []


@pytest.mark.parametrize("folder", ["src/clip_hf", "src/_clip_hf_cli", "tests", "examples", "benchmarks"])
def test_sizes_and_headers(folder):
    if not (ROOT / folder).is_dir():
        pytest.fail(f"{folder}/ is missing")
    assert check_sizes(ROOT / folder, MANY_PARAMETERS if folder == "src/clip_hf" else {}) == []


def test_import_has_no_side_effects_on_environment_and_warnings():
    assert check_import_effects(PACKAGE) == []


def test_every_dependency_is_pinned():
    setup_cfg = (ROOT / "setup.cfg").read_text(encoding="utf-8")
    assert check_pins(setup_cfg, (ROOT / "constraints.txt").read_text(encoding="utf-8")) == []


def test_lower_bounds_are_what_the_lowest_versions_are_tested_with():
    setup_cfg = (ROOT / "setup.cfg").read_text(encoding="utf-8")
    assert check_lowest(setup_cfg, (ROOT / "constraints-lowest.txt").read_text(encoding="utf-8")) == []


def test_make_without_a_target_lists_every_target():
    listed = subprocess.run(["make"], cwd=ROOT, capture_output=True, text=True, check=True).stdout
    for target in re.findall(r"^\.PHONY: (\S+)", (ROOT / "Makefile").read_text(encoding="utf-8"), flags=re.MULTILINE):
        assert f"make {target} " in listed


# ------------------------------------------------------------------------------ the checks themselves, on made-up code


def write(folder: Path, files: dict[str, str]) -> Path:
    """A made-up package `pkg` in `folder`."""
    package = folder / "pkg"
    for name, text in {"__init__.py": "", **files}.items():
        path = package / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(textwrap.dedent(text), encoding="utf-8")
        if path.parent != package and not (path.parent / "__init__.py").exists():
            (path.parent / "__init__.py").write_text("", encoding="utf-8")
    return package


def test_exported_files_that_keep_the_rules_pass(tmp_path):
    package = write(
        tmp_path,
        {
            "__init__.py": "from .model.processing_clip_hf import P\nfrom .library import helper\n",
            "model/architectures_clip_hf.py": "A = {}\n",
            "model/configuration_clip_hf.py": "import os\nfrom .architectures_clip_hf import A\n",
            "model/modeling_clip_hf.py": "from .configuration_clip_hf import A\nfrom .loss_clip_hf import loss\n",
            "model/loss_clip_hf.py": "import torch\n",
            "model/processing_clip_hf.py": """
                class P:
                    def save(self):
                        # from .pipeline_clip_hf in a comment is no import
                        from .pipeline_clip_hf import Pipe
            """,
            "model/pipeline_clip_hf.py": "from .processing_clip_hf import P\n",
            "library.py": "from .model.modeling_clip_hf import A\n",
        },
    )
    assert check_exported_files(package) == []
    assert check_library_files(package) == []


@pytest.mark.parametrize(
    ("name", "text", "message"),
    [
        (
            "architectures_clip_hf.py",
            "from .modeling_clip_hf import M",
            "imports modeling_clip_hf, which is not a layer",
        ),
        (
            "loss_clip_hf.py",
            "from .architectures_clip_hf import A",
            "imports architectures_clip_hf, which is not a layer",
        ),
        (
            "modeling_clip_hf.py",
            "from .modeling_clip_hf import M",
            "imports modeling_clip_hf, which is not a layer below",
        ),
        (
            "modeling_clip_hf.py",
            "if True:\n    from .processing_clip_hf import P",
            "imports processing_clip_hf, which",
        ),
        ("modeling_clip_hf.py", "from . import loss_clip_hf", "only `from .module import name`"),
        ("modeling_clip_hf.py", "from .data.openmoji import A", "only `from .module import name`"),
        ("modeling_clip_hf.py", "from ..loss_clip_hf import A", "only `from .module import name`"),
        ("modeling_clip_hf.py", "from .loss_clip_hf import *", "hides what is used"),
        ("modeling_clip_hf.py", "from .registration import register", "imports registration, which is not part of"),
        ("modeling_clip_hf.py", "import pkg", "imports pkg by its full name"),
        ("modeling_clip_hf.py", "import torch, pkg.loss_clip_hf", "imports pkg.loss_clip_hf by its full name"),
        ("modeling_clip_hf.py", "from pkg.loss_clip_hf import A", "imports pkg.loss_clip_hf by its full name"),
        ("modeling_clip_hf.py", "def f():\n    from .loss_clip_hf import A", "imports loss_clip_hf inside a function"),
        ("modeling_clip_hf.py", "def f():\n    import pkg", "imports pkg by its full name"),
        (
            "modeling_clip_hf.py",
            "from .pipeline_clip_hf import P",
            "imports pipeline_clip_hf, which is not a layer below",
        ),
        ("modeling_clip_hf.py", '"""Use it:\n\n    import pkg\n"""', "reads like an import"),
        ("modeling_clip_hf.py", '"""Use it:\n\nfrom .loss_clip_hf import A\n"""', "reads like an import"),
        ("modeling_clip_hf_swin.py", "", "not in LAYERS"),
    ],
)
def test_exported_files_that_break_a_rule_are_named(tmp_path, name, text, message):
    problems = check_exported_files(write(tmp_path, {f"model/{name}": text}))
    assert len(problems) == 1
    assert problems[0].startswith(name)
    assert message in problems[0]


def test_only_one_import_inside_a_function_is_allowed(tmp_path):
    inside = "def f():\n    from .pipeline_clip_hf import P\n"
    problems = check_exported_files(
        write(tmp_path, {"model/modeling_clip_hf.py": inside, "model/processing_clip_hf.py": inside})
    )
    assert len(problems) == 1
    assert "more than one" in problems[0]
    assert "modeling_clip_hf.py:2" in problems[0]
    assert "processing_clip_hf.py:2" in problems[0]


@pytest.mark.parametrize("text", ["from .other import f", "from pkg.other import f", "import pkg.other"])
def test_library_imports_inside_functions_are_named(tmp_path, text):
    problems = check_library_files(write(tmp_path, {"data/a.py": f"def g():\n    {text}\n", "other.py": ""}))
    assert len(problems) == 1
    assert problems[0].startswith("data/a.py:2")


def test_a_folder_without_init_is_named(tmp_path):
    package = write(tmp_path, {"data/a.py": ""})
    (package / "data" / "__init__.py").unlink()
    assert check_library_files(package) == [
        "data/: no __init__.py, so a.py would be left out of the installed package"
    ]


@pytest.mark.parametrize(
    ("files", "circle"),
    [
        ({"a.py": "from .b import f", "b.py": "from .a import g"}, "pkg.a -> pkg.b -> pkg.a"),
        ({"a.py": "from . import b", "b.py": "import pkg.a"}, "pkg.a -> pkg.b -> pkg.a"),
        ({"__init__.py": "from .a import f", "a.py": "from pkg import g"}, "pkg -> pkg.a -> pkg"),
        ({"__init__.py": "from . import a", "a.py": "from . import g"}, "pkg -> pkg.a -> pkg"),
        (
            {"a.py": "from .b import f", "b.py": "from .c import f", "c.py": "from .a import f"},
            "pkg.a -> pkg.b -> pkg.c",
        ),
        (
            {"x/__init__.py": "from .m import f", "x/m.py": "from ..y import g", "y.py": "from .x.m import f"},
            "pkg.x.m",
        ),
        (
            {"x/__init__.py": "from ..y import f", "x/m.py": "", "y.py": "from .x.m import f"},
            "pkg.x -> pkg.y -> pkg.x",
        ),
        ({"a_clip_hf.py": "from .b_clip_hf import f", "b_clip_hf.py": "from .a_clip_hf import f"}, "pkg.a_clip_hf"),
    ],
)
def test_circles_are_named(tmp_path, files, circle):
    problems = check_library_files(write(tmp_path, files))
    assert problems
    assert all(problem.startswith("circle: ") for problem in problems)
    assert circle in problems[0]


def test_folders_that_break_the_layers_are_named(tmp_path):
    files = {
        "a/__init__.py": "",
        "a/m.py": "from ..b.n import f",
        "b/n.py": "from . import o",
        "b/o.py": "def f():\n    from ..a import m",
        "c/p.py": "import pkg.a.m\nfrom ..root import g",
        "root.py": "",
    }
    graph = folder_graph(write(tmp_path, files))
    assert graph == {"pkg": set(), "a": {"b"}, "b": {"a"}, "c": {"a", "pkg"}}
    assert check_folders(graph, ("pkg", "a", "b")) == [
        "c/: not in FOLDERS; give it a place",
        "a/: imports from b/, which is not a layer below it",
        "circle: a -> b -> a",
    ]


def test_imports_that_lead_nowhere_are_named(tmp_path):
    files = {"a.py": "from .b import f\nfrom .c.d import g\nfrom . import b", "b.py": 'X = 1\n__all__ = ["X"]\n'}
    assert check_targets(write(tmp_path, files)) == [
        "a.py:2: imports pkg.c.d, which does not exist",
        "b.py: has __all__; only packages list their names",
    ]


def test_imports_of_private_names_are_named(tmp_path):
    package = write(tmp_path, {"a.py": "from .b import _f, __version__, g\nfrom os import _exit", "b.py": ""})
    assert check_private_imports(package) == ["a.py:1: imports _f from b; make it public"]


def test_a_package_may_import_its_own_files(tmp_path):
    files = {
        "__init__.py": "from . import data\nfrom .data import f\nfrom .x import g",
        "x.py": "from .data.b import f",
        "data/__init__.py": "from .a import f\nfrom .b import f",
        "data/a.py": "from .b import f",
        "data/b.py": "",
    }
    assert check_library_files(write(tmp_path, files)) == []


def test_long_files_functions_and_signatures_are_named(tmp_path):
    header = "\n".join(HEADER) + "\n"
    body = "\n".join(f"    x{i} = {i}" for i in range(MAX_FUNCTION_LINES))
    docstring = '    """Docstring.\n' + "\n" * 80 + '    """\n'
    nine = ", ".join(f"p{i}" for i in range(MAX_PARAMETERS + 1))
    package = write(
        tmp_path,
        {
            "__init__.py": header,
            "bare.py": "x = 1\n",
            "long.py": header + "\n" * MAX_FILE_LINES,
            "function.py": f"{header}def f():\n{body}\n",
            "method.py": f"{header}class C:\n  async def f(self):\n{body}\n",
            "documented.py": f"{header}def f():\n{docstring}{body[: body.rindex(chr(10))]}\n",
            "many.py": f"{header}class C:\n def f(self, {nine}): 0\ndef g(a, *, {nine[4:]}): 0\ndef h({nine}): 0",
        },
    )
    assert check_sizes(package, {"many.py::h": "a reason", "many.py::gone": "a reason"}) == [
        "bare.py: does not start with the two lines of the licence header",
        "function.py::f: 61 lines, at most 60",
        "long.py: 702 lines, at most 700",
        "many.py::C.f: 9 parameters, at most 8",
        "many.py::g: 9 parameters, at most 8",
        "method.py::C.f: 61 lines, at most 60",
        "many.py::gone: in MANY_PARAMETERS without need",
    ]


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("import os\nos.environ['A'] = '1'", "a.py:2: sets an environment variable"),
        ("import os\ndef f():\n    os.environ.setdefault('A', '1')", "a.py:3: sets an environment variable"),
        ("import os\nos.putenv('A', '1')", "a.py:2: sets an environment variable"),
        ("import warnings\nwarnings.filterwarnings('ignore')", "a.py:2: silences warnings on import"),
    ],
)
def test_import_effects_are_named(tmp_path, text, message):
    assert check_import_effects(write(tmp_path, {"a.py": text})) == [message]


def test_import_without_effects_passes(tmp_path):
    text = """
        import os, warnings
        home = os.environ["HOME"] + os.environ.get("A", "")
        def f():
            with warnings.catch_warnings():
                warnings.simplefilter("ignore")
    """
    assert check_import_effects(write(tmp_path, {"a.py": text})) == []


def test_pins_that_do_not_fit_are_named():
    setup_cfg = """
[metadata]
name = our_package
[options]
install_requires =
    # a comment
    torch>=2.11
    scikit_learn>=1.4
[options.extras_require]
none =
test =
    our-package[none]
    pytest>=8
"""
    assert check_pins(setup_cfg, "# pins\ntorch==2.13.0\nscikit-learn==1.9.1\npytest==9.2.0\n") == []
    assert check_pins(setup_cfg, "torch==2.10.0\npytest==9.2.0\nfoo==1.0\n") == [
        "torch: pinned at 2.10.0, outside >=2.11",
        "scikit_learn: no pin in constraints.txt",
        "foo: pinned, but not a dependency in setup.cfg",
    ]


def test_lower_bounds_that_differ_are_named():
    setup_cfg = """
[options]
install_requires =
    torch>=2.6
    numpy>=2.0
    tqdm
    transformers>=5.21,<6
"""
    assert check_lowest(setup_cfg, "torch==2.6\nnumpy==2.1\ntransformers==5.21\n") == [
        "numpy: lower bound 2.0, but 2.1 in constraints-lowest.txt",
        "tqdm: lower bound none, but None in constraints-lowest.txt",
    ]
