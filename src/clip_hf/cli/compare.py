# Copyright 2026 The clip_hf team. All rights reserved.
# Licensed under the Apache License, Version 2.0; see LICENSE.
"""`clip-hf compare`: evaluated models side by side."""

import argparse
from pathlib import Path

from ..evaluation import fit_scaling
from ..evaluation.comparison import ENDINGS, compare_results, load_results
from ..utils.output_folders import check_writable
from ..utils.terminal_tables import wrap_lines
from ..utils.wording import counted, safe_name
from .evaluate import evaluate


def run(options: argparse.Namespace) -> int:
    """Do what the arguments ask for; return the exit status."""
    if len(options.models) < 2:
        raise ValueError(f"There is nothing to compare with {options.models[0]}: name two or more.")
    for name, values in (("--names", options.names), ("--compute", options.compute)):
        if values is not None and len(values) != len(options.models):
            values, models = counted(len(values), "value"), counted(len(options.models), "model")
            raise ValueError(f"{name} has {values} for {models}; give one for each.")
    if options.names and len(set(options.names)) < len(options.names):
        raise ValueError(f"--names has a name twice: {', '.join(options.names)}.")
    if options.compute:
        fit_scaling(options.compute, [0.5] * len(options.compute))  # of a bad amount, raises now
    output_dir = Path(options.output_dir)
    check_writable(output_dir, output_dir)
    folders = [_folder_of(model, place, options, output_dir) for place, model in enumerate(options.models)]
    if not options.overwrite:
        _check_nothing_is_there(output_dir, folders, options)
    for model, folder in zip(options.models, folders):
        if folder != Path(model):
            evaluate(model, options, folder, replace_results=options.overwrite)
    comparison = compare_results(folders, options.names, options.resamples, options.seed)
    print(f"\n{comparison.terminal_tables()}")
    if comparison.left_out:
        print(wrap_lines(f"\nOnly one model has: {', '.join(comparison.left_out)}."))
    paths = comparison.save(output_dir)
    if options.compute:
        scaling = _scaling(folders, comparison.models, options)
        print(f"\n{scaling.terminal_table()}")
        paths += scaling.save(output_dir, "scaling")
    print(wrap_lines(f"\nWritten: {', '.join(str(path) for path in paths)}"))
    return 0


def _folder_of(model: str, place: int, options: argparse.Namespace, output_dir: Path) -> Path:
    """The folder of a model's results: `model` itself, or where its results will be once it is evaluated."""
    folder = Path(model)
    if folder.is_dir() and any(path.stem == "summary" for path in folder.glob("*.md")):
        load_results(folder)
        return folder
    if not options.data:
        raise ValueError(
            f"{model} is no folder that `clip-hf evaluate` wrote. To evaluate it as a model first, name the data with "
            "--data."
        )
    results = output_dir / f"{place + 1}-{safe_name(folder.name)}"
    if results.resolve() in (Path(other).resolve() for other in options.models):
        raise ValueError(
            f"The results of {model} would go into {results}, which is one of the folders to compare; give another "
            "--output-dir."
        )
    return results


def _check_nothing_is_there(output_dir: Path, folders: list[Path], options: argparse.Namespace) -> None:
    """Raise a `FileExistsError`, before anything is evaluated, if results of an earlier run would be replaced."""
    stems = ("comparison", *(("scaling",) if options.compute else ()))
    written = [output_dir / f"{stem}.{ending}" for stem in stems for ending in ENDINGS]
    written += [folder / "summary.md" for model, folder in zip(options.models, folders) if folder != Path(model)]
    there = [str(path) for path in written if path.exists()]
    if there:
        more = f" and {counted(len(there) - 1, 'other')}" if len(there) > 1 else ""
        raise FileExistsError(
            f"{there[0]}{more} would be replaced; give another --output-dir, or --overwrite to replace what is there."
        )


def _scaling(folders: list[Path], names: list[str], options: argparse.Namespace):
    """Fit the mean error over the evaluations that all models have."""
    metric, errors = options.scaling_metric, []
    for folder in folders:
        metrics = {
            (result["task"], result["data"], result["split"]): result["metrics"] for result in load_results(folder)
        }
        errors.append({key: 1 - values[metric] for key, values in metrics.items() if metric in values})
    common = sorted(set.intersection(*map(set, errors)))
    if not common:
        raise ValueError(f"--scaling-metric {metric}: no evaluation with this metric was made of all the models.")
    means = [sum(of_model[key] for key in common) / len(common) for of_model in errors]
    return fit_scaling(options.compute, means, names)
