# Copyright 2026 The clip_hf team. All rights reserved.
# Licensed under the Apache License, Version 2.0; see LICENSE.
"""The bodies of requests and answers, as pydantic checks them and as OpenAPI describes them."""

from collections.abc import Mapping
from typing import Annotated, Any, Literal, TypeVar

import orjson
from pydantic import (
    AfterValidator,
    BaseModel,
    BeforeValidator,
    ConfigDict,
    Field,
    RootModel,
    ValidationError,
    ValidationInfo,
    WithJsonSchema,
    model_validator,
)

from ..model.checks_clip_hf import did_you_mean
from ..utils.wording import listed
from .request_errors import RequestError
from .serving_limits import ServingLimits


# More than the values and the texts of any request need. Values take 64 bytes of memory or more each, and lists and
# objects much time besides, because Python's garbage collector looks at them.
_MOST_OF = {b",": 500_000, b"[": 50_000, b"{": 50_000}
_BOM = b"\xef\xbb\xbf"
_IMAGE = "Bytes of an image file in base64, or as a data URI; a URL where the server allows its host."
_TEXT_PART = {
    "type": "object",
    "properties": {"text": {"type": "string", "minLength": 1}},
    "required": ["text"],
    "additionalProperties": False,
}
_IMAGE_PART = {
    "type": "object",
    "properties": {"image": {"type": "string", "description": _IMAGE}},
    "required": ["image"],
    "additionalProperties": False,
}
_ITEM = {"anyOf": [{"type": "string", "minLength": 1}, _TEXT_PART, _IMAGE_PART]}
_TERM = {
    "type": "object",
    "properties": {
        "text": {"type": "string"},
        "image": {"type": "string", "description": _IMAGE},
        "id": {"type": ["string", "integer"], "description": "A row of the index, whose embedding is the query."},
        "weight": {"type": "number", "default": 1, "description": "Negative: what hits should not be like."},
    },
    "additionalProperties": False,
}
# What `read_items` checks; here for the description alone.
Items = Annotated[Any, WithJsonSchema({"anyOf": [*_ITEM["anyOf"], {"type": "array", "items": _ITEM, "minItems": 1}]})]
Item = Annotated[Any, WithJsonSchema(_ITEM)]
ItemList = Annotated[list[Any], WithJsonSchema({"type": "array", "items": _ITEM, "minItems": 1})]
Image = Annotated[Any, WithJsonSchema({"anyOf": [{"type": "string", "description": _IMAGE}, _IMAGE_PART]})]
Images = Annotated[
    Any,
    WithJsonSchema(
        {
            "anyOf": [
                {"type": "string", "description": _IMAGE},
                _IMAGE_PART,
                {"type": "array", "items": {"anyOf": [{"type": "string"}, _IMAGE_PART]}, "minItems": 1},
            ]
        }
    ),
]
Query = Annotated[
    Any,
    WithJsonSchema(
        {
            "anyOf": [
                {"type": "string"},
                _TERM,
                {"type": "array", "items": {"anyOf": [{"type": "string"}, _TERM]}, "minItems": 1},
            ]
        }
    ),
]


def _check_number(value: Any, info: ValidationInfo) -> Any:
    """RequestError for more texts than the limits allow, before each is looked at."""
    parts = value.values() if isinstance(value, dict) else [value]
    count = sum(len(each) for each in parts if isinstance(each, list | dict))
    count = max(count, len(value) if isinstance(value, list | dict) else 1)
    most = info.context.max_prompts
    if count > most:
        name = info.field_name
        raise RequestError(
            400, f"`{name}` has {count:,} texts; at most {most:,} are taken.", code="too_many_prompts", param=name
        )
    return value


def _check_templates(value: Any) -> Any:
    """By hand, because pydantic would list what is wrong with each."""
    for each in value.values() if isinstance(value, dict) else [value]:
        if not isinstance(each, str) and not (isinstance(each, list) and all(isinstance(text, str) for text in each)):
            raise ValueError("Input should be a text, a list of texts, or an object with these for each label")
    return value


_TEXTS = {"anyOf": [{"type": "string"}, {"type": "array", "items": {"type": "string"}}]}
Templates = Annotated[
    Any,
    BeforeValidator(_check_number),
    AfterValidator(_check_templates),
    WithJsonSchema({"anyOf": [*_TEXTS["anyOf"], {"type": "object", "additionalProperties": _TEXTS}]}),
]
Texts = Annotated[list[str], Field(fail_fast=True), BeforeValidator(_check_number)]
Filters = Annotated[list[Annotated[str, Field(max_length=1000)]], Field(max_length=32, fail_fast=True)]
Name = Annotated[str, Field(max_length=256)]
TopK = Annotated[int, Field(ge=1, le=100_000)]


