"""A plan that was checked before anything is written: what the user named is there, and vLLM will load it."""

from octet.engine.vllm.formats import OUTPUT_LAYER
from octet.loading import naming, rules
from octet.loading.contents import WEIGHT, Contents
from octet.loading.said import read
from octet.quantize.config import model_config
from octet.quantize.errors import QuantizeError
from octet.quantize.options import DEFAULT_IGNORE, DEFAULT_TARGETS, Options
from octet.quantize.plan import Plan, make_plan
from octet.quantize.source import Source

_CLASS = "Linear"


def checked_plan(source: Source, options: Options) -> Plan:
    """Decides what becomes of each tensor.

    Raises:
        QuantizeError: as `make_plan`; or a pattern is no regular expression or names nothing; or vLLM could
            not load what would be written.
    """
    _check_patterns(options)
    plan = make_plan(source, options)
    _check_names(source, options, plan)
    _check_loadable(source, options, plan)
    return plan


def _check_patterns(options: Options) -> None:
    for flag, patterns in (("--targets", options.targets), ("--ignore", options.ignore)):
        for pattern in patterns:
            if reason := naming.flaw(pattern):
                raise QuantizeError(f"{flag} {pattern!r}: is no regular expression: {reason}")


def _check_names(source: Source, options: Options, plan: Plan) -> None:
    """Whether each pattern that the user gave names something: one with a slip would be passed over."""
    pairs = [tensor for shard in plan.shards for tensor in shard.tensors]
    tensors = {name for tensor in pairs for name in (tensor.source.name, tensor.target.name)}
    modules = {name.removesuffix(WEIGHT) for name in tensors if name.endswith(WEIGHT)}
    names = {*modules, *(name for name in tensors if not name.endswith(WEIGHT)), *plan.ignored}
    given = [("--targets", p) for p in options.targets if p not in DEFAULT_TARGETS]
    given += [("--ignore", p) for p in options.ignore if p not in DEFAULT_IGNORE]
    for flag, pattern in given:
        if pattern != _CLASS and not any(naming.matches(pattern, name) for name in names):
            example = max(modules, key=len)
            raise QuantizeError(
                f"{flag} {pattern!r}: {source.directory} has no layer of that name; a pattern is a layer's "
                f"whole name, such as {example}, or {naming.REGEX} and what its beginning has to match"
            )
        if flag == "--targets" and not options.vocabulary and naming.names_output_layer([pattern]):
            others = [name for name in names if not name.endswith(OUTPUT_LAYER)]
            if not any(naming.matches(pattern, name) for name in others):
                raise QuantizeError(f"{flag} {pattern!r}: the output layer is quantized by --vocabulary")


def _check_loadable(source: Source, options: Options, plan: Plan) -> None:
    config = model_config(source.config, options, plan)
    tensors = {tensor.name: tensor for shard in plan.shards for tensor in shard.header.tensors}
    for problem in rules.problems(Contents(config, read(config["quantization_config"]), tensors)):
        raise QuantizeError(f"{source.directory}: vLLM could not load the result: {problem}")
