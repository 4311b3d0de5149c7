# Copyright 2026 The clip_hf team. All rights reserved.
# Licensed under the Apache License, Version 2.0; see LICENSE.
"""Faults in films: which frames are read, what becomes of them in a model, and which moments are found."""

from .mutation import Mutation


MUTATIONS = [
    Mutation(
        "a frame's own time finds the one before",
        "model/video_reading_clip_hf.py",
        "Fraction(math.nextafter(float(time), math.inf))",
        "Fraction(float(time))",
        "video/test_reading_frames.py -k own_time",
    ),
    Mutation(
        "segments take their first frame",
        "model/video_reading_clip_hf.py",
        "max(length - 1, Fraction(0)) * (v + 1) / (self.num_views + 1)",
        "max(length - 1, Fraction(0)) * v / (self.num_views + 1)",
        "video/test_reading_frames.py -k 'middle or views'",
    ),
    Mutation(
        "one draw for all segments",
        "model/video_reading_clip_hf.py",
        "for draw in generator.random(self.num_frames)]",
        "for draw in [generator.random()] * self.num_frames]",
        "video/test_reading_frames.py -k random_frames",
    ),
    Mutation(
        "frames count by their length",
        "model/modeling_clip_hf_video.py",
        "    frames = nn.functional.normalize(features, dim=-1)\n",
        "    frames = features\n",
        "model/test_modeling_clip_hf_video.py -m 'not slow' -k 'reference or plain or meanP'",
    ),
    Mutation(
        "the convolution mixes the channels of a frame",
        "model/modeling_clip_hf_video.py",
        "convolved = self.conv(frames.transpose(1, 2)).transpose(1, 2)",
        "convolved = self.conv(frames.reshape(frames.transpose(1, 2).shape)).reshape(frames.shape)",
        "model/test_modeling_clip_hf_video.py -m 'not slow' -k 'reference or plain or Conv_1D'",
    ),
    Mutation(
        "positions stay in the embedding",
        "model/modeling_clip_hf_video.py",
        "return (frames + hidden_states - positions).mean(dim=1)",
        "return (frames + hidden_states).mean(dim=1)",
        "model/test_modeling_clip_hf_video.py -m 'not slow' -k 'reference or plain or Transf'",
    ),
    Mutation(
        "the loss in one direction",
        "model/video_loss_clip_hf.py",
        "(per_image + mean_divergence(texts, all_images, scale, targets)) / 2",
        "per_image",
        "model/test_video_loss_clip_hf.py -m 'not slow'",
    ),
    Mutation(
        "cross-entropy instead of the divergence",
        "model/video_loss_clip_hf.py",
        "torch.xlogy(targets, targets) - targets * log_probabilities",
        "-targets * log_probabilities",
        "model/test_video_loss_clip_hf.py -m 'not slow'",
    ),
    Mutation(
        "frames count alike, however long they stay",
        "search/moment_merging.py",
        "upto = np.cumsum(seconds[order])",
        "upto = np.cumsum(np.ones(len(order)))",
        "search/test_moment_merging.py",
    ),
    Mutation(
        "moments go on over a gap",
        "search/moment_merging.py",
        "joined = np.append(False, starts[1:] - ends[:-1] <= _SAME_SECOND) & ~breaks",
        "joined = np.append(False, np.ones(len(starts) - 1, bool)) & ~breaks",
        "search/test_moment_merging.py",
    ),
    Mutation(
        "views share their features with other numbers of views",
        "embedding/video_encoder.py",
        "frames = [self.clip.num_frames, self.clip.num_views, package_version",
        "frames = [self.clip.num_frames, package_version",
        "embedding/test_video_encoder.py -m 'not slow' -k fingerprint",
    ),
]
