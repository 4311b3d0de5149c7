# Copyright 2026 The clip_hf team. All rights reserved.
# Licensed under the Apache License, Version 2.0; see LICENSE.
"""Data of evaluations: every kind of source gives the same images and labels, and what is wrong is named."""

import io
import json
import tarfile

import datasets
import numpy as np
import pytest
from PIL import Image

from clip_hf.data import OPENMOJI_TEMPLATES, PairOptions, load_pairs
from clip_hf.evaluation.registry.dataset_registry import get_dataset, imagenet_subsets, load_class_names
from clip_hf.evaluation.registry.evaluation_data import (
    CaptionedDataOptions,
    ClassificationOptions,
    load_classification,
    load_retrieval,
    load_splits,
)
from pair_data import caption_of, encoded, image_of, use_openmoji


NAMES = ["cat", "maine_coon", "zebra"]


def numbers_of(data) -> list[int]:
    """Which of `image_of`'s images the rows show."""
    pixels = {image_of(number).tobytes(): number for number in range(40)}
    found = []
    for row in data.data:
        source = row[data.image_column]
        content = source if isinstance(source, str) else source["bytes"] or source["path"]
        image = Image.open(content if isinstance(content, str) else io.BytesIO(content))
        found.append(pixels[image.convert("RGB").tobytes()])
    return found


def save_image(path, number):
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(encoded(image_of(number)))


def labelled(labels, feature, column="label") -> datasets.Dataset:
    features = datasets.Features({"image": datasets.Image(), column: feature})
    images = [{"bytes": encoded(image_of(number)), "path": None} for number in range(len(labels))]
    return datasets.Dataset.from_dict({"image": images, column: labels}, features=features)


def class_data(labels=(0, 1, 2, 1), names=NAMES) -> datasets.Dataset:
    return labelled(list(labels), datasets.ClassLabel(names=list(names)))


# ---------------------------------------------------------------------------------------------------- kinds of sources


@pytest.fixture(params=["folder", "folder with splits", "saved", "saved splits", "parquet", "tar", "csv", "jsonl"])
def source(request, tmp_path):
    """Four images of the classes 0, 1, 2, 1, as each kind of source."""
    labels, folder = [0, 1, 2, 1], tmp_path / "my pets"
    if request.param.startswith("folder"):
        inner = folder / "test" if "splits" in request.param else folder
        for number, label in enumerate(labels):
            save_image(inner / NAMES[label] / "deeper" / f"{number}.png", number)
    elif request.param == "saved":
        class_data().save_to_disk(folder)
    elif request.param == "saved splits":
        datasets.DatasetDict({"train": class_data([0]), "test": class_data()}).save_to_disk(folder)
    elif request.param == "parquet":
        folder.mkdir()
        class_data([0]).to_parquet(folder / "train-00000-of-00001.parquet")
        class_data().to_parquet(folder / "test-00000-of-00001.parquet")
    elif request.param == "tar":
        (folder / "test").mkdir(parents=True)
        with tarfile.open(folder / "test" / "0.tar", "w") as tar:
            for number, label in enumerate(labels):
                for ending, content in (("png", encoded(image_of(number))), ("cls", str(label).encode())):
                    member = tarfile.TarInfo(f"s{number:04d}.{ending}")
                    member.size = len(content)
                    tar.addfile(member, io.BytesIO(content))
    else:
        for number in range(4):
            save_image(folder / "images" / f"{number}.png", number)
        rows = [{"file_name": f"images/{n}.png", "label": NAMES[label]} for n, label in enumerate(labels)]
        if request.param == "csv":
            lines = ["file_name,label", *(f"{row['file_name']},{row['label']}" for row in rows)]
        else:
            lines = [json.dumps(row) for row in rows]
        (folder / f"test.{request.param}").write_text("\n".join(lines) + "\n", encoding="utf-8")
    return folder


def test_every_kind_of_source(source):
    data = load_classification(source, ClassificationOptions(class_names=NAMES))
    assert dict(zip(numbers_of(data), data.targets.tolist())) == {0: 0, 1: 1, 2: 2, 3: 1}
    assert data.targets.dtype == np.int64
    assert data.class_names == NAMES
    assert data.name == "my pets" and data.source == str(source)
    assert data.split in ("test", "all")
    assert data.templates == ("a photo of a {}.",) and data.metric == "top1"
    assert data.class_counts.tolist() == [1, 2, 1] and data.empty_classes == []


