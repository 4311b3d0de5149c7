# Copyright 2026 The clip_hf team. All rights reserved.
# Licensed under the Apache License, Version 2.0; see LICENSE.
"""Model cards: what they say, that their code runs, and that edits by hand survive an update."""

import configparser
import fnmatch
import os
import re
import time
from pathlib import Path

import numpy as np
import pytest
import yaml
from huggingface_hub import EvalResult, ModelCard, ModelCardData
from PIL import Image
from sklearn.datasets import load_sample_images

from clip_hf import ARCHITECTURES, ClipHFConfig
from clip_hf.model_card import ModelCardDetails, create_model_card, update_model_card, write_model_card
from clip_hf.model_card.section_texts import TEMPLATE
from tiny_models import CONTEXT_LENGTH, IMAGE_SIZE, make_tiny_model, tiny_config
from without_clip_hf import run_without_clip_hf


SECTIONS = [
    "title",
    "overview",
    "usage",
    "preprocessing",
    "training",
    "evaluation",
    "limitations",
    "licence",
    "citation",
]
LABELS = ["a palace", "a flower", 'a "sign"']


def result(value, metric="Top-1", dataset="imagenet-1k", **kwargs) -> EvalResult:
    return EvalResult(
        task_type="zero-shot-image-classification",
        dataset_type=dataset,
        dataset_name=dataset.title(),
        metric_type="accuracy",
        metric_name=metric,
        metric_value=value,
        **kwargs,
    )


def full_details(**kwargs) -> ModelCardDetails:
    return ModelCardDetails(
        **{
            "base_model": "openai/clip-vit-base-patch32",
            "license": "mit",
            "datasets": ["me/pairs"],
            "language": ["en"],
            "tags": ["drawings"],
            "eval_results": [result(0.25), result(0.5, "Top-5")],
            "training": {"learning_rate": 5e-4, "epochs": 3},
            "source": "trained from scratch on two cores",
            "limitations": "It has seen drawings only.",
            **kwargs,
        }
    )


def make_card(tower="vit", details=None, **kwargs) -> ModelCard:
    return create_model_card(tiny_config(tower), "me/tiny-clip", details or full_details(), **kwargs)


def section(text: str, name: str) -> str:
    found = re.findall(
        rf"<!-- clip_hf card: {name} [0-9a-f]{{10}} -->\n(.*?)\n<!-- /clip_hf card: {name} -->", text, re.S
    )
    assert len(found) == 1, f"{name}: {len(found)} times"
    return found[0]


def update(existing, card) -> str:
    """The README after an update, which a second update must leave as it is."""
    updated = str(update_model_card(existing, card))
    assert str(update_model_card(updated, card)) == updated
    return updated


# ------------------------------------------------------------------------------------------------------------ metadata


def test_metadata_are_those_of_the_hub(tower):
    card = make_card(tower)
    metadata = yaml.safe_load(str(card).split("---\n")[1])
    index = metadata.pop("model-index")
    assert metadata == {
        "base_model": "openai/clip-vit-base-patch32",
        "datasets": ["me/pairs"],
        "language": ["en"],
        "library_name": "transformers",
        "license": "mit",
        "pipeline_tag": "zero-shot-image-classification",
        "tags": ["clip", "clip_hf", tower, "zero-shot", "drawings"],
    }
    assert index[0]["name"] == "me/tiny-clip"
    assert [metric["value"] for metric in index[0]["results"][0]["metrics"]] == [0.25, 0.5]
    again = ModelCardData(**{**metadata, "model-index": index})
    assert again.eval_results == full_details().eval_results
    assert again.to_dict() == card.data.to_dict() == ModelCard(str(card)).data.to_dict()


def test_metadata_without_details_invent_nothing(tower):
    card = create_model_card(tiny_config(tower), "tiny")
    assert card.data.to_dict().keys() == {"library_name", "pipeline_tag", "tags"}


