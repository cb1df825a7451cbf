"""The output layer in FP8 in vLLM's layers: what is quantized, kept, loaded, sharded and refused."""

from collections.abc import Iterator
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from vllm.model_executor.layers import logits_processor, vocab_parallel_embedding
from vllm.model_executor.layers.linear import UnquantizedLinearMethod
from vllm.model_executor.layers.vocab_parallel_embedding import (
    ParallelLMHead,
    UnquantizedEmbeddingMethod,
    VocabParallelEmbedding,
)

from octet.engine.vllm import formats, plugin
from octet.engine.vllm.formats import FORMATS, FormatPair
from octet.engine.vllm.inside import fp8_vocabulary, octet_fp8
from octet.engine.vllm.inside.fp8_vocabulary import Fp8OutputLayer
from octet.loading.said import read
from octet.ops import reference
from octet.quantize.config import OUTPUT_TARGET

HIDDEN, TOKENS = 64, 5
WORDS = 200
"""No multiple of 64, to which vLLM fills the vocabulary up."""

DTYPES = {"e4m3": torch.float8_e4m3fn, "e5m2": torch.float8_e5m2}
E4M3 = FormatPair("e4m3", "e4m3")


@pytest.fixture(autouse=True)
def building(monkeypatch: pytest.MonkeyPatch) -> Iterator[Any]:
    """What is current while vLLM builds and loads a model, which a test may change: the rank among `size`
    that share the vocabulary, whether this stage of a pipeline is the last, and the configuration.
    """
    from vllm.config import VllmConfig, set_current_vllm_config
    from vllm.model_executor import parameter

    plugin.register()
    state = SimpleNamespace(rank=0, size=1, last=True, config=VllmConfig())
    for module in (parameter, vocab_parallel_embedding):
        monkeypatch.setattr(module, "get_tensor_model_parallel_rank", lambda: state.rank)
        monkeypatch.setattr(module, "get_tensor_model_parallel_world_size", lambda: state.size)
    monkeypatch.setattr(fp8_vocabulary, "get_pp_group", lambda: SimpleNamespace(is_last_rank=state.last))
    monkeypatch.setattr(logits_processor, "tensor_model_parallel_gather", lambda logits: logits)
    state.config.model_config = MODEL
    state.config.additional_config = {formats.FP8_VOCABULARY: True}
    default = torch.get_default_dtype()
    torch.set_default_dtype(torch.bfloat16)
    with set_current_vllm_config(state.config):
        yield state
    torch.set_default_dtype(default)


MODEL: Any = SimpleNamespace(
    dtype=torch.bfloat16,
    head_dtype=torch.bfloat16,
    runner_type="generate",
    word_embeddings_untied_by_checkpoint=False,
    quantization=None,
)


class Model(torch.nn.Module):
    """An embedding, and what makes logits: a layer of its own, one that shares the embedding, or that."""

    def __init__(self, kind: str) -> None:
        super().__init__()
        self.embed_tokens = VocabParallelEmbedding(WORDS, HIDDEN)
        load(self.embed_tokens, normal(WORDS, seed=1))
        if kind != "none":
            self.lm_head = ParallelLMHead(WORDS, HIDDEN)
            load(self.lm_head, normal(WORDS, seed=2))
        if kind == "tied":
            self.lm_head = self.lm_head.tie_weights(self.embed_tokens)
        self.output = self.embed_tokens if kind == "none" else self.lm_head
        self.processor = logits_processor.LogitsProcessor(WORDS)

    def logits(self, x: torch.Tensor) -> torch.Tensor:
        found: torch.Tensor = self.processor(self.output, x)
        return found


def load(layer: Any, weight: torch.Tensor) -> None:
    layer.weight.weight_loader(layer.weight, weight)


def normal(rows: int, seed: int) -> torch.Tensor:
    generator = torch.Generator().manual_seed(seed)
    return (torch.randn(rows, HIDDEN, generator=generator, dtype=torch.float32) * 0.05).to(torch.bfloat16)


