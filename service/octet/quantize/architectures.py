"""Which weights belong to linear layers, for each architecture that is known.

A checkpoint names its tensors but not the kinds of its layers, and a matrix may as well be an embedding. So
the architecture, which config.json names, decides. `tests/unit/quantize/test_architectures.py` compares this
table with the layers that transformers builds.
"""

import re
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

from octet.quantize.errors import QuantizeError


def shared_embeddings(names: Iterable[str]) -> list[str]:
    """Of a checkpoint's tensors, the embeddings that an output layer without a tensor may share."""
    return [name for name in names if name.endswith("embed_tokens.weight")]


@dataclass(frozen=True, slots=True)
class Block:
    """Linear layers that stand together in a model.

    Attributes:
        prefix: regular expression of what precedes their names, dots included. Its group, if it has one, is
            the number of the layer that repeats the block.
        modules: their names below it, in the order in which the model holds them.
    """

    prefix: str
    modules: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class Architecture:
    """Where a model has linear layers.

    Attributes:
        blocks: all but the output layer, in the order in which the model holds them.
        has_output_layer: whether vLLM has one, apart from an embedding that it multiplies by.
    """

    blocks: tuple[Block, ...]
    has_output_layer: bool = True

    def position(self, module: str) -> tuple[int, int, int] | None:
        """Where the linear layer `module` stands among the model's; None when there is no such layer."""
        for number, block in enumerate((*self.blocks, _OUTPUT)):
            match = re.match(block.prefix, module)
            if match and module[match.end() :] in block.modules:
                layer = int(match[1]) if match.groups() else 0
                return number, layer, block.modules.index(module[match.end() :])
        return None


OUTPUT_LAYER = "lm_head"
"""Name of the layer that makes logits, the last one of every model here."""

_ATTENTION = ("self_attn.q_proj", "self_attn.k_proj", "self_attn.v_proj", "self_attn.o_proj")
_GATED_MLP = ("mlp.gate_proj", "mlp.up_proj", "mlp.down_proj")
_DECODER = (*_ATTENTION, *_GATED_MLP)
_FUSED_DECODER = ("self_attn.o_proj", "self_attn.qkv_proj", "mlp.gate_up_proj", "mlp.down_proj")
_VISION = (
    *("self_attn.k_proj", "self_attn.v_proj", "self_attn.q_proj", "self_attn.out_proj"),
    *("mlp.fc1", "mlp.fc2"),
)

_TEXT = Architecture((Block(r"model\.layers\.(\d+)\.", _DECODER),))
_FUSED_TEXT = Architecture((Block(r"model\.layers\.(\d+)\.", _FUSED_DECODER),))

# Published checkpoints and those that transformers 5 saves differ in the prefixes of these.
_NESTED_TEXT = Block(r"(?:language_model\.model|model\.language_model)\.layers\.(\d+)\.", _DECODER)
_NESTED_VISION = Block(r"(?:model\.)?vision_tower\.(?:vision_model\.)?encoder\.layers\.(\d+)\.", _VISION)
_PROJECTOR = Block(r"(?:model\.)?multi_modal_projector\.", ("linear_1", "linear_2"))
_OUTPUT = Block(r"(?:language_model\.)?", (OUTPUT_LAYER,))

_ARCHITECTURES = {
    "Gemma2ForCausalLM": Architecture(_TEXT.blocks, has_output_layer=False),
    "Gemma3ForCausalLM": _TEXT,
    "Gemma3ForConditionalGeneration": Architecture((_NESTED_VISION, _NESTED_TEXT)),
    "GemmaForCausalLM": _TEXT,
    "GraniteForCausalLM": _TEXT,
    "LlamaForCausalLM": _TEXT,
    "LlavaForConditionalGeneration": Architecture((_NESTED_VISION, _PROJECTOR, _NESTED_TEXT)),
    "MistralForCausalLM": _TEXT,
    "Olmo2ForCausalLM": _TEXT,
    "Phi3ForCausalLM": _FUSED_TEXT,
    "Qwen2ForCausalLM": _TEXT,
    "Qwen3ForCausalLM": _TEXT,
    "SmolLM3ForCausalLM": _TEXT,
}


def names() -> tuple[str, ...]:
    """The known architectures, by the names that config.json gives them."""
    return tuple(_ARCHITECTURES)


def find(name: str, config: Path) -> Architecture:
    """The architecture that the file `config` calls `name`.

    Raises:
        QuantizeError: it is not known.
    """
    if name not in _ARCHITECTURES:
        known = ", ".join(sorted(_ARCHITECTURES))
        raise QuantizeError(f"{config}: the architecture {name} is not known; known are {known}")
    return _ARCHITECTURES[name]