def test_names_that_the_hub_would_refuse_stay_out_of_the_metadata(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "data" / "pairs").mkdir(parents=True)
    names = ["data/pairs", "/data/pairs", "me/pairs", "two words"]
    card = make_card(details=full_details(datasets=names, base_model="outputs/demo/resnet"))
    assert card.data.datasets == ["me/pairs"]
    assert card.data.get("base_model") is None
    training = section(card.text, "training")
    assert "- Made from `resnet`" in training
    assert "- Trained on `pairs`, `pairs`, `me/pairs`, `two words`" in training


@pytest.mark.parametrize("value", [np.float32(0.25), np.float64(0.25), np.array(0.25)])
def test_results_may_be_numpy_scalars(value):
    card = make_card(details=full_details(eval_results=[result(value)]))
    assert yaml.safe_load(card.data.to_yaml())["model-index"][0]["results"][0]["metrics"][0]["value"] == 0.25


# ------------------------------------------------------------------------------------------------------------- content


def test_the_sections_in_their_order():
    text = create_model_card(tiny_config("vit"), "tiny").text
    assert re.findall(r"<!-- clip_hf card: ([a-z-]+) ", text) == SECTIONS
    with_own = [*SECTIONS[:7], "own-limitations", *SECTIONS[7:]]
    assert re.findall(r"<!-- clip_hf card: ([a-z-]+) ", make_card().text) == with_own
    for shown in (text, make_card().text):
        assert not re.search(r"\n\n\n|\{\{|\{%|\bNone\b|Undefined", shown)


def test_what_the_card_says_of_the_architecture(tower):
    config = tiny_config(tower)
    card = create_model_card(config, "me/tiny-clip", num_parameters=1234567)
    overview, preprocessing = section(card.text, "overview"), section(card.text, "preprocessing")
    own = {
        "vit": ["Vision Transformer with 3 layers, width 32 and 4 heads, on patches of 16 x 16 pixels"],
        "resnet": ["ResNet with 1, 2, 1 and 1 bottleneck blocks", "stem of 8 channels", "attention pool with 4 heads"],
    }
    for words in own[tower]:
        assert words in overview
    other = own["resnet" if tower == "vit" else "vit"]
    assert not any(words in overview for words in other)
    assert f"images of {IMAGE_SIZE} x {IMAGE_SIZE} pixels" in overview
    assert f"Transformer with 3 layers, width 32 and 4 heads, for texts of up to {CONTEXT_LENGTH} tokens" in overview
    assert "one space of 16 dimensions" in overview
    assert "1,234,567 parameters" in overview
    assert "parameters" not in section(create_model_card(config, "tiny").text, "overview")
    assert f"(images, 3, {IMAGE_SIZE}, {IMAGE_SIZE})" in preprocessing
    assert "token 598" in preprocessing
    assert "token 599" in preprocessing
    assert section(card.text, "title") == "# tiny-clip"


@pytest.mark.parametrize("name", ARCHITECTURES)
def test_published_architectures_are_named(name):
    overview = section(create_model_card(ClipHFConfig.from_architecture(name), "tiny").text, "overview")
    assert re.findall(r"the paper's `(.*?)`", overview) == [name]


def test_other_architectures_are_not_named(tower):
    assert "layers and widths" not in section(make_card(tower).text, "overview")


def test_what_is_not_given_is_called_not_recorded():
    text = create_model_card(tiny_config("vit"), "tiny").text
    assert "recorded in this card" in section(text, "training")
    assert "No results are recorded in this card." in section(text, "evaluation")
    assert "licence of the weights is not recorded" in section(text, "licence")
    only_source = section(make_card(details=ModelCardDetails(source="a disk")).text, "training")
    assert "a disk" in only_source
    assert "settings of the training are not recorded" in only_source


def test_what_is_given_is_there():
    text = make_card().text
    training = section(text, "training")
    assert "| `learning_rate` | 0.0005 |\n| `epochs` | 3 |" in training
    assert "trained from scratch on two cores" in training
    evaluation = section(text, "evaluation")
    assert "| Imagenet-1K |  | zero-shot-image-classification | Top-1 | 0.25 |" in evaluation
    assert "not recorded" not in training + evaluation + section(text, "licence")
    assert "`mit`" in section(text, "licence")
    assert "It has seen drawings only." in section(text, "own-limitations")


