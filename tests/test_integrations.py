# Copyright 2026 The clip_hf team. All rights reserved.
# Licensed under the Apache License, Version 2.0; see LICENSE.
"""Other people's code on a saved repo of ours, as their users would run it."""

from functools import partial

import datasets
import evaluate
import numpy as np
import pytest
import torch
from accelerate import Accelerator, cpu_offload, init_empty_weights, load_checkpoint_and_dispatch
from peft import LoraConfig, PeftModel, TrainableTokensConfig, get_peft_model
from sentence_transformers import SentenceTransformer
from sentence_transformers.sentence_transformer.modules import CLIPModel as SentenceTransformersCLIP
from transformers import AutoModel, AutoProcessor, Trainer, TrainingArguments, pipeline

from clip_hf import ClipHFForImageClassification, ClipHFImageProcessor, ClipHFModel
from tiny_models import CAPTIONS, make_tiny_model, tiny_config


@pytest.fixture
def repo(tower, tiny_processor, tmp_path):
    """A folder with a model of either tower and its processor."""
    model = make_tiny_model(tower)
    model.save_pretrained(tmp_path)
    tiny_processor.save_pretrained(tmp_path)
    return tmp_path


@pytest.fixture
def batch(tiny_processor, images):
    return tiny_processor(text=CAPTIONS, images=images, padding=True, return_tensors="pt")


class TestPeft:
    def test_lora_trains_only_its_own_weights_and_merges(self, repo, batch, tmp_path):
        # In double precision, where to merge the weights makes no difference but rounding's last digits.
        batch = {key: value.double() if value.is_floating_point() else value for key, value in batch.items()}
        load = partial(ClipHFModel.from_pretrained, repo, dtype=torch.float64)
        model = load().eval()
        with torch.no_grad():
            plain = model(**batch).logits_per_image
        config = LoraConfig(r=4, target_modules=["q_proj", "v_proj"], init_lora_weights=True)
        tuned = get_peft_model(load().eval(), config)
        adapted = [name for name, module in tuned.named_modules() if hasattr(module, "lora_A")]
        assert any("text_model" in name for name in adapted)
        assert any("vision_model" in name for name in adapted)
        before = {name: parameter.clone() for name, parameter in tuned.named_parameters()}
        optimizer = torch.optim.AdamW(tuned.parameters(), lr=0.01)
        for _ in range(3):
            optimizer.zero_grad()
            loss = tuned(**batch, return_loss=True).loss
            loss.backward()
            optimizer.step()
        changed = {name for name, parameter in tuned.named_parameters() if not torch.equal(parameter, before[name])}
        assert changed
        assert all("lora_" in name for name in changed)
        with torch.no_grad():
            expected = tuned(**batch).logits_per_image
        assert (expected - plain).abs().max() > 1e-3
        tuned.save_pretrained(tmp_path / "adapter")
        loaded = PeftModel.from_pretrained(load().eval(), tmp_path / "adapter")
        with torch.no_grad():
            again = loaded(**batch).logits_per_image
            merged = loaded.merge_and_unload()(**batch).logits_per_image
        for actual in (again, merged):
            torch.testing.assert_close(actual, expected, rtol=1e-10, atol=1e-10)

    CASES = {
        "token embedding": {"target_modules": ["token_embedding"]},
        "position embeddings": {"target_modules": ["position_embedding"]},
        "tokens beside LoRA": {
            "target_modules": ["q_proj"],
            "trainable_token_indices": {"token_embedding": [1, 5, 599]},
        },
        "projections": {"target_modules": ["visual_projection", "text_projection"]},
        "convolutions": {"target_modules": ["conv1", "conv2", "conv3", "patch_embedding"]},
        "whole embeddings": {
            "target_modules": ["q_proj"],
            "modules_to_save": ["token_embedding", "position_embedding"],
        },
        "normalisation": {"target_modules": ["q_proj"], "modules_to_save": ["bn1", "layer_norm1"]},
        "features": {"target_modules": ["q_proj"], "task_type": "FEATURE_EXTRACTION"},
        "tokens": TrainableTokensConfig(target_modules=["token_embedding"], token_indices=[5, 599]),
    }

    @pytest.mark.slow_but_for("vit", "resnet-features")
    @pytest.mark.parametrize("case", CASES)
    def test_whatever_is_adapted_trains_is_saved_and_merges(self, case, repo, batch, tmp_path):
        config = self.CASES[case]
        load = partial(ClipHFModel.from_pretrained, repo, dtype=torch.float64)
        batch = {key: value.double() if value.is_floating_point() else value for key, value in batch.items()}
        with torch.no_grad():
            plain = load().eval()(**batch).logits_per_image
        tuned = get_peft_model(load().eval(), LoraConfig(r=4, **config) if isinstance(config, dict) else config)
        torch.testing.assert_close(tuned(**batch).logits_per_image, plain)
        optimizer = torch.optim.AdamW([one for one in tuned.parameters() if one.requires_grad], lr=0.05)
        for _ in range(2):
            optimizer.zero_grad()
            tuned(**batch, return_loss=True, return_logits=False).loss.backward()
            optimizer.step()
        tuned.save_pretrained(tmp_path / "adapter")
        loaded = PeftModel.from_pretrained(load().eval(), tmp_path / "adapter").eval()
        with torch.no_grad():
            expected = tuned(**batch).logits_per_image
            assert (expected - plain).abs().max() > 0.1
            torch.testing.assert_close(loaded(**batch).logits_per_image, expected, rtol=1e-8, atol=1e-8)
            texts = {name: batch[name] for name in ("input_ids", "attention_mask")}
            merged = loaded.merge_and_unload()
            torch.testing.assert_close(merged(**batch).logits_per_image, expected, rtol=1e-8, atol=1e-8)
            embeds = merged.encode_text(**texts)
            torch.testing.assert_close(tuned.encode_text(**texts), embeds, rtol=1e-8, atol=1e-8)

    def test_ids_are_checked_under_an_adapter(self):
        model = get_peft_model(make_tiny_model("vit"), LoraConfig(r=4, target_modules=["token_embedding"]))
        with pytest.raises(ValueError, match="ids from 598 to 600; the model's vocabulary has 600"):
            model(input_ids=torch.tensor([[598, 600, 599]]))


