"""What goes into an engine and what comes out, free of protobuf, gRPC and vLLM."""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field, fields
from enum import Enum
from itertools import chain
from typing import Any

from PIL import Image

from octet.pictures.plan import RESULT_PIXEL_BYTES, ImageView


class Role(Enum):
    """Who speaks in a message."""

    SYSTEM = "system"
    USER = "user"
    ASSISTANT = "assistant"
    TOOL = "tool"


@dataclass(frozen=True, slots=True)
class TextPart:
    """A piece of text."""

    text: str


@dataclass(frozen=True, slots=True)
class ImagePart:
    """A decoded picture, RGB, upright."""

    image: Image.Image


@dataclass(frozen=True, slots=True)
class ToolCallPart:
    """A call that the assistant made; `arguments_json` is a JSON object's text."""

    id: str
    name: str
    arguments_json: str


@dataclass(frozen=True, slots=True)
class ToolResultPart:
    """What the call `call_id` of the tool `name` gave; structured results are JSON text.

    Pictures that belong to it are the message's next parts.
    """

    call_id: str
    name: str
    content: str


@dataclass(frozen=True, slots=True)
class ReasoningPart:
    """What the assistant thought before it answered."""

    text: str


Part = TextPart | ImagePart | ToolCallPart | ToolResultPart | ReasoningPart


@dataclass(frozen=True, slots=True)
class Message:
    """One turn of a conversation."""

    role: Role
    parts: tuple[Part, ...]


@dataclass(frozen=True, slots=True)
class Tool:
    """A function on offer.

    Attributes:
        parameters: a JSON Schema of type object; its order is the one that the model sees.
        as_text: whether the request gave it as JSON text.
        strict: whether the arguments of calls that the model makes on its own are held to the schema, too.
    """

    name: str
    description: str
    parameters: Mapping[str, Any]
    as_text: bool = False
    strict: bool = False


@dataclass(frozen=True, slots=True)
class TokensPart:
    """Tokens by their ids, all of which are in the vocabulary."""

    ids: tuple[int, ...]


@dataclass(frozen=True, slots=True)
class Prompt:
    """A prompt to which no chat template is applied.

    Attributes:
        field: its path in the request, for errors.
        parts: what it consists of, in order; at least one.
        add_special_tokens: whether tokens such as the one that begins a sequence are put around it, where it
            has no token ids and does not have them already.
        parse_special_tokens: whether names of special tokens in its texts become these tokens.
        siblings: prompts of the same request, itself included, which share what one request may ask for.
    """

    field: str
    parts: tuple[TextPart | TokensPart | ImagePart, ...]
    add_special_tokens: bool = True
    parse_special_tokens: bool = True
    siblings: int = 1


class ToolChoiceMode(Enum):
    """Whether tools may or must be called."""

    AUTO = "auto"
    NONE = "none"
    REQUIRED = "required"
    NAMED = "named"


@dataclass(frozen=True, slots=True)
class ToolChoice:
    """Whether, and which, tools may be called.

    Attributes:
        name: of the tool; set with NAMED only.
        parallel_calls: whether an answer may hold more than one call.
        allowed_names: the only tools that may be called, with AUTO and REQUIRED; empty for all.
    """

    mode: ToolChoiceMode = ToolChoiceMode.AUTO
    name: str = ""
    parallel_calls: bool = True
    allowed_names: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class Sampling:
    """How tokens are chosen. None means: the model's own default."""

    max_tokens: int | None = None
    temperature: float | None = None
    top_p: float | None = None
    top_k: int | None = None
    min_p: float | None = None
    seed: int | None = None
    stop: tuple[str, ...] = ()
    stop_token_ids: tuple[int, ...] = ()
    n: int = 1
    presence_penalty: float | None = None
    frequency_penalty: float | None = None
    repetition_penalty: float | None = None
    ignore_eos: bool = False
    min_tokens: int | None = None
    logit_bias: Mapping[int, float] = field(default_factory=dict)
    bad_words: tuple[str, ...] = ()
    allowed_token_ids: tuple[int, ...] = ()
    logprobs: bool = False
    top_logprobs: int = 0
    prompt_logprobs: int | None = None
    include_stop_string: bool = False
    skip_special_tokens: bool = True
    max_reasoning_tokens: int | None = None


class OutputKind(Enum):
    """Forms that an answer's text can be held to."""

    JSON_OBJECT = "json_object"
    JSON_SCHEMA = "json_schema"
    REGEX = "regex"
    GRAMMAR = "grammar"
    CHOICE = "choice"


@dataclass(frozen=True, slots=True)
class OutputFormat:
    """A constraint on the answer.

    Attributes:
        spec: the JSON Schema (mapping), the regular expression or grammar (str), or the choices (tuple of
            str); None for JSON_OBJECT.
        as_text: whether the request gave the schema as JSON text.
        white_space: whether JSON may have white space between its parts.
    """

    kind: OutputKind
    spec: Mapping[str, Any] | str | tuple[str, ...] | None = None
    as_text: bool = False
    white_space: bool = False


