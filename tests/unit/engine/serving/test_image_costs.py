"""What pictures take in prompts: what is told of it is what rendering makes of it, whatever the context."""

import json
import shutil
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image

from octet import demo
from octet.engine.types import GenerationRequest, ImagePart, Message, Part, Role, TextPart
from octet.engine.vllm import compat
from octet.engine.vllm.serving import image_costs
from octet.engine.vllm.serving.image_costs import ImageCosts, most_that_fit
from octet.engine.vllm.serving.render import PromptRenderer
from octet.errors import ContextLengthError, InvalidRequestError

WIDE = Image.new("RGB", (1024, 256))
SQUARE = Image.new("RGB", (300, 300))

# Of Gemma 3's published checkpoints. Pictures can be as small as they like: they become as many tokens.
POSITIONS, TOKENS = 131_072, 256


@dataclass(frozen=True)
class Rendered:
    """A model of which only the renderer is there."""

    renderer: PromptRenderer
    processor: Any

    async def measure(self) -> ImageCosts:
        return await image_costs.measure(self.renderer, self.processor)

    async def length(self, *parts: Part, pan_and_scan: bool | None = None) -> int:
        """Tokens of the prompt of a user who says this.

        Raises:
            ContextLengthError: when it does not fit into the context window.
        """
        message = Message(Role.USER, parts)
        request = GenerationRequest("length", (message,), pan_and_scan=pan_and_scan)
        return (await self.renderer.render(request, send_once=False)).tokens


@pytest.fixture(scope="session")
def published(tmp_path_factory: pytest.TempPathFactory) -> str:
    """A checkpoint without weights that has Gemma 3's numbers, and the demo's tokenizer and template."""
    folder = tmp_path_factory.mktemp("gemma")
    for file in Path(demo.PATH).glob("*.json*"):
        shutil.copy(file, folder)
    shutil.copy(Path(demo.PATH) / "chat_template.jinja", folder)
    config = json.loads((folder / "config.json").read_text())
    config["mm_tokens_per_image"] = TOKENS
    config["text_config"]["max_position_embeddings"] = POSITIONS
    (folder / "config.json").write_text(json.dumps(config))
    for name in ("preprocessor_config.json", "processor_config.json"):
        processor = json.loads((folder / name).read_text())
        (folder / name).write_text(json.dumps(processor | {"image_seq_length": TOKENS}))
    return str(folder)


@pytest.fixture(scope="session")
def load() -> Callable[..., Rendered]:
    """Makes the renderer of a checkpoint, as the engine with these flags would have it."""
    from octet.engine.vllm.launch.args import parse_engine_args

    def load(model: str, *flags: str) -> Rendered:
        settings = parse_engine_args([model, *flags])
        compat.tokenizers.share_tokenizer()
        config = settings.engine.create_engine_config()
        from vllm.renderers import renderer_from_config

        renderer = renderer_from_config(config)
        return Rendered(PromptRenderer(renderer, config.model_config, settings), renderer.mm_processor)

    return load


@pytest.mark.parametrize("context", [1024, 2048, 8192, 32_768, POSITIONS])
async def test_as_many_fit_as_is_told_and_no_more(
    published: str, load: Callable[..., Rendered], context: int
) -> None:
    model = load(published, "--max-model-len", str(context))
    costs = await model.measure()
    pictures = [ImagePart(SQUARE)] * costs.most_images
    assert await model.length(*pictures) < context
    with pytest.raises(ContextLengthError):
        await model.length(*pictures, ImagePart(SQUARE))
    # No other way to put them is shorter.
    with pytest.raises(ContextLengthError):
        await model.length(TextPart("\n"), *pictures, TextPart("\n"), ImagePart(SQUARE), TextPart("\n"))


