"""Which file of a model keeps it from being served, and what is wrong with it.

vLLM and transformers say "Expecting value: line 1 column 1" of some file, or "'added_tokens'". So a model's
files, where they are here, are looked at before anything is started with them, as far as that costs nothing;
and where a start has failed for another reason, what reads them is asked one after the other.
"""

import re
import traceback
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING

from octet.loading.said import find, read
from octet.weight_files import check_weight_file, find_folder
from octet.weight_index import INDEX, CheckpointError, read_json, read_value, read_weight_map

if TYPE_CHECKING:
    from vllm.config import VllmConfig
    from vllm.engine.arg_utils import AsyncEngineArgs

    from octet.engine.vllm.launch.args import EngineSettings

_CONFIG, _GENERATION = "config.json", "generation_config.json"
_TOKENIZER, _PROCESSOR = "tokenizer.json", "preprocessor_config.json"
_TEMPLATE = "chat_template.jinja"
_TEMPLATE_HOLDERS = ("chat_template.json", "processor_config.json", "tokenizer_config.json")

# Files that hold an object where they are there. The tokenizer's own is large, and left to its library.
_JSON_FILES = (
    _CONFIG,
    _GENERATION,
    _PROCESSOR,
    "processor_config.json",
    "video_preprocessor_config.json",
    "tokenizer_config.json",
    "special_tokens_map.json",
    "added_tokens.json",
    "chat_template.json",
    "hf_quant_config.json",
    "sentence_bert_config.json",
    "config_sentence_transformers.json",
    "1_Pooling/config.json",
    INDEX,
)
_MODULES = "modules.json"

# Formats whose weights lie in safetensors files, or in PyTorch's.
_LOAD_FORMATS = ("auto", "hf", "safetensors", "fastsafetensors")

# Where files are read, the innermost first.
_READERS = (
    (_TOKENIZER, r"/(vllm/tokenizers/|transformers/tokenization_)"),
    (_PROCESSOR, r"/(vllm/multimodal/|vllm/transformers_utils/processor|transformers/\w*processing_)"),
)

_MOST_CHARACTERS = 600

# What code raises that has not foreseen what it reads.
_UNFORESEEN = (ArithmeticError, AssertionError, AttributeError, LookupError, TypeError)


def check(settings: "EngineSettings") -> None:
    """Looks at the files of a model in a directory, or in the hub's cache; no large one is read whole.

    Raises:
        CheckpointError: one is not what its name says, or not whole; with its path.
    """
    engine = settings.engine
    folder = _folder(engine.model)
    if folder is None:
        return
    for name in _JSON_FILES:
        if (folder / name).is_file():
            read_json(folder / name)
    _check_quantization(folder / _CONFIG)
    if (folder / _MODULES).is_file():
        read_value(folder / _MODULES)
    if engine.load_format in _LOAD_FORMATS:
        for file in _loaded_files(folder):
            check_weight_file(file)
    if settings.chat_template is None:
        _check_template(folder)


def _check_quantization(config: Path) -> None:
    """Raises CheckpointError where vLLM could not read what a config.json says of quantization."""
    path, said = find(read_json(config)) if config.is_file() else ("", None)
    if said is None:
        return
    try:
        read(said, path)
    except ValueError as error:
        raise CheckpointError(f"{config}: {error}") from error


def check_given_template(settings: "EngineSettings") -> None:
    """Looks at the chat template that replaces a model's own.

    Raises:
        CheckpointError: it is not Jinja; with the line.
    """
    if settings.chat_template is not None:
        _parse("--chat-template", settings.chat_template)


def fault(settings: "EngineSettings", error: Exception, *, configuring: bool = False) -> str:
    """What to say of an error in this process: which file it is about, as far as that can be told.

    Args:
        settings: what was to be started.
        error: what has ended the start.
        configuring: whether a configuration was to be made of the model and the flags.
    """
    read, said = _what_was_read(error), words(error)
    folder, tokenizer = (_folder(name) for name in (settings.engine.model, _tokenizer_of(settings)))
    if read == _TOKENIZER and tokenizer is not None:
        try:
            _check_tokenizer(tokenizer)
        except CheckpointError as found:
            return str(found)
        return f"{tokenizer / _TOKENIZER} and what belongs to it make no tokenizer: {said}"
    if read == _PROCESSOR and folder is not None:
        # What vLLM says of it is advice for those who have no broken files.
        cause = words(error.__cause__ or error)
        return f"{folder / _PROCESSOR} and processor_config.json make no processor of pictures: {cause}"
    if configuring and folder is not None and not _names_a_flag(settings.engine, said):
        return f"{folder / _CONFIG}: {said}"
    return said