class TestAccelerate:
    def test_prepared_model_trains_and_its_state_comes_back(self, repo, batch, tmp_path):
        accelerator = Accelerator(cpu=True)
        model = ClipHFModel.from_pretrained(repo)
        model, optimizer = accelerator.prepare(model, torch.optim.AdamW(model.parameters(), lr=1e-3))
        accelerator.save_state(tmp_path / "state")
        losses = []
        for _ in range(2):
            accelerator.load_state(tmp_path / "state")
            for _ in range(3):
                loss = model(**batch, return_loss=True).loss
                accelerator.backward(loss)
                optimizer.step()
                optimizer.zero_grad()
            losses.append(loss.item())
        assert losses[0] == losses[1]

    def test_weights_are_loaded_into_an_empty_model_and_offloaded(self, repo, batch):
        expected = ClipHFModel.from_pretrained(repo).eval()
        with init_empty_weights():
            model = ClipHFModel(expected.config)
        model = load_checkpoint_and_dispatch(model, str(repo), device_map={"": "cpu"}).eval()
        offloaded = cpu_offload(ClipHFModel.from_pretrained(repo).eval(), execution_device="cpu")
        placed = ClipHFModel.from_pretrained(repo, device_map="cpu").eval()
        with torch.no_grad():
            logits = expected(**batch).logits_per_image
            for other in (model, offloaded, placed):
                torch.testing.assert_close(other(**batch).logits_per_image, logits)


class TestSentenceTransformers:
    @pytest.mark.parametrize("kind", ["module", "whole"])
    def test_embeddings_are_ours(self, kind, repo, images):
        if kind == "module":
            theirs = SentenceTransformer(modules=[SentenceTransformersCLIP(str(repo))], device="cpu")
        else:
            theirs = SentenceTransformer(str(repo), device="cpu")
        model, processor = AutoModel.from_pretrained(repo).eval(), AutoProcessor.from_pretrained(repo)
        texts = CAPTIONS[:3]
        with torch.no_grad():
            text_features = model.get_text_features(**processor(text=texts, padding=True, return_tensors="pt"))
            image_features = model.get_image_features(**processor(images=images, return_tensors="pt"))
        for inputs, features in ((texts, text_features), (images, image_features)):
            embeddings = torch.as_tensor(theirs.encode(inputs))
            torch.testing.assert_close(embeddings, features.pooler_output, rtol=1e-4, atol=1e-5)