def test_folders_name_classes(tmp_path):
    save_image(tmp_path / "train" / "maine_coon" / "0.png", 0)
    save_image(tmp_path / "val" / "zebra" / "1.png", 1)
    save_image(tmp_path / "val" / ".hidden" / "2.png", 2)
    parts = load_splits(tmp_path)
    assert {name: part.class_names for name, part in parts.items()} == {
        "train": ["maine coon", "zebra"],  # the classes of all parts, so that a label is the same everywhere
        "validation": ["maine coon", "zebra"],
    }
    assert parts["validation"].targets.tolist() == [1]
    assert parts["validation"].split == "val"
    assert parts["validation"].empty_classes == ["maine coon"]


def test_a_class_may_be_called_train(tmp_path):
    save_image(tmp_path / "train" / "0.png", 0)
    save_image(tmp_path / "boat" / "1.png", 1)
    data = load_classification(tmp_path)
    assert data.class_names == ["boat", "train"] and data.split == "all"


def test_dataset_objects():
    data = load_classification({"train": class_data([0]), "test": class_data()})
    assert data.split == "test" and len(data) == 4 and data.class_names == ["cat", "maine coon", "zebra"]
    assert load_classification(class_data()).split == "all"
    assert data.data.features["image"] == datasets.Image(decode=False)
    assert load_classification(datasets.DatasetDict(validation=class_data())).split == "validation"


def test_selected_rows_keep_their_labels():
    data = load_classification(class_data()).select([2, 0])
    assert data.targets.tolist() == [2, 0] and numbers_of(data) == [2, 0]


def test_limit_is_spread_over_the_rows():
    data = load_classification(class_data([0] * 10 + [1] * 10 + [2] * 10), ClassificationOptions(limit=6))
    assert data.targets.tolist() == [0, 0, 1, 1, 2, 2]
    assert load_classification(class_data(), ClassificationOptions(limit=100)).targets.shape == (4,)


# -------------------------------------------------------------------------------------------------------------- labels


def test_labels_that_are_numbers_or_strings():
    options = ClassificationOptions(class_names=NAMES)
    integers = labelled([2, 0], datasets.Value("int32"))
    strings = labelled(["zebra", "cat"], datasets.Value("string"))
    digits = labelled(["2", "0"], datasets.Value("string"))
    for data in (integers, strings, digits):
        assert load_classification(data, options).targets.tolist() == [2, 0]


def test_several_labels():
    feature = datasets.List(datasets.ClassLabel(names=NAMES))
    data = load_classification(labelled([[0, 2], [], [1]], feature))
    expected = np.array([[1, 0, 1], [0, 0, 0], [0, 1, 0]], bool)
    np.testing.assert_array_equal(data.targets, expected)
    assert data.targets.dtype == bool and data.is_multi_label and data.metric == "map_11point"
    assert data.class_counts.tolist() == [1, 1, 1]
    for dtype in ("int64", "float32", "bool"):  # float32 in clip-benchmark's tars
        flags = labelled(expected.astype(dtype).tolist(), datasets.List(datasets.Value(dtype)))
        loaded = load_classification(flags, ClassificationOptions(class_names=NAMES))
        np.testing.assert_array_equal(loaded.targets, expected)


def test_columns_are_found_or_named():
    data = class_data().rename_columns({"image": "jpg", "label": "cls"})
    loaded = load_classification(data)
    assert (loaded.image_column, loaded.label_column) == ("jpg", "cls")
    two = class_data().add_column("coarse", [0, 0, 1, 0], feature=datasets.ClassLabel(names=["pet", "wild"]))
    assert load_classification(two).label_column == "label"
    assert load_classification(two, ClassificationOptions(label_column="coarse")).class_names == ["pet", "wild"]


# --------------------------------------------------------------------------------------- local data of the registry


