# Copyright 2026 The clip_hf team. All rights reserved.
# Licensed under the Apache License, Version 2.0; see LICENSE.
"""
transformers' common model tests on every model class, with each vision tower.

What is overridden here says why in its docstring, and checks the same thing in the form that fits the model. The
classes with overrides are no `ModelTesterMixin`s themselves: that one copies all its tests into every subclass, whose
copies would then hide the overrides of the classes further right.
"""

import copy
import unittest
from unittest import mock

import torch
from model_testers import ClassifierTester, ClipTester, ResNetTester, TextTester, ViTTester
from transformers.exporters.exporter_dynamo import DynamoConfig, DynamoExporter
from transformers_tests.test_modeling_common import ModelTesterMixin

from clip_hf import (
    ClipHFForImageClassification,
    ClipHFModel,
    ClipHFResNetModel,
    ClipHFTextModel,
    ClipHFTextModelWithProjection,
    ClipHFVisionModelWithProjection,
    ClipHFViTModel,
)


def with_loss(model_class: type) -> type:
    """A tower whose output has a loss, which no tower has: the tests of training call `backward` on one."""

    class Trainable(model_class):
        def forward(self, *args, **kwargs):
            output = super().forward(*args, **kwargs)
            features = output.get("pooler_output")
            features = next(iter(output.values())) if features is None else features  # the projected ones come first
            output.loss = features.square().mean()
            return output

    return Trainable


class ExportTests:
    """In place of the `ExportTesterMixin` of `ModelTesterMixin`, which is not in the source distribution."""

    def test_export(self):
        """A model exported at one batch size gives the same at another; inputs are checked in eager mode only."""
        for model_class in self.all_model_classes:
            config, inputs = self.model_tester.prepare_config_and_inputs_for_common()
            model = model_class(config).eval()
            batch = torch.export.Dim("batch", min=2)
            shapes = DynamoConfig(dynamic=True, dynamic_shapes={name: {0: batch} for name in inputs})
            exported = DynamoExporter().export(model, inputs, config=shapes)
            smaller = {name: tensor[:3] for name, tensor in inputs.items()}
            with torch.no_grad():
                outputs, expected = exported(**smaller), model(**smaller)
            for name, tensor in expected.items():
                torch.testing.assert_close(outputs[name], tensor, msg=name)


class Overrides:
    """What the overriding tests share."""

    def outputs(self, model_class: type, attn_implementation: str | None = None, config_sets=(), **kwargs):
        """Run a fresh model; the options in `config_sets` are set in its configuration and that of its towers."""
        config, inputs = self.model_tester.prepare_config_and_inputs_for_common()
        for name in config_sets:
            setattr(config, name, True)
            self._set_subconfig_attributes(config, name, True)
        model = model_class._from_config(config, attn_implementation=attn_implementation).eval()
        return model(**self._prepare_for_class(inputs, model_class), **kwargs)


class TextOverrides:
    """A model that takes texts, each of which needs its end-of-text token."""

    def test_model_forward_default_config_values(self):
        """The original makes 0 the end-of-text token: here the texts end with it, too."""
        prepare = self.model_tester.prepare_config_and_inputs_for_common

        def prepare_with_end():
            config, inputs = prepare()
            inputs["input_ids"] = inputs["input_ids"].masked_fill(inputs["input_ids"] == TextTester.eos_token_id, 0)
            return config, inputs

        with mock.patch.object(self.model_tester, "prepare_config_and_inputs_for_common", prepare_with_end):
            super().test_model_forward_default_config_values()


