# Copyright 2026 The clip_hf team. All rights reserved.
# Licensed under the Apache License, Version 2.0; see LICENSE.
"""The teachers of a training, as its options name them: running, or their features on disk."""

import torch
from accelerate import Accelerator

from ..data import ImageTextDataset, PairLoader
from ..embedding.encoding_options import EncodingOptions
from ..model.image_processing_clip_hf import ClipHFImageProcessor
from ..utils.wording import counted
from .options import TrainingOptions
from .teacher_features import StoredFeatures, store_features
from .teachers import TeacherRecord, Teachers, load_teachers
from .training_setup import build_model, load_training_data


def teach(
    options: TrainingOptions, loader: PairLoader, image_processor: ClipHFImageProcessor, device: torch.device
) -> tuple[Teachers | None, tuple[TeacherRecord, ...]]:
    """Load the teachers that the options name, or let a loader's batches have their stored features.

    Args:
        options ([`TrainingOptions`]): The options of the training.
        loader ([`PairLoader`]): The training's batches; changed in place where features are stored.
        image_processor ([`ClipHFImageProcessor`]): The student's.
        device (`torch.device`): Where running teachers are put.

    Returns:
        `tuple`: the running teachers, whose [`Teachers.add_features`] completes each batch, or None where their
        features are stored or there are none; and the records of the teachers.

    Raises:
        OSError, ValueError, TypeError, ImportError: as in [`load_teachers`] and [`StoredFeatures`].
    """
    teachers = None
    if options.teachers:
        teachers = load_teachers(options.teachers, image_processor, resize=options.resize_for_teachers, device=device)
    if options.teacher_features is not None:
        wanted = None if teachers is None else teachers.records
        loader.pairs.features = StoredFeatures(options.teacher_features, loader.pairs, image_processor, wanted)
        return None, loader.pairs.features.records
    return teachers, () if teachers is None else teachers.records


def store_for_training(
    options: TrainingOptions, draws: int = 1, dtype: str = "float16", accelerator: Accelerator | None = None
) -> str:
    """Compute the teachers' features of exactly the crops and texts that a training will see.

    Args:
        options ([`TrainingOptions`]): Those of the training; `teachers` are loaded, and `teacher_features` is written.
        draws, dtype: As in [`store_features`].
        accelerator (`Accelerator`, *optional*): This process's, where several share the work.

    Returns:
        `str`: a line on what there is now.

    Raises:
        OSError, ValueError, TypeError, ImportError: as in [`load_teachers`] and [`store_features`].
    """
    if not options.teachers or options.teacher_features is None:
        raise ValueError(
            "Teacher features need teachers and a folder: give --teachers TEACHER ... and -o FOLDER (or "
            "--teacher_features FOLDER)."
        )
    data, _ = load_training_data(options)
    _, processor = build_model(options, data)
    pairs = ImageTextDataset(data, processor.image_processor, options.pair_options)
    device = None if accelerator is None else accelerator.device
    teachers = load_teachers(
        options.teachers, processor.image_processor, resize=options.resize_for_teachers, device=device
    )
    encoding = EncodingOptions(accelerator=accelerator, stage="teacher features")
    computed = store_features(
        options.teacher_features,
        pairs,
        processor,
        teachers,
        draws=draws,
        dtype=dtype,
        num_workers=options.num_workers,
        encoding=encoding,
    )
    return (
        f"{counted(len(pairs), 'pair')} in {counted(draws, 'draw')}, features of "
        f"{counted(len(teachers.records), 'teacher')} in {options.teacher_features} ({counted(computed, 'part')} "
        "computed now)."
    )
