# Copyright 2026 The clip_hf team. All rights reserved.
# Licensed under the Apache License, Version 2.0; see LICENSE.
"""The engine: the same numbers as encoder and pipeline, for many requests at once; its bounds; what it refuses."""

import asyncio
import itertools
import random
import threading
import time

import numpy as np
import pytest
import torch
from engine_runs import photos, refused, run, texts
from transformers import pipeline

from clip_hf import ImageLimits
from clip_hf.embedding import load_dual_encoder
from clip_hf.serving.dynamic_batching import BatchingOptions
from clip_hf.serving.label_options import ClassifyOptions
from clip_hf.serving.request_errors import RequestError
from clip_hf.serving.request_inputs import ImageItem, TextItem
from clip_hf.serving.served_images import PixelRoom
from clip_hf.serving.serving_limits import ServingLimits
from encoding_inputs import image, png
from tiny_models import make_tiny_model


LABELS = ["a cat", "a dog", "the beach"]
WORDS = "a cat dog photo of the red beach small big".split()


# ------------------------------------------------------------------------------------------------------------- embed


def test_features_are_the_encoders_in_the_order_of_the_items(shared):
    items = [*texts("a cat"), *photos(3), *texts("the beach", "a cat"), *photos(1)]
    rows = run(shared, lambda engine: engine.embed(items))
    assert rows.dtype == np.float32
    np.testing.assert_allclose(rows[[0, 2, 3]], shared.encode_texts(["a cat", "the beach", "a cat"]), atol=1e-6)
    np.testing.assert_allclose(rows[[1, 4]], shared.encode_images([image(3), image(1)]), atol=1e-6)


def test_256_requests_of_different_sizes_get_their_own_rows(shared):
    generator = random.Random(0)
    known = dict(zip(WORDS, shared.encode_texts(WORDS).numpy(), strict=True))
    seen = dict(enumerate(shared.encode_images([image(n) for n in range(6)]).numpy()))
    sizes = [generator.choice([1, 1, 1, 2, 3, 9]) for _ in range(256)]
    kinds = [[generator.choice([*WORDS, *range(6)]) for _ in range(size)] for size in sizes]

    async def use(engine):
        async def ask(values):
            await asyncio.sleep(generator.random() / 20)
            items = [TextItem(v, "") if isinstance(v, str) else ImageItem(png(v), "") for v in values]
            with engine.admit(len(items)):
                rows = await engine.embed(items)
            expected = [known[v] if isinstance(v, str) else seen[v] for v in values]
            np.testing.assert_allclose(rows, expected, atol=1e-5)

        await asyncio.gather(*map(ask, kinds))

    run(shared, use)


def test_a_text_that_is_too_long_is_refused_or_cut(shared, tiny_tokenizer):
    text = "a cat " * 50
    count = len(tiny_tokenizer(text, truncation=False)["input_ids"])
    error = refused(shared, lambda engine: engine.embed(texts("a dog", text)))
    assert (error.status, error.code, error.param) == (400, "text_too_long", "input[1]")
    assert f"has {count} tokens, and {shared.context_length} fit" in error.message
    assert '"truncate": true' in error.message
    rows = run(shared, lambda engine: engine.embed(texts("a dog", text), truncate=True))
    np.testing.assert_allclose(rows, shared.encode_texts(["a dog", text]), atol=1e-6)


def test_a_text_that_just_fits_is_not_cut(shared):
    text = next(
        text
        for text in (" ".join(["cat"] * number) for number in range(1, 100))
        if shared.count_tokens([text]) == [shared.context_length]
    )
    run(shared, lambda engine: engine.embed(texts(text)))
    assert refused(shared, lambda engine: engine.embed(texts(f"{text} cat"))).code == "text_too_long"