@dataclass(frozen=True, slots=True)
class GenerationRequest:
    """A conversation or a prompt to be continued. Already checked, except for what only the engine can know.

    Attributes:
        messages: the conversation; empty where there is a `prompt`.
        prompt: what is continued in a conversation's place, and then without tools.
        priority: smaller goes first; 0 unless the model's `takes_priorities`.
        rank: among requests of equal priority the smaller goes first, and gives way last. It is how much its
            caller had running before.
        adapter: one of the model's `adapters`; empty for the model alone.
        cache_salt: only requests with the same one share cached prefixes of prompts.
        chat_template_args: JSON values, variables for the chat template.
        trace_headers: W3C trace context, `traceparent` and `tracestate`, of the span that the engine's own
            belong under; empty when the request is not traced.
        pan_and_scan: whether large pictures are shown in crops, too; None leaves it to the model's processor,
            and so it is unless the model `pans_and_scans`.
    """

    request_id: str
    messages: tuple[Message, ...] = ()
    tools: tuple[Tool, ...] = ()
    tool_choice: ToolChoice = field(default_factory=ToolChoice)
    sampling: Sampling = field(default_factory=Sampling)
    output_format: OutputFormat | None = None
    priority: int = 0
    rank: int = 0
    adapter: str = ""
    cache_salt: str = ""
    chat_template_args: Mapping[str, Any] = field(default_factory=dict)
    pan_and_scan: bool | None = None
    trace_headers: Mapping[str, str] = field(default_factory=dict)
    prompt: Prompt | None = None

    @property
    def prompt_field(self) -> str:
        """The field that the prompt comes from, for errors."""
        return "messages" if self.prompt is None else self.prompt.field

    @property
    def image_bytes(self) -> int:
        """What its decoded pictures take in memory."""
        parts = chain(
            (part for message in self.messages for part in message.parts),
            self.prompt.parts if self.prompt else (),
        )
        return sum(
            RESULT_PIXEL_BYTES * part.image.width * part.image.height
            for part in parts
            if isinstance(part, ImagePart)
        )


class FinishReason(Enum):
    """Why a candidate ended."""

    STOP = "stop"
    LENGTH = "length"
    TOOL_CALLS = "tool_calls"
    CANCELLED = "cancelled"
    SCHEMA_VIOLATED = "schema_violated"


@dataclass(frozen=True, slots=True)
class PromptAccepted:
    """Always the first event: the prompt was rendered, fits and is queued."""

    prompt_tokens: int
    image_tokens: int


@dataclass(frozen=True, slots=True)
class TextDelta:
    """Text to append to candidate `index`."""

    index: int
    text: str


@dataclass(frozen=True, slots=True)
class ReasoningDelta:
    """Reasoning to append to candidate `index`."""

    index: int
    text: str


@dataclass(frozen=True, slots=True)
class ToolCallDelta:
    """A piece of call `call_index` of candidate `index`; id and name come with the first piece only."""

    index: int
    call_index: int
    id: str
    name: str
    arguments_json: str


@dataclass(frozen=True, slots=True)
class TokenLogprob:
    """A token and its probability.

    Attributes:
        token_id: the token.
        text: its text; U+FFFD stands for what is no whole character.
        data: its bytes.
        logprob: natural logarithm of its probability.
        rank: 1 for the most probable token of the vocabulary.
    """

    token_id: int
    text: str
    data: bytes
    logprob: float
    rank: int


@dataclass(frozen=True, slots=True)
class PositionLogprobs:
    """What was probable at one position.

    Attributes:
        chosen: the token that stands there; None for a prompt's first one, which nothing predicts.
        top: the most probable ones, best first.
    """

    chosen: TokenLogprob | None
    top: tuple[TokenLogprob, ...]


@dataclass(frozen=True, slots=True)
class LogprobsDelta:
    """Log probabilities of the next tokens of candidate `index`."""

    index: int
    positions: tuple[PositionLogprobs, ...]


@dataclass(frozen=True, slots=True)
class CandidateFinished:
    """Candidate `index` has ended.

    Attributes:
        stop: the stop string that ended it, or the id of the token; None where nothing that was written did.
    """

    index: int
    reason: FinishReason
    stop: str | int | None = None


@dataclass(frozen=True, slots=True)
class Usage:
    """What was used so far. An engine sends it as its last event; all counts in tokens."""

    prompt_tokens: int
    completion_tokens: int
    cached_tokens: int
    image_tokens: int
    reasoning_tokens: int = 0


def total(usages: Iterable[Usage]) -> Usage:
    """What all of these have used together."""
    counts = list(usages)
    return Usage(*(sum(getattr(usage, count.name) for usage in counts) for count in fields(Usage)))


Delta = TextDelta | ReasoningDelta | ToolCallDelta | LogprobsDelta | CandidateFinished


