# Copyright 2026 The clip_hf team. All rights reserved.
# Licensed under the Apache License, Version 2.0; see LICENSE.
"""Model cards: what a model is, what it was trained on, and how well it does, as hubs read and show it."""

from .card import ModelCardDetails, create_model_card, push_with_model_card, update_model_card, write_model_card


__all__ = ["ModelCardDetails", "create_model_card", "push_with_model_card", "update_model_card", "write_model_card"]