def test_tokens_are_counted_before_any_is_cut_and_remembered(shared, monkeypatch):
    asked = []
    count = type(shared).count_tokens
    monkeypatch.setattr(type(shared), "count_tokens", lambda self, texts: asked.extend(texts) or count(self, texts))

    async def use(engine):
        first = await engine.count_tokens(["a cat", "a cat " * 50, "a cat"])
        return first, await engine.count_tokens(["a dog", "a cat"])

    first, second = run(shared, use)
    assert first == count(shared, ["a cat", "a cat " * 50, "a cat"]) and first[1] > shared.context_length
    assert second == count(shared, ["a dog", "a cat"])
    assert asked == ["a cat", "a cat " * 50, "a dog"]


@pytest.mark.parametrize(
    ("data", "code"),
    [(b"nothing", "image_not_an_image"), (b"", "image_file_empty"), (png(0)[:-40], "image_file_truncated")],
)
def test_an_image_that_cannot_be_used_is_named_and_harms_no_other_request(data, code, shared):
    async def use(engine):
        bad = engine.embed([*photos(1), ImageItem(data, "input[1]")])
        return await asyncio.gather(
            bad, *(engine.embed(photos(number)) for number in range(4)), return_exceptions=True
        )

    error, *rows = run(shared, use)
    assert (error.status, error.code, error.param) == (400, code, "input[1]")
    np.testing.assert_allclose(np.concatenate(rows), shared.encode_images([image(n) for n in range(4)]), atol=1e-5)


def test_limits_of_images_are_the_servers(tiny_processor):
    encoder = load_dual_encoder(make_tiny_model("vit"), processor=tiny_processor)
    limits = ServingLimits(max_image_pixels=64 * 64 - 1)
    error = refused(encoder, lambda engine: engine.embed(photos(0)), limits=limits)
    assert (error.status, error.code) == (400, "image_too_large")
    encoder.set_image_options(image_limits=ImageLimits(max_bytes=10))  # as --max-image-bytes does
    error = refused(encoder, lambda engine: engine.embed(photos(0)))
    assert (error.status, error.code) == (400, "image_file_too_large")
    assert encoder.image_limits == ImageLimits(max_bytes=10)  # another server may have the same encoder


def test_a_model_that_fails_on_an_item_is_an_answer_and_harms_no_other(tiny_processor, monkeypatch, caplog):
    encoder = load_dual_encoder(make_tiny_model("vit"), processor=tiny_processor)
    encode = encoder.encode_texts

    def fail_on_dogs(texts):
        if "a dog" in texts:
            raise RuntimeError(f"secret of the device, and {texts}")
        return encode(texts)

    monkeypatch.setattr(encoder, "encode_texts", fail_on_dogs)

    async def use(engine):
        asked = (engine.embed(texts(text)) for text in ("a cat", "a dog", "the beach"))
        return await asyncio.gather(*asked, return_exceptions=True)

    cat, error, beach = run(encoder, use)
    np.testing.assert_allclose(np.concatenate([cat, beach]), encode(["a cat", "the beach"]), atol=1e-6)
    assert (error.status, error.code, error.param) == (503, "model_failed", "input[0]")
    assert "secret" not in error.message
    assert "input[0]: RuntimeError" in caplog.text and "fail_on_dogs" in caplog.text
    assert "secret of the device, and [" not in caplog.text


def test_a_model_whose_features_depend_on_the_batch_gets_one_item_at_a_time(encoder):
    encoder.depends_on_batch = True
    run(encoder, lambda engine: engine.embed(photos(*range(5))))
    assert encoder.counted == [1] * 5


# ------------------------------------------------------------------------------------------------- bounds and fairness