def finished(model: torch.nn.Module, config: Any = MODEL) -> Any:
    """A model whose weights are loaded, as every loader of vLLM's goes on with it."""
    from vllm.model_executor.model_loader.utils import process_weights_after_loading

    process_weights_after_loading(model, config, torch.device("cpu"))
    return model


def contract(x: torch.Tensor, weight: torch.Tensor, pair: FormatPair = E4M3) -> torch.Tensor:
    """x times a weight of 16 bits, both quantized, in float64."""
    codes, scale = reference.per_token_quant_fp8(weight, DTYPES[pair.weights])
    xq, x_scale = reference.per_token_quant_fp8(x, DTYPES[pair.activations])
    return reference.fp8_linear(xq, x_scale, codes, scale)


def close(ours: torch.Tensor, theirs: torch.Tensor) -> None:
    """Equal up to the result's rounding to bf16 (2^-9) and f32 sums."""
    assert ours.dtype == torch.bfloat16
    torch.testing.assert_close(ours.double(), theirs, rtol=2**-8, atol=1e-5)


X = normal(TOKENS, seed=9) * 20


@pytest.mark.parametrize("kind", ["own", "tied", "none"])
def test_logits_are_those_of_the_contract(kind: str) -> None:
    model = finished(Model(kind))
    logits = model.logits(X)
    assert logits.shape == (TOKENS, WORDS)
    close(logits, contract(X, normal(WORDS, seed=2 if kind == "own" else 1)))
    assert fp8_vocabulary.format_of(model.output) == "e4m3"


@pytest.mark.parametrize("kind", ["own", "tied", "none"])
def test_look_ups_read_what_they_always_have(kind: str) -> None:
    model = finished(Model(kind))
    ids = torch.tensor([0, 17, WORDS - 1])
    assert torch.equal(model.embed_tokens(ids), normal(WORDS, seed=1)[ids])


def test_only_a_weight_that_nothing_else_reads_is_given_back() -> None:
    assert finished(Model("own")).lm_head.weight.numel() == 0
    tied = finished(Model("tied"))
    assert tied.lm_head.weight is tied.embed_tokens.weight
    # What LoRA asks an output layer for.
    assert finished(Model("own")).lm_head.weight.dtype == torch.bfloat16


@pytest.mark.parametrize("same", [False, True], ids=["other", "same"])
def test_a_model_that_drafts_gets_no_output_layer_but_one_equal_to_its_own(same: bool) -> None:
    """As vLLM shares them: by a look at weights that are quantized by then."""
    from vllm.v1.spec_decode.llm_base_proposer import SpecDecodeBaseProposer

    target, draft = Model("own"), Model("own")
    if not same:
        load(draft.lm_head, normal(WORDS, seed=3))
    draft.has_own_lm_head, draft.model, target.model = True, torch.nn.Module(), torch.nn.Module()
    finished(target)
    finished(draft, SimpleNamespace(**vars(MODEL) | {"runner_type": "draft"}))
    proposer = SimpleNamespace(
        model=draft,
        vllm_config=SimpleNamespace(speculative_config=None),
        use_local_argmax_reduction=False,
    )
    SpecDecodeBaseProposer._maybe_share_lm_head(proposer, target)
    close(draft.processor(draft.lm_head, X), contract(X, normal(WORDS, seed=2 if same else 3)))


def test_a_prompts_rows_and_a_bias() -> None:
    model, bias = finished(Model("own")), normal(256, seed=4)[:, 0].contiguous()
    x = normal(300, seed=5)
    expected = contract(x, normal(WORDS, seed=2)) + bias[:WORDS].double()
    torch.testing.assert_close(
        model.processor(model.lm_head, x, bias).double(), expected, rtol=2**-7, atol=1e-4
    )