def test_registry_names_for_local_data(tmp_path):
    # As a hub's folders would sort them: capitals first, and not in the registry's order.
    names = sorted(name.replace(" ", "_") for name in load_class_names("class_names.json#pets"))
    names = [name.lower() if number % 2 else name for number, name in enumerate(names)][::-1]
    class_data([36, 0], names).save_to_disk(tmp_path / "a")
    data = load_classification(f"pets={tmp_path / 'a'}", ClassificationOptions(metric="top1"))
    assert data.class_names[36] == load_class_names("class_names.json#pets")[0] == "Abyssinian"
    assert [name.replace(" ", "_").lower() for name in data.class_names] == [name.lower() for name in names]
    assert data.name == "pets" and data.templates == ("a photo of a {}, a type of pet.",)


def test_curated_names_by_place_where_the_data_has_others():
    data = labelled([0, 9], datasets.ClassLabel(names=[f"class {n}x" for n in range(10)]))
    loaded = load_classification(data, ClassificationOptions(class_names="class_names.json#eurosat"))
    assert loaded.class_names == load_class_names("class_names.json#eurosat")


def test_classes_in_another_order_that_are_not_the_same(tmp_path):
    names = load_class_names("class_names.json#stl10")[::-1]
    class_data([0], [*names[:-1], "aeroplane"]).save_to_disk(tmp_path / "a")
    with pytest.raises(ValueError, match="another order.*class 0 is 'truck' in the data, 'airplane' in the registry"):
        load_classification(f"stl10={tmp_path / 'a'}")


def test_folders_called_by_number(tmp_path):
    for label in range(10):
        save_image(tmp_path / f"{label + 1}" / "0.png", label)
    data = load_classification(f"stl10={tmp_path}")  # 1, 10, 2, ... as folders sort
    assert data.class_names[:2] == ["airplane", "truck"]
    assert [data.class_names[target] for target in data.targets][:2] == ["airplane", "truck"]


def test_folders_called_by_synset(tmp_path):
    subsets = imagenet_subsets()
    for number, label in enumerate(subsets["imagenet-a"]):
        save_image(tmp_path / subsets["synsets"][label] / "0.png", number % 40)
    data = load_classification(f"imagenet-a={tmp_path}")
    assert data.name == "imagenet_a" and len(data.templates) == 80
    assert data.class_names == load_class_names("imagenet_subsets.json#imagenet-a")
    with pytest.raises(ValueError, match="are not the dataset's 200 ImageNet classes"):
        load_classification(f"imagenet-r={tmp_path}")


def test_the_hubs_name_of_a_split_counts(tmp_path):
    # ImageNet's figures are those of its validation images.
    names = imagenet_subsets()["synsets"]
    datasets.DatasetDict(
        train=class_data([0], names), val=class_data([5, 6], names), test=class_data([7, 8, 9], names)
    ).save_to_disk(tmp_path / "a")
    data = load_classification(f"imagenet={tmp_path / 'a'}")
    assert data.split == "val" and data.targets.tolist() == [5, 6]
    assert data.class_names[5] == "electric ray"
    parts = load_splits(f"imagenet={tmp_path / 'a'}")  # what is called test there has no labels, and is left out
    assert list(parts) == ["train", "test"] and len(parts["test"]) == 2


def test_parts_in_their_order():
    data = {"dev": class_data([0]), "testing": class_data([1, 1]), "train": class_data([2, 2, 2])}
    parts = load_splits(data)
    assert {name: (part.split, len(part)) for name, part in parts.items()} == {
        "train": ("train", 3),
        "validation": ("dev", 1),
        "test": ("testing", 2),
    }
    assert list(load_splits({"a": class_data(), "b": class_data()})) == ["a", "b"]


def test_objectnets_other_classes_are_passed_over_and_borders_cut_off(tmp_path):
    for number, name in enumerate(["air_freshener", *imagenet_subsets()["objectnet"]]):
        save_image(tmp_path / name / "0.png", number % 40)
    data = load_classification(f"objectnet={tmp_path}", ClassificationOptions(limit=3))
    assert len(data.class_names) == 113 and data.class_names[0] == "alarm clock"
    image = Image.open(io.BytesIO(data.data[0]["image"]["bytes"]))
    assert np.array_equal(np.asarray(image), np.asarray(image_of(1))[2:-2, 2:-2])


# ------------------------------------------------------------------------------------------- made on this machine