def test_decoded_images_are_bounded_over_all_requests(tiny_processor, monkeypatch):
    encoder = load_dual_encoder(make_tiny_model("vit"), processor=tiny_processor)
    prepare, encode = encoder.prepare, encoder.encode_images
    lock, held, most = threading.Lock(), [0], [0]

    def note(change: int) -> None:
        with lock:
            held[0] += change
            most[0] = max(most[0], held[0])

    def counted_prepare(images):
        note(len(images))
        return prepare(images)

    def counted_encode(inputs):
        time.sleep(0.01)  # decoding is faster than the model
        features = encode(inputs)
        note(-len(features))
        return features

    monkeypatch.setattr(encoder, "prepare", counted_prepare)
    monkeypatch.setattr(encoder, "encode_images", counted_encode)

    async def use(engine):
        return await asyncio.gather(*(engine.embed(photos(*[number] * 60)) for number in range(4)))

    rows = run(encoder, use, batching=BatchingOptions(max_batch_images=4))
    # Four batches, and a batch whose slots are given back before this test hears of it.
    assert 8 <= most[0] <= 4 * 4 + 4
    for number in range(4):
        np.testing.assert_allclose(rows[number], encode([image(number)]).expand(60, -1), atol=1e-5)


def test_a_large_request_does_not_starve_a_small_one(shared):
    async def use(engine):
        large = asyncio.ensure_future(engine.embed(photos(*[0] * 150)))
        await asyncio.sleep(0.05)
        await engine.embed([*photos(1), *texts("a cat")])
        is_first = not large.done()
        await large
        return is_first

    assert run(shared, use, batching=BatchingOptions(max_batch_images=4))


@pytest.mark.parametrize("limit", ["requests", "items"])
def test_too_much_is_refused_with_the_time_to_wait(limit, shared):
    bounds = {"requests": {"max_pending_requests": 2}, "items": {"max_pending_items": 20}}[limit]
    limits = ServingLimits(max_items=10, max_prompts=10, **bounds)

    async def use(engine):
        with engine.admit(1), engine.admit(19):
            with pytest.raises(RequestError, match="2 requests with 20 texts and images") as caught, engine.admit(1):
                pass
            values = engine.metrics.render().decode()
        with engine.admit(1):  # others have been answered
            pass
        return caught.value, values, engine.metrics.render().decode()

    error, values, after = run(shared, use, limits=limits)
    assert (error.status, error.code) == (429, "queue_full")
    assert 1 <= error.retry_after <= 60
    assert "clip_hf_rejected_total 1.0" in values and "clip_hf_pending_items 20.0" in values
    assert "clip_hf_pending_items 0.0" in after and "clip_hf_pending_requests 0.0" in after


def test_the_time_to_wait_is_that_of_the_pending_items(shared):
    async def use(engine):
        await engine.embed(texts("a cat"))  # measures the speed
        speed = engine._batcher.items_per_second
        pending = int(5 * speed)
        engine.limits = ServingLimits(max_items=1, max_prompts=1, max_pending_items=pending)
        with engine.admit(pending), pytest.raises(RequestError) as caught, engine.admit(1):
            pass
        return caught.value.retry_after, pending / speed

    seconds, expected = run(shared, use)
    assert seconds == pytest.approx(expected, rel=0.01)


def test_draining_waits_for_what_was_admitted_and_admits_no_more(shared):
    async def use(engine):
        async def ask():
            with engine.admit(40):
                await asyncio.sleep(0.05)
                return await engine.embed(photos(*[0] * 40))

        asked = asyncio.ensure_future(ask())
        await asyncio.sleep(0)
        drained = asyncio.ensure_future(engine.drain())
        await asyncio.sleep(0)
        with pytest.raises(RequestError) as caught, engine.admit(1):
            pass
        await drained
        return asked.done(), (await asked).shape, caught.value

    is_done, shape, error = run(shared, use)
    assert is_done and shape == (40, shared.projection_dim)
    assert (error.status, error.retry_after) == (503, 1)


def test_items_wait_for_requests_that_were_admitted_before_them(encoder):
    async def use(engine):
        async def ask(seconds):
            with engine.admit(1):
                await asyncio.sleep(seconds)  # as a body that is being read
                await engine.embed(photos(0))

        await asyncio.gather(*(ask(number / 50) for number in range(8)))

    run(encoder, use, batching=BatchingOptions(max_wait_ms=5000))
    assert encoder.counted == [8]