class Accuracy(evaluate.Metric):
    """`evaluate`'s own accuracy is on the hub; this is the same, for a machine without one."""

    def _info(self):
        features = datasets.Features({"predictions": datasets.Value("int32"), "references": datasets.Value("int32")})
        return evaluate.MetricInfo(description="accuracy", citation="", features=features)

    def _compute(self, predictions, references):
        return {"accuracy": float(np.mean(np.asarray(predictions) == np.asarray(references)))}


def test_a_metric_of_evaluate_takes_a_classifiers_results(tower, tiny_processor, images, tmp_path):
    # Not through `evaluate.evaluator`, which asks transformers 5 for a TensorFlow class, whatever the model.
    torch.manual_seed(0)
    config = tiny_config(tower, id2label={0: "red", 1: "blue"}, label2id={"red": 0, "blue": 1})
    ClipHFForImageClassification(config).save_pretrained(tmp_path)
    tiny_processor.image_processor.save_pretrained(tmp_path)
    classifier = pipeline("image-classification", model=str(tmp_path), device="cpu")
    assert type(classifier.model) is ClipHFForImageClassification
    assert type(classifier.image_processor) is ClipHFImageProcessor
    metric = Accuracy()
    predicted = [config.label2id[result[0]["label"]] for result in classifier(images)]
    metric.add_batch(predictions=predicted[:3], references=predicted[:3])
    metric.add_batch(predictions=predicted[3:], references=[predicted[3], 1 - predicted[4]])
    assert metric.compute()["accuracy"] == pytest.approx(0.8)


def trainer_for(model, collate, folder, rows, **arguments):
    common = {"per_device_train_batch_size": 5, "remove_unused_columns": False, "report_to": [], "use_cpu": True}
    arguments = TrainingArguments(str(folder), save_strategy="no", **common, **arguments)
    data = datasets.Dataset.from_dict(rows)
    return Trainer(model, arguments, collate, train_dataset=data, eval_dataset=data)


@pytest.mark.slow_but_for("vit")
def test_trainer_trains_evaluates_and_saves(repo, tiny_processor, images, tmp_path):
    def collate(rows):
        texts, pictures = [row["caption"] for row in rows], [row["image"] for row in rows]
        inputs = tiny_processor(text=texts, images=pictures, padding=True, return_tensors="pt")
        return {**inputs, "return_loss": True}

    model, rows = ClipHFModel.from_pretrained(repo), {"image": images, "caption": CAPTIONS}
    trainer = trainer_for(model, collate, tmp_path / "run", rows, max_steps=20, learning_rate=3e-3)
    first = trainer.evaluate()["eval_loss"]
    trainer.train()
    assert trainer.evaluate()["eval_loss"] < 0.7 * first
    trainer.save_model(tmp_path / "saved")
    saved = ClipHFModel.from_pretrained(tmp_path / "saved")
    for name, value in trainer.model.state_dict().items():
        assert torch.equal(saved.state_dict()[name], value), name


@pytest.mark.slow_but_for("vit")
def test_trainer_averages_accumulated_batches(tower, tiny_processor, images, tmp_path):
    def collate(rows):
        inputs = tiny_processor(images=[row["image"] for row in rows], return_tensors="pt")
        return {**inputs, "labels": torch.tensor([row["label"] for row in rows])}

    options = {"max_steps": 1, "optim": "sgd", "learning_rate": 0.1, "max_grad_norm": 0.0}
    options["train_sampling_strategy"] = "sequential"
    rows = {"image": images * 3, "label": [0, 1, 1, 0, 1] * 3}
    steps = []
    for accumulated in (1, 3):  # of the same five images
        torch.manual_seed(0)
        model = ClipHFForImageClassification(tiny_config(tower))
        before = model.classifier.weight.detach().clone()
        trainer_for(model, collate, tmp_path, rows, gradient_accumulation_steps=accumulated, **options).train()
        steps.append(model.classifier.weight.detach() - before)
    assert steps[0].abs().max() > 1e-4
    torch.testing.assert_close(steps[1], steps[0], rtol=1e-3, atol=1e-6)