def test_digits():
    parts = load_splits("digits")
    sizes = {name: len(part) for name, part in parts.items()}
    assert sizes == {"train": 1085, "validation": 357, "test": 355}
    assert min(parts["test"].class_counts) >= 34 and max(parts["test"].class_counts) <= 37
    test = load_classification("digits")
    assert test.class_names == list("0123456789") and test.templates == ('a photo of the number: "{}".',)
    image = Image.open(io.BytesIO(test.data[0]["image"]["bytes"]))
    assert image.size == (64, 64) and image.mode == "RGB"
    assert np.asarray(image)[0, 0].max() < 60 < np.asarray(image).max()  # white on black


@pytest.fixture
def emojis(monkeypatch):
    """A small OpenMoji."""

    def rows(captions, tones):
        features = datasets.Features(
            {
                "image": datasets.Image(),
                "caption": datasets.Value("string"),
                "skin_tones": datasets.List(datasets.Value("string")),
            }
        )
        images = [{"bytes": encoded(image_of(number)), "path": None} for number in range(len(captions))]
        return datasets.Dataset.from_dict({"image": images, "caption": captions, "skin_tones": tones}, features)

    data = datasets.DatasetDict(
        train=rows(["wave", "wave: dark skin tone"], [[], ["dark skin tone"]]),
        test=rows(["hug: two", "sun", "wave: light skin tone"], [["x"] * 2, [], ["light skin tone"]]),
    )
    use_openmoji(monkeypatch, data)


@pytest.mark.usefixtures("emojis")
def test_openmoji_is_classified_among_all_captions():
    data = load_classification("openmoji")
    assert data.class_names == ["hug: two", "sun", "wave", "wave: dark skin tone", "wave: light skin tone"]
    assert data.targets.tolist() == [0, 1, 4] and data.templates == OPENMOJI_TEMPLATES
    assert load_splits("openmoji")["train"].targets.tolist() == [2, 3]


@pytest.mark.usefixtures("emojis")
def test_openmoji_skin_tones():
    parts = load_splits("openmoji_skin_tones")
    assert parts["test"].class_names[0] == "light skin tone" and len(parts["test"].class_names) == 5
    assert parts["test"].targets.tolist() == [0] and numbers_of(parts["test"]) == [2]
    assert parts["train"].targets.tolist() == [4] and numbers_of(parts["train"]) == [1]


# ----------------------------------------------------------------------------------------------------------- bad input


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"split": "dev"}, "no split `dev`; it has train, test"),
        (
            {"image_column": "picture"},
            r"no column 'picture'; it has 'image', 'label'.*`image_column` \(--image-c",
        ),
        ({"label_column": "class"}, r"no column 'class'.*with `label_column` \(--label-column\)"),
        ({"class_names": ["cat", "dog"]}, "2 class names, but the column 'label' is a ClassLabel of 3"),
        ({"class_names": ["cat", "dog", "owl", "eel"]}, "4 class names, but the column 'label' is a ClassLabel of 3"),
        ({"class_names": "cat"}, "neither a file"),
        ({"class_names": ["cat", "dog", ""]}, "class 2 is ''"),
        ({"metric": "roc_auc"}, "for two classes"),
        ({"metric": "map_11point"}, "one label"),
        ({"templates": "a photo"}, "does not say where the label goes"),
    ],
)
def test_options_that_do_not_fit(options, message):
    data = {"train": class_data(), "test": class_data()}
    with pytest.raises(ValueError, match=message):
        load_classification(data, ClassificationOptions(**options))


@pytest.mark.parametrize(
    ("options", "message"), [({"metric": "top2"}, "there are top1"), ({"limit": 0}, "`limit` is 0")]
)
def test_options_out_of_range(options, message):
    with pytest.raises(ValueError, match=message):
        ClassificationOptions(**options)