def test_no_thread_is_left(shared):
    before = set(threading.enumerate())
    run(shared, lambda engine: engine.embed([*photos(0), *texts("a cat")]))
    left = [thread.name for thread in set(threading.enumerate()) - before]
    assert not [name for name in left if name.startswith(("model", "decode", "helper", "search"))]


# ---------------------------------------------------------------------------------------------------------- classify

OPTIONS = [
    {"multi_label": multi, "background": background, "function_to_apply": function, "templates": templates}
    for multi, background, function, templates in itertools.product(
        (False, True),
        (None, "a photo.", ["nothing.", "a red beach."]),
        ("softmax", "cosine", "none"),
        (
            "a photo of {}.",
            ["a {label}.", "the small {}."],
            "openai_imagenet_subset",
            {label: [f"{label} one", f"{label} two"] for label in LABELS},
        ),
    )
    if function == "softmax" or not (multi or background)
]


def assert_same_results(found: list, expected: list) -> None:
    assert [[each["label"] for each in row] for row in found] == [[each["label"] for each in row] for row in expected]
    scores = [[each["score"] for row in rows for each in row] for rows in (found, expected)]
    np.testing.assert_allclose(*scores, rtol=0, atol=1e-6 * max(1, np.abs(scores[1]).max()))


@pytest.mark.parametrize("has_bias", [False, True])
def test_scores_are_the_pipelines_for_all_options(has_bias, tiny_processor):
    model = make_tiny_model("vit", **({"logit_bias_init_value": -0.5} if has_bias else {}))
    encoder = load_dual_encoder(model, processor=tiny_processor)
    pipe = pipeline(
        "zero-shot-image-classification",
        model=model,
        tokenizer=tiny_processor.tokenizer,
        image_processor=tiny_processor.image_processor,
    )

    async def use(engine):
        return [await engine.classify(photos(0, 1, 2), ClassifyOptions(LABELS, **options)) for options in OPTIONS]

    assert (encoder.logit_bias != 0) == has_bias
    for options, found in zip(OPTIONS, run(encoder, use), strict=True):
        asked = {"hypothesis_template" if name == "templates" else name: value for name, value in options.items()}
        assert_same_results(found, pipe([image(n) for n in range(3)], LABELS, **asked))


def test_top_k_and_threshold_are_the_pipelines(shared, tiny_processor):
    pipe = pipeline(
        "zero-shot-image-classification",
        model=shared.model,
        tokenizer=tiny_processor.tokenizer,
        image_processor=tiny_processor.image_processor,
    )
    (scores,) = pipe([image(0)], LABELS)
    middle = (scores[0]["score"] + scores[1]["score"]) / 2
    for options in ({"top_k": 2}, {"threshold": middle}, {"top_k": 1, "threshold": 0.0}, {"top_k": 10}):
        found = run(shared, lambda engine, o=options: engine.classify(photos(0), ClassifyOptions(LABELS, **o)))
        assert_same_results(found, pipe([image(0)], LABELS, **options))
    assert len(found[0]) == 3


def test_a_classifier_is_built_once_for_all_who_ask(encoder, monkeypatch):
    asked = []
    encode = encoder.encode_texts
    monkeypatch.setattr(encoder, "encode_texts", lambda texts: asked.extend(texts) or encode(texts))

    async def use(engine):
        async def ask(labels):
            return await engine.classify(photos(0), ClassifyOptions(labels, "a {}."))

        together = await asyncio.gather(*(ask(LABELS) for _ in range(5)))
        later = await ask(LABELS)
        await ask(LABELS[:2])
        return together, later

    together, later = run(encoder, use)
    assert_same_results([each[0] for each in together], [later[0]] * 5)
    assert asked == ["a a cat.", "a a dog.", "a the beach.", "a a cat.", "a a dog."]