@dataclass(frozen=True, slots=True)
class Deltas:
    """What one engine step added, in order, and the usage after it.

    The first one comes when the prompt is computed, whether or not the answer shows anything yet.
    `prompt_logprobs` has one entry a prompt token in a request's first Deltas, when they were asked for.
    """

    deltas: tuple[Delta, ...]
    usage: Usage
    prompt_logprobs: tuple[PositionLogprobs, ...] = ()


Event = PromptAccepted | Deltas


@dataclass(frozen=True, slots=True)
class Tokens:
    """A text's tokens: their ids and their texts, in order; U+FFFD stands for what is no whole character."""

    ids: tuple[int, ...]
    texts: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class EmbeddingRequest:
    """A prompt whose vector is asked for. Already checked, except for what only the engine can know.

    Attributes:
        prompt: texts and tokens.
        normalize: whether the vector is scaled to length 1; None leaves that to the model's configuration.
        dimensions: how many of its numbers are wanted; None for all.
        truncate: whether a prompt that is too long is cut.
        priority, rank, adapter, cache_salt, trace_headers: as in GenerationRequest.
    """

    request_id: str
    prompt: Prompt
    normalize: bool | None = None
    dimensions: int | None = None
    truncate: bool = False
    priority: int = 0
    rank: int = 0
    adapter: str = ""
    cache_salt: str = ""
    trace_headers: Mapping[str, str] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class Embedding:
    """A prompt's vector.

    Attributes:
        values: its D numbers, as exact as f32.
        usage: what it took.
        truncated: whether the prompt was cut.
    """

    values: Sequence[float]
    usage: Usage
    truncated: bool = False


class Service(Enum):
    """What a model can be asked for."""

    CHAT = "chat"
    COMPLETION = "completion"
    EMBEDDING = "embedding"


@dataclass(frozen=True, slots=True)
class Vectors:
    """What vectors a model gives.

    Attributes:
        dimensions: numbers of one.
        offered: the smaller numbers that a request may ask for; empty where it may ask for none.
    """

    dimensions: int
    offered: Sequence[int] = ()


@dataclass(frozen=True, slots=True)
class Quantization:
    """How a model is quantized, such as FP8_DYNAMIC with e4m3 weights and activations."""

    scheme: str
    weight_format: str
    activation_format: str


@dataclass(frozen=True, slots=True)
class ModelInfo:
    """What is served.

    Attributes:
        names: the names that requests may use, the default one first.
        source: hub id, or the last part of a local path.
        takes_images: whether prompts may hold pictures.
        context_window: tokens of prompt and answer together.
        output_token_limit: most tokens of an answer when the request names none.
        active_kernels: one line a kernel, as the workers report them.
        max_images: most pictures in a request; 0 when none are taken.
        tokens_per_image: most that one picture adds to a prompt without pan and scan; 0 when none are taken.
        vocabulary_size: how many tokens the model tells apart; token ids are smaller.
        longest_token: bytes of the longest token's text.
        pans_and_scans: whether pictures can be shown in crops as well.
        adapters: names of the LoRA adapters that requests may use.
        takes_priorities: whether waiting requests are ordered by priority.
        max_sequences: most candidates that are computed at the same time.
        step_tokens: of prompts, about as many as are computed before another one's turn comes; None where
            nothing is known about that.
        tokens_per_cropped_image: most that one picture adds to a prompt with pan and scan.
        crops_by_default: whether pan and scan is on for requests that do not say.
        visual_tokens_per_image: of `tokens_per_image`, those that the picture itself becomes, which alone are
            counted in `Usage.image_tokens`.
        vocabulary_format: the FP8 format of the layer that makes logits, such as "e4m3"; "" where it has
            none.
        limits_reasoning: whether it thinks, and can be made to come to an end with that.
        picture_mark: the text that the model has for a picture in its prompts; empty where there is none.
        image_view: what the processor makes of every picture; None where that depends on the picture.
        services: what it can be asked for.
        vectors: those that it gives; None when it gives none.
    """

    names: tuple[str, ...]
    source: str
    takes_images: bool
    context_window: int
    output_token_limit: int
    quantization: Quantization | None
    active_kernels: tuple[str, ...]
    max_images: int
    tokens_per_image: int
    vocabulary_size: int
    pans_and_scans: bool = False
    adapters: tuple[str, ...] = ()
    takes_priorities: bool = False
    max_sequences: int = 256
    step_tokens: int | None = None
    longest_token: int = 32
    image_view: ImageView | None = None
    tokens_per_cropped_image: int = 0
    crops_by_default: bool = False
    visual_tokens_per_image: int = 0
    services: tuple[Service, ...] = (Service.CHAT, Service.COMPLETION)
    vectors: Vectors | None = None
    limits_reasoning: bool = False
    vocabulary_format: str = ""
    picture_mark: str = ""

    def image_cost(self, pan_and_scan: bool | None) -> int:
        """The most tokens that one picture adds to a prompt; `pan_and_scan` as GenerationRequest has it."""
        crops = self.crops_by_default if pan_and_scan is None else pan_and_scan
        return self.tokens_per_cropped_image if crops and self.pans_and_scans else self.tokens_per_image