def test_ranks_share_the_vocabulary(building: Any) -> None:
    """And no rank quantizes otherwise than one alone would: every token has a scale of its own."""
    building.size, parts = 2, []
    for building.rank in range(2):
        model = Model("tied")
        parts.append(finished(model).output.quant_method.apply(model.output, X))
    assert [part.shape[1] for part in parts] == [128, 128]
    close(torch.cat(parts, dim=1)[:, :WORDS], contract(X, normal(WORDS, seed=1)))
    assert not torch.cat(parts, dim=1)[:, WORDS:].any(), "places of no token"


def test_an_output_layer_that_a_quantization_leaves_out() -> None:
    """Some methods hand out what they give to linear layers."""
    model = Model("own")
    model.lm_head.quant_method = UnquantizedLinearMethod()
    close(finished(model).logits(X), contract(X, normal(WORDS, seed=2)))


def test_nobody_asked(building: Any) -> None:
    for building.config.additional_config in ({}, {formats.FP8_VOCABULARY: False}):
        model = finished(Model("tied"))
        assert type(model.output.quant_method) is UnquantizedEmbeddingMethod
        assert fp8_vocabulary.format_of(model.output) == ""


def test_registering_again_changes_nothing() -> None:
    from vllm.model_executor.model_loader import utils

    for _ in range(2):
        fp8_vocabulary.register()
    assert not hasattr(utils.maybe_retie_word_embeddings.__wrapped__, "__wrapped__")


def test_what_is_quantized_otherwise_is_refused() -> None:
    model = Model("own")
    model.lm_head.quant_method = octet_fp8.MixedFP8LinearKernel
    with pytest.raises(
        ValueError, match=r"^--fp8-vocabulary: the output layer is quantized otherwise already"
    ):
        fp8_vocabulary.choose(model, MODEL)


def test_a_model_without_an_output_layer_is_refused(building: Any) -> None:
    model = torch.nn.ModuleList([VocabParallelEmbedding(WORDS, HIDDEN) for _ in range(2)])
    with pytest.raises(
        ValueError, match=r"^--fp8-vocabulary: ModuleList has no output layer that Octet knows$"
    ):
        fp8_vocabulary.choose(model, MODEL)
    fp8_vocabulary.choose(model, SimpleNamespace(**vars(MODEL) | {"runner_type": "draft"}))
    building.last = False
    fp8_vocabulary.choose(model, MODEL)


def test_stages_of_a_pipeline_without_logits_stay_as_they_are(building: Any) -> None:
    building.last = False
    model = finished(Model("none"))
    assert type(model.output.quant_method) is UnquantizedEmbeddingMethod


# A checkpoint whose output layer is stored as codes.


def stored(pair: FormatPair) -> tuple[torch.Tensor, torch.Tensor]:
    codes, scale = reference.per_token_quant_fp8(normal(WORDS, seed=3), DTYPES[pair.weights])
    return codes, scale.to(torch.bfloat16)


def config_of(pair: FormatPair, method: str) -> Any:
    if method == formats.METHOD:
        said = {"quant_method": method, "weights": pair.weights, "activations": pair.activations}
        return octet_fp8.OctetFP8Config.from_config(said | {"vocabulary": True})
    from vllm.model_executor.layers.quantization.compressed_tensors.compressed_tensors import (
        CompressedTensorsConfig,
    )

    numbers = {"num_bits": 8, "type": "float", "symmetric": True}
    group = {
        "targets": ["Linear", OUTPUT_TARGET],
        "weights": numbers | {"strategy": "channel", "dynamic": False},
        "input_activations": numbers | {"strategy": "token", "dynamic": True},
    }
    return CompressedTensorsConfig.from_config(
        {"format": "float-quantized", "config_groups": {"group_0": group}}
    )


METHODS = [(FormatPair(w, a), formats.METHOD) for w in FORMATS for a in FORMATS] + [
    (E4M3, "compressed-tensors")
]