def test_prompts_of_a_new_classifier_count_as_pending_and_those_of_a_kept_one_do_not(shared):
    limits = ServingLimits(max_items=2, max_prompts=10, max_pending_items=12)
    many, few = [f"cat {number}" for number in range(10)], ["red cat", "red dog"]

    async def use(engine):
        async def ask(labels):
            with engine.admit(1):
                return await engine.classify(photos(0), ClassifyOptions(labels, "a {}."))

        both = await asyncio.gather(ask(many), ask(few), return_exceptions=True)
        return [*both, await ask(many), await ask(few)]

    first, refusal, again, later = run(shared, use, limits=limits)
    assert (refusal.status, refusal.code) == (429, "queue_full")
    assert_same_results(first, again)
    assert len(later[0]) == 2


@pytest.mark.parametrize("who", ["first", "all"])
def test_a_cancelled_request_does_not_end_a_classifier_that_others_wait_for(who, encoder, monkeypatch):
    gate, entered, asked = threading.Event(), threading.Event(), []
    encode = encoder.encode_texts

    def slow(texts):
        asked.extend(texts)
        entered.set()
        assert gate.wait(10)
        return encode(texts)

    monkeypatch.setattr(encoder, "encode_texts", slow)

    async def use(engine):
        def ask():
            return asyncio.ensure_future(engine.classify(photos(0), ClassifyOptions(LABELS, "a {}.", truncate=True)))

        tasks = [ask(), ask()]
        await asyncio.to_thread(entered.wait, 10)
        for task in tasks[:1] if who == "first" else tasks:
            task.cancel()
        await asyncio.sleep(0.02)
        tasks.append(
            asyncio.ensure_future(engine.classify(photos(0), ClassifyOptions(LABELS, "a {}.", truncate=True)))
        )
        await asyncio.sleep(0.02)
        gate.set()
        return await asyncio.gather(*tasks, return_exceptions=True)

    first, second, third = run(encoder, use)
    assert isinstance(first, asyncio.CancelledError)
    assert isinstance(second, asyncio.CancelledError) == (who == "all")
    assert len(third[0]) == 3
    assert len(asked) == (3 if who == "first" else 6)


def test_kept_classifiers_are_bounded(encoder, monkeypatch):
    asked = []
    encode = encoder.encode_texts
    monkeypatch.setattr(encoder, "encode_texts", lambda texts: asked.append(texts[0]) or encode(texts))
    monkeypatch.setattr("clip_hf.serving.inference_engine._CLASSIFIER_BYTES", 1000)  # each has some 150 bytes

    async def use(engine):
        for label in [*"abcdefghi", "a", "i"]:
            await engine.classify(photos(0), ClassifyOptions([label], "{}"))

    run(encoder, use)
    assert asked == [*"abcdefghi", "a"]


BAD_OPTIONS = [
    ({"labels": []}, "labels", "There are no labels"),
    ({"labels": ["a", "a"]}, "labels", "occur more than once"),
    ({"labels": "a, b"}, "labels", "must be a list"),
    ({"labels": ["a" * 101]}, "labels", "more than 100 characters"),
    ({"labels": list("abcdefghijk"), "templates": ["{}", "a {}"]}, "labels", "22 prompts; at most 20"),
    ({"templates": "a photo"}, "templates", "where the label goes"),
    ({"templates": "no_such_set"}, "templates", "no_such_set"),
    ({"templates": "a {:>99999999}"}, "templates", "only {} and {label} are filled"),
    ({"templates": "{}" * 40, "labels": ["abcd"]}, "templates", "more than 100 characters"),
    ({"templates": {"a": "one"}, "labels": ["a", "b"]}, None, "no prompts for 1 of the labels"),
    ({"templates": {"a": ["b"] * 21}, "labels": ["a"]}, "labels", "21 prompts"),
    ({"background": "a {}"}, "background", "cannot have a placeholder"),
    ({"background": "a" * 101}, "background", "more than 100 characters"),
    ({"background": "a.", "function_to_apply": "cosine"}, None, "takes part in a softmax only"),
    ({"multi_label": True, "function_to_apply": "none"}, None, "`multi_label` changes the softmax only"),
    ({"function_to_apply": "sigmoid"}, "function_to_apply", "must be one of"),
    ({"threshold": 2}, None, "scores are numbers from 0 to 1"),
    ({"top_k": 0}, "top_k", "at least 1"),
]