def test_text_of_others_cannot_break_tables_and_sections():
    comment = "<!-- /clip_hf card: own-limitations -->"
    card = make_card(
        details=full_details(
            training={"a|b": "one\ntwo|three"}, limitations=f"before\n{comment}\nafter", source=comment
        )
    )
    assert r"| `a\|b` | one two\|three |" in section(card.text, "training")
    assert "after" in section(card.text, "own-limitations")
    update(str(card), card)


@pytest.mark.parametrize(
    "figure",
    ["section 6", "88%", "section 7.1", "4.9%", "about 14%", "less than 8%", "16.5%", "9.8%", "24.9%", "table 6"]
    + ["table 7", "section 7.2", "51.1%", "face recognition are out of scope", "languages other than English"],
)
def test_the_findings_of_the_paper_are_there(figure):
    assert figure in section(make_card().text, "limitations")


def test_whose_findings_they_are():
    words = "not about this one"
    assert words in section(make_card().text, "limitations")
    openai = section(make_card(details=full_details(openai_weights=True)).text, "limitations")
    assert words not in openai
    assert openai.startswith("## Limitations and bias\n\nThese are OpenAI's weights.")


# ------------------------------------------------------------------------------------------------------------ the code


@pytest.fixture
def saved(tower, tiny_processor, tmp_path, monkeypatch):
    """The blocks of Python code of a saved model's card, as a reader makes them his own, elsewhere."""
    (tmp_path / "elsewhere").mkdir()
    monkeypatch.chdir(tmp_path / "elsewhere")
    model = make_tiny_model(tower)
    model.save_pretrained(tmp_path / "tiny clip")
    tiny_processor.save_pretrained(tmp_path / "tiny clip")
    Image.fromarray(load_sample_images().images[0]).save("photo.jpg")
    details = ModelCardDetails(example_labels=LABELS)
    path = write_model_card(
        tmp_path / "tiny clip", model.config, details=details, num_parameters=model.num_parameters()
    )
    usage = section(path.read_text(encoding="utf-8"), "usage")
    blocks = re.findall(r"^```python\n(.*?)^```$", usage, re.S | re.M)
    explanation = usage.partition("```")[0]
    assert "`path/to/this/folder` stands for" in explanation and "`photo.jpg` stands for" in explanation
    assert len(blocks) == 3 and all('"path/to/this/folder"' in block for block in blocks)
    return [block.replace("path/to/this/folder", str(tmp_path / "tiny clip")) for block in blocks]


def run_block(block: str) -> dict:
    names = {}
    exec(block, names)
    return names


def test_the_code_on_the_card_runs(saved, capsys):
    names = run_block(saved[0])
    scores = {entry["label"]: entry["score"] for entry in names["scores"]}
    assert scores.keys() == set(LABELS)
    assert len(set(scores.values())) == len(LABELS)
    assert type(names["classify"]).__name__ == "ClipHFZeroShotImageClassificationPipeline"
    features = run_block(saved[2])
    assert features["features"].shape == (1, 16)
    probabilities = features["logits"].softmax(dim=-1)[0].tolist()
    assert dict(zip(LABELS, probabilities)) == pytest.approx(scores, abs=1e-5)
    assert capsys.readouterr().out.count("a palace") == 2


@pytest.mark.slow
@pytest.mark.parametrize("tower", ["resnet"], indirect=True)
def test_the_code_without_clip_hf_runs_without_it(saved, tmp_path):
    assert "import clip_hf" not in saved[1]
    expected = run_block(saved[0])["scores"]
    save = '\nis_remote(classify)\njson.dump(scores, open(f"{folder}/result.json", "w"))\n'
    scores = run_without_clip_hf(saved[1] + save, tmp_path / "tiny clip", tmp_path / "elsewhere")
    assert scores == [{**entry, "score": pytest.approx(entry["score"], abs=1e-6)} for entry in expected]


