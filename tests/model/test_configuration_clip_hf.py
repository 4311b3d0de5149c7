# Copyright 2026 The clip_hf team. All rights reserved.
# Licensed under the Apache License, Version 2.0; see LICENSE.
import json
import logging

import pytest
import torch
from transformers import (
    AutoConfig,
    BertConfig,
    CLIPConfig,
    CLIPTextConfig,
    CLIPVisionConfig,
    SiglipConfig,
    SiglipTextConfig,
    SiglipVisionConfig,
)

from clip_hf import (
    ARCHITECTURES,
    ClipHFConfig,
    ClipHFImageProcessor,
    ClipHFModel,
    ClipHFProcessor,
    ClipHFResNetConfig,
    ClipHFTextConfig,
    ClipHFTextModel,
    ClipHFTextModelWithProjection,
    ClipHFTokenizer,
    ClipHFVisionModelWithProjection,
    ClipHFViTConfig,
    ClipHFViTModel,
)
from clip_hf.model.configuration_clip_hf import ClipHFVisionConfig


# Radford et al. 2021, tables 19 and 20, in millions; counted in the published weights.
PARAMETERS = {
    "RN50": 102.01,
    "RN101": 119.69,
    "RN50x4": 178.3,
    "RN50x16": 290.98,
    "RN50x64": 623.26,
    "ViT-B/32": 151.28,
    "ViT-B/16": 149.62,
    "ViT-L/14": 427.62,
    "ViT-L/14@336px": 427.94,
}


@pytest.fixture
def clip_hf_log(caplog):
    """The log of transformers' loggers, which do not propagate to pytest's by themselves."""
    loggers = [logging.getLogger("transformers"), logging.getLogger("clip_hf")]
    for logger in loggers:
        logger.addHandler(caplog.handler)
    yield caplog
    for logger in loggers:
        logger.removeHandler(caplog.handler)


@pytest.mark.parametrize("name", ARCHITECTURES)
def test_architectures_have_the_published_number_of_parameters(name):
    with torch.device("meta"):
        model = ClipHFModel(ClipHFConfig.from_architecture(name))
    millions = sum(parameter.numel() for parameter in model.parameters()) / 1e6
    assert millions == pytest.approx(PARAMETERS[name], abs=0.006)
    assert (model.visual_projection.bias is not None) == name.startswith("RN")
    assert model.text_projection.bias is None


def test_architectures_are_the_nine_published_ones():
    assert set(ARCHITECTURES) == set(PARAMETERS)


@pytest.mark.parametrize("name", ARCHITECTURES)
def test_every_head_of_a_published_model_is_64_wide(name):
    config = ClipHFConfig.from_architecture(name)
    for tower in (config.text_config, config.vision_config):
        assert tower.hidden_size == 64 * tower.num_attention_heads


def test_published_models_have_quick_gelu_and_openais_epsilon_and_context():
    config = ClipHFConfig.from_architecture("ViT-B/32")
    for tower in (config.text_config, config.vision_config):
        assert (tower.hidden_act, tower.layer_norm_eps, tower.attention_dropout) == ("quick_gelu", 1e-5, 0)
    assert config.text_config.max_position_embeddings == 77
    assert config.logit_bias_init_value is None


def test_architecture_arguments_can_be_overruled_and_are_not_shared():
    config = ClipHFConfig.from_architecture("RN50", logit_scale_init_value=1.0)
    config.vision_config.stage_depths.append(9)
    assert config.logit_scale_init_value == 1.0
    assert ClipHFConfig.from_architecture("RN50").vision_config.stage_depths == [3, 4, 6, 3]


def test_unknown_architecture_names_all_and_the_nearest():
    with pytest.raises(ValueError, match=r"no architecture 'ViT-B-32'. Did you mean 'ViT-B/32'.*RN50x64"):
        ClipHFConfig.from_architecture("ViT-B-32")


