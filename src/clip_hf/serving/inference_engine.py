# Copyright 2026 The clip_hf team. All rights reserved.
# Licensed under the Apache License, Version 2.0; see LICENSE.
"""All that a server does with its model: embed, classify, explain, rank and search, for many requests at once."""

import asyncio
import copy
import itertools
import logging
import traceback
from collections import OrderedDict
from collections.abc import Awaitable, Callable, Iterator, Sequence
from contextlib import contextmanager
from contextvars import ContextVar
from dataclasses import dataclass, replace
from functools import partial
from typing import Any

import numpy as np
import torch

from ..embedding.dual_encoder import DualEncoder
from ..explain.image_maps import check_method
from ..model.image_reading_clip_hf import UnreadableImage, fetch_file
from ..model.label_scores_clip_hf import best_labels, score_labels
from ..model.video_opening_clip_hf import is_video
from ..model.zero_shot_clip_hf import ensemble_prompts, prompts_for
from ..search.index_sources import SourceIndex
from ..search.search_results import SearchResults
from ..search.thumbnails import jpeg_bytes, thumbnail
from ..utils.processor import count_threads
from .dynamic_batching import BatchingOptions, DynamicBatcher
from .image_explanations import (
    EXPLAINED_AT_ONCE,
    LABELS_AT_ONCE,
    ExplainOptions,
    Explanations,
    check_explain,
    compute_maps,
    covered_box,
    prepare_explained,
)
from .image_messages import find_unreadable, unreadable_image_error
from .index_search import IndexSearch, RowItem, SearchOptions
from .label_options import ClassifyOptions, check_classify
from .request_errors import RequestError
from .request_inputs import ImageItem, Item, TextItem
from .served_images import PixelRoom, check_served_image, count_pixels
from .server_metrics import ServerMetrics
from .serving_limits import ServingLimits
from .worker_threads import WorkerThreads


logger = logging.getLogger(__name__)

_CLASSIFIER_BYTES = 128 * 2**20
_COUNTED_TEXTS, _COUNTED_CHARACTERS = 8192, 512  # token counts that are remembered, and of which texts
_COUNTED_AT_ONCE = 512  # characters whose tokens are counted on the event loop's thread
_CHUNK_TEXTS, _CHUNK_CHARACTERS = 256, 2**16  # whose tokens are counted in one call: others get in between


@dataclass(eq=False)
class _Admission:
    """A request that was admitted."""

    is_coming: bool = True


_admission: ContextVar[_Admission | None] = ContextVar("admission", default=None)


@dataclass(eq=False)
class _Build:
    """A value that several requests wait for while it is made."""

    task: asyncio.Task
    waiters: int = 0


