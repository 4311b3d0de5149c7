# Copyright 2026 The clip_hf team. All rights reserved.
# Licensed under the Apache License, Version 2.0; see LICENSE.
"""transformers' common configuration tests on every configuration class, the whole model's with each vision tower."""

import json
import unittest

from model_testers import ClipTester, ResNetTester, TextTester, ViTTester
from transformers_tests.test_configuration_common import ConfigTester

from clip_hf import ClipHFConfig, ClipHFResNetConfig, ClipHFTextConfig, ClipHFViTConfig


# Not arguments of a class of its own.
WRITTEN_BY_TRANSFORMERS = ("model_type", "transformers_version")


class ConfigTest(unittest.TestCase):
    def check(self, config_class: type, model_tester, **kwargs):
        """Run the common tests with the arguments that a configuration of the tester's has in its file."""
        self.model_tester = model_tester
        written = json.loads(model_tester.get_config().to_json_string())
        arguments = {key: value for key, value in written.items() if key not in WRITTEN_BY_TRANSFORMERS}
        ConfigTester(self, config_class=config_class, **kwargs, **arguments).run_common_tests()

    def test_text(self):
        self.check(ClipHFTextConfig, TextTester())

    def test_vit(self):
        self.check(ClipHFViTConfig, ViTTester(), has_text_modality=False)

    def test_resnet(self):
        self.check(ClipHFResNetConfig, ResNetTester(), has_text_modality=False)

    def test_whole_with_vit(self):
        self.check(ClipHFConfig, ClipTester(ViTTester()), has_text_modality=False)

    def test_whole_with_resnet(self):
        self.check(ClipHFConfig, ClipTester(ResNetTester()), has_text_modality=False)