@pytest.mark.parametrize(
    ("labels", "dtype", "message"),
    [
        ([0, 3], "int64", "largest label is 3, but there are 3 class names, for the labels 0 to 2"),
        ([-1, -1], "int64", "2 of 2 labels are below 0.*without labels"),
        ([0, None], "int64", "1 row has no label in 'label', the first is row 1"),
        ([0.5, 1.0], "float64", "must be a ClassLabel, whole numbers, strings"),
        (["cat", "dog"], "string", "1 of the labels is no class name: 'dog'.*--class-names FILE"),
        (["99999999999999999999999", "1"], "string", "the label 99999999999999999999999 is too large .* 0 to 2"),
        ([-1e30, 0.0], "float64", "the label -1000000000000000019884624838656 is too large"),
    ],
)
def test_labels_that_do_not_fit(labels, dtype, message):
    data = labelled(labels, datasets.Value(dtype))
    with pytest.raises(ValueError, match=message):
        load_classification(data, ClassificationOptions(class_names=NAMES))


@pytest.mark.parametrize(
    ("labels", "dtype", "message"),
    [
        ([[0.5, 0.5, 0.0]], "float32", "lists of float32; give lists of the ids .* for each of the 3 classes"),
        ([[0, 3]], "int64", "largest label is 3"),
        ([["cat", "dog"]], "string", "no class name: 'dog'"),
        ([["cat"], ["cat", None]], "string", "1 row has no label, or an empty one in a list, in 'label', .* row 1"),
        ([["cat", " "], None], "string", "2 rows have no label, or an empty one in a list, in 'label', .* row 0"),
        ([[0, None], [1]], "int64", "1 row has no label, or an empty one in a list, in 'label', .* row 0"),
        (list(np.array([[2**63], [0]], np.uint64)), "uint64", "the label 9223372036854775808 is too large"),
    ],
)
def test_lists_of_labels_that_do_not_fit(labels, dtype, message):
    data = labelled(labels, datasets.List(datasets.Value(dtype)))
    with pytest.raises(ValueError, match=message):
        load_classification(data, ClassificationOptions(class_names=NAMES))


@pytest.mark.parametrize(
    ("labels", "dtype", "message"),
    [
        (
            [1, 0, 5],
            "int64",
            "int64 values, which do not say .* There are 3 different ones, 0, 1, 5",
        ),
        (["1", "10", "2"], "string", "numbers, written as text, .*3 different ones, '1', '2', '10'"),
        (["1.0", " 0"], "string", "numbers, written as text"),
        ([0.0, 1.0], "float64", "float64 values"),
        ([True, True], "bool", "bool values.* There is one, True"),
    ],
)
def test_numbers_need_class_names(labels, dtype, message):
    with pytest.raises(ValueError, match=message + r".*--class-names FILE.*cast_column\('label', datasets.ClassLabel"):
        load_classification(labelled(labels, datasets.Value(dtype)))


@pytest.mark.parametrize("labels", [[[], []], [[None], [" "]], [None, None], ["", ""]])
def test_columns_without_a_label(labels):
    text = datasets.Value("string")
    data = labelled(labels, datasets.List(text) if isinstance(labels[0], list) else text)
    with pytest.raises(ValueError, match="^No row of .* has a label in the column 'label'. Fill them in"):
        load_classification(data)


@pytest.mark.parametrize(
    ("labels", "dtype", "targets"),
    [
        (["1", "0", "2"], "string", [1, 0, 2]),
        (["1.0", "0.", " 2 "], "string", [1, 0, 2]),
        ([1.0, 0.0, 2.0], "float32", [1, 0, 2]),
        ([False, True, True], "bool", [0, 1, 1]),
        (["maine_coon", "owl", "cat"], "string", [1, 2, 0]),
        (["maine coon", "owl", "cat"], "string", [1, 2, 0]),
    ],
)
def test_labels_with_class_names(labels, dtype, targets):
    options = ClassificationOptions(class_names=["cat", "maine coon", "owl"])
    assert load_classification(labelled(labels, datasets.Value(dtype)), options).targets.tolist() == targets


def test_strings_are_class_names_by_themselves():
    data = load_classification(labelled(["tabby_cat", "dog", "7", "dog"], datasets.Value("string")))
    assert data.class_names == ["7", "dog", "tabby cat"] and data.targets.tolist() == [2, 1, 0, 1]
    # Two that differ by what is made readable stay as they are.
    data = load_classification(labelled(["a_b", "a b"], datasets.Value("string")))
    assert data.class_names == ["a b", "a_b"] and data.targets.tolist() == [1, 0]
    several = load_classification(labelled([["red", "big_one"], [], ["red"]], datasets.List(datasets.Value("string"))))
    assert several.class_names == ["big one", "red"] and several.targets.tolist() == [[1, 1], [0, 0], [0, 1]]