# ------------------------------------------------------------------------------------------------- text edited by hand


def test_no_readme_gives_the_card():
    card = make_card()
    for nothing in (None, "", " \n"):
        assert update_model_card(nothing, card) is card
    assert update(str(card), card) == str(card)


def test_unedited_sections_are_renewed():
    old = make_card("vit", num_parameters=5)
    new = make_card("resnet", full_details(license="apache-2.0", training={"epochs": 4}), num_parameters=6)
    text = update(str(old), new)
    for name in (*SECTIONS, "own-limitations"):
        assert section(text, name) == section(new.text, name)
    assert "Vision Transformer" not in text


@pytest.mark.parametrize("name", [*SECTIONS, "own-limitations"])
def test_an_edited_section_stays_as_it_is(name):
    old, new = make_card("vit"), make_card("resnet", full_details(training={}, limitations="Other.", license="other"))
    edited = section(old.text, name) + "\nAdded by hand."
    text = update(str(old).replace(section(old.text, name), edited), new)
    assert section(text, name) == edited
    for other in {*SECTIONS, "own-limitations"} - {name, "evaluation"}:
        assert section(text, other) == section(new.text, other)


@pytest.mark.parametrize("with_marks", [True, False])
@pytest.mark.parametrize("name", [*SECTIONS, "own-limitations"])
def test_a_deleted_section_stays_deleted(name, with_marks):
    old, new = make_card("vit"), make_card("resnet")
    pattern = rf"<!-- clip_hf card: {name} .*?/clip_hf card: {name} -->\n\n"
    if with_marks:
        text = update(re.sub(pattern, "", str(old), flags=re.S), new)
        assert f"clip_hf card: {name}" not in text
    else:  # the comments are left with nothing between them
        text = update(str(old).replace(section(old.text, name), ""), new)
        assert section(new.text, name) not in text
    other = "overview" if name != "overview" else "usage"
    assert section(text, other) == section(new.text, other)


def test_text_between_the_sections_stays_in_place():
    old, new = make_card("vit"), make_card("resnet")
    by_hand = "## Thanks\n\nTo   everyone.  \n\n\n"
    before = str(old).replace("<!-- clip_hf card: usage", f"{by_hand}<!-- clip_hf card: usage")
    before = (
        before.replace("---\n<!-- clip_hf card: title", "---\n![logo](logo.png)\n<!-- clip_hf card: title")
        + "The end."
    )
    text = update(before, new)
    assert f"<!-- /clip_hf card: overview -->\n\n{by_hand}<!-- clip_hf card: usage" in text
    assert "---\n![logo](logo.png)\n<!-- clip_hf card: title" in text
    assert text.endswith("The end.")
    assert section(text, "overview") == section(new.text, "overview")


def test_a_section_of_a_newer_card_goes_to_its_place():
    without, new = make_card(details=full_details(limitations=None)), make_card()
    text = update(str(without), new)
    assert text.partition("<!-- The sections")[0] == str(new).partition("<!-- The sections")[0]
    # Later it is left out again: what stands there is not lost.
    assert section(update(text, without), "own-limitations") == section(new.text, "own-limitations")


def test_an_unchanged_training_section_is_not_emptied():
    old = make_card()
    text = update(str(old), create_model_card(tiny_config("resnet"), "me/tiny-clip"))
    assert section(text, "training") == section(old.text, "training")
    # Neither are the licence and the results, which the metadata still have.
    assert section(text, "licence") == section(old.text, "licence")
    assert section(text, "evaluation") == section(old.text, "evaluation")


def test_trailing_spaces_and_line_ends_are_no_edits():
    old, new = make_card("vit"), make_card("resnet")
    windows = str(old).replace("\n", "\r\n")
    assert update(windows, old) == windows
    text = update(windows, new)
    assert "\n" not in text.replace("\r\n", "")
    assert section(text.replace("\r\n", "\n"), "overview") == section(new.text, "overview")
    spaces = str(old).replace("## Training\n", "## Training  \n")
    assert spaces != str(old)
    new = make_card(details=full_details(training={"epochs": 4}))
    assert section(update(spaces, new), "training") == section(new.text, "training")