@pytest.mark.parametrize(("options", "param", "message"), BAD_OPTIONS)
def test_bad_options_of_a_classification(options, param, message, shared):
    limits = ServingLimits(max_prompts=20, max_text_characters=100)
    asked = ClassifyOptions(**{"labels": ["a"], **options})
    error = refused(shared, lambda engine: engine.classify(photos(0), asked), limits=limits)
    assert (error.status, error.param) == (400, param)
    with pytest.raises(RequestError, match=message):
        raise error


def test_answers_are_bounded(shared, monkeypatch):
    monkeypatch.setattr("clip_hf.serving.label_options._MOST_RESULTS", 6)
    run(shared, lambda engine: engine.classify(photos(0, 1), ClassifyOptions(LABELS)))
    run(shared, lambda engine: engine.classify(photos(0, 1, 2), ClassifyOptions(LABELS, top_k=2)))
    error = refused(shared, lambda engine: engine.classify(photos(0, 1, 2), ClassifyOptions(LABELS)))
    assert (error.status, error.code, error.param) == (400, "too_many_results", "top_k")
    assert "would have 9 scores; at most 6" in error.message


@pytest.mark.parametrize(
    ("options", "param"),
    [
        ({"labels": ["a cat", "a dog " * 40]}, "labels[1]"),
        ({"labels": ["a cat", "a dog"], "templates": ["a {}", "a {} " + "on grass " * 40]}, "templates[1]"),
        ({"labels": ["a", "b"], "templates": {"a": ["a"], "b": ["b", "a dog " * 40]}}, "labels[1]"),
        ({"labels": ["a", "background"], "background": "a dog " * 40}, "background"),
        ({"labels": ["background"], "templates": {"background": ["a dog " * 40]}}, "labels[0]"),
    ],
)
def test_a_prompt_that_is_too_long_is_refused_or_cut(options, param, shared):
    error = refused(shared, lambda engine: engine.classify(photos(0), ClassifyOptions(**options)))
    assert (error.status, error.code, error.param) == (400, "text_too_long", param)
    (result,) = run(shared, lambda engine: engine.classify(photos(0), ClassifyOptions(**options, truncate=True)))
    assert {each["label"] for each in result} == set(options["labels"])


@pytest.mark.parametrize(
    ("options", "characters"),
    [
        ({"labels": ["ab", "cde"], "templates": ["{}", "a {} or {}"]}, 2 * 12 + 5 * 3),
        ({"labels": ["ab", "c"], "templates": {"ab": ["one", "{}"], "c": ["two"]}}, 3 + 4 + 3),
        ({"labels": ["a"], "background": ["a cat " * 3, "a dog " * 3]}, 36),
    ],
)
def test_characters_of_all_prompts_are_bounded(options, characters, shared):
    """With the two characters of each `{}`, which is at least what the prompts have."""
    asked = ClassifyOptions(**options)
    limits = ServingLimits(max_prompt_characters=characters)
    run(shared, lambda engine: engine.classify(photos(0), asked), limits=limits)
    limits = ServingLimits(max_prompt_characters=characters - 1)
    error = refused(shared, lambda engine: engine.classify(photos(0), asked), limits=limits)
    param = "background" if "background" in options else "labels"
    assert (error.status, error.code, error.param) == (400, "too_many_prompt_characters", param)
    assert f"{characters} characters of prompts" in error.message and f"at most {characters - 1} " in error.message


