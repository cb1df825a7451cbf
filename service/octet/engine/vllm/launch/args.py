"""vLLM's own command-line flags, parsed into what the engine is started with."""

import argparse
import json
import logging
import os
import shutil
from dataclasses import dataclass, field
from itertools import pairwise
from pathlib import Path
from typing import TYPE_CHECKING, Any, NoReturn

from octet.engine.vllm import compat, formats
from octet.engine.vllm.launch import caches, environment, folders, parallel
from octet.errors import StartupError

if TYPE_CHECKING:
    from vllm.engine.arg_utils import AsyncEngineArgs

logger = logging.getLogger(__name__)

SCANNER = "gemma3"
"""The tool parser that is Octet's own: it reads the text without vLLM in between."""
WORKER_EXTENSION = "octet.engine.vllm.inside.worker.WorkerExtension"

# Containers may be scheduled, and images pulled, one after the other.
HOSTS_TIMEOUT = 600.0

_PYDANTIC_FRAMES = ("Value error, ", "Assertion failed, ")


@dataclass(frozen=True, slots=True)
class EngineSettings:
    """How to start an engine.

    Attributes:
        engine: vLLM's engine arguments.
        chat_template: Jinja text that replaces the model's own; None keeps that.
        chat_template_content_format: how the template wants content: "auto", "string" or "openai".
        chat_template_kwargs: variables that every rendering of the template gets.
        tool_call_parser: name of the parser for tool calls that the model makes on its own; None lets the
            model's architecture decide, see `finder_of_calls`.
        requires_calls_found: whether the start is to fail where that leaves none.
        max_output_tokens: most tokens of an answer when the request names none; None lets the model decide.
        adapters: LoRA adapters to load, their directories or hub ids by their names.
        hosts_timeout: seconds that a start waits for the other machines of --nnodes.
        parse_special_tokens: whether names of special tokens in what requests say become these tokens.
    """

    engine: "AsyncEngineArgs"
    chat_template: str | None = None
    chat_template_content_format: str = "auto"
    chat_template_kwargs: dict[str, Any] = field(default_factory=dict)
    tool_call_parser: str | None = None
    max_output_tokens: int | None = None
    adapters: dict[str, str] = field(default_factory=dict)
    hosts_timeout: float = HOSTS_TIMEOUT
    parse_special_tokens: bool = False
    requires_calls_found: bool = False


def parse_engine_args(argv: list[str]) -> EngineSettings:
    """Parses a model and vLLM's engine flags, such as ["MODEL", "--max-model-len", "8192"].

    Importing vLLM for this takes seconds.

    Raises:
        StartupError: with one line, for a flag that vLLM does not know or a value that it does not take, or
            when the installed vLLM cannot be used.
    """
    parser = _parser()
    from vllm.engine.arg_utils import AsyncEngineArgs

    parsed = parser.parse_args(argv)
    if parsed.model_tag is not None:
        parsed.model = parsed.model_tag
    _check_model(parsed.model)
    if parsed.worker_extension_cls:
        raise StartupError("--worker-extension-cls: Octet uses it to ask the workers about their kernels")
    if parsed.max_output_tokens is not None and parsed.max_output_tokens < 1:
        raise StartupError(f"--max-output-tokens: {parsed.max_output_tokens} is not at least 1")
    if not 1 <= parsed.hosts_timeout <= 86400:
        raise StartupError(f"--hosts-timeout: {parsed.hosts_timeout:g} is not between 1 and 86400 seconds")
    if parsed.tool_parser_plugin:
        from vllm.tool_parsers import ToolParserManager

        ToolParserManager.import_tool_parser(parsed.tool_parser_plugin)
    _check_parsers(parsed.tool_call_parser, parsed.reasoning_parser)
    if parsed.otlp_traces_endpoint and parsed.disable_log_stats:
        raise StartupError(
            "--disable-log-stats: vLLM's traces are made of its statistics; leave one of the two out"
        )
    adapters = _adapters(parsed.lora_modules, enabled=parsed.enable_lora)
    parsed.worker_extension_cls = WORKER_EXTENSION
    if parsed.mm_processor_cache_gb is None:
        parsed.mm_processor_cache_gb = caches.pictures_gib(parsed.nnodes)
    try:
        engine = AsyncEngineArgs.from_cli_args(parsed)
    except (ValueError, TypeError, KeyError) as error:
        raise StartupError(one_line(error)) from error
    if parsed.fp8_vocabulary:
        engine.additional_config = {**engine.additional_config, formats.FP8_VOCABULARY: True}
    _choose_backend(engine)
    _choose_mode(engine)
    parallel.check(engine)
    caches.choose(engine)
    return EngineSettings(
        engine=engine,
        chat_template=_load_template(parsed.chat_template),
        chat_template_content_format=parsed.chat_template_content_format,
        chat_template_kwargs=parsed.default_chat_template_kwargs,
        tool_call_parser=parsed.tool_call_parser,
        max_output_tokens=parsed.max_output_tokens,
        adapters=adapters,
        hosts_timeout=parsed.hosts_timeout,
        parse_special_tokens=parsed.parse_special_tokens,
        requires_calls_found=parsed.enable_auto_tool_choice,
    )