@pytest.mark.parametrize(
    "record", ["", "<!-- clip_hf card record: {broken} -->", '<!-- clip_hf card record: {"a": 1} -->']
)
def test_without_the_record_nothing_is_added(record):
    old, new = make_card("vit"), make_card("resnet")
    existing = re.sub(r"<!-- The sections between.*?-->", lambda match: record, str(old))
    existing = existing.replace(section(old.text, "usage"), "").replace("clip_hf card: usage", "gone")
    text = update(existing, new)
    assert "clip_hf card: usage" not in text
    assert section(text, "overview") == section(new.text, "overview")
    assert text.endswith(f"{record}\n")


@pytest.mark.parametrize(
    "body",
    [
        "# My CLIP\n\nWritten by hand.",
        "\n# My CLIP\n\n## Use\n\nNot like this.\r\n\n\n",
        "<!-- This model card has been generated automatically by the Trainer. -->\n\n# x\n",
    ],
)
@pytest.mark.parametrize("metadata", ["", "---\nlicense: other\ntags:\n- mine\n---\n"])
def test_a_readme_without_our_sections_keeps_its_text(metadata, body):
    text = update(metadata + body, make_card())
    assert text.endswith(f"---\n{body}" if "\r\n" not in body else f"---\r\n{body}")
    assert "clip_hf card" not in text
    data = ModelCard(text).data
    assert data.license == ("other" if metadata else "mit")
    assert data.tags == (["mine"] if metadata else []) + ["clip", "clip_hf", "vit", "zero-shot", "drawings"]
    assert data.pipeline_tag == "zero-shot-image-classification"


def test_a_readme_of_metadata_only_gets_the_text():
    text = update("---\nlicense: cc-by-4.0\n---\n", make_card())
    assert "license: cc-by-4.0" in text
    assert "`cc-by-4.0`" in section(text, "licence")
    assert section(text, "usage") == section(make_card().text, "usage")


# --------------------------------------------------------------------------------------------- metadata edited by hand


def edit(card: ModelCard, **changes) -> str:
    """The README after a person has changed metadata; None deletes an entry."""
    text = str(card)
    block = text.split("---\n")[1]
    metadata = {**yaml.safe_load(block), **changes}
    metadata = {key: value for key, value in metadata.items() if value is not None}
    return text.replace(block, yaml.safe_dump(metadata, sort_keys=False), 1)


@pytest.mark.parametrize(
    ("changes", "key", "expected"),
    [
        ({"license": "gpl-3.0"}, "license", "gpl-3.0"),
        ({"license": None}, "license", None),
        ({}, "license", "apache-2.0"),
        ({"library_name": "clip"}, "library_name", "clip"),
        ({"base_model": ["a/b", "c/d"]}, "base_model", ["a/b", "c/d"]),
        ({"datasets": ["a/b"]}, "datasets", ["a/b", "me/more"]),
        ({"datasets": "a/b"}, "datasets", ["a/b", "me/more"]),
        ({"datasets": None}, "datasets", ["me/more"]),
        ({"language": "en"}, "language", "en"),
        ({"tags": ["mine", "clip"]}, "tags", ["mine", "clip"]),
        ({}, "tags", ["clip", "clip_hf", "vit", "zero-shot", "drawings"]),
        ({"widget": [{"src": "a.png"}]}, "widget", [{"src": "a.png"}]),
        ({"inference": False}, "inference", False),
    ],
)
def test_metadata_set_changed_or_deleted_by_hand_stay_so(changes, key, expected):
    new = make_card(details=full_details(license="apache-2.0", datasets=["me/pairs", "me/more"]))
    text = update(edit(make_card(), **changes), new)
    assert ModelCard(text).data.to_dict().get(key) == expected
    # A deletion is remembered beyond the next update.
    assert ModelCard(update(text, new)).data.to_dict().get(key) == expected