@pytest.mark.parametrize("prefix", ["lm_head", "language_model.lm_head"])
@pytest.mark.parametrize(("pair", "method"), METHODS)
def test_a_stored_output_layer(building: Any, pair: FormatPair, method: str, prefix: str) -> None:
    """On one rank and on two; the flag finds it done."""
    codes, scale = stored(pair)
    xq, x_scale = reference.per_token_quant_fp8(X, DTYPES[pair.activations])
    expected = reference.fp8_linear(xq, x_scale, codes, scale.float())
    for size in (1, 2):
        building.size, parts = size, []
        for building.rank in range(size):
            head = ParallelLMHead(WORDS, HIDDEN, quant_config=config_of(pair, method), prefix=prefix)
            load(head, codes)
            head.weight_scale.weight_loader(head.weight_scale, scale)
            finished(torch.nn.ModuleList([head]))
            assert not isinstance(head.quant_method, Fp8OutputLayer)
            assert fp8_vocabulary.format_of(head) == pair.weights
            parts.append(head.quant_method.apply(head, X))
        close(torch.cat(parts, dim=1)[:, :WORDS], expected)


def test_a_stored_output_layer_without_its_scales_is_refused() -> None:
    head = ParallelLMHead(WORDS, HIDDEN, quant_config=config_of(E4M3, formats.METHOD), prefix="lm_head")
    load(head, stored(E4M3)[0])
    with pytest.raises(ValueError, match=r"lm_head\.weight_scale must contain finite positive scales"):
        finished(torch.nn.ModuleList([head]))


def test_without_the_word_octets_method_leaves_it_alone() -> None:
    config = octet_fp8.OctetFP8Config.from_config(
        {"quant_method": formats.METHOD, "weights": "e5m2", "activations": "e4m3"}
    )
    head = ParallelLMHead(WORDS, HIDDEN, quant_config=config, prefix="lm_head")
    assert type(head.quant_method) is UnquantizedEmbeddingMethod


@pytest.mark.parametrize("method", [formats.METHOD, "compressed-tensors"])
def test_what_a_config_says_is_what_vllm_does(method: str) -> None:
    """`octet inspect` reads the same out of it."""
    from vllm.model_executor.layers.quantization.compressed_tensors.compressed_tensors import (
        CompressedTensorsConfig,
    )

    numbers = {"num_bits": 8, "type": "float", "symmetric": True}
    if method == formats.METHOD:
        cases = [{}, {"vocabulary": True}, {"vocabulary": False}]
    else:
        cases = [
            {"targets": targets, "ignore": ignore}
            for targets in (["Linear"], ["Linear", OUTPUT_TARGET], ["Linear", "lm_head"], ["re:.*_proj"])
            for ignore in ([], ["lm_head"], ["re:.*lm_head"])
        ]
    for case in cases:
        if method == formats.METHOD:
            said: dict[str, Any] = {"quant_method": method, "weights": "e5m2", "activations": "e4m3"} | case
            config = octet_fp8.OctetFP8Config.from_config(said)
        else:
            group = {
                "targets": case["targets"],
                "weights": numbers | {"strategy": "channel", "dynamic": False},
                "input_activations": numbers | {"strategy": "token", "dynamic": True},
            }
            said = {"quant_method": method, "format": "float-quantized", "ignore": case["ignore"]}
            said["config_groups"] = {"group_0": group}
            config = CompressedTensorsConfig.from_config(dict(said))
        head = ParallelLMHead(WORDS, HIDDEN, quant_config=config, prefix="lm_head")
        quantized = not isinstance(head.quant_method, UnquantizedEmbeddingMethod)
        assert read(said).names_output_layer == quantized, case


def test_vllms_models_that_have_no_output_layer_are_known() -> None:
    """They multiply by their embedding: a stored output layer could not be loaded into them."""
    import inspect

    from vllm import ModelRegistry

    from octet.quantize import architectures

    for name, architecture in architectures._ARCHITECTURES.items():
        model_class = ModelRegistry._try_load_model_cls(name)
        if model_class is None:
            continue
        says = inspect.getsource(model_class.compute_logits)
        assert ("embed_tokens" not in says) == architecture.has_output_layer, name