def test_tokens_of_many_texts_are_counted_in_parts_and_a_cancelled_request_ends_between_them(encoder, monkeypatch):
    asked, gate = [], threading.Event()

    def count(texts):
        asked.append(texts)
        assert gate.wait(20)
        return [1] * len(texts)

    monkeypatch.setattr(encoder, "count_tokens", count)
    long, many = ["a" * 40_000 + str(n) for n in range(3)], [f"a cat {n}" for n in range(600)]

    async def use(engine):
        task = asyncio.create_task(engine.count_tokens(long))
        while not asked:
            await asyncio.sleep(0.001)
        task.cancel()
        gate.set()
        assert await engine.count_tokens(many) == [1] * 600
        assert isinstance((await asyncio.gather(task, return_exceptions=True))[0], asyncio.CancelledError)

    run(encoder, use)
    assert [len(texts) for texts in asked] == [1, 256, 256, 88]


def test_counts_that_are_forgotten_meanwhile_are_still_told(encoder, monkeypatch):
    monkeypatch.setattr("clip_hf.serving.inference_engine._COUNTED_TEXTS", 2)
    counts = run(encoder, lambda engine: engine.count_tokens([f"a cat {n}" for n in range(300)] + ["a cat 0"]))
    assert len(counts) == 301 and counts[-1] == counts[0] > 0


def test_the_server_refuses_what_others_decode_and_decodes_within_its_room(encoder, monkeypatch):
    ppm = b"P6 60 50 255\n" + bytes(9000)
    error = refused(encoder, lambda engine: engine.embed([ImageItem(ppm, "input[0]")]))
    assert (error.status, error.code) == (400, "image_not_an_image")
    taken = []
    take = PixelRoom.take
    monkeypatch.setattr(PixelRoom, "take", lambda self, pixels: taken.append(pixels) or take(self, pixels))
    run(encoder, lambda engine: engine.embed(photos(0, 1)))
    assert sorted(taken) == sorted(image(n).width * image(n).height for n in range(2))


@pytest.mark.slow
def test_an_engine_closes_while_a_decoder_sleeps(encoder, monkeypatch):
    gate = threading.Event()
    monkeypatch.setattr(encoder, "prepare", lambda images: gate.wait(30))

    async def use(engine):
        task = asyncio.create_task(engine.embed(photos(0)))
        await asyncio.sleep(0.1)
        task.cancel()

    run(encoder, use)
    busy = [thread for thread in threading.enumerate() if thread.name.startswith("decode_")]
    gate.set()
    assert busy and all(thread.daemon for thread in busy)


# -------------------------------------------------------------------------------------------------------------- rank


def test_ranks_are_of_the_softmax_of_scaled_cosines(shared):
    ranked = run(shared, lambda engine: engine.rank(texts("a cat")[0], [*photos(0, 1, 2), *texts("a dog")]))
    rows = torch.cat([shared.encode_images([image(n) for n in range(3)]), shared.encode_texts(["a dog"])])
    cosines = rows @ shared.encode_texts(["a cat"])[0]
    scores = (100 * cosines).softmax(0)
    assert [each["index"] for each in ranked] == cosines.argsort(descending=True).tolist()
    for each in ranked:
        assert each["cosine"] == pytest.approx(float(cosines[each["index"]]), abs=1e-6)
        assert each["score"] == pytest.approx(float(scores[each["index"]]), abs=2e-5)
    best = run(shared, lambda engine: engine.rank(texts("a cat")[0], [*photos(0, 1, 2), *texts("a dog")], top_k=2))
    assert [each["index"] for each in best] == [each["index"] for each in ranked[:2]]
    assert best[0]["score"] == pytest.approx(ranked[0]["score"], abs=1e-6)  # over all candidates