def test_a_deleted_tag_is_remembered_by_cards_that_do_not_have_it():
    text = edit(make_card(), tags=["clip", "clip_hf", "vit", "zero-shot"])
    text = update(text, make_card(details=full_details(tags=["other"])))
    text = update(text, make_card(details=full_details(tags=["drawings"])))
    assert ModelCard(text).data.tags == ["clip", "clip_hf", "vit", "zero-shot", "other"]


def test_comments_and_order_of_the_metadata_stay():
    block = "# first\nlicense: other  # ask me\n\n# about tags\ntags:\n- mine\n\n# the end\nlanguage: 'en'\n"
    text = update(f"---\n{block}---\n# Mine\n", make_card(details=full_details(eval_results=[])))
    for line in (
        "# first\nlicense: other  # ask me\n\n# about tags\ntags:\n- mine\n",
        "\n# the end\nlanguage: 'en'\n",
    ):
        assert line in text
    assert text.startswith("---\n# first\n")
    assert ModelCard(text).data.tags == ["mine", "clip", "clip_hf", "vit", "zero-shot", "drawings"]
    unchanged = str(make_card()).replace("license: mit\n", "license: 'mit' # sure\n\n# next\n")
    assert update(unchanged, make_card()) == unchanged


@pytest.mark.parametrize(
    "block",
    [
        '{license: other, tags: [mine], language: "en"}\n',
        "license: other\ntags: [\nmine]\nlanguage: en\n",
        '"license": other\ntags:\n  - mine\nlanguage:\n- en\n',
    ],
)
def test_metadata_in_other_forms_of_yaml(block):
    data = ModelCard(update(f"---\n{block}---\n# Mine\n", make_card())).data
    assert data.license == "other"
    assert data.tags == ["mine", "clip", "clip_hf", "vit", "zero-shot", "drawings"]
    assert data.language in ("en", ["en"])


def test_results_are_merged():
    old = make_card(
        details=full_details(eval_results=[result(0.1), result(0.2, dataset="cifar10"), result(0.3, "Top-5")])
    )
    new = make_card(
        details=full_details(
            eval_results=[result(0.5), result(0.6, dataset="food101"), result(0.7, dataset_split="validation")]
        )
    )
    text = update(str(old), new)
    found = {
        (item.dataset_type, item.dataset_split, item.metric_name): item.metric_value
        for item in ModelCard(text).data.eval_results
    }
    assert found == {
        ("imagenet-1k", None, "Top-1"): 0.5,
        ("imagenet-1k", None, "Top-5"): 0.3,
        ("cifar10", None, "Top-1"): 0.2,
        ("food101", None, "Top-1"): 0.6,
        ("imagenet-1k", "validation", "Top-1"): 0.7,
    }
    assert len(ModelCard(text).data.eval_results) == 5
    table = section(text, "evaluation")
    assert sorted(re.findall(r"\| (0\.\d0) \|", table)) == ["0.20", "0.30", "0.50", "0.60", "0.70"]
    assert [cells[0] for cells in re.findall(r"\| ([IFC]\S+) \|", table)] == ["I", "I", "C", "F", "I"]
    # A name of the model that a person gave in the index stays.
    named = str(old).replace("- name: me/tiny-clip", "- name: Tiny")
    assert ModelCard(update(named, new)).data.model_name == "Tiny"


MALFORMED = {
    "no second line": "---\nlicense: mit\n# Mine\n",
    "empty": "---\n---\n# Mine\n",
    "not YAML": "---\nlicense: [mit\n---\n# Mine\n",
    "a list": "---\n- mit\n---\n# Mine\n",
    "a number as a key": "---\n1: mit\n---\n# Mine\n",
    "an index without datasets": "---\nmodel-index:\n- name: x\n  results:\n  - task: {type: a}\n---\n# Mine\n",
    "an index of another form": "---\nmodel-index: 3\n---\n# Mine\n",
}


