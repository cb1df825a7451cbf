"""What a model is made of, asked of transformers: the model that config.json describes is built without
memory for its weights, and each of the checkpoint's tensors is followed to the module that holds it there.

transformers takes seconds to import and hundreds of MB, and model code may do anything; so `ask` has it done
in a process of its own. `describe` is what that process does. No code that comes with a checkpoint is run.
"""

import json
import os
import re
import subprocess
import sys
import tempfile
from collections.abc import Callable, Iterable
from contextlib import ExitStack
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

from octet.quantize.layers import (
    OUTPUT_LAYER,
    Anatomy,
    Layer,
    Stack,
    aside,
    matrix_name,
    needs_a_place,
    stacked_modules,
)
from octet.quantize.safetensors_file import StoredTensor

if TYPE_CHECKING:
    import torch
    from transformers import PreTrainedModel

_ELSEWHERE = "it is in no block of the language model"

# Of Gemma 3n and 4: vLLM has them below another module than checkpoints do, and only a pattern reaches them.
_MOVED = re.compile(r"(?:^|\.)((?:per_layer_model_projection|altup_(?:unembed_)?projections)(?:\.\d+)?)$")


class UnknownModelError(Exception):
    """transformers does not know the model, or cannot build it; the message says which."""


def ask(architecture: str, config: dict[str, Any], tensors: Iterable[StoredTensor]) -> Anatomy:
    """`describe`, done by another process.

    Raises:
        UnknownModelError: as there.
    """
    question = {
        "architecture": architecture,
        "config": config,
        "tensors": [[tensor.name, tensor.dtype, tensor.shape] for tensor in tensors],
    }
    # Nothing may be looked up: what is asked is what this machine has.
    quiet = {"HF_HUB_OFFLINE": "1", "TRANSFORMERS_VERBOSITY": "error", "OMP_NUM_THREADS": "1"}
    process = subprocess.run(
        [sys.executable, "-m", "octet.quantize.anatomy"],
        input=json.dumps(question),
        env=os.environ | quiet,
        capture_output=True,
        text=True,
        check=False,
    )
    last = process.stdout.splitlines()[-1:] or [""]  # Model code may print, too.
    try:
        answer = json.loads(last[0])
    except ValueError:
        said = (process.stderr.strip().splitlines() or [f"it ended with status {process.returncode}"])[-1]
        raise UnknownModelError(f"transformers cannot be asked for {architecture}: {said}") from None
    if "unknown" in answer:
        raise UnknownModelError(answer["unknown"])
    return Anatomy(
        layers=tuple(_layer(*fields) for fields in answer["layers"]),
        unknown=tuple(answer["without_layer"]),
        output=answer["output"],
        loads_output=answer["loads_output"],
    )


def _layer(
    tensor: str,
    order: list[int],
    modules: list[str],
    kept: str | None,
    stack: tuple[list[str], bool, str | None] | None,
) -> Layer:
    """A layer out of the JSON that it became."""
    return Layer(
        tensor,
        tuple(order),
        tuple(modules),
        kept,
        Stack(tuple(stack[0]), *stack[1:]) if stack else None,
    )


def describe(architecture: str, config: dict[str, Any], tensors: Iterable[StoredTensor]) -> Anatomy:
    """The linear layers of a checkpoint.

    Those in blocks of the language model are to be quantized, but for routers, what is too small, and what
    vLLM computes unquantized. Everything else stays: the towers for pictures and sound, projectors, heads.

    Args:
        architecture: the model's class, by the name that config.json gives it.
        config: config.json.
        tensors: the checkpoint's.

    Raises:
        UnknownModelError: transformers has no such class, or cannot build it from the config.
    """
    return dissect(build(architecture, config), architecture, tensors)