@pytest.mark.parametrize("name", ["RN50x4", "ViT-L/14@336px"])
def test_saved_config_loads_as_the_same(name, tmp_path):
    config = ClipHFConfig.from_architecture(name)
    config.save_pretrained(tmp_path)
    for loaded in (ClipHFConfig.from_pretrained(tmp_path), AutoConfig.from_pretrained(tmp_path)):
        assert type(loaded.vision_config) is type(config.vision_config)
        loaded.name_or_path = ""
        assert loaded.to_dict() == config.to_dict()


@pytest.mark.parametrize(("name", "cls"), [("RN50", ClipHFResNetConfig), ("ViT-B/16", ClipHFViTConfig)])
def test_towers_load_from_a_whole_models_config(name, cls, tmp_path, clip_hf_log):
    config = ClipHFConfig.from_architecture(name)
    config.save_pretrained(tmp_path)
    assert ClipHFTextConfig.from_pretrained(tmp_path).to_dict() == config.text_config.to_dict()
    vision_config = ClipHFVisionConfig.from_pretrained(tmp_path)
    assert type(vision_config) is cls
    assert vision_config.to_dict() == config.vision_config.to_dict()
    assert clip_hf_log.text == ""


@pytest.mark.parametrize(
    ("cls", "arguments", "message"),
    [
        (ClipHFTextConfig, {"hidden_size": -1}, "`hidden_size` is -1; it must be greater than 0"),
        (ClipHFTextConfig, {"num_attention_heads": 7}, "`hidden_size` 512 .* `num_attention_heads` 7"),
        (ClipHFTextConfig, {"num_attention_heads": 0}, "`num_attention_heads` is 0"),
        (ClipHFTextConfig, {"hidden_size": "512"}, "'hidden_size' expected int, got str"),
        (ClipHFTextConfig, {"hidden_act": "quickgelu"}, "`hidden_act` is 'quickgelu'.*'quick_gelu' for OpenAI's"),
        (ClipHFTextConfig, {"vocab_size": 100, "eos_token_id": 100}, "`eos_token_id` is 100.*vocabulary of 100"),
        (ClipHFTextConfig, {"attention_dropout": 1.5}, "`attention_dropout` is 1.5; it must be at least 0"),
        (ClipHFTextConfig, {"attention_dropout": 1.0}, "`attention_dropout` is 1.0; it must be at least 0"),
        (ClipHFTextConfig, {"layer_norm_eps": float("nan")}, "`layer_norm_eps` is nan; it must be greater than 0"),
        (
            ClipHFTextConfig,
            {"hidden_sise": 512},
            r"Unknown option `hidden_sise` of ClipHFTextConfig. Did you mean `hidden_size`\?",
        ),
        (ClipHFTextConfig, {"max_position_embeddings": 0}, "`max_position_embeddings` is 0"),
        (ClipHFViTConfig, {"patch_size": 225}, "`patch_size` 225 is larger than `image_size` 224"),
        (ClipHFViTConfig, {"image_size": 0}, "`image_size` is 0"),
        (ClipHFViTConfig, {"layer_norm_eps": 0.0}, "`layer_norm_eps` is 0.0"),
        (ClipHFResNetConfig, {"stage_depths": [3, 4, 6]}, r"`stage_depths` is \[3, 4, 6\]; it must be four"),
        (ClipHFResNetConfig, {"stage_depths": [3, 4, 0, 3]}, r"`stage_depths` is \[3, 4, 0, 3\]"),
        (ClipHFResNetConfig, {"width": 7}, "`width` is 7; it must be even"),
        (ClipHFResNetConfig, {"image_size": 30}, "`image_size` is 30; it must be at least 31"),
        (ClipHFResNetConfig, {"num_attention_heads": 7}, "`hidden_size` 2048 .* `num_attention_heads` 7"),
        (ClipHFConfig, {"projection_dim": 0}, "`projection_dim` is 0"),
        (ClipHFConfig, {"text_config": {"projection_dim": 64}}, "`text_config.projection_dim` is 64 and .* 512"),
        (ClipHFConfig, {"vision_config": {"model_type": "siglip"}}, "'siglip'; it must be one of 'clip_hf_vit', "),
        (ClipHFConfig, {"vision_config": {"widht": 64}}, "Unknown option `widht`"),
    ],
)
def test_impossible_options_are_refused(cls, arguments, message):
    with pytest.raises(ValueError, match=message):
        cls(**arguments)