class TextTowerOverrides(TextOverrides):
    """A text tower, alone or under a projection."""

    def test_inputs_embeds_matches_input_ids(self):
        """By the tower's parts, which take embeddings; the tower itself finds the end of a text by its ids."""
        for model_class in self.all_model_classes:
            config, inputs = self.model_tester.prepare_config_and_inputs_for_common()
            model = model_class(config).eval()
            tower = model if model_class is ClipHFTextModel else model.text_model
            with torch.no_grad():
                embeds = tower.embeddings(inputs_embeds=model.get_input_embeddings()(inputs["input_ids"]))
                output = tower.encoder(inputs_embeds=embeds, is_causal=True)
                actual = tower.final_layer_norm(output.last_hidden_state)
                expected = model(**inputs).last_hidden_state
            real = inputs["attention_mask"].bool()
            torch.testing.assert_close(actual[real], expected[real])


class TowerOverrides:
    """A tower with or without projection, which has no loss of its own."""

    def test_training(self):
        """With a loss, see `with_loss`."""
        self.all_model_classes = tuple(map(with_loss, self.all_model_classes))
        super().test_training()

    def check_training_gradient_checkpointing(self, gradient_checkpointing_kwargs=None):
        """With a loss, see `with_loss`."""
        self.all_model_classes = tuple(map(with_loss, self.all_model_classes))
        super().check_training_gradient_checkpointing(gradient_checkpointing_kwargs)


class ImageOverrides(Overrides):
    """A model of images alone."""

    test_resize_embeddings = False  # there is no vocabulary

    def test_model_get_set_embeddings(self):
        """The input embedding of a vision tower is a convolution, not an `nn.Embedding`."""
        for model_class in self.all_model_classes:
            config, inputs = self.model_tester.prepare_config_and_inputs_for_common()
            model = model_class(config).eval()
            embedding = model.get_input_embeddings()
            self.assertIsInstance(embedding, torch.nn.Conv2d)
            self.assertIsNone(model.get_output_embeddings())
            replacement = copy.deepcopy(embedding)
            torch.nn.init.zeros_(replacement.weight)
            before = model(**inputs)[0]
            model.set_input_embeddings(replacement)
            self.assertIs(model.get_input_embeddings(), replacement)
            self.assertFalse(torch.equal(model(**inputs)[0], before))