def dissect(model: "PreTrainedModel", architecture: str, tensors: Iterable[StoredTensor]) -> Anatomy:
    """The same for a model that has been built, of the class that is called so or without its head."""
    members = _Members(model)
    follow = _follower(model)
    layers, unknown = [], []
    for tensor in tensors:
        name = follow(tensor.name)
        place = members.find(name)
        if place is not None:
            layer = _classify(tensor, name, place, members)
        else:
            layer = _stranger(tensor, name, members, whole=type(model).__name__ == architecture)
        if layer is not None:
            layers.append(layer)
        elif (place is None or "expert" in name) and needs_a_place(tensor):
            unknown.append(tensor.name)
    layers.sort(key=lambda layer: layer.order)
    head = model.get_output_embeddings()
    return Anatomy(
        tuple(layers),
        tuple(unknown),
        output=any(module is head and name.endswith(OUTPUT_LAYER) for name, module in model.named_modules()),
        loads_output=any(layer.modules[0].split(".")[-1] == OUTPUT_LAYER for layer in layers),
    )


class _Place(NamedTuple):
    """Where a parameter is: its module, the name of that, and the parameter's number among the model's."""

    module: "torch.nn.Module"
    path: str
    number: int


class _Members:
    """The modules of a model, and what they are to it."""

    def __init__(self, model: "PreTrainedModel") -> None:
        import torch
        from transformers import PreTrainedModel

        self.model = model
        self._modules = dict(model.named_modules())
        self._numbers = {name: number for number, name in enumerate(model.state_dict())}
        self._towers = {
            path
            for path, module in self._modules.items()
            if isinstance(module, PreTrainedModel) and path and "text" not in _modalities(module)
        }
        self._towers |= {path for path, module in self._modules.items() if isinstance(module, _Missing)}
        decoder = model if model.config.is_encoder_decoder else model.get_decoder()
        root = next(path for path, module in self._modules.items() if module is decoder)
        lists = [
            path
            for path, module in self._modules.items()
            if isinstance(module, torch.nn.ModuleList)
            and self.tower(path) is None
            and not any(isinstance(item, torch.nn.Linear) for item in module)
        ]
        # Heads may be called decoders, too.
        lists = [path for path in lists if path.startswith(f"{root}." if root else "")] or lists
        # The outermost ones: a list within a block is one of its parts.
        self._blocks = [path for path in lists if not any(path.startswith(f"{other}.") for other in lists)]
        self.last = len(self._numbers)

    def find(self, parameter: str) -> _Place | None:
        """Where a parameter is; None where the model has none of that name."""
        number = self._numbers.get(parameter)
        if number is None:
            return None
        path = parameter.rpartition(".")[0]
        return _Place(self._modules[path], path, number)

    def left_out(self, parameter: str) -> bool:
        """Whether transformers knows that checkpoints have this, and has no module for it."""
        patterns = self.model._keys_to_ignore_on_load_unexpected or ()
        return self.tower(parameter) is not None or any(re.search(p, parameter) for p in patterns)

    def tower(self, path: str) -> str | None:
        """The tower for something else than text that a module is in."""
        return next((tower for tower in self._towers if path == tower or path.startswith(f"{tower}.")), None)

    def looks_in_block(self, name: str) -> bool:
        """Whether a name is such as things in blocks of the language model have."""
        lists = "|".join({re.escape(block.rpartition(".")[2]) for block in self._blocks})
        return re.search(rf"(^|\.)({lists})\.\d+\.", name) is not None

    def scans(self, path: str) -> bool:
        """Whether a module is part of a selective scan as Mamba, not Mamba 2, has it."""
        parent = path.rpartition(".")[0]
        return all(f"{parent}.{part}" in self._modules for part in ("x_proj", "dt_proj"))

    def below_block(self, path: str) -> str | None:
        """A module's name below the block of the language model that it is in; None where it is in none."""
        for block in self._blocks:
            if path.startswith(f"{block}."):
                return path[len(block) + 1 :].partition(".")[2] or None
        return None


def _modalities(module: "PreTrainedModel") -> tuple[str, ...]:
    said = module.input_modalities
    return (said,) if isinstance(said, str) else tuple(said)


