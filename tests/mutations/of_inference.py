# Copyright 2026 The clip_hf team. All rights reserved.
# Licensed under the Apache License, Version 2.0; see LICENSE.
"""Faults in the choice of a dtype, and in exported models behind encoders and pipelines."""

from .mutation import Mutation


MUTATIONS = [
    Mutation(
        "a model that was given is folded",
        "embedding/load_encoder.py",
        "            encoder.model.fold_batch_norm()\n    options",
        "            encoder.model.fold_batch_norm()\n    encoder.model.fold_batch_norm()\n    options",
        "embedding/test_encoders.py -k folded",
    ),
    Mutation(
        "bfloat16 picked where it is emulated",
        "utils/processor.py",
        "if not read_processor().has_bfloat16:",
        "if False:",
        "utils/test_processor.py -k native_and_clearly",
    ),
    Mutation(
        "bfloat16 picked where it is hardly faster",
        "utils/processor.py",
        "return times.float32 > _CLEARLY_FASTER * times.bfloat16",
        "return times.float32 > times.bfloat16",
        "utils/test_processor.py -k native_and_clearly",
    ),
    Mutation(
        "the last time counts instead of the least",
        "utils/processor.py",
        "best[dtype] = min(best[dtype], time.perf_counter() - start)",
        "best[dtype] = time.perf_counter() - start",
        "utils/test_processor.py -k least_of_several",
    ),
    Mutation(
        "the last core's features",
        "utils/processor.py",
        "fields.setdefault(name.strip().lower(), value.strip())",
        "fields[name.strip().lower()] = value.strip()",
        "utils/test_processor.py -k x86",
    ),
    Mutation(
        "emulated bfloat16 counts as a GPU's own",
        "utils/dtypes.py",
        "is_bf16_supported(including_emulation=False)",
        "is_bf16_supported(including_emulation=True)",
        "utils/test_processor.py -k auto_is_what_a_device_has",
    ),
    Mutation(
        "exported models in the stock pipeline",
        "registration.py",
        "(ClipHFConfig.model_type, ClipHFExportedConfig.model_type)",
        "(ClipHFConfig.model_type,)",
        "test_exported_pipeline.py -k transformers_pipeline",
    ),
    Mutation(
        "weights not in the key of a cached export",
        "export/opening.py",
        "    digest.update(weights_digest(model))\n",
        "",
        "embedding/test_exported_encoder.py -k exported_once",
    ),
    Mutation(
        "a damaged export in the cache is an error",
        "export/opening.py",
        "    except Exception as error:",
        "    except KeyError as error:",
        "embedding/test_exported_encoder.py -k exported_once",
    ),
    Mutation(
        "auto is bfloat16 in every runtime",
        "export/opening.py",
        '(runtime or config.tower_format) == "openvino" and config.precision',
        "config.precision",
        "embedding/test_exported_encoder.py -k auto_is_bfloat16",
    ),
    Mutation(
        "files of an export not in the fingerprint",
        "embedding/exported_encoder.py",
        'file["sha256"]',
        'file["bytes"]',
        "embedding/test_exported_encoder.py -k fingerprint",
    ),
    Mutation(
        "precision not in the fingerprint",
        "embedding/exported_encoder.py",
        "return [self.model.runtime, self.model.precision, ",
        "return [self.model.runtime, ",
        "embedding/test_exported_encoder.py -k fingerprint",
    ),
    Mutation(
        "features after the projection for linear probes",
        "embedding/exported_encoder.py",
        "run = self.model.encode_image if projected else self.model.pooled_image_features",
        "run = self.model.encode_image",
        "embedding/test_exported_encoder.py -k features_are_those",
    ),
    Mutation(
        "batches of texts as large as PyTorch's",
        "model/zero_shot_clip_hf.py",
        'min(max_tokens_per_batch, getattr(model, "max_tokens_per_batch", max_tokens_per_batch))',
        "max_tokens_per_batch",
        "embedding/test_exported_encoder.py -k small_batches",
    ),
]