@pytest.mark.parametrize("existing", MALFORMED.values(), ids=MALFORMED)
def test_malformed_metadata_are_left_alone(existing, tmp_path):
    with pytest.raises(ValueError, match="Repair the lines between the two '---' at its start, or remove them"):
        update_model_card(existing, make_card())
    (tmp_path / "README.md").write_text(existing, encoding="utf-8")
    with pytest.raises(ValueError, match=re.escape(f"{tmp_path / 'README.md'} was left as it is. The README")):
        write_model_card(tmp_path, tiny_config("vit"))
    assert (tmp_path / "README.md").read_text(encoding="utf-8") == existing
    assert os.listdir(tmp_path) == ["README.md"]


# ------------------------------------------------------------------------------------------------------------- writing


def test_a_card_is_written_and_renewed(tmp_path):
    folder = tmp_path / "tiny"
    folder.mkdir()
    path = write_model_card(folder, tiny_config("vit"), details=full_details())
    assert path == folder / "README.md"
    text = path.read_text(encoding="utf-8")
    assert text == str(create_model_card(tiny_config("vit"), "tiny", full_details()))
    assert 'model="path/to/this/folder"' in text and "# tiny\n" in text
    path.write_text(text.replace("# tiny\n", "# Tiny but mine: ö\n"), encoding="utf-8")
    before = path.stat()
    write_model_card(str(folder), tiny_config("vit"), details=full_details())
    assert path.stat().st_mtime_ns == before.st_mtime_ns
    assert path.stat().st_ino == before.st_ino
    write_model_card(folder, tiny_config("resnet"), "me/tiny", full_details(), 99)
    text = path.read_text(encoding="utf-8")
    assert "# Tiny but mine: ö\n" in text
    assert 'model="me/tiny"' in text
    assert "99 parameters" in text
    assert os.listdir(folder) == ["README.md"]


def test_a_byte_order_mark_and_windows_line_ends_are_read(tmp_path):
    path = tmp_path / "README.md"
    path.write_bytes(b"\xef\xbb\xbf---\r\nlicense: other\r\n---\r\n# Mine\r\n")
    write_model_card(tmp_path, tiny_config("vit"))
    data = path.read_bytes()
    assert data.startswith(b"---\r\nlicense: other\r\nlibrary_name")
    assert data.endswith(b"---\r\n# Mine\r\n")
    assert b"\n" not in data.replace(b"\r\n", b"")


@pytest.mark.parametrize("step", ["replace", "write"])
def test_a_failing_write_leaves_the_old_file(tmp_path, monkeypatch, step):
    path = write_model_card(tmp_path, tiny_config("vit"))
    before = path.read_bytes()

    def fail(*args):
        if step == "write":
            with open(args[0], "wb") as file:
                file.write(args[1][:10])
        raise OSError("no space left")

    monkeypatch.setattr(*{"replace": (os, "replace"), "write": (Path, "write_bytes")}[step], fail)
    with pytest.raises(OSError, match="no space left"):
        write_model_card(tmp_path, tiny_config("resnet"))
    monkeypatch.undo()
    assert path.read_bytes() == before
    assert os.listdir(tmp_path) == ["README.md"]


def test_a_link_is_replaced_and_not_followed(tmp_path):
    """As in the hub's cache, where the files of a repo are links to what several of its versions share."""
    (tmp_path / "shared").write_text("# Mine\n")
    (tmp_path / "repo").mkdir()
    (tmp_path / "repo" / "README.md").symlink_to(tmp_path / "shared")
    write_model_card(tmp_path / "repo", tiny_config("vit"))
    assert (tmp_path / "shared").read_text() == "# Mine\n"
    assert (tmp_path / "repo" / "README.md").read_text().endswith("# Mine\n")


def test_where_no_card_can_be_written(tmp_path):
    with pytest.raises(NotADirectoryError, match="save the model there first"):
        write_model_card(tmp_path / "none", tiny_config("vit"))
    (tmp_path / "README.md").write_bytes(b"caf\xe9")
    with pytest.raises(ValueError, match="is not UTF-8"):
        write_model_card(tmp_path, tiny_config("vit"))
    assert (tmp_path / "README.md").read_bytes() == b"caf\xe9"


# ----------------------------------------------------------------------------------------------------- what is refused