def _classify(tensor: StoredTensor, parameter: str, place: _Place, members: _Members) -> Layer | None:
    """The layer that a tensor holds; None for what is none, such as an embedding or a norm."""
    import torch

    below = members.below_block(place.path)
    if len(tensor.shape) == 3 and "expert" in parameter and below is not None:
        return _stack(tensor, parameter, place, members)
    module = matrix_name(tensor)
    if (
        module is None
        or isinstance(place.module, torch.nn.Embedding)
        or "Embedding" in type(place.module).__name__
    ):
        return None
    if (tower := members.tower(place.path)) is not None:
        return _kept(tensor, place.number, f"it is in the tower {tower}")
    if module.split(".")[-1] == OUTPUT_LAYER and place.module is members.model.get_output_embeddings():
        return Layer(tensor.name, (place.number,), (module,))
    if below is None and (moved := _MOVED.search(module)) is not None:
        pattern = f"re:.*\\.{re.escape(moved[1])}$"
        return Layer(tensor.name, (place.number,), (module, pattern), _ELSEWHERE)
    if below is None:
        return _kept(tensor, place.number, _ELSEWHERE)
    if _is_expert(parameter, module):
        # The model holds all experts in one parameter, whose number they share.
        return Layer(tensor.name, (place.number, *_numbers(module)), (module,), aside(module, tensor.shape))
    if members.scans(place.path):
        return _kept(tensor, place.number, "vLLM computes Mamba's first form unquantized")
    if not isinstance(place.module, torch.nn.Linear) or "Router" in type(place.module).__name__:
        return _kept(tensor, place.number, aside(below, tensor.shape) or "it is no plain linear layer")
    return Layer(tensor.name, (place.number,), (module,), aside(below, tensor.shape))


def _stranger(tensor: StoredTensor, name: str, members: _Members, *, whole: bool) -> Layer | None:
    """The layer of a matrix for which the model has no parameter; None where that tells nothing of it.

    Args:
        tensor: it.
        name: its name in the model.
        members: the model's.
        whole: whether the model has the head that the checkpoint's has, too.
    """
    module = matrix_name(tensor)
    if module is None or "embed" in module:
        return None
    if members.left_out(name):
        return _kept(tensor, members.last, "transformers leaves it out")
    if whole or members.looks_in_block(name):
        return None
    if module.split(".")[-1] == OUTPUT_LAYER:
        return Layer(tensor.name, (members.last,), (module,))
    return _kept(tensor, members.last, _ELSEWHERE)


def _is_expert(parameter: str, module: str) -> bool:
    return (
        "expert" in parameter
        and not parameter.endswith(".weight")
        and re.search(r"\.\d+\.[^.]+$", module) is not None
    )


def _numbers(module: str) -> tuple[int, ...]:
    return tuple(int(part) for part in module.split(".") if part.isdigit())


def _kept(tensor: StoredTensor, number: int, why: str) -> Layer:
    return Layer(tensor.name, (number,), (tensor.name.removesuffix(".weight"),), why)


def _stack(tensor: StoredTensor, parameter: str, place: _Place, members: _Members) -> Layer:
    """A layer of all experts of a block."""
    name = parameter.rpartition(".")[2]
    hidden = members.model.config.get_text_config().hidden_size
    if name == "down_proj":
        parts: tuple[str, ...] = ("down_proj",)
    elif name == "gate_up_proj":
        parts = ("gate_proj", "up_proj")
    else:
        parts = (name,)
    trouble = None
    if getattr(place.module, "has_bias", False):
        trouble = "vLLM has no FP8 for experts with biases"
    elif not getattr(place.module, "is_concatenated", True):
        trouble = "vLLM has no FP8 for experts whose gates lie between their other outputs"
    stack = Stack(parts, _is_transposed(tensor, name, place, hidden), trouble)
    return Layer(
        tensor.name, (place.number,), stacked_modules(tensor.name, stack, tensor.shape[0]), None, stack
    )


def _is_transposed(tensor: StoredTensor, name: str, place: _Place, hidden: int) -> bool:
    """Whether a stack lies as [experts, in, out].

    Its shape says so, for one side is the hidden size. Where both are, the other stack beside it says so.
    """
    first, second = tensor.shape[1:]
    if first == second:
        sizes = [
            tuple(other.shape[1:]) for other in place.module.parameters(recurse=False) if other.ndim == 3
        ]
        other_name = "gate_up_proj" if name == "down_proj" else "down_proj"
        other = getattr(place.module, other_name, None)
        if other is None or len(set(sizes)) == 1:
            return bool(getattr(place.module, "is_transposed", False))
        name, (first, second) = other_name, other.shape[1:]
    return second == hidden if name == "down_proj" else first == hidden