def test_the_largest_and_smallest_that_are_possible_are_taken():
    assert ClipHFTextConfig(hidden_size=2**16, attention_dropout=0.0).hidden_size == 2**16
    assert ClipHFViTConfig(patch_size=224).grid_size == 1
    assert ClipHFResNetConfig(image_size=31, stage_depths=[1, 1, 1, 1000]).grid_size == 1
    assert ClipHFTextConfig(vocab_size=100, bos_token_id=0, eos_token_id=99).pad_token_id == 99


def test_what_a_config_is_read_from_is_not_changed():
    for model_type in ("clip", "clip_hf"):
        content = {"model_type": model_type, "projection_dim": 64, "text_config": {}, "vision_config": {}}
        before = json.loads(json.dumps(content))
        assert ClipHFConfig.from_dict(content).text_config.projection_dim == 64
        assert content == before


def test_unknown_option_in_a_file_is_kept_and_named(tmp_path, clip_hf_log):
    ClipHFConfig.from_architecture("RN50").save_pretrained(tmp_path)
    path = tmp_path / "config.json"
    contents = json.loads(path.read_text())
    contents["vision_config"]["from_the_future"] = 1
    path.write_text(json.dumps(contents))
    config = ClipHFConfig.from_pretrained(tmp_path)
    assert config.vision_config.from_the_future == 1
    assert "Unknown option `from_the_future` of ClipHFResNetConfig" in clip_hf_log.text


def test_special_token_ids_default_to_the_last_two():
    config = ClipHFTextConfig(vocab_size=1000)
    assert (config.bos_token_id, config.eos_token_id, config.pad_token_id) == (998, 999, 999)
    config = ClipHFTextConfig()
    assert (config.bos_token_id, config.eos_token_id) == (49406, 49407)


@pytest.mark.parametrize(
    ("image_size", "grid_size"), [(224, 7), (288, 9), (384, 12), (448, 14), (64, 2), (31, 1), (63, 2), (100, 3)]
)
def test_resnet_grid_is_the_one_the_tower_makes(image_size, grid_size):
    config = ClipHFResNetConfig(image_size=image_size)
    assert config.grid_size == grid_size
    with torch.device("meta"):
        model = ClipHFModel(ClipHFConfig(projection_dim=1024, vision_config=config)).eval().vision_model
        output = model(torch.empty(1, 3, image_size, image_size))
    assert tuple(output.last_hidden_state.shape[2:]) == (grid_size, grid_size)


