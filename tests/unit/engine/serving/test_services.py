"""What a model is for, by what vLLM can ask it and whether it has a chat template."""

from types import SimpleNamespace
from typing import Any

import pytest

from octet.engine.types import Service
from octet.engine.vllm.serving.engine import services_of
from octet.errors import StartupError

WITH: Any = SimpleNamespace(has_template=True)
WITHOUT: Any = SimpleNamespace(has_template=False)


@pytest.mark.parametrize(
    ("tasks", "renderer", "services"),
    [
        (["generate"], WITH, (Service.CHAT, Service.COMPLETION)),
        (["generate"], WITHOUT, (Service.COMPLETION,)),
        (["embed"], WITH, (Service.EMBEDDING,)),
        (["token_embed", "embed"], WITHOUT, (Service.EMBEDDING,)),
    ],
)
def test_what_models_are_for(tasks: list[str], renderer: Any, services: tuple[Service, ...]) -> None:
    assert services_of(tasks, renderer) == services


@pytest.mark.parametrize("tasks", [["classify", "token_classify"], []])
def test_models_for_something_else_are_not_served(tasks: list[str]) -> None:
    with pytest.raises(StartupError, match="Octet serves models that write texts") as raised:
        services_of(tasks, WITH)
    assert "\n" not in str(raised.value)
