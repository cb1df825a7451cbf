"""Renderers of checkpoints that differ in their templates and tokenizers, without an engine."""

from collections.abc import Callable
from pathlib import Path

import pytest

from octet import demo
from octet.engine.vllm import compat
from octet.engine.vllm.serving.render import PromptRenderer
from tests.e2e.checkpoints import STRICT_TEMPLATE, THINKING_TEMPLATE, write_templated_checkpoint

LoadRenderer = Callable[..., PromptRenderer]

TEMPLATES = {
    "strict": STRICT_TEMPLATE,
    "thinking": THINKING_TEMPLATE,
    # Turns in a way that lets them run into each other.
    "gluing": "{% for m in messages %}{% for p in m.content %}{{ p.text }}{% endfor %}{% endfor %}",
    # Strings only, as many templates of text models have it.
    "strings": "{{ bos_token }}{% for m in messages %}<start_of_turn>{{ m.role }}\n{{ m.content | trim }}"
    "<end_of_turn>\n{% endfor %}{{ '<start_of_turn>model\n' if add_generation_prompt }}",
    # Its own calls, and shouting.
    "calling": "{{ bos_token }}{{ tools | tojson if tools }}{% for m in messages %}[{{ m.role }}"
    "{{ ' ' + m.name if m.role == 'tool' }}]{% if m.content is string %}{{ m.content }}{% else %}"
    "{% for p in m.content %}{{ p.text }}{% endfor %}{% endif %}"
    "{% for c in m.tool_calls or [] %}<{{ c.function.name }}>{% for k, v in c.function.arguments.items() %}"
    "<{{ k }}>{{ v if v is string else v | tojson }}</{{ k }}>{% endfor %}{% endfor %}{% endfor %}"
    "[assistant]",
    # Its own calls, and pictures wherever they are.
    "showing": "{{ bos_token }}{{ tools | tojson if tools }}{% for m in messages %}[{{ m.role }}]"
    "{% if m.content is string %}{{ m.content }}{% else %}{% for p in m.content %}"
    "{{ '<start_of_image>' if p.type == 'image' else p.text }}{% endfor %}{% endif %}"
    "{% for c in m.tool_calls or [] %}{{ c.function | tojson }}{% endfor %}{% endfor %}[assistant]",
}


@pytest.fixture(scope="session")
def load_renderer(tmp_path_factory: pytest.TempPathFactory) -> LoadRenderer:
    """Makes the renderer of a checkpoint, as the engine with these flags would have it."""
    from octet.engine.vllm.launch.args import parse_engine_args

    def load(model: Path | str, *flags: str) -> PromptRenderer:
        settings = parse_engine_args([str(model), *flags])
        compat.tokenizers.share_tokenizer()
        config = settings.engine.create_engine_config()
        from vllm.renderers import renderer_from_config

        return PromptRenderer(renderer_from_config(config), config.model_config, settings)

    return load


@pytest.fixture(scope="session")
def renderers(
    load_renderer: LoadRenderer, tmp_path_factory: pytest.TempPathFactory
) -> dict[str, PromptRenderer]:
    """One for each template of TEMPLATES, and that of the demo checkpoint, "demo"."""
    folder = tmp_path_factory.mktemp("templates")
    found = {"demo": load_renderer(demo.PATH)}
    for name, template in TEMPLATES.items():
        write_templated_checkpoint(Path(demo.PATH), folder / name, template)
        found[name] = load_renderer(folder / name)
    return found