class TestConfigOfTransformers:
    """A config.json of type `clip` becomes ours."""

    def test_every_value_is_carried_over(self, tmp_path, clip_hf_log):
        theirs = CLIPConfig(
            text_config={"hidden_size": 64, "num_attention_heads": 2, "hidden_act": "gelu", "layer_norm_eps": 1e-6},
            vision_config={"hidden_size": 96, "num_attention_heads": 3, "patch_size": 14, "image_size": 56},
            projection_dim=48,
            logit_scale_init_value=2.5,
        )
        theirs.save_pretrained(tmp_path)
        ours = ClipHFConfig.from_pretrained(tmp_path)
        assert ours.model_type == "clip_hf"
        assert (ours.projection_dim, ours.logit_scale_init_value) == (48, 2.5)
        shared = set(ours.text_config.to_dict()) & set(theirs.text_config.to_dict()) - {"model_type", "projection_dim"}
        assert shared >= {"hidden_size", "hidden_act", "layer_norm_eps", "eos_token_id", "vocab_size"}
        for name in shared:
            assert getattr(ours.text_config, name) == getattr(theirs.text_config, name), name
        for name in ("hidden_size", "num_attention_heads", "patch_size", "image_size", "hidden_act"):
            assert getattr(ours.vision_config, name) == getattr(theirs.vision_config, name), name
        assert (ours.text_config.projection_dim, ours.vision_config.projection_dim) == (48, 48)
        assert clip_hf_log.text == ""

    @pytest.mark.parametrize(("vocab_size", "eos"), [(49408, 49407), (49409, 49407), (49500, 49407), (1000, 999)])
    def test_legacy_end_of_text_id_is_repaired(self, vocab_size, eos, tmp_path):
        text_config = {"vocab_size": vocab_size, "bos_token_id": 0, "eos_token_id": 2, "pad_token_id": 1}
        CLIPConfig(text_config=text_config).save_pretrained(tmp_path)
        assert ClipHFConfig.from_pretrained(tmp_path).text_config.eos_token_id == eos
        assert ClipHFTextConfig.from_pretrained(tmp_path).eos_token_id == eos
        assert ClipHFTextConfig.from_pretrained(tmp_path).bos_token_id == eos - 1

    def test_old_files_overruling_dicts_are_honoured(self):
        old = {
            "model_type": "clip",
            "projection_dim": 32,
            "text_config": {"hidden_size": 512, "bad_words_ids": None, "dropout": 0.0},
            "text_config_dict": {"hidden_size": 64, "num_attention_heads": 4, "torch_dtype": "float32"},
            "vision_config": {"hidden_size": 96, "num_attention_heads": 3, "tie_encoder_decoder": False},
            "vision_config_dict": None,
        }
        config = ClipHFConfig.from_dict(old)
        assert (config.text_config.hidden_size, config.text_config.num_attention_heads) == (64, 4)
        assert config.vision_config.hidden_size == 96

    @pytest.mark.parametrize("cls", [ClipHFConfig, ClipHFTextConfig, ClipHFVisionConfig])
    def test_other_families_are_refused(self, cls, tmp_path):
        SiglipConfig().save_pretrained(tmp_path)
        with pytest.raises(ValueError, match="of type 'siglip', which is not a CLIP; the types that load are"):
            cls.from_pretrained(tmp_path)

    @pytest.mark.parametrize("cls", [ClipHFConfig, ClipHFTextConfig, ClipHFVisionConfig])
    def test_files_of_other_libraries_are_refused(self, cls, tmp_path):
        # Read with our defaults, it would give a model of random weights.
        content = {"embed_dim": 512, "vision_cfg": {"layers": 12}, "text_cfg": {"layers": 12}}
        (tmp_path / "config.json").write_text(json.dumps(content))
        with pytest.raises(ValueError, match="of type None, which is not a CLIP; the types that load are"):
            cls.from_pretrained(tmp_path)

    def test_other_models_are_left_alone(self, tmp_path):
        SiglipConfig().save_pretrained(tmp_path)
        assert type(AutoConfig.from_pretrained(tmp_path)) is SiglipConfig
        CLIPConfig().save_pretrained(tmp_path)
        assert type(AutoConfig.from_pretrained(tmp_path)) is CLIPConfig


STOCK_TEXT = {
    "vocab_size": 600,
    "hidden_size": 32,
    "intermediate_size": 64,
    "num_hidden_layers": 2,
    "eos_token_id": 599,
}
STOCK_TEXT |= {"bos_token_id": 598, "num_attention_heads": 4, "max_position_embeddings": 24, "hidden_act": "gelu"}
STOCK_VISION = {"hidden_size": 48, "intermediate_size": 64, "num_hidden_layers": 2, "num_attention_heads": 3}
STOCK_VISION |= {"image_size": 64, "patch_size": 16, "layer_norm_eps": 1e-6}


