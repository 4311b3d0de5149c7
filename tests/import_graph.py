# Copyright 2026 The clip_hf team. All rights reserved.
# Licensed under the Apache License, Version 2.0; see LICENSE.
"""
Which folder of the library imports which.

    python tests/import_graph.py [FOLDER]

prints each folder of `src/clip_hf` with the folders that its files import from, and counts folders and arrows.
Files of the root (`__init__.py`, `registration.py`, ...) count as the folder `clip_hf`.
Imports are read with `ast`, nothing is imported.
"""

import ast
import functools
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path


PACKAGE = Path(__file__).resolve().parent.parent / "src" / "clip_hf"


@dataclass(frozen=True)
class Import:
    """One import of our own package: `from <dots><module> import <names>`, or `import <module>` where level is 0."""

    line: int
    level: int
    module: str
    names: tuple[str, ...]
    plain: bool
    in_function: bool


def python_files(folder: Path) -> list[Path]:
    return sorted(path for path in folder.rglob("*.py") if not path.name.startswith("."))


def own_imports(path: Path, package: str) -> list[Import]:
    """The imports of our own package in a file, wherever they stand in it."""
    return _own_imports(path.read_text(encoding="utf-8"), package)


@functools.cache  # many rules ask for the same files
def _own_imports(text: str, package: str) -> list[Import]:
    imports: list[Import] = []

    def visit(node: ast.AST, in_function: bool) -> None:
        if isinstance(node, ast.ImportFrom) and (node.level or (node.module or "").split(".")[0] == package):
            names = tuple(alias.name for alias in node.names)
            imports.append(Import(node.lineno, node.level, node.module or "", names, False, in_function))
        elif isinstance(node, ast.Import):
            for alias in node.names:
                if alias.name.split(".")[0] == package:
                    imports.append(Import(node.lineno, 0, alias.name, (), True, in_function))
        inside = in_function or isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef | ast.Lambda)
        for child in ast.iter_child_nodes(node):
            visit(child, inside)

    visit(ast.parse(text), False)
    return sorted(imports, key=lambda item: item.line)


def module_name(path: Path, package_folder: Path) -> str:
    parts = path.relative_to(package_folder.parent).with_suffix("").parts
    return ".".join(parts[:-1] if parts[-1] == "__init__" else parts)


def module_files(package_folder: Path) -> dict[str, Path]:
    """The file of each module."""
    return {module_name(path, package_folder): path for path in python_files(package_folder)}


def imported_modules(name: str, item: Import, modules: dict[str, Path]) -> Iterator[str]:
    """The modules that an import in the module `name` asks for."""
    base = item.module
    if item.level:
        package = name if modules[name].name == "__init__.py" else name.rpartition(".")[0]
        for _ in range(item.level - 1):
            package = package.rpartition(".")[0]
        base = f"{package}.{item.module}".rstrip(".")
    if item.plain:
        yield base
        return
    for imported in item.names:
        yield f"{base}.{imported}" if f"{base}.{imported}" in modules else base


def import_graph(package_folder: Path) -> dict[str, set[str]]:
    """Which module imports which when it is loaded; imports inside functions are left out."""
    modules = module_files(package_folder)
    graph: dict[str, set[str]] = {name: set() for name in modules}
    for name, path in modules.items():
        for item in own_imports(path, package_folder.name):
            for target in () if item.in_function else imported_modules(name, item, modules):
                # Importing a.b.c runs a/b/__init__.py too, unless it is already running because we are inside it.
                packages = {target.rsplit(".", n)[0] for n in range(1, target.count(".") + 1)}
                packages = {package for package in packages if not name.startswith(f"{package}.")}
                graph[name] |= ({target} | packages) & modules.keys() - {name}
    return graph


def folder_graph(package_folder: Path) -> dict[str, set[str]]:
    """Which folder imports from which, at load time or inside functions; names relative to the package."""
    modules = module_files(package_folder)

    def folder_of(module: str) -> str:
        return ".".join(modules[module].parent.relative_to(package_folder).parts) or package_folder.name

    graph: dict[str, set[str]] = {folder_of(name): set() for name in modules}
    for name, path in modules.items():
        for item in own_imports(path, package_folder.name):
            targets = {folder_of(target) for target in imported_modules(name, item, modules) if target in modules}
            graph[folder_of(name)] |= targets - {folder_of(name)}
    return graph


def find_circles(graph: dict[str, set[str]]) -> list[list[str]]:
    """One circle for each import that closes one, as the list of modules from its start back to it."""
    circles, done, trail = [], set(), []

    def visit(node: str) -> None:
        if node in trail:
            circles.append(trail[trail.index(node) :] + [node])
            return
        if node in done:
            return
        trail.append(node)
        for target in sorted(graph.get(node, ())):
            visit(target)
        done.add(trail.pop())

    for node in sorted(graph):
        visit(node)
    return circles


def main(package_folder: Path) -> None:
    graph = folder_graph(package_folder)
    for folder, targets in sorted(graph.items(), key=lambda item: (len(item[1]), item[0])):
        print(f"{folder:24}{' '.join(sorted(targets))}")
    print(f"{len(graph)} folders, {sum(map(len, graph.values()))} arrows, {len(find_circles(graph))} circles")


if __name__ == "__main__":
    main(Path(sys.argv[1]).resolve() if len(sys.argv) > 1 else PACKAGE)