class _Missing:
    """Marks a module that stands for a tower that cannot be built here."""


def build(architecture: str, config: dict[str, Any]) -> "PreTrainedModel":
    """The model, on torch's meta device. A tower whose library is not installed is left out.

    Raises:
        UnknownModelError: transformers has no such class, or cannot build it from the config.
    """
    import torch
    from transformers.initialization import no_init_weights

    plain = {key: value for key, value in config.items() if key not in ("auto_map", "quantization_config")}
    model_class = _class_of(architecture, str(config.get("model_type")))
    try:
        with tempfile.TemporaryDirectory() as directory:
            Path(directory, "config.json").write_text(json.dumps(plain))
            described = model_class.config_class.from_pretrained(directory)
        described._attn_implementation = "eager"
        with ExitStack() as during:
            during.enter_context(torch.device("meta"))
            during.enter_context(no_init_weights())
            during.enter_context(_without_missing_towers())
            return model_class(described)
    except Exception as error:  # Model code may raise anything.
        said = (str(error).strip().splitlines() or [type(error).__name__])[0]
        raise UnknownModelError(
            f"transformers cannot build {architecture} from its config: {said}"
        ) from error


def _class_of(architecture: str, model_type: str) -> Any:
    """transformers' class of that name; where it has none, that of such models without a head."""
    import transformers
    from transformers.models.auto.modeling_auto import MODEL_MAPPING_NAMES

    headless = MODEL_MAPPING_NAMES.get(model_type)
    for name in (architecture, headless):
        found = getattr(transformers, name, None) if isinstance(name, str) else None
        if isinstance(found, type) and issubclass(found, transformers.PreTrainedModel):
            return found
    raise UnknownModelError(f"transformers {transformers.__version__} has no {architecture}")


def _without_missing_towers() -> Any:
    """While models are built: a tower that needs a library that is not installed is left out."""
    import contextlib
    from unittest import mock

    import torch
    import transformers

    class Placeholder(torch.nn.Module, _Missing):
        pass

    build = transformers.AutoModel.from_config.__func__

    def from_config(cls: type, *arguments: Any, **named: Any) -> Any:
        try:
            return build(cls, *arguments, **named)
        except ImportError:
            return Placeholder()

    @contextlib.contextmanager
    def replaced() -> Any:
        with mock.patch.object(transformers.AutoModel, "from_config", classmethod(from_config)):
            yield

    return replaced()


def _follower(model: "PreTrainedModel") -> Callable[[str], str]:
    """From a checkpoint's names to those of the model's parameters, as transformers loads them."""
    from transformers.conversion_mapping import get_model_conversion_mapping
    from transformers.core_model_loading import WeightConverter, WeightRenaming, rename_source_key

    transforms = get_model_conversion_mapping(model)
    renamings = [each for each in transforms if isinstance(each, WeightRenaming)]
    converters = [each for each in transforms if isinstance(each, WeightConverter)]
    state = model.state_dict()

    def follow(name: str) -> str:
        found = str(rename_source_key(name, renamings, converters, model.base_model_prefix, state)[0])
        # Embedding models are published without what precedes "layers", whatever the class's prefix is.
        return f"model.{found}" if found not in state and f"model.{found}" in state else found

    return follow


def main() -> None:
    """Reads a question from standard input, and writes the answer."""
    question = json.load(sys.stdin)
    tensors = [StoredTensor(name, dtype, tuple(shape), 0) for name, dtype, shape in question["tensors"]]
    try:
        anatomy = describe(question["architecture"], question["config"], tensors)
    except UnknownModelError as error:
        answer: dict[str, Any] = {"unknown": str(error)}
    else:
        answer = {
            "layers": [
                [
                    layer.tensor,
                    layer.order,
                    layer.modules,
                    layer.kept,
                    layer.stack and [layer.stack.parts, layer.stack.transposed, layer.stack.trouble],
                ]
                for layer in anatomy.layers
            ],
            "without_layer": anatomy.unknown,
            "output": anatomy.output,
            "loads_output": anatomy.loads_output,
        }
    print(json.dumps(answer))


if __name__ == "__main__":
    main()