class _Fields(BaseModel):
    """Fields of a request: unknown ones are refused at the first, and null is the same as leaving a field out."""

    model_config = ConfigDict(extra="forbid", allow_inf_nan=False)

    @model_validator(mode="before")
    @classmethod
    def _check_names(cls, value: Any) -> Any:
        if not isinstance(value, dict):
            return value
        unknown = next((name for name in value if name not in cls.model_fields), None)
        if unknown is not None:
            known, short = list(cls.model_fields), unknown if len(unknown) <= 40 else f"{unknown[:40]}..."
            message = (
                f"There is no field `{short}`.{did_you_mean(short, known, '`')} The fields are: {listed(known, 20)}."
            )
            raise RequestError(400, message, code="unknown_field", param=short)
        return {name: each for name, each in value.items() if each is not None}


class _Request(_Fields):
    model: Name | None = Field(None, description="The served model; it may be left out.")


class _TextRequest(_Request):
    truncate: bool = Field(False, description="Cut texts that are longer than the model's context; else they fail.")


class EmbeddingsRequest(_TextRequest):
    """OpenAI's request, which may hold images too."""

    input: Items = Field(description="Texts and images.")
    encoding_format: Literal["float", "base64"] = Field("float", description="base64: float32, little-endian.")
    dimensions: int | None = Field(None, description="The model's own, if given.")
    modality: Literal["text", "image"] | None = Field(None, description="What strings in `input` are.")
    user: Name | None = Field(None, description="Not used.")


class ClassifyRequest(_TextRequest):
    """The zero-shot pipeline's options."""

    image: Images | None = Field(None, description="One image; or give `images`.")
    images: Images | None = Field(None, description="Several images.")
    labels: Texts = Field(min_length=1, description="What the images may show, all different.")
    templates: Templates | None = Field(
        None, description="Prompts with {} for the label, the name of a prompt set, or each label's own prompts."
    )
    top_k: TopK | None = Field(None, description="How many labels to return, best first; by default all.")
    multi_label: bool = Field(False, description="Score each label by itself against the background.")
    threshold: float | None = Field(None, description="Leave out labels with a lower score.")
    background: str | Texts | None = Field(None, description="Prompts of an image that shows none of the labels.")
    function_to_apply: Literal["softmax", "cosine", "none"] = Field("softmax", description="What a score is.")


class ExplainRequest(_TextRequest):
    """Where the model looks for labels in an image; of a [`ClipHFModel`] alone."""

    image: Image = Field(description="The image.")
    labels: Texts = Field(min_length=1, description="What the image may show, all different; 32 at most.")
    templates: Templates | None = Field(
        None, description="As `templates` of /v1/classify; {} takes each label as the whole text."
    )
    # Not occlusion, which takes a pass of the model for each place.
    method: Literal["chefer", "grad_cam", "rollout"] | None = Field(
        None, description="By default chefer for a ViT, and grad_cam for a ResNet."
    )


class HuggingFaceParameters(_Fields):
    """Options of zero-shot image classification."""

    candidate_labels: Texts | None = Field(None, description="What the images may show, all different.")
    hypothesis_template: Templates | None = Field(None, description="As `templates` of /v1/classify.")


class HuggingFaceRequest(_TextRequest):
    """The request of `huggingface_hub.InferenceClient` to a model's address."""

    inputs: Items = Field(description="Images in base64 if there are `candidate_labels`, else texts or images.")
    parameters: HuggingFaceParameters = Field(default_factory=HuggingFaceParameters, description="Of classification.")
    normalize: Literal[True] | None = Field(None, description="Embeddings are always of length 1.")


class RankRequest(_TextRequest):
    """Which candidates fit a query best."""

    query: Item = Field(description="A text or an image.")
    candidates: ItemList = Field(description="Texts and images.")
    top_k: TopK | None = Field(None, description="How many candidates to return, best first; by default all.")


class SearchRequest(_TextRequest):
    """A query for the rows of the index."""

    query: Query = Field(description="A text, or terms with weights that are added.")
    top_k: TopK = Field(10, description="The most hits.")
    threshold: float | None = Field(None, ge=-1, le=1, description="Leave out hits with a lower cosine.")
    filters: Filters = Field([], description='Rows to search, such as "width>=800"; all must hold.')
    no_match: float | None = Field(
        None, gt=0, lt=1, description="Leave out hits that fit no better than this share of made-up captions."
    )


class _Answer(BaseModel):
    object: Literal["list"]
    model: str


class Embedding(BaseModel):
    """One embedding."""

    object: Literal["embedding"]
    index: int
    embedding: list[float] | str


class Usage(BaseModel):
    """Tokens of the texts."""

    prompt_tokens: int
    total_tokens: int


