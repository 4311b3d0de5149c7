# Copyright 2026 The clip_hf team. All rights reserved.
# Licensed under the Apache License, Version 2.0; see LICENSE.
"""Faults in cards, ends of programs and files."""

from .mutation import Mutation


MUTATIONS = [
    Mutation(
        "a folder removed without being moved away first",
        "utils/atomic.py",
        "    os.rename(folder, doomed)\n    _delete(doomed)",
        "    _delete(Path(folder))",
        "utils/test_atomic.py -k seen_half",
    ),
    Mutation(
        "card: paths of base models stay",
        "model_card/card.py",
        "base_model=details.base_model and public_name(details.base_model),",
        "base_model=details.base_model,",
        "model_card/test_model_card_text.py -k no_path",
    ),
    Mutation(
        "card: paths in results stay",
        "model_card/section_texts.py",
        '"dataset_type": public_name(result.dataset_type)',
        '"dataset_type": result.dataset_type',
        "model_card/test_model_card_text.py -k no_path",
    ),
    Mutation(
        "card: query of a URL stays",
        "model_card/section_texts.py",
        'return re.split(r"[?#;]", rest, maxsplit=1)[0]',
        "return rest",
        "model_card/test_model_card_text.py -k names_without",
    ),
    Mutation(
        "card: password with a slash stays",
        "model_card/section_texts.py",
        'rest = rest.rpartition("@")[2]',
        'rest = rest.partition("@")[2]',
        "model_card/test_model_card_text.py -k names_without",
    ),
    Mutation(
        "card: a home folder's name stays",
        "model_card/section_texts.py",
        "parts[-2].lower() in _HOMES",
        "parts[-2] in _HOMES",
        "model_card/test_model_card_text.py -k names_without",
    ),
    Mutation(
        "card: paths in the source stay",
        "model_card/card.py",
        "source=details.source and without_paths(details.source),",
        "source=details.source,",
        "model_card/test_model_card_text.py -k no_path_in_texts",
    ),
    Mutation(
        "card: background not said",
        "model_card/section_texts.py",
        "    if color is None:\n",
        "    if True:\n",
        "model_card/test_model_card_text.py -k steps",
    ),
    Mutation(
        "card: EXIF the other way round",
        "model_card/section_texts.py",
        "if processor.apply_exif_orientation else",
        "if not processor.apply_exif_orientation else",
        "model_card/test_model_card_text.py -k steps",
    ),
    Mutation(
        "card: a new one empties what it does not know",
        "model_card/card.py",
        "if name not in kept}\n        merged.text",
        "}\n        merged.text",
        "model_card/test_model_card_text.py -k does_not_know",
    ),
    Mutation(
        "card: sections of another model stay",
        "model_card/card.py",
        "    if overviews[0] != overviews[1]:\n",
        "    if False:\n",
        "model_card/test_model_card_text.py -k does_not_know",
    ),
    Mutation(
        "card: name of the model lost in an update",
        "model_card/card.py",
        'generated.get("model_name") and not keep_name',
        'generated.get("model_name")',
        "model_card/test_model_card_text.py -k does_not_know",
    ),
    Mutation(
        "card: no placeholder for a folder",
        "model_card/card.py",
        "python_literal(name if on_hub else _PLACEHOLDER)",
        "python_literal(name)",
        "model_card/test_model_card.py -k written_and_renewed",
    ),
    Mutation(
        "torch's errors without their trace",
        "utils/failures.py",
        "return is_raised and (",
        "return (",
        "utils/test_failures.py -k line_or_a_trace",
    ),
    Mutation(
        "all errors with their trace",
        "utils/failures.py",
        "if _is_for_users(error, program):",
        "if False:",
        "utils/test_failures.py -k line_or_a_trace",
    ),
]