class ResNetOverrides(ImageOverrides):
    """
    A ResNet, alone or under a head. Its hidden states are feature maps, its one attention the pool's, and gradient
    checkpointing is its own, for transformers' `GradientCheckpointingLayer` would update BatchNorm statistics twice.
    """

    def test_attention_outputs(self):
        """There is one attention, the pool's: the mean is the query; the mean and 2 x 2 positions are the keys."""
        expected = (self.model_tester.batch_size, self.model_tester.num_attention_heads, 1, 5)
        for model_class in self.all_model_classes:
            for options in ({"output_attentions": True}, {"config_sets": ["output_attentions"]}):
                attentions = self.outputs(model_class, "eager", **options).attentions
                self.assertEqual([tuple(attention.shape) for attention in attentions], [expected])
                torch.testing.assert_close(attentions[0].sum(-1), torch.ones(expected[:-1]))

    def test_hidden_states_output(self):
        """Feature maps `(batch, channels, height, width)` of the stem and each stage."""
        width, size = self.model_tester.width, self.model_tester.image_size
        shapes = [(width, size // 4)] + [(width * 2**stage * 4, size // 4 // 2**stage) for stage in range(4)]
        expected = [(self.model_tester.batch_size, channels, side, side) for channels, side in shapes]
        for model_class in self.all_model_classes:
            for options in ({"output_hidden_states": True}, {"config_sets": ["output_hidden_states"]}):
                hidden_states = self.outputs(model_class, **options).hidden_states
                self.assertEqual([tuple(hidden_state.shape) for hidden_state in hidden_states], expected)

    def test_retain_grad_hidden_states_attentions(self):
        """From the features, not the first output: the pool's attention comes after the last feature map."""
        for model_class in self.all_model_classes:
            outputs = self.outputs(model_class, "eager", output_hidden_states=True, output_attentions=True)
            features = next(value for value in outputs.values() if torch.is_tensor(value) and value.ndim == 2)
            recorded = (outputs.hidden_states[0], outputs.attentions[0])
            for tensor in recorded:
                tensor.retain_grad()
            features.flatten()[0].backward()
            for tensor in recorded:
                self.assertGreater(tensor.grad.abs().sum().item(), 0)

    def test_gradient_checkpointing_enable_disable(self):
        """The stages checkpoint, not a `GradientCheckpointingLayer`."""
        for model_class in self.all_model_classes:
            model = model_class(self.model_tester.get_config())
            stages = [module for module in model.modules() if hasattr(module, "gradient_checkpointing")]
            self.assertEqual([stage.gradient_checkpointing for stage in stages], [False] * 4)
            model.activation_checkpointing_enable()
            self.assertTrue(model.is_activation_checkpointing)
            self.assertEqual([stage.gradient_checkpointing for stage in stages], [True] * 4)
            model.activation_checkpointing_disable()
            self.assertFalse(model.is_activation_checkpointing)
            self.assertEqual([stage.gradient_checkpointing for stage in stages], [False] * 4)

    def check_training_gradient_checkpointing(self, gradient_checkpointing_kwargs=None):
        """Stricter than the original: the same gradients and BatchNorm statistics, and every stage runs twice."""
        for model_class in self.all_model_classes:
            config, inputs = self.model_tester.prepare_config_and_inputs_for_common()
            model = with_loss(model_class)(config).train()
            checkpointed = copy.deepcopy(model)
            checkpointed.activation_checkpointing_enable(gradient_checkpointing_kwargs)
            convolutions = [module for module in checkpointed.modules() if isinstance(module, torch.nn.Conv2d)]
            runs = {id(convolution): 0 for convolution in convolutions}

            def count(module, *_, runs=runs):
                runs[id(module)] += 1

            for convolution in convolutions:
                convolution.register_forward_hook(count)
            for one in (model, checkpointed):
                one(**inputs).loss.backward()
            in_stem, in_stages = list(runs.values())[:3], list(runs.values())[3:]
            self.assertEqual((set(in_stem), set(in_stages)), ({1}, {2}))
            gradients = {name: parameter.grad for name, parameter in model.named_parameters()}
            for name, parameter in checkpointed.named_parameters():
                torch.testing.assert_close(parameter.grad, gradients[name])
            torch.testing.assert_close(dict(checkpointed.named_buffers()), dict(model.named_buffers()))


class WholeModelOverrides(TextOverrides, Overrides):
    """
    `ClipHFModel`. Hidden states and attentions are in the outputs of the towers, `text_model_output` and
    `vision_model_output`, as in transformers' CLIP; their shapes are checked in the towers' own tests.
    """

    _is_composite = True
    all_model_classes = (ClipHFModel,)
    additional_model_inputs = ["pixel_values", "attention_mask"]

    def _prepare_for_class(self, inputs_dict, model_class, return_labels=False):
        inputs_dict = super()._prepare_for_class(inputs_dict, model_class, return_labels)
        return {**inputs_dict, "return_loss": True} if return_labels else inputs_dict

    def test_training(self):
        """Under another name: the tests pass over base models, which have no loss but here."""
        self.all_model_classes = (type("Trainable", (ClipHFModel,), {}),)
        super().test_training()

    def check_training_gradient_checkpointing(self, gradient_checkpointing_kwargs=None):
        """Under another name, see `test_training`."""
        self.all_model_classes = (type("Trainable", (ClipHFModel,), {}),)
        super().check_training_gradient_checkpointing(gradient_checkpointing_kwargs)

    def check_recorded(self, name: str, text_count: int, vision_count: int):
        """Both towers' outputs hold so many tensors, and they are asked for by argument or by configuration."""
        for options in ({f"output_{name}": True}, {"config_sets": [f"output_{name}"]}, {}):
            outputs = self.outputs(ClipHFModel, "eager", **options)
            recorded = [output.get(name) for output in (outputs.text_model_output, outputs.vision_model_output)]
            expected = [text_count, vision_count] if options else [0, 0]
            self.assertEqual([len(tensors or ()) for tensors in recorded], expected)

    def test_attention_outputs(self):
        """In the towers' outputs."""
        self.check_recorded("attentions", 2, self._image_features_get_expected_num_attentions())

    def test_hidden_states_output(self):
        """In the towers' outputs."""
        self.check_recorded("hidden_states", 3, self._image_features_get_expected_num_hidden_states())

    def test_retain_grad_hidden_states_attentions(self):
        """In the towers' outputs."""
        outputs = self.outputs(ClipHFModel, "eager", output_hidden_states=True, output_attentions=True)
        towers = (outputs.text_model_output, outputs.vision_model_output)
        recorded = [tensors[0] for tower in towers for tensors in (tower.hidden_states, tower.attentions)]
        for tensor in recorded:
            tensor.retain_grad()
        outputs.logits_per_image.flatten()[0].backward()
        for tensor in recorded:
            self.assertGreater(tensor.grad.abs().sum().item(), 0)


class ClassifierOverrides:
    """`ClipHFForImageClassification`."""

    all_model_classes = (ClipHFForImageClassification,)

    def _prepare_for_class(self, inputs_dict, model_class, return_labels=False):
        inputs_dict = super()._prepare_for_class(inputs_dict, model_class, return_labels)
        labels = torch.zeros(self.model_tester.batch_size, dtype=torch.long)
        return {**inputs_dict, "labels": labels} if return_labels else inputs_dict


class TextModelTest(TextTowerOverrides, TowerOverrides, ExportTests, ModelTesterMixin, unittest.TestCase):
    all_model_classes = (ClipHFTextModel,)

    def setUp(self):
        self.model_tester = TextTester()


class TextModelWithProjectionTest(TextModelTest):
    all_model_classes = (ClipHFTextModelWithProjection,)


class ViTModelTest(TowerOverrides, ImageOverrides, ExportTests, ModelTesterMixin, unittest.TestCase):
    all_model_classes = (ClipHFViTModel,)

    def setUp(self):
        self.model_tester = ViTTester()


class ViTModelWithProjectionTest(ViTModelTest):
    all_model_classes = (ClipHFVisionModelWithProjection,)


class ResNetModelTest(ResNetOverrides, TowerOverrides, ExportTests, ModelTesterMixin, unittest.TestCase):
    all_model_classes = (ClipHFResNetModel,)

    def setUp(self):
        self.model_tester = ResNetTester()


class ResNetModelWithProjectionTest(ResNetModelTest):
    all_model_classes = (ClipHFVisionModelWithProjection,)


class ViTWholeModelTest(WholeModelOverrides, ExportTests, ModelTesterMixin, unittest.TestCase):
    def setUp(self):
        self.model_tester = ClipTester(ViTTester())


class ResNetWholeModelTest(WholeModelOverrides, ExportTests, ModelTesterMixin, unittest.TestCase):
    # The last hidden state is a feature map, whose last dimension is its width.
    skip_test_image_features_output_shape = True

    def setUp(self):
        self.model_tester = ClipTester(ResNetTester())

    def _image_features_get_expected_num_attentions(self, model_tester=None):
        """The attention pool's."""
        return 1

    def _image_features_get_expected_num_hidden_states(self, model_tester=None):
        """The stem's and each stage's feature map."""
        return 5


class ViTClassifierTest(ClassifierOverrides, ImageOverrides, ExportTests, ModelTesterMixin, unittest.TestCase):
    # The classifier stands on the patches, as transformers' does; the last LayerNorm is the class token's and idle.
    test_all_params_have_gradient = False

    def setUp(self):
        self.model_tester = ClassifierTester(ViTTester())


class ResNetClassifierTest(ResNetOverrides, ClassifierOverrides, ExportTests, ModelTesterMixin, unittest.TestCase):
    def setUp(self):
        self.model_tester = ClassifierTester(ResNetTester())