class EmbeddingsAnswer(_Answer):
    """Embeddings in the order of the input, L2-normalised."""

    data: list[Embedding]
    usage: Usage


class Prediction(BaseModel):
    """A label and its score."""

    score: float
    label: str


class ImagePredictions(BaseModel):
    """The predictions of one image, best first."""

    index: int
    predictions: list[Prediction]


class ClassifyAnswer(_Answer):
    """Predictions in the order of the images."""

    data: list[ImagePredictions]


class Explanation(BaseModel):
    """How much each place speaks for a label. `relevance` has rows from top to bottom, each from left to right, in
    parts of the largest value: 1 is the place that counts most, 0 one that does not. `largest` is that value in the
    method's own unit, and `cosine` that of the whole image with the label."""

    index: int
    label: str
    cosine: float
    largest: float
    relevance: list[list[float]]


class ExplainAnswer(_Answer):
    """Explanations in the order of the labels. Their grids cover `seen_box`, the part that the model sees: left, top,
    right and bottom in fractions of the upright image's width and height."""

    method: str
    seen_box: list[float]
    data: list[Explanation]


class RankedCandidate(BaseModel):
    """A candidate by its place in the request: softmax score among the candidates, and cosine with the query."""

    index: int
    score: float
    cosine: float


class RankAnswer(_Answer):
    """Candidates, best first."""

    data: list[RankedCandidate]


class Hit(BaseModel):
    """A row of the index."""

    rank: int
    score: float
    id: int | str
    metadata: dict[str, Any]
    image_url: str | None


class SearchAnswer(_Answer):
    """Hits, best first; none if nothing fits."""

    data: list[Hit]
    best_score: float | None
    lowest_score: float | None


class ServedModel(BaseModel):
    """The served model."""

    id: str
    object: Literal["model"]
    created: int
    owned_by: str
    facts: dict[str, Any]
    limits: dict[str, int]


class HuggingFaceAnswer(RootModel):
    """Embeddings (n, dim), or the predictions of one image, or of each of a list."""

    root: list[list[float]] | list[Prediction] | list[list[Prediction]]


class ModelsAnswer(BaseModel):
    """The served model, as a list of one."""

    object: Literal["list"]
    data: list[ServedModel]


class PromptSet(BaseModel):
    """A named set of templates."""

    name: str
    templates: list[str]


class PromptSetsAnswer(BaseModel):
    """The prompt sets that `templates` may name."""

    object: Literal["list"]
    data: list[PromptSet]


class Problem(BaseModel):
    """What is wrong with a request."""

    message: str
    type: str
    param: str | None
    code: str


class ErrorAnswer(BaseModel):
    """An error, in OpenAI's shape."""

    error: Problem


Request = TypeVar("Request", bound=BaseModel)


def load_json(body: bytes) -> Any:
    """Parse a request's body; RequestError if it is no JSON, or holds more values than any request needs."""
    for character, most in _MOST_OF.items():
        if len(body) > most and body.count(character) > most:
            message = f"The body holds {character.decode()!r} more than {most:,} times: send less."
            raise RequestError(400, message, code="too_many_values")
    try:
        return orjson.loads(body.removeprefix(_BOM))
    except orjson.JSONDecodeError as error:
        try:
            body.decode()
            # Its message holds the kind of fault and the place, nothing of the body.
            what = f"no valid JSON: {error}" if body else "empty"
        except UnicodeDecodeError:
            what = "not UTF-8: send JSON in UTF-8"
        raise RequestError(400, f"The body is {what}.", code="invalid_json") from None


def parse_request(schema: type[Request], value: Any, limits: ServingLimits) -> Request:
    """Check a request's fields.

    Args:
        schema (`type`): The request.
        value: What [`load_json`] returned, or the fields of a form.
        limits ([`ServingLimits`]): `max_prompts` bounds the numbers of labels and of templates.

    Raises:
        RequestError: with status 400, the first field that is wrong, and for one that does not exist a near name.
    """
    if not isinstance(value, Mapping):
        raise RequestError(400, "The body must be a JSON object, with the request's fields.", code="invalid_type")
    try:
        return schema.model_validate(value, strict=True, context=limits)
    except ValidationError as error:
        first = error.errors(include_url=False, include_context=False, include_input=False)[0]
    name = str(first["loc"][0])
    if first["type"] == "missing":
        raise RequestError(400, f"The field `{name}` is missing.", code="missing_field", param=name)
    # Parts of the location that are numbers are places in lists; others are types of a union.
    places = "".join(f"[{each}]" for each in first["loc"][1:] if isinstance(each, int))
    where = f"{name}{places}"
    raise RequestError(
        400, f"`{where}`: {first['msg'].removeprefix('Value error, ')}.", code="invalid_value", param=where
    )