@pytest.mark.parametrize(
    ("kwargs", "error", "message"),
    [
        ({"datasets": "me/pairs"}, TypeError, "`datasets` is 'me/pairs'; it must be a list of `str`"),
        ({"tags": [1]}, TypeError, "`tags`"),
        ({"eval_results": [{"accuracy": 1}]}, TypeError, "list of `EvalResult`"),
        ({"training": [("epochs", 3)]}, TypeError, "`training` is a list; it must be a dict"),
        ({"license": "MIT License"}, ValueError, "'MIT License'; it must be an identifier of the hub"),
        ({"language": ["English"]}, ValueError, "ISO 639"),
        ({"example_labels": ["cat", "cat"]}, ValueError, "more than once"),
        ({"example_labels": "cat, dog"}, TypeError, "list of strings"),
    ],
)
def test_details_that_are_wrong(kwargs, error, message):
    with pytest.raises(error, match=message):
        ModelCardDetails(**kwargs)


@pytest.mark.parametrize(
    ("config", "model_id", "num_parameters", "error", "message"),
    [
        (tiny_config("vit").vision_config, "x", None, TypeError, "ClipHFViTConfig; a model card needs a whole CLIP"),
        ({}, "x", None, TypeError, "is a dict"),
        (tiny_config("vit"), " ", None, ValueError, "`model_id` is ' '"),
        (tiny_config("vit"), "a\nb", None, ValueError, "`model_id`"),
        (tiny_config("vit"), "x", 0, ValueError, "`num_parameters` is 0"),
    ],
)
def test_arguments_that_are_wrong(config, model_id, num_parameters, error, message):
    with pytest.raises(error, match=message):
        create_model_card(config, model_id, num_parameters=num_parameters)


def test_the_template_is_installed_with_the_package():
    config = configparser.ConfigParser()
    config.read(TEMPLATE.parents[3] / "setup.cfg")
    patterns = config["options.package_data"]["clip_hf"].split()
    assert any(fnmatch.fnmatch(f"model_card/{TEMPLATE.name}", pattern) for pattern in patterns)


# --------------------------------------------------------------------------------------------------- hostile READMEs

HOSTILE_TEXTS = {
    "records that do not end": "<!-- clip_hf card: record ",
    "records": "<!-- clip_hf card record: ",
    "comments": "<!--",
    "ends": "-->",
    "sections that do not end": "<!-- clip_hf card: training -->\n",
    "ends of other sections": "<!-- clip_hf card: training -->\nx\n<!-- /clip_hf card: other -->\n",
    "ends of sections": "\n<!-- /clip_hf card: training -->",
    "spaces": "<!--" + " " * 20,
    "dashes": "---\n",
    "blank lines": "\n",
    "comments of YAML": "#\n",
    "names": "<!-- clip_hf card: a-",
}


@pytest.mark.parametrize("kind", HOSTILE_TEXTS)
@pytest.mark.parametrize("where", ["body", "metadata"])
def test_time_grows_with_the_length(kind, where):
    card = make_card()

    def seconds(length: int) -> float:
        hostile = HOSTILE_TEXTS[kind] * (length // len(HOSTILE_TEXTS[kind]))
        text = str(card) + hostile if where == "body" else f"---\nlicense: mit\n{hostile}\nother: 1\n---\n# A model\n"
        started = time.process_time()
        try:
            update_model_card(text, card)
        except ValueError:
            pass  # metadata that cannot be read
        return time.process_time() - started

    short = min(seconds(10_000) for _ in range(2))
    # Four times the work, and room for what a machine does besides; growth with the square would take 16 times.
    assert min(seconds(40_000) for _ in range(2)) < 9 * short + 0.1


@pytest.mark.slow
def test_metadata_nested_deeply_are_an_error():
    for text in ("---\na: " + "[" * 100_000 + "\n---\n# A model\n", "---\n" + "- " * 50_000 + "x\n---\n# A model\n"):
        with pytest.raises(ValueError, match="metadata cannot be read"):
            update_model_card(text, make_card())