class TestTowersOfTransformers:
    """Configurations of transformers' CLIP in the place of ours are converted, those of other models refused."""

    @pytest.mark.parametrize("form", ["objects", "dicts", "from_text_vision_configs", "mixed"])
    def test_become_ours(self, form):
        towers = CLIPTextConfig(**STOCK_TEXT), CLIPVisionConfig(**STOCK_VISION)
        if form == "dicts":
            towers = tuple(tower.to_dict() for tower in towers)
        if form == "mixed":
            towers = ClipHFTextConfig(**STOCK_TEXT, projection_dim=16), towers[1]
        arguments = dict(zip(("text_config", "vision_config"), towers, strict=True))
        make = ClipHFConfig.from_text_vision_configs if form == "from_text_vision_configs" else ClipHFConfig
        config = make(**arguments, projection_dim=16)
        assert (type(config.text_config), type(config.vision_config)) == (ClipHFTextConfig, ClipHFViTConfig)
        for tower, expected in ((config.text_config, STOCK_TEXT), (config.vision_config, STOCK_VISION)):
            assert {name: getattr(tower, name) for name in expected} == expected
            assert tower.projection_dim == 16
        model = ClipHFModel(config).eval()
        ids = torch.tensor([[598, 5, 599], [598, 599, 599]])
        assert model(ids, torch.randn(3, 3, 64, 64)).logits_per_image.shape == (3, 2)
        assert type(ClipHFConfig.from_dict(config.to_dict()).vision_config) is ClipHFViTConfig

    def test_legacy_end_of_text_id_is_repaired(self):
        assert ClipHFConfig(text_config=CLIPTextConfig(eos_token_id=2)).text_config.eos_token_id == 49407

    def test_projection_follows_the_text_tower(self):
        towers = ClipHFTextConfig(projection_dim=64), ClipHFViTConfig(projection_dim=64)
        config = ClipHFConfig.from_text_vision_configs(*towers, logit_scale_init_value=1.0)
        assert (config.projection_dim, config.logit_scale_init_value) == (64, 1.0)
        assert config.text_config is towers[0]
        with pytest.raises(ValueError, match="`vision_config.projection_dim` is 1024 and `projection_dim` 64"):
            ClipHFConfig.from_text_vision_configs(towers[0], ClipHFResNetConfig())

    @pytest.mark.parametrize(
        ("name", "value"),
        [
            ("text_config", SiglipTextConfig()),
            ("text_config", BertConfig()),
            ("text_config", CLIPVisionConfig()),
            ("text_config", CLIPConfig()),
            ("text_config", ClipHFViTConfig()),
            ("text_config", ClipHFConfig()),
            ("text_config", {"model_type": "siglip_text_model"}),
            ("text_config", {"model_type": "clip_hf_vit"}),
            ("vision_config", SiglipVisionConfig()),
            ("vision_config", CLIPTextConfig()),
            ("vision_config", ClipHFTextConfig()),
            ("vision_config", {"model_type": "clip_text_model"}),
        ],
        ids=lambda value: getattr(type(value), "__name__", None) if not isinstance(value, str) else value,
    )
    def test_others_are_refused(self, name, value):
        model_type = value["model_type"] if isinstance(value, dict) else value.model_type
        with pytest.raises(ValueError, match=f"`{name}` is of type '{model_type}'; it must be one of 'clip_hf_"):
            ClipHFConfig(**{name: value})
        if isinstance(value, dict):
            with pytest.raises(ValueError, match="is of type '.*'; it must be one of 'clip_hf_"):
                ClipHFConfig.from_dict({"model_type": "clip_hf", name: value})

    @pytest.mark.parametrize("value", ["ViT-B/32", [768, 12], 3, CLIPTextConfig])
    @pytest.mark.parametrize("name", ["text_config", "vision_config"])
    def test_what_is_no_configuration_is_refused(self, name, value):
        with pytest.raises(
            ValueError, match=f"(?s)ClipHFConfig: .*'{name}' expected dict, got {type(value).__name__}"
        ):
            ClipHFConfig(**{name: value})

    @pytest.mark.parametrize(
        ("model_class", "config", "cure"),
        [
            (ClipHFTextModel, CLIPTextConfig(), r"Convert it: ClipHFTextConfig.from_dict\(config.to_dict\(\)\)"),
            (ClipHFTextModelWithProjection, CLIPTextConfig(), "Convert it"),
            (ClipHFViTModel, CLIPVisionConfig(), "Convert it: ClipHFViTConfig"),
            (ClipHFVisionModelWithProjection, CLIPVisionConfig(), "Convert it: ClipHFVisionConfig"),
            (ClipHFModel, CLIPConfig(), "Convert it: ClipHFConfig"),
            (ClipHFModel, ClipHFTextConfig(), "'clip_hf_text'"),
            (ClipHFTextModel, ClipHFConfig(), "'clip_hf'"),
            (ClipHFViTModel, ClipHFResNetConfig(), "'clip_hf_resnet'"),
            (ClipHFTextModel, SiglipTextConfig(), "'siglip_text_model'"),
        ],
    )
    def test_models_say_how_to_convert_one(self, model_class, config, cure):
        with pytest.raises(
            ValueError, match=f"{model_class.__name__} needs a .* not a {type(config).__name__}.*{cure}"
        ):
            model_class(config)
        if "Convert" in cure:
            with torch.device("meta"):
                model_class(model_class.config_class.from_dict(config.to_dict()))

    @pytest.mark.parametrize(
        ("cls", "config"),
        [
            (ClipHFTextConfig, ClipHFViTConfig()),
            (ClipHFViTConfig, ClipHFTextConfig()),
            (ClipHFViTConfig, ClipHFResNetConfig()),
            (ClipHFResNetConfig, ClipHFViTConfig()),
            (ClipHFConfig, ClipHFTextConfig()),
        ],
    )
    def test_files_of_another_tower_are_refused(self, cls, config, tmp_path):
        config.save_pretrained(tmp_path)
        with pytest.raises(
            ValueError, match=f"is of type '{config.model_type}'; it must be one of '{cls.model_type}'"
        ):
            cls.from_pretrained(tmp_path)


