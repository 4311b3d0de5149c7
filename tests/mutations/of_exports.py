# Copyright 2026 The clip_hf team. All rights reserved.
# Licensed under the Apache License, Version 2.0; see LICENSE.
"""Faults in exported towers and their reports."""

from .mutation import Mutation


MUTATIONS = [
    Mutation(
        "export: features that are no numbers pass",
        "export/parity_report.py",
        "if not lowest >= allowed:",
        "if lowest < allowed:",
        "export/test_export_model.py -k counts_as_a_loss",
    ),
    Mutation(
        "export: images that calibrate are compared",
        "export/tower_inputs.py",
        "self.pixel_values[1::2] if",
        "self.pixel_values[::2] if",
        "export/test_export_model.py -k calibrating",
    ),
    Mutation(
        "export: any folder is replaced",
        "export/exporting.py",
        "if path.exists() and not (path / RECORD).is_file() and",
        "if False and",
        "export/test_export_model.py -k destinations",
    ),
    Mutation(
        "export: a loss is written",
        "export/exporting.py",
        "        if not allow_loss:\n            report.check()\n",
        "",
        "export/test_export_model.py -k nothing_is_written",
    ),
    Mutation(
        "export: towers that are slower are not named",
        "export/parity_report.py",
        "if rate is not None and each.exported_per_second < rate",
        "if rate is not None and each.exported_per_second < 0",
        "export/test_export_model.py -k slower",
    ),
    Mutation(
        "export: texts without end are encoded",
        "export/exported_model.py",
        "        if without:",
        "        if False:",
        "export/test_exported_model.py -k other_features",
    ),
    Mutation(
        "export: padding on the left is taken",
        "export/exported_model.py",
        "(seen[:, 1:] > seen[:, :-1])",
        "(seen[:, 1:] > seen[:, 1:])",
        "export/test_exported_model.py -k other_features",
    ),
    Mutation(
        "export: the mask may hide the end",
        "export/exported_model.py",
        "seen & (input_ids ==",
        "(input_ids ==",
        "export/test_exported_model.py -k pytorch_refuses",
    ),
    Mutation(
        "export: hooks are taken",
        "export/sources.py",
        'if hooks or "forward" in vars(module):',
        'if "forward" in vars(module):',
        "export/test_export_model.py -k changed_models",
    ),
    Mutation(
        "export: the configuration may be edited",
        "export/exported_folder.py",
        "_DESCRIBED = (*TOWERS, CONFIG_NAME)",
        "_DESCRIBED = (*TOWERS, CONFIG_NAME + 'x')",
        "export/test_export_model.py -k whole_export",
    ),
]