def finder_of_calls(tool_call_parser: str | None, model_type: str) -> str | None:
    """The name of what finds the calls that a model makes on its own; None where nothing does.

    Args:
        tool_call_parser: as the flag names it.
        model_type: the model's, out of its config.
    """
    if tool_call_parser is None and model_type.startswith("gemma3"):
        return SCANNER
    return tool_call_parser


def names_model(argv: list[str]) -> bool:
    """Whether a model is among the arguments, before, between or behind the flags."""
    parser = _parser()
    from vllm.engine.arg_utils import AsyncEngineArgs

    parsed, _ = parser.parse_known_args(argv)
    return parsed.model_tag is not None or parsed.model != AsyncEngineArgs.model


def engine_help() -> str:
    """What `octet serve --help-engine` prints: every flag with its text.

    vLLM has its texts only in a process that was started with a word that begins with "--help".
    """
    # Not vLLM's own form, which without something to look for lists names alone.
    return argparse.ArgumentParser.format_help(_parser())


def one_line(error: BaseException) -> str:
    """An error's message without pydantic's frame and without its further lines."""
    lines = [line.strip() for line in str(error).splitlines() if line.strip()]
    if not lines:
        return type(error).__name__
    if len(lines) > 1 and "validation error" in lines[0]:
        lines = [line for line in lines if line.startswith(_PYDANTIC_FRAMES)] or [": ".join(lines[1:3])]
    elif len(lines) > 1 and lines[0].endswith(":"):
        lines = [" ".join(lines[:2])]
    text = lines[0].partition(" [type=")[0]
    for frame in _PYDANTIC_FRAMES:
        text = text.removeprefix(frame)
    return text


def _parser() -> Any:
    """The parser of the model and the engine's flags. The first thing that imports vLLM."""
    compat.require_supported()
    folders.require_room()
    environment.require_working_packages()
    environment.prepare()
    from vllm.engine.arg_utils import AsyncEngineArgs
    from vllm.utils.argparse_utils import FlexibleArgumentParser

    class Parser(FlexibleArgumentParser):  # type: ignore[misc]
        def error(self, message: str) -> NoReturn:
            raise StartupError(message)

    parser = Parser(prog="octet serve", add_help=False, allow_abbrev=False)
    parser.add_argument("model_tag", nargs="?", metavar="MODEL")
    parser = AsyncEngineArgs.add_cli_args(parser)
    # None: whoever names vLLM's own default means it.
    parser.set_defaults(mm_processor_cache_gb=None)
    _add_flags(parser.add_argument_group("Octet"))
    return parser


def _add_flags(parser: Any) -> None:
    """Adds what is no flag of vLLM's engine: Octet's own, and those of `vllm serve` that it takes."""
    parser.add_argument("--chat-template", metavar="FILE", help="In place of the model's own.")
    parser.add_argument(
        "--chat-template-content-format",
        choices=("auto", "string", "openai"),
        default="auto",
        help="How the template is given a message: as one text, or as the list of its parts.",
    )
    parser.add_argument(
        "--default-chat-template-kwargs",
        type=json.loads,
        default={},
        metavar="JSON",
        help="Variables that the template is given where requests do not say otherwise.",
    )
    parser.add_argument(
        "--tool-call-parser",
        metavar="NAME",
        help="Finds the calls that the model makes on its own: gemma3 is Octet's scanner and the default for "
        "Gemma 3, every other name one of vLLM's parsers.",
    )
    parser.add_argument(
        "--enable-auto-tool-choice",
        action="store_true",
        help="Refuses to start where nothing would find the calls that the model makes on its own, as vLLM "
        "does: without --tool-call-parser, for another model than Gemma 3. They are found wherever something "
        "can, with this flag or without.",
    )
    parser.add_argument(
        "--tool-parser-plugin",
        metavar="FILE",
        help="Python file that --tool-call-parser may name a parser of.",
    )
    parser.add_argument(
        "--lora-modules",
        nargs="+",
        default=[],
        metavar="NAME=PATH",
        help="LoRA adapters that requests may name.",
    )
    parser.add_argument(
        "--max-output-tokens",
        type=int,
        metavar="N",
        help="Most tokens of an answer when the request names none. Default: 8192 for Gemma 3, else what "
        "generation_config.json says, else the context window.",
    )
    parser.add_argument(
        "--hosts-timeout",
        type=float,
        default=HOSTS_TIMEOUT,
        metavar="SECONDS",
        help="How long a start waits for the other machines of --nnodes to come and to join.",
    )
    parser.add_argument(
        "--parse-special-tokens",
        action="store_true",
        help="Let names of special tokens, such as <end_of_turn>, in what requests say act as these tokens. "
        "Whoever writes them can then speak in the model's name.",
    )
    parser.add_argument(
        "--fp8-vocabulary",
        action="store_true",
        help="Quantize the layer that makes logits to FP8 (e4m3) when the model is loaded, whatever the rest "
        "is. A tied embedding stays as it is for look-ups. docs/quantization.md says what it costs.",
    )