@pytest.mark.parametrize(("context", "most"), [(262, 0), (270, 1), (520, 1), (8192, 31), (POSITIONS, 506)])
async def test_the_published_numbers(
    published: str, load: Callable[..., Rendered], context: int, most: int
) -> None:
    """Fewer than the picture's own tokens would make of the context: 32 and 512 of the larger ones."""
    costs = await load(published, "--max-model-len", str(context)).measure()
    assert (costs.most_images, costs.tokens, costs.visual_tokens) == (most, TOKENS + 4, TOKENS)


@pytest.mark.parametrize("model", ["demo", "published"])
async def test_no_picture_adds_more_than_is_told(
    model: str, published: str, load: Callable[..., Rendered]
) -> None:
    rendered = load(str(demo.PATH) if model == "demo" else published)
    costs = await rendered.measure()
    texts: Sequence[Sequence[Part]] = [
        [], [TextPart("x")], [TextPart("\n")], [TextPart("x\n")], [TextPart("\n\nx\n\n")], [ImagePart(SQUARE)]
    ]  # fmt: skip
    for wanted, picture, most in (
        (False, WIDE, costs.tokens),
        (None, WIDE, costs.tokens),
        (True, WIDE, costs.cropped_tokens),
        (True, SQUARE, costs.tokens),
    ):
        added = set()
        for before in texts:
            for behind in texts:
                start = await rendered.length(*before, ImagePart(SQUARE), *behind, pan_and_scan=wanted)
                parts = (*before, ImagePart(SQUARE), ImagePart(picture), *behind)
                added.add(await rendered.length(*parts, pan_and_scan=wanted) - start)
        # Newlines around it may become one token with their neighbours.
        assert most - 2 <= min(added) <= max(added) <= most


@pytest.mark.parametrize("default", [True, False, None])
async def test_pan_and_scan_of_the_server(
    published: str, load: Callable[..., Rendered], default: bool | None
) -> None:
    flags = [] if default is None else ["--mm-processor-kwargs", json.dumps({"do_pan_and_scan": default})]
    model = load(published, "--max-model-len", "8192", *flags)
    costs = await model.measure()
    assert costs.crops_by_default == bool(default)
    assert (costs.most_images, costs.tokens) == (31, TOKENS + 4)
    text = await model.length(TextPart("x")) + 1
    wide = [TextPart("x"), ImagePart(WIDE), TextPart("x")]
    assert await model.length(*wide, pan_and_scan=False) - text == costs.tokens
    assert await model.length(*wide, pan_and_scan=True) - text == costs.cropped_tokens > 5 * TOKENS
    unsaid = costs.cropped_tokens if default else costs.tokens
    assert await model.length(*wide) - text == unsaid


@pytest.mark.parametrize(("limit", "most"), [(0, 0), (1, 1), (2, 2), (3, 3), (30, 30), (31, 31), (40, 31)])
async def test_the_operators_limit(
    published: str, load: Callable[..., Rendered], limit: int, most: int
) -> None:
    flags = ("--max-model-len", "8192", "--limit-mm-per-prompt", json.dumps({"image": limit}))
    assert (await load(published, *flags).measure()).most_images == most