def check_generation(config: "VllmConfig") -> None:
    """Looks at the model's own defaults of sampling, which every request would fail on otherwise.

    Raises:
        CheckpointError: they are none.
    """
    from vllm.sampling_params import SamplingParams

    file = Path(config.model_config.model) / _GENERATION
    for name, value in config.model_config.get_diff_sampling_param().items():
        try:
            SamplingParams(**{name: value})
        except Exception as error:  # as wrong values of any kind have it
            raise CheckpointError(f"{file}: {name} is {value!r}: {words(error)}") from error
    ends = config.model_config.try_get_generation_config().get("eos_token_id") or []
    for token in ends if isinstance(ends, list) else [ends]:
        if not isinstance(token, int):
            raise CheckpointError(f"{file}: eos_token_id is {token!r}, which is no token's id")


def words(error: BaseException) -> str:
    """An error in one line, with its kind where nobody has meant it to be read."""
    from octet.engine.vllm.launch.args import one_line

    said = one_line(error)
    said = f"{type(error).__name__}: {said}" if isinstance(error, _UNFORESEEN) else said
    return said if len(said) <= _MOST_CHARACTERS else f"{said[:_MOST_CHARACTERS]}..."


def _what_was_read(error: BaseException) -> str | None:
    """The file that was being read when an error was raised, by where in which library that was."""
    frames = [frame.filename for frame in traceback.extract_tb(error.__traceback__)]
    return next((name for name, place in _READERS if any(re.search(place, frame) for frame in frames)), None)


def _names_a_flag(engine: "AsyncEngineArgs", said: str) -> bool:
    """Whether a message is about something that was asked for."""
    plain = said.lower().replace("-", " ").replace("_", " ")
    return any(name.replace("_", " ") in plain for name in vars(engine) if "_" in name)


def _tokenizer_of(settings: "EngineSettings") -> str:
    return str(settings.engine.tokenizer or settings.engine.model)


def _folder(model: str) -> Path | None:
    """Where a model's files are; None where they are still to be fetched."""
    try:
        return find_folder(model)
    except CheckpointError:
        return None


def _loaded_files(folder: Path) -> Iterator[Path]:
    """Those that would be loaded.

    Raises:
        CheckpointError: there are none, or fewer than the index names.
    """
    weight_map = read_weight_map(folder)
    if weight_map is not None:
        yield from (folder / name for name in sorted(set(weight_map.values())))
        return
    for pattern in ("*.safetensors", "*.bin", "*.pt"):
        if files := sorted(folder.glob(pattern)):
            yield from files
            return
    raise CheckpointError(f"{folder} holds no weights (*.safetensors, *.bin)")


def _check_template(folder: Path) -> None:
    """Looks whether the chat template that a model brings along is one.

    Raises:
        CheckpointError: it is not Jinja; with the line.
    """
    if (file := folder / _TEMPLATE).is_file():
        try:
            _parse(file, file.read_text(encoding="utf-8"))
        except (OSError, UnicodeDecodeError) as error:
            raise CheckpointError(f"{file} cannot be read: {error}") from error
        return
    for file in (folder / name for name in _TEMPLATE_HOLDERS):
        template = read_json(file).get("chat_template") if file.is_file() else None
        # Several have names: [{"name": ..., "template": ...}].
        named = template if isinstance(template, list) else [{"template": template}] if template else []
        for one in named:
            text = one.get("template") if isinstance(one, dict) else one
            if not isinstance(text, str):
                raise CheckpointError(f"{file}: chat_template is no text")
            _parse(file, text)
        if named:
            return


def _parse(place: Path | str, template: str) -> None:
    import jinja2
    from jinja2.ext import loopcontrols
    from vllm.renderers.hf import AssistantTracker

    try:
        jinja2.Environment(extensions=[loopcontrols, AssistantTracker]).parse(template)
    except jinja2.TemplateSyntaxError as error:
        raise CheckpointError(f"{place} is no chat template: line {error.lineno}: {error.message}") from error


def _check_tokenizer(folder: Path) -> None:
    """Looks whether the tokenizer that most models have is whole.

    Raises:
        CheckpointError: it is not.
    """
    from tokenizers import Tokenizer

    file = folder / _TOKENIZER
    if not file.is_file():
        # Others have other files, of which their own code has to speak.
        if (
            not any(folder.glob("*.model"))
            and not any(folder.glob("vocab.*"))
            and not any(folder.glob("tek*"))
        ):
            raise CheckpointError(f"{folder} holds no {_TOKENIZER}")
        return
    if not isinstance(read_json(file).get("added_tokens"), list):
        raise CheckpointError(f"{file} is no tokenizer: it has no list of added_tokens")
    try:
        Tokenizer.from_file(str(file))
    except Exception as error:  # it raises that itself
        raise CheckpointError(f"{file} is no tokenizer: {error}") from error