def test_the_names_are_those_of_all_parts():
    text = datasets.Value("string")
    parts = {"train": labelled(["cat", "owl"], text), "test": labelled(["owl", "dog"], text)}
    assert load_classification(parts).class_names == ["cat", "dog", "owl"]
    assert [part.targets.tolist() for part in load_splits(parts).values()] == [[0, 2], [2, 1]]
    other = {"pets": labelled(["cat"], text), "cars": labelled(["van"], text)}  # no parts of one dataset
    assert load_classification(other, ClassificationOptions(split="pets")).class_names == ["cat"]


@pytest.mark.parametrize("kind", ["csv", "tsv", "jsonl", "json", "parquet"])
def test_files_with_names_as_labels_need_no_options(kind, tmp_path):
    rows = [{"image": f"{number}.png", "label": label} for number, label in enumerate(["owl", "maine_coon", "owl"])]
    for number in range(3):
        save_image(tmp_path / f"{number}.png", number)
    path = tmp_path / f"animals.{kind}"
    if kind == "parquet":
        datasets.Dataset.from_list(rows).to_parquet(path)
    elif kind.startswith("json"):
        lines = [json.dumps(row) for row in rows]
        path.write_text("\n".join(lines) if kind == "jsonl" else f"[{', '.join(lines)}]")
    else:
        between = "," if kind == "csv" else "\t"
        path.write_text("".join(between.join(row) + "\n" for row in (["image", "label"], *map(dict.values, rows))))
    data = load_classification(path)
    assert data.class_names == ["maine coon", "owl"] and data.targets.tolist() == [1, 0, 1]


@pytest.mark.parametrize("missing", ["", "  ", None])
def test_missing_names_are_said_and_are_no_class(missing):
    data = labelled(["cat", missing, "dog", missing], datasets.Value("string"))
    with pytest.raises(ValueError, match=r"2 rows have no label in 'label', the first is row 1. Fill them in"):
        load_classification(data)
    with pytest.raises(ValueError, match="1 row has no label"):
        load_classification(
            labelled([0.0, float("nan")], datasets.Value("float64")), ClassificationOptions(class_names=NAMES)
        )


@pytest.mark.parametrize(
    ("labels", "message"),
    [
        ([1, 2, 3], "The labels begin at 1: subtract 1 from each, or give a name for the label 0"),
        ([0, 4, 7], "There are 3 different labels, 0, 4, 7: number them from 0 on without gaps"),
        ([0, 1, 2, 3], r"Give a name for each label \(`class_names`, --class-names FILE\)"),
    ],
)
def test_labels_that_are_not_numbered_from_0(labels, message):
    with pytest.raises(ValueError, match=message):
        load_classification(labelled(labels, datasets.Value("int64")), ClassificationOptions(class_names=NAMES))


def test_strings_of_a_name_that_two_classes_have():
    data = labelled(["missile"], datasets.Value("string"))
    with pytest.raises(ValueError, match="'missile' names two classes"):
        load_classification(data, ClassificationOptions(class_names="class_names.json#imagenet"))
    other = labelled(["tench"], datasets.Value("string"))
    assert load_classification(other, ClassificationOptions(class_names="class_names.json#imagenet")).targets == [0]


def test_a_class_without_images_matters_to_some_metrics():
    data = class_data([0, 2])
    assert load_classification(data).empty_classes == ["maine coon"]
    with pytest.raises(ValueError, match="1 of the 3 classes .* has no image, 'maine coon', so mean_per_class"):
        load_classification(data, ClassificationOptions(metric="mean_per_class"))
    with pytest.raises(ValueError, match=r"Use all rows, choose the metric top1, or drop these classes\.$"):
        load_classification(data, ClassificationOptions(metric="mean_per_class"))
    several = labelled([["cat"], []], datasets.List(datasets.Value("string")))
    with pytest.raises(ValueError, match=r"has no image, 'owl', so .* Use all rows, or drop these classes\.$"):
        load_classification(several, ClassificationOptions(class_names=["cat", "owl"]))