async def test_one_processor_and_one_tokenizer_serve_every_request(
    published: str, load: Callable[..., Rendered], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Whatever is loaded is loaded before the first request."""
    from tokenizers import Tokenizer
    from transformers import AutoTokenizer

    model = load(published, "--max-model-len", "8192")
    await model.measure()
    info = model.processor.info
    processors = [
        info.get_hf_processor(**kwargs) for kwargs in ({}, *({"do_pan_and_scan": b} for b in (0, 1)))
    ]
    assert all(processor is processors[0] for processor in processors)
    assert processors[0].tokenizer is info.get_tokenizer()

    def refuse(*_: Any, **__: Any) -> None:
        raise AssertionError("a tokenizer is loaded or copied")

    monkeypatch.setattr(AutoTokenizer, "from_pretrained", refuse)
    monkeypatch.setattr(Tokenizer, "__setstate__", refuse, raising=False)
    for wanted in (True, False, None):
        assert await model.length(ImagePart(WIDE), TextPart("What is it?"), pan_and_scan=wanted) > TOKENS


@pytest.mark.parametrize(
    "content",
    [
        "m.content[0].text",
        "m.content | length",
        # One place, however many pictures there are.
        "'<start_of_image>' if m.content is string",
    ],
)
async def test_a_template_without_a_place_for_pictures(
    load: Callable[..., Rendered], tmp_path: Path, caplog: pytest.LogCaptureFixture, content: str
) -> None:
    """Text is served, and one line says that pictures are not."""
    template = tmp_path / "template.jinja"
    template.write_text(f"{{% for m in messages %}}<start_of_turn>{{{{ {content} }}}}\n{{% endfor %}}")
    model = load(str(demo.PATH), "--chat-template", str(template))
    assert await model.measure() == ImageCosts()
    [said] = [record for record in caplog.records if record.name == image_costs.__name__]
    assert said.message.startswith("the chat template gives pictures no place: text is served")
    assert await model.length(TextPart("x")) > 0


@pytest.mark.parametrize(
    "content", ["m.content | trim", "m.content if m.content is string else m.content[0].text"]
)
async def test_a_template_of_plain_strings_has_a_place_for_pictures(
    load: Callable[..., Rendered], tmp_path: Path, content: str
) -> None:
    """vLLM puts them in front of what is said, with a line break behind each."""
    template = tmp_path / "template.jinja"
    template.write_text(f"{{% for m in messages %}}<start_of_turn>{{{{ {content} }}}}\n{{% endfor %}}")
    costs = await load(str(demo.PATH), "--chat-template", str(template)).measure()
    assert costs.visual_tokens == 16
    assert costs.most_images > 1


async def test_a_model_without_a_template_is_shown_pictures_in_raw_prompts(
    published: str, load: Callable[..., Rendered], tmp_path: Path
) -> None:
    """They take as much there as in a conversation, for the prompt around them is not counted."""
    base = tmp_path / "base"
    shutil.copytree(published, base)
    (base / "chat_template.jinja").unlink()
    model = load(str(base), "--max-model-len", "8192")
    assert not model.renderer.has_template
    costs, known = await model.measure(), await load(published, "--max-model-len", "8192").measure()
    assert costs.tokens == known.tokens
    assert costs.cropped_tokens == known.cropped_tokens
    assert costs.most_images >= known.most_images > 0


async def test_a_model_that_can_be_shown_no_picture_is_no_fault_of_its_template(
    load: Callable[..., Rendered], monkeypatch: pytest.MonkeyPatch
) -> None:
    model = load(str(demo.PATH))

    def fail(*_: Any, **__: Any) -> None:
        raise RuntimeError("no processor\nat all")

    monkeypatch.setattr(model.processor, "apply", fail)
    with pytest.raises(InvalidRequestError, match=r"^messages: no processor$"):
        await model.measure()


async def test_only_requests_are_warned_of_crops(
    published: str, load: Callable[..., Rendered], caplog: pytest.LogCaptureFixture
) -> None:
    model = load(published, "--max-model-len", "8192")
    await model.measure()
    assert "do_pan_and_scan" not in caplog.text
    await model.length(ImagePart(WIDE), pan_and_scan=True)
    assert "do_pan_and_scan" in caplog.text


@given(
    first=st.integers(1, 400),
    step=st.integers(1, 300),
    later=st.integers(1, 300),
    allowed=st.integers(1, 50),
    context=st.integers(1, 5000),
)
def test_the_most_is_the_last_that_fits(
    first: int, step: int, later: int, allowed: int, context: int
) -> None:
    def length(pictures: int) -> int:
        return first + (pictures > 1) * step + max(0, pictures - 2) * later

    sampled = [length(n) for n in range(1, min(allowed, 3) + 1)]
    fitting = [n for n in range(1, allowed + 1) if length(n) < context]
    assert most_that_fit(sampled, allowed, context) == max(fitting, default=0)
