# Copyright 2026 The clip_hf team. All rights reserved.
# Licensed under the Apache License, Version 2.0; see LICENSE.
"""Faults in LoRA, patch dropout, the loss over classes and crops of random areas."""

from .mutation import Mutation


MUTATIONS = [
    Mutation(
        "LoRA: not rank-stabilised",
        "training/low_rank.py",
        "use_rslora=options.rank_stabilised",
        "use_rslora=False",
        "training/test_low_rank.py -k over_the_root",
    ),
    Mutation(
        "LoRA: statistics of BatchNorm go on",
        "training/low_rank.py",
        "        model.freeze_batch_norm()\n",
        "        pass\n",
        "training/test_low_rank.py -k only_adapters",
    ),
    Mutation(
        "LoRA: plain layers put back without the update",
        "checkpoints/adapters.py",
        "        layer.merge(safe_merge=True)\n",
        "        pass\n",
        "training/test_low_rank.py -k merged",
    ),
    Mutation(
        "LoRA: shapes of an adapter not compared",
        "checkpoints/adapters.py",
        "tensor.shape[side] != weight.shape[side]",
        "False",
        "training/test_low_rank.py -k another",
    ),
    Mutation(
        "LoRA: a merge that fails stays half done",
        "checkpoints/adapters.py",
        "                    parameter.data = value\n",
        "                    pass\n",
        "training/test_low_rank.py -k merges_nothing",
    ),
    Mutation(
        "LoRA: any folder is replaced by an adapter",
        "training/low_rank.py",
        "    if other or (entries and not is_adapter_folder(folder)):\n",
        "    if False:\n",
        "training/test_low_rank.py -k adapters_folder",
    ),
    Mutation(
        "LoRA: an adapter on other weights is not noticed",
        "checkpoints/adapters.py",
        "if here and not ",
        "if False and not ",
        "training/test_low_rank.py -k each_dtype",
    ),
    Mutation(
        "LoRA: shared beginnings share a draw",
        "model/modeling_clip_hf_transformer.py",
        "any(layer.training and layer.p > 0 for layer in layers)",
        "False",
        "training/test_low_rank.py -k dropout",
    ),
    Mutation(
        "LoRA: beginnings never shared in training",
        "model/modeling_clip_hf_transformer.py",
        "any(layer.training and layer.p > 0 for layer in layers)",
        "True",
        "training/test_low_rank.py -k dropout",
    ),
    Mutation(
        "patch dropout: one draw for the batch",
        "model/modeling_clip_hf_transformer.py",
        "torch.rand(batch, length - 1, device=embeddings.device)",
        "torch.rand(1, length - 1, device=embeddings.device).expand(batch, -1)",
        "training/test_patch_dropout.py -k alone",
    ),
    Mutation(
        "patch dropout: in evaluation too",
        "model/modeling_clip_hf_transformer.py",
        "if self.training and self.patch_dropout:",
        "if self.patch_dropout:",
        "training/test_patch_dropout.py -k training_only",
    ),
    Mutation(
        "patch dropout: no tail",
        "training/patch_dropout.py",
        "self.share if step < self.masked_steps else 0.0",
        "self.share",
        "training/test_patch_dropout.py -k last_share",
    ),
    Mutation(
        "classes: the draw of the template stays",
        "training/pair_losses.py",
        "        self.num_steps += 1\n",
        "",
        "training/test_classes_loss.py -k arithmetic",
    ),
    Mutation(
        "classes: in the order of the data",
        "training/class_prompts.py",
        "sorted(names.items(), key=lambda item: item[1])",
        "list(names.items())[::-1]",
        "training/test_classes_loss.py -k in_order",
    ),
    Mutation(
        "crop: shares of edges instead of areas",
        "data/augmentation.py",
        "area = width * height * generator.uniform(*scale)",
        "area = width * height * generator.uniform(*scale) ** 2",
        "data/test_crop_scale.py -k uniform",
    ),
    Mutation(
        "crop: out of the resized image",
        "data/decoding.py",
        "random_area_window(*image.size, self.crop_scale, generator), threads)\n        crop",
        "random_area_window(*size, self.crop_scale, generator), threads)\n        crop",
        "data/test_crop_scale.py -k as_it_was_read",
    ),
]