class InferenceEngine:
    """Answers requests with a model, many at once.

    - It is made on the thread of the event loop. A thread of its own runs the model, others decode images.
    - [`InferenceEngine.admit`] refuses what is too much; what was admitted is answered.
    - A request decodes and queues a bounded part of its images at a time, and all requests together hold a bounded
      number of decoded images.
    - Classifiers of labels are kept; two requests for the same new one share its making.

    Args:
        encoder ([`DualEncoder`]): The model.
        limits ([`ServingLimits`]): Bounds of requests.
        batching ([`BatchingOptions`], *optional*): How requests share passes of the model.
        source ([`SourceIndex`], *optional*): The index to search, opened with this model.
        metrics ([`ServerMetrics`], *optional*): Counts what happens.
    """

    def __init__(
        self,
        encoder: DualEncoder,
        limits: ServingLimits,
        *,
        batching: BatchingOptions | None = None,
        source: SourceIndex | None = None,
        metrics: ServerMetrics | None = None,
    ):
        batching = batching or BatchingOptions()
        encoder = copy.copy(encoder)  # its limits are the server's; the caller's stay as they are
        self.encoder, self.limits, self.metrics = encoder, limits, metrics or ServerMetrics()
        own = encoder.image_limits
        self._image_limits = replace(
            own,
            max_pixels=min(limits.max_image_pixels, own.max_pixels or limits.max_image_pixels),
            max_bytes=min(limits.max_body_bytes, own.max_bytes),
        )
        encoder.set_image_options(image_limits=self._image_limits)
        self.context_length, self._scale = encoder.context_length, encoder.logit_scale
        self._bias = encoder.logit_bias or None  # a model without one has 0 there
        self._width = encoder.projection_dim  # some find it out by a pass of the model, which has its own thread later
        sizes = {"image": batching.max_batch_images, "text": batching.max_batch_texts}
        self._window = 2 * batching.max_batch_images
        self._slots = asyncio.Semaphore(4 * batching.max_batch_images)
        self._explained, self._explain_turn = asyncio.Semaphore(EXPLAINED_AT_ONCE), asyncio.Lock()
        self._num_requests = self._num_items = self._num_coming = self._num_decoding = 0
        self._is_draining, self._idle = False, asyncio.Event()
        self._idle.set()
        self._decoders = WorkerThreads(count_threads(), "decode")
        self._room = PixelRoom(limits.max_image_pixels)
        self._counter = WorkerThreads(1, "tokens")
        self._classifiers: OrderedDict[tuple, tuple[np.ndarray, int]] = OrderedDict()
        self._builds: dict[tuple, _Build] = {}
        self._token_counts: OrderedDict[str, int] = OrderedDict()
        self._batcher = DynamicBatcher(
            {"image": self._encode_pixels, "text": self._encode_strings},
            dict.fromkeys(sizes, 1) if encoder.depends_on_batch else sizes,
            batching.max_wait_ms / 1000,
            lambda kind: self._num_coming > 0 or (kind == "image" and self._num_decoding > 0),
            self.metrics,
        )
        embed_texts = partial(self._embed_texts, where=None)
        self._search = None if source is None else IndexSearch(encoder, source, embed_texts)

    @property
    def source(self) -> SourceIndex | None:
        """The index that is searched, as it is now; None without one."""
        return None if self._search is None else self._search.source

    # ------------------------------------------------------------------------------------------------------- admission

    @contextmanager
    def admit(self, num_items: int) -> Iterator[None]:
        """Admit a request of so many texts and images while the block runs.

        Raises:
            RequestError: 429 if too much is being answered, with the seconds after which that is less; 503 while the
                server stops.
        """
        if self._is_draining:
            self.metrics.count_rejected()
            raise RequestError(503, "The server is stopping.", code="server_stopping", retry_after=1)
        self._check_room(1, num_items)
        admission = _Admission()
        self._count(1, num_items, 1)
        token = _admission.set(admission)
        try:
            yield
        finally:
            _admission.reset(token)
            self._count(-1, -num_items, 0)
            self._note_queued(admission)

    def _check_room(self, num_requests: int, num_items: int) -> None:
        requests, items = self.limits.max_pending_requests, self.limits.max_pending_items
        if self._num_requests + num_requests <= requests and self._num_items + num_items <= items:
            return
        self.metrics.count_rejected()
        seconds = self._num_items / (self._batcher.items_per_second or self._num_items or 1)
        raise RequestError(
            429,
            f"The server is answering {self._num_requests:,} requests with {self._num_items:,} texts and images; it "
            f"takes at most {requests:,} with {items:,}. Send this one again later.",
            code="queue_full",
            retry_after=min(60.0, max(1.0, seconds)),
        )

    def _count(self, requests: int, items: int, coming: int) -> None:
        self._num_requests += requests
        self._num_items += items
        self._num_coming += coming
        self.metrics.set_pending(self._num_requests, self._num_items)
        if self._num_requests == 0:
            self._idle.set()
        else:
            self._idle.clear()

    def _note_queued(self, admission: _Admission | None) -> None:
        """Note that others need not wait for this request any more."""
        if admission is not None and admission.is_coming:
            admission.is_coming = False
            self._num_coming -= 1
            self._batcher.announce()

    async def drain(self) -> None:
        """Admit no more requests, and wait for those that were."""
        self._is_draining = True
        await self._idle.wait()

    def close(self) -> None:
        """End all threads; those that decode or count for more than seconds end with the process. What still waits
        is cancelled.
        """
        self._batcher.close()
        for threads in (self._decoders, self._counter):
            threads.close()
        if self._search is not None:
            self._search.close()

    # --------------------------------------------------------------------------------------------------------- methods

    async def embed(self, items: Sequence[Item], truncate: bool = False) -> np.ndarray:
        """Features of texts and images.

        Args:
            items (`Sequence[Item]`): Texts and images.
            truncate (`bool`, *optional*, defaults to `False`): Whether to cut texts that are too long for the model.

        Returns:
            `np.ndarray`: (n, dim) float32, L2-normalised, in the order of `items`.

        Raises:
            RequestError: if an image cannot be used, a text is too long, or the model fails on an item.
        """
        texts = [place for place, item in enumerate(items) if isinstance(item, TextItem)]
        images = [place for place, item in enumerate(items) if isinstance(item, ImageItem)]
        if not truncate:
            await self._check_lengths([items[place] for place in texts])
        parts = []
        if texts:
            where = items[texts[0]].where if len(texts) == 1 else None
            parts.append((texts, self._embed_texts([items[place].text for place in texts], where)))
        if images:
            parts.append((images, self._embed_images([items[place] for place in images])))
        rows = np.empty((len(items), self._width), np.float32)
        for (places, _), part in zip(parts, await _gather(*(part for _, part in parts)), strict=True):
            rows[places] = part
        return rows

    async def classify(self, images: Sequence[ImageItem], options: ClassifyOptions) -> list[list[dict[str, Any]]]:
        """Score labels for each image, as the pipeline does.

        Returns:
            `list`: for each image a list of `{"score": float, "label": str}`, best first.

        Raises:
            RequestError: if options do not make sense, or an image or prompt cannot be used.
        """
        parts = check_classify(options, len(images), self.limits, self._bias is not None)
        *classifiers, rows = await _gather(
            *(
                self._classifier(name, labels, templates, options.truncate)
                for name, (labels, templates) in zip(("labels", "background"), parts)
            ),
            self._embed_images(images),
        )
        return await self._batcher.call(lambda: self._score(rows, classifiers, parts[0][0], options))

    def _score(
        self, rows: np.ndarray, classifiers: Sequence[np.ndarray], labels: list, options: ClassifyOptions
    ) -> list[list[dict[str, Any]]]:
        cosines = torch.from_numpy(rows) @ torch.from_numpy(np.concatenate(classifiers)).T  # (images, labels [+ 1])
        options_of_scores = (options.multi_label, options.function_to_apply)
        scores = score_labels(cosines, len(labels), self._scale, self._bias, *options_of_scores)
        return [best_labels(row, labels, options.top_k, options.threshold) for row in scores]

    async def explain(self, image: ImageItem, options: ExplainOptions) -> Explanations:
        """Find the places of an image that speak for labels. The passes, one text's backwards after the other, run in
        the model's thread, between the batches of other requests, which find one explanation's pass before them at
        most, however many wait.

        Raises:
            RequestError: if the model cannot be looked into, options do not make sense, or the image or a prompt
                cannot be used.
        """
        labels, templates = check_explain(options, self.encoder, self.limits)
        classifier = await self._classifier("labels", labels, templates, options.truncate)
        self._note_queued(_admission.get())  # its image may come much later
        async with self._explained:
            inputs, first_cell = await self._decode(image, partial(prepare_explained, self.encoder))
            rows = await self._submit("image", [inputs], image.where)
            maps = []
            for start in range(0, len(classifier), LABELS_AT_ONCE):
                texts = classifier[start : start + LABELS_AT_ONCE]
                work = partial(compute_maps, self.encoder, inputs, texts, options.method)
                async with self._explain_turn:
                    maps.append(await self._answer(self._batcher.call(work), "image", image.where))
        method = check_method(options.method, self.encoder.model)
        maps = np.concatenate(maps)
        return Explanations(method, covered_box(first_cell, maps), classifier @ rows[0], maps)

    async def rank(
        self, query: Item, candidates: Sequence[Item], *, top_k: int | None = None, truncate: bool = False
    ) -> list[dict[str, Any]]:
        """Order candidates by how well they fit a query.

        Returns:
            `list`: best first, `{"index": int, "score": float, "cosine": float}`; the score is the softmax over all
            candidates of the model's scale times the cosine.
        """
        rows = await self.embed([query, *candidates], truncate)
        cosines = torch.from_numpy(rows[1:] @ rows[0])
        scores = (self._scale * cosines).softmax(0)
        order = cosines.argsort(descending=True, stable=True).tolist()[:top_k]
        return [{"index": i, "score": float(scores[i]), "cosine": float(cosines[i])} for i in order]

    async def search(self, terms: Sequence[tuple[float, Item | RowItem]], options: SearchOptions) -> SearchResults:
        """Find the rows of the index that answer a query.

        Args:
            terms (`Sequence`): Weights, and the texts, images or rows that they belong to.
            options ([`SearchOptions`]): Which rows, and how many.

        Raises:
            RequestError: if there is no index, or no such row; if a term or an option does not make sense.
        """
        search = self._need_index()
        items = [item for _, item in terms if not isinstance(item, RowItem)]
        rows = iter(await self.embed(items, options.truncate))
        embedded = [(weight, item, None if isinstance(item, RowItem) else next(rows)) for weight, item in terms]
        return await search.find(embedded, options)

    async def thumbnail(self, id_: int | str, edge: int) -> bytes:
        """A JPEG file of a row's picture, of at most `edge` pixels a side.

        Raises:
            RequestError: 404 if there is no index, row or picture.
        """
        picture = await self._need_index().picture(id_)
        try:
            return await self._decoders.run(lambda: self._shrink(picture, edge))
        except UnreadableImage as error:
            logger.warning(f"The picture of row {id_!r} cannot be read: {error}")
            raise RequestError(404, "The row's picture cannot be read.", code="no_picture", param="id") from error

    def _shrink(self, picture: Any, edge: int) -> bytes:
        data = picture if is_video(picture) else fetch_file(picture, self._image_limits)
        with self._room.take(count_pixels(data)):
            return jpeg_bytes(thumbnail(data, edge, self._image_limits))

    async def count_tokens(self, texts: Sequence[str]) -> list[int]:
        """The tokens of each text before any is cut."""
        counted = {text: self._token_counts.get(text) for text in texts}
        for chunk in _chunks([text for text, count in counted.items() if count is None]):
            if sum(map(len, chunk)) <= _COUNTED_AT_ONCE:  # faster than another thread is told of it
                counts = self.encoder.count_tokens(chunk)
            else:
                counts = await self._counter.run(partial(self.encoder.count_tokens, chunk))
            new = dict(zip(chunk, counts, strict=True))
            counted.update(new)
            self._token_counts.update((text, n) for text, n in new.items() if len(text) <= _COUNTED_CHARACTERS)
        while len(self._token_counts) > _COUNTED_TEXTS:
            self._token_counts.popitem(last=False)
        return [counted[text] for text in texts]

    # ---------------------------------------------------------------------------------------------------------- texts

    async def _check_lengths(self, items: Sequence[TextItem]) -> None:
        left = iter(items)
        for chunk in _chunks([item.text for item in items]):
            for count, item in zip(await self.count_tokens(chunk), left):  # in this order: none of `left` is lost
                if count > self.context_length:
                    raise RequestError(
                        400,
                        f"The text at `{item.where}` has {count:,} tokens, and {self.context_length} fit. Shorten it, "
                        'or send `"truncate": true` to have it cut.',
                        code="text_too_long",
                        param=item.where,
                    )

    async def _embed_texts(self, texts: Sequence[str], where: str | None) -> np.ndarray:
        """Features (n, dim) of texts."""
        return np.stack(await self._submit("text", texts, where))

    def _encode_strings(self, texts: list[str]) -> np.ndarray:
        return self.encoder.encode_texts(texts).numpy()

    # --------------------------------------------------------------------------------------------------------- images

    async def _embed_images(self, items: Sequence[ImageItem]) -> np.ndarray:
        """Features (n, dim) of images, of which a bounded number is decoded at a time."""
        rows: list[Any] = [None] * len(items)
        left = iter(enumerate(items))

        async def work() -> None:
            for place, item in left:
                rows[place] = await self._embed_image(item)

        await _gather(*(work() for _ in range(min(self._window, len(items)))))
        return np.array(rows, np.float32).reshape(len(items), self._width)

    async def _embed_image(self, item: ImageItem) -> np.ndarray:
        async with self._slots:
            pixels = await self._decode(item, lambda data: self.encoder.prepare([data]))
            return (await self._submit("image", [pixels], item.where))[0]

    async def _decode(self, item: ImageItem, prepare: Callable[[bytes], Any]) -> Any:
        """What `prepare` makes of an image file, in one of the threads that decode."""

        def work() -> Any:
            with self._room.take(check_served_image(item.data, self.limits.max_image_pixels)):
                return prepare(item.data)

        self._num_decoding += 1
        try:
            return await self._decoders.run(work)
        except (ValueError, OSError) as error:
            unreadable = find_unreadable(error) or UnreadableImage("image unreadable", str(error))
            logger.info(f"The image at {item.where} cannot be used: {unreadable.kind}")
            raise unreadable_image_error(unreadable, item.where) from error
        finally:
            self._num_decoding -= 1

    def _encode_pixels(self, prepared: list[dict[str, torch.Tensor]]) -> np.ndarray:
        inputs = {name: torch.cat([each[name] for each in prepared]) for name in prepared[0]}
        return self.encoder.encode_images(inputs).numpy()

    # ---------------------------------------------------------------------------------------------------------- queue

    async def _submit(self, kind: str, items: Sequence[Any], where: str | None) -> list[Any]:
        return await self._answer(self._batcher.submit(kind, items), kind, where)

    async def _answer(self, waiting: Awaitable, kind: str, where: str | None) -> Any:
        """What the model answers; a RequestError if it fails."""
        self._note_queued(_admission.get())
        try:
            return await waiting
        except RequestError:
            raise
        except Exception as error:
            # Without the error's own words, which may quote what the client sent.
            trace = "".join(traceback.format_tb(error.__traceback__))
            logger.error(f"The model failed on the {kind} at {where}: {type(error).__name__}\n{trace}")
            raise RequestError(
                503, f"The model failed on this {kind}; the server's log says why.", code="model_failed", param=where
            ) from error

    # ---------------------------------------------------------------------------------------------------- classifiers

    async def _classifier(self, name: str, labels: list, templates: Any, truncate: bool) -> np.ndarray:
        """The classifier (labels, dim): kept, or made once for all who ask for it meanwhile."""
        prompts = tuple(templates.items()) if isinstance(templates, dict) else templates
        key = (name, tuple(labels), prompts, truncate)
        if key in self._classifiers:
            self._classifiers.move_to_end(key)
            return self._classifiers[key][0]
        if key not in self._builds:
            self._builds[key] = _Build(self._start_build(key, labels, templates))
        build = self._builds[key]
        build.waiters += 1
        try:
            return await asyncio.shield(build.task)
        finally:
            build.waiters -= 1
            if build.waiters == 0 or build.task.done():
                build.task.cancel()  # nobody waits any more
                if self._builds.get(key) is build:
                    del self._builds[key]

    def _start_build(self, key: tuple, labels: list, templates: Any) -> asyncio.Task:
        """Start to make a classifier, whose prompts count as pending items until it is there."""
        is_mapping = isinstance(templates, dict)
        count = sum(map(len, templates.values())) if is_mapping else len(labels) * len(templates)
        self._check_room(0, count)
        self._count(0, count, 0)
        task = asyncio.ensure_future(self._build_classifier(key, labels, templates))
        task.add_done_callback(lambda _: self._count(0, -count, 0))
        return task

    async def _build_classifier(self, key: tuple, labels: list, templates: Any) -> np.ndarray:
        name, _, _, truncate = key
        prompts = prompts_for(labels, templates)
        texts = list(dict.fromkeys(itertools.chain.from_iterable(prompts)))
        if not truncate:
            places = {text: (i, j) for i, own in enumerate(prompts) for j, text in enumerate(own)}
            where = partial(_name_prompt, name, labels, templates)
            await self._check_lengths([TextItem(text, where(*places[text])) for text in texts])
        rows = torch.from_numpy(await self._embed_texts(texts, name))
        ensemble = partial(ensemble_prompts, prompts, lambda _: [(range(len(rows)), rows)])
        classifier = (await self._batcher.call(ensemble)).numpy()
        size = classifier.nbytes + sum(2 * len(text) + 64 for text in texts)
        self._classifiers[key] = (classifier, size)
        while sum(size for _, size in self._classifiers.values()) > _CLASSIFIER_BYTES:
            self._classifiers.popitem(last=False)
        return classifier

    # ---------------------------------------------------------------------------------------------------------- index

    def _need_index(self) -> IndexSearch:
        if self._search is None:
            raise RequestError(
                404, "This server has no index to search; start it with --index.", code="no_index", param=None
            )
        return self._search


def _name_prompt(name: str, labels: list, templates: Any, label: int, template: int) -> str:
    """What of a request makes a prompt too long: the label or the template, whichever is longer."""
    if name == "background":
        return name
    is_label = isinstance(templates, dict) or len(labels[label]) >= len(templates[template])
    return f"labels[{label}]" if is_label else f"templates[{template}]"


def _chunks(texts: Sequence[str]) -> Iterator[list[str]]:
    chunk, characters = [], 0
    for text in texts:
        if chunk and (len(chunk) == _CHUNK_TEXTS or characters + len(text) > _CHUNK_CHARACTERS):
            yield chunk
            chunk, characters = [], 0
        chunk.append(text)
        characters += len(text)
    if chunk:
        yield chunk


async def _gather(*awaitables: Awaitable) -> list[Any]:
    """The results of all; the first exception ends the others, and is raised when they have ended."""
    if len(awaitables) == 1:
        return [await awaitables[0]]
    tasks = [asyncio.ensure_future(each) for each in awaitables]
    try:
        return list(await asyncio.gather(*tasks))
    finally:
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