def test_no_rows(tmp_path):
    with pytest.raises(ValueError, match="has no rows"):
        load_classification({"test": class_data().select([])})
    (tmp_path / "test" / "cat").mkdir(parents=True)
    with pytest.raises(ValueError, match="has no class folders with images"):
        load_classification(tmp_path)


def test_columns_that_cannot_be_told():
    data = datasets.Dataset.from_dict({"a": [1], "b": ["x"]})
    with pytest.raises(ValueError, match="Which column holds the images cannot be told; there are 'a', 'b'"):
        load_classification(data)
    with pytest.raises(ValueError, match="Which column holds the labels"):
        load_classification(class_data().rename_column("label", "b").cast_column("b", datasets.Value("int64")))


def test_splits_that_are_missing(tmp_path):
    with pytest.raises(ValueError, match="has no splits, so there is no `test`"):
        load_classification(class_data(), ClassificationOptions(split="test"))
    with pytest.raises(ValueError, match="splits a, b; say with `split`"):
        load_classification({"a": class_data(), "b": class_data()})
    with pytest.raises(ValueError, match="`load_splits` loads all splits"):
        load_splits(class_data(), ClassificationOptions(split="test"))


@pytest.mark.parametrize(
    ("source", "message"),
    [
        ("./nowhere", "no file or folder './nowhere' .*/nowhere.*Data may be a folder of class folders"),
        ("class_foldrs", "no file or folder 'class_foldrs' .*/class_foldrs.*Did you mean 'class_folders'.*cifar10, "),
        ("nobody/class_folders", "no file or folder 'nobody/class_folders' .*cannot be loaded from the hub"),
        ("pairs.cvs", "no file or folder 'pairs.cvs'.*Did you mean 'pairs.csv'"),
        ("cifra10", "no file or folder 'cifra10'.*Did you mean 'cifar10' or 'cifar100'"),
        (" ", "empty text"),
        ("pets=./nowhere", "no file or folder './nowhere'"),
        ("petz=./nowhere", "Did you mean 'pets'"),
        ("petz", "Did you mean 'pets'"),
        ("nobody/nothing", "cannot be loaded from the hub"),
        ("food101", "ethz/food101 cannot be loaded from the hub.*'food101=PATH'.*split `validation`, 101 classes"),
        ("birdsnap", "not on the hub in a form.*'birdsnap=PATH'"),
        ("mscoco", "captions and no classes"),
    ],
)
def test_data_that_is_not_there(source, message, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "class_folders").mkdir()
    (tmp_path / "pairs.csv").touch()
    with pytest.raises(ValueError, match=message):
        load_classification(source)


def test_a_folder_without_class_folders(tmp_path):
    save_image(tmp_path / "0.png", 0)
    with pytest.raises(ValueError, match="has no class folders with images"):
        load_classification(tmp_path)


def test_files_of_unknown_splits(tmp_path):
    class_data().to_parquet(tmp_path / "test-0.parquet")
    class_data().to_parquet(tmp_path / "other.parquet")
    with pytest.raises(ValueError, match="belongs to no split"):
        load_classification(tmp_path)


def test_a_table_without_images(tmp_path):
    (tmp_path / "a.csv").write_text("picture_name,label\n", encoding="utf-8")
    with pytest.raises(ValueError, match="has no rows"):
        load_classification(tmp_path / "a.csv")
    (tmp_path / "a.csv").write_text("where,label\nx.png,cat\n", encoding="utf-8")
    with pytest.raises(ValueError, match="call that of the images' paths"):
        load_classification(tmp_path / "a.csv")


@pytest.mark.parametrize("column", ["where", "image", "file_name", "path"])
def test_the_column_of_paths_in_a_table_may_be_named(column, tmp_path):
    for number in range(2):
        save_image(tmp_path / f"{number}.png", number)
    (tmp_path / "a.csv").write_text(f"{column},label\n0.png,cat\n1.png,dog\n", encoding="utf-8")
    data = load_classification(tmp_path / "a.csv", ClassificationOptions(image_column=column))
    assert data.image_column == column and data.targets.tolist() == [0, 1]
    assert data.data[column][0]["path"] == str(tmp_path / "0.png")
    with pytest.raises(ValueError, match="`image_column` is 'there'. Call that of the images' paths"):
        load_classification(tmp_path / "a.csv", ClassificationOptions(image_column="there"))