def check_model(argv: list[str]) -> None:
    """Looks whether the model that a command line names is there, as far as that is known without vLLM.

    Importing vLLM takes seconds, for which nobody should have to wait to be told of a wrong path.

    Raises:
        StartupError: with one line, when it is not.
    """
    named = argv[:1] + [value for flag, value in pairwise(argv) if flag == "--model"]
    named += [flag.partition("=")[2] for flag in argv if flag.startswith("--model=")]
    for model in named:
        _check_model(model)


def _check_model(model: str) -> None:
    """Catches what can only be a local path and is none, before vLLM takes it for a hub's id."""
    if model.startswith(("/", "./", "../", "~")) or model.endswith("/"):
        folder = Path(model).expanduser()
        if not folder.is_dir():
            raise StartupError(f"no such model: {model} is not a directory")
        if not (folder / "config.json").is_file():
            raise StartupError(f"no such model: {model} holds no config.json")


def _check_parsers(tool_call_parser: str | None, reasoning_parser: str) -> None:
    from vllm.parser import ParserManager

    for flag, names in (
        ("--tool-call-parser", {"tool_parser_name": tool_call_parser, "enable_auto_tools": True}),
        ("--reasoning-parser", {"reasoning_parser_name": reasoning_parser}),
    ):
        try:
            ParserManager.get_parser(**names)
        except TypeError as error:
            raise StartupError(f"{flag}: vLLM knows no parser of that name") from error


def _adapters(modules: list[str], *, enabled: bool | None) -> dict[str, str]:
    """The adapters of --lora-modules, their paths by their names."""
    if modules and not enabled:
        raise StartupError("--lora-modules: adapters need --enable-lora, too")
    adapters: dict[str, str] = {}
    for module in modules:
        name, _, path = module.partition("=")
        if not name or not path:
            raise StartupError(f"--lora-modules: {module} is not NAME=PATH")
        if name in adapters:
            raise StartupError(f"--lora-modules: {name} is the name of two adapters")
        adapters[name] = path
    return adapters


def _load_template(template: str | None) -> str | None:
    from vllm.exceptions import VLLMClientError
    from vllm.renderers.chat_utils import load_chat_template

    try:
        text: str | None = load_chat_template(template)
    except (VLLMClientError, OSError) as error:
        raise StartupError(f"--chat-template: {one_line(error)}") from error
    return text


def _choose_backend(engine: "AsyncEngineArgs") -> None:
    """One library for all constraints, whatever request comes first.

    Raises:
        StartupError: the flags ask for another one, or for what Octet's own constraints leave to the request.
    """
    config, flag = engine.structured_outputs_config, "--structured-outputs-config"
    if config.backend not in ("auto", "guidance"):
        raise StartupError(
            f"{flag}: Octet serves with backend guidance only, as {config.backend} does not hold answers to "
            "all that it accepts; leave it out"
        )
    if config.disable_any_whitespace:
        raise StartupError(f"{flag}: JSON is compact unless a request asks otherwise; leave it out")
    if config.disable_additional_properties:
        raise StartupError(
            f"{flag}: additionalProperties is as each schema says; leave disable_additional_properties out"
        )
    config.backend = "guidance"


def _choose_mode(engine: "AsyncEngineArgs") -> None:
    """On a CPU without a C++ compiler, runs the model eagerly: compiling it needs one.

    Container images have none. Whoever asks for a compilation by its flag gets it, or its error.
    """
    from vllm.config import CompilationConfig
    from vllm.platforms import current_platform

    # What torch's inductor would call.
    compiler = os.environ.get("CXX", "g++")
    if not current_platform.is_cpu() or engine.enforce_eager or shutil.which(compiler):
        return
    if engine.compilation_config != CompilationConfig():
        return
    engine.enforce_eager = True
    logger.info("no C++ compiler (%s): the model runs eagerly, as with --enforce-eager", compiler)
