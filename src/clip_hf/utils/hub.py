# Copyright 2026 The clip_hf team. All rights reserved.
# Licensed under the Apache License, Version 2.0; see LICENSE.
"""Whether the hub can be reached: one question instead of the six that each download asks, over 23 seconds."""

from pathlib import Path

from huggingface_hub import HfApi
from huggingface_hub.constants import HF_HUB_CACHE
from huggingface_hub.errors import HfHubHTTPError, HFValidationError, OfflineModeIsEnabled


_TIMEOUT_S = 10.0


def check_hub(name: str, repo_type: str = "model") -> None:
    """Raise a `ConnectionError` if the hub does not answer and nothing of this repo was downloaded before."""
    if Path(HF_HUB_CACHE, f"{repo_type}s--{name.replace('/', '--')}").exists():
        return
    try:
        HfApi().repo_info(name, repo_type=repo_type, timeout=_TIMEOUT_S)
    except (HfHubHTTPError, HFValidationError, OfflineModeIsEnabled):
        pass  # the loading library says it better, and at once
    except Exception as error:  # clients of HTTP raise many types
        raise ConnectionError(f"the hub does not answer, {str(error) or type(error).__name__}") from error