@pytest.mark.parametrize("source", [None, 3, ["a"], {}, {"test": 3}, class_data().to_iterable_dataset()])
def test_what_can_hold_no_data(source):
    with pytest.raises(TypeError):
        load_classification(source)


# ------------------------------------------------------------------------------------------------ images with captions


def captioned(captions, **columns) -> datasets.Dataset:
    images = [{"bytes": encoded(image_of(number)), "path": None} for number in range(len(captions))]
    data = datasets.Dataset.from_dict({"image": images, "caption": captions, **columns})
    return data.cast_column("image", datasets.Image())


def test_captions_of_a_dataset():
    data = load_retrieval(captioned([["a", "b", "c"], ["d"]]), CaptionedDataOptions(captions_per_image=2))
    assert data.captions == [["a", "b"], ["d"]] and numbers_of(data) == [0, 1] and len(data) == 2


def test_rows_of_one_image_are_put_together():
    data = captioned(["a", "b", "c"], key=["x", "y", "x"])
    loaded = load_retrieval({"test": data}, CaptionedDataOptions(image_id_column="key"))
    assert loaded.captions == [["a", "c"], ["b"]] and numbers_of(loaded) == [0, 1]


def test_captions_from_files(tmp_path):
    for number in range(4):
        save_image(tmp_path / "pairs" / f"{number}.png", number)
        (tmp_path / "pairs" / f"{number}.txt").write_text(caption_of(number), encoding="utf-8")
    data = load_retrieval(tmp_path / "pairs", CaptionedDataOptions(limit=2))
    assert data.captions == [[caption_of(0)], [caption_of(2)]] and numbers_of(data) == [0, 2]
    assert data.name == "pairs" and data.split == "all"


def test_clip_benchmarks_captions_are_lines(tmp_path):
    lines = "one\ntwo\n\nthree\nfour\nfive\nsix"
    (tmp_path / "0.txt").write_text(lines, encoding="utf-8")
    save_image(tmp_path / "0.png", 0)
    data = load_retrieval(f"flickr30k={tmp_path}")
    assert data.captions == [["one", "two", "three", "four", "five"]] and data.name == "flickr30k"
    assert get_dataset("flickr30k").captions_per_image == 5


@pytest.mark.usefixtures("emojis")
def test_openmoji_for_retrieval():
    data = load_retrieval("openmoji")
    assert data.captions == [["hug: two"], ["sun"], ["wave: light skin tone"]]


@pytest.mark.parametrize(
    ("source", "options", "message"),
    [
        (captioned(["a"]), {"caption_column": "text"}, "no column 'text'"),
        (captioned(["a", " "]), {}, "Row 1"),
        (captioned(["a"]), {"image_id_column": "key"}, "no column 'key'"),
        ("pets", {}, "classes and no captions"),
        ("mscoco", {}, "cannot be loaded from the hub.*'mscoco=PATH'"),
        ("nobody/nothing", {}, "cannot be loaded from the hub"),
    ],
)
def test_captions_that_are_not_there(source, options, message):
    with pytest.raises(ValueError, match=message):
        load_retrieval(source, CaptionedDataOptions(**options))


def test_retrieval_options_out_of_range():
    with pytest.raises(ValueError, match="`captions_per_image` is 0"):
        CaptionedDataOptions(captions_per_image=0)


def test_a_slice_of_labelled_images():
    data = load_classification(datasets.DatasetDict(train=class_data()), ClassificationOptions(split="train[:2]"))
    assert len(data) == 2 and numbers_of(data) == numbers_of(load_classification(class_data()))[:2]


def test_several_tables_are_one_source(tmp_path):
    for number, label in enumerate(("cat", "owl")):
        save_image(tmp_path / f"{number}.png", number)
        (tmp_path / f"part-{number}.csv").write_text(f"image,label\n{number}.png,{label}\n", encoding="utf-8")
    data = load_classification(tmp_path / "part-*.csv")
    assert data.class_names == ["cat", "owl"] and data.targets.tolist() == [0, 1] and numbers_of(data) == [0, 1]
    assert len(load_pairs(tmp_path / "part-*.csv", options=PairOptions(caption_column="label"))) == 2