@pytest.mark.parametrize("value", [10**9, 2**40, -1, 0, 1.5, "12", float("nan"), None, [], True and 10**18])
@pytest.mark.parametrize("tower", ["text", "vit", "resnet"])
def test_sizes_that_no_model_has_are_refused_at_once(tower, value):
    make = {"text": ClipHFTextConfig, "vit": ClipHFViTConfig, "resnet": ClipHFResNetConfig}[tower]
    names = {
        "text": ("num_hidden_layers", "hidden_size", "intermediate_size", "vocab_size", "max_position_embeddings"),
        "vit": ("num_hidden_layers", "hidden_size", "intermediate_size", "image_size", "patch_size", "num_channels"),
        "resnet": ("width", "image_size", "num_channels", "projection_dim"),
    }[tower]
    for name in names:
        with pytest.raises((ValueError, TypeError), match=name):
            make(**{name: value})
    if tower == "resnet":
        with pytest.raises((ValueError, TypeError), match="stage_depths"):
            make(stage_depths=[3, value, 6, 3])


DAMAGE = {"nested": "[" * 100_000, "cut": '{"a', "not UTF-8": b"\xff\xfe{}"}


@pytest.mark.parametrize("damage", DAMAGE)
@pytest.mark.parametrize(
    ("cls", "name"),
    [
        (ClipHFConfig, "config.json"),
        (ClipHFTokenizer, "tokenizer.json"),
        (ClipHFProcessor, "tokenizer.json"),
        (ClipHFProcessor, "processor_config.json"),
        (ClipHFImageProcessor, "preprocessor_config.json"),
    ],
)
def test_damaged_files_are_one_clear_error(cls, name, damage, tmp_path, tiny_processor):
    tiny_processor.save_pretrained(tmp_path)
    content = DAMAGE[damage]
    (tmp_path / name).write_bytes(content if isinstance(content, bytes) else content.encode())
    if name == "preprocessor_config.json":
        (tmp_path / "processor_config.json").unlink()
    with pytest.raises((ValueError, OSError), match=f"(?s){tmp_path}"):
        cls.from_pretrained(tmp_path)


@pytest.mark.parametrize("value", [[], {}, 3, True])
def test_a_model_type_that_is_no_text_is_a_clear_error(value):
    with pytest.raises(ValueError, match="`model_type` is .*; it must be a text"):
        ClipHFConfig.from_dict({"model_type": value})


def test_what_is_said_of_an_argument_is_not_called_a_damaged_file(tiny_tokenizer, tmp_path):
    tiny_tokenizer.save_pretrained(tmp_path)
    with pytest.raises(AttributeError, match="conflicts with the method"):
        ClipHFTokenizer.from_pretrained(tmp_path, add_special_tokens=True)
