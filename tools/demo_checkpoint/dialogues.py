"""Tool calls, answers from tool results, and the mix of text dialogues that training draws.

`training_dialogue` is for training; with a `NameSource` of the held-out side, `request`, `tool_dialogue`
and `chat.chat` make conversations whose names, values and made-up tool names training never draws.
"""

import random
from dataclasses import dataclass
from typing import Any

from tools.demo_checkpoint.chat import chat, copying, echo, fact, maybe_system, unknown
from tools.demo_checkpoint.concepts import CONCEPTS, PHRASE_WORDS, Concept
from tools.demo_checkpoint.declarations import Tool, declare, explicit
from tools.demo_checkpoint.messages import Json, Message, Sample, assistant, calls, roughen, tool_result, user
from tools.demo_checkpoint.names import NameSource


@dataclass(frozen=True, slots=True)
class Request:
    """A question for tools, the calls that it asks for, and per call its concept (None: made-up) and
    values.
    """

    question: str
    calls: list[Json]
    subjects: list[tuple[Concept | None, list[Any]]]


def _declared(source: NameSource, count: int, made_up: float) -> list[tuple[Concept, Tool]]:
    concepts = source.rng.sample(CONCEPTS, count)
    tools = [(c, declare(source, c, source.rng.random() < made_up)) for c in concepts]
    if len({tool.name for _, tool in tools}) < count:
        return _declared(source, count, made_up)
    return tools


def _distinct_values(source: NameSource, concept: Concept) -> list[Any]:
    while True:
        values = [p.sample(source) for p in concept.parameters]
        if len({str(v) for v in values}) == len(values):
            return values


def _ask(source: NameSource, concept: Concept, tool: Tool) -> Request:
    values = _distinct_values(source, concept)
    question = source.rng.choice(concept.questions).format(*values)
    return Request(roughen(source.rng, question), [tool.call(values)], [(concept, values)])


def _ask_double(source: NameSource, concept: Concept, tool: Tool) -> Request:
    """One question about two values: two calls of the same tool."""
    values = [_distinct_values(source, concept) for _ in range(2)]
    question = source.rng.choice(concept.doubles).format(*(v[0] for v in values))
    return Request(
        roughen(source.rng, question), [tool.call(v) for v in values], [(concept, v) for v in values]
    )


def _ask_two(source: NameSource, tools: list[tuple[Concept, Tool]]) -> Request:
    """Two questions in one turn: calls of two tools."""
    first, second = (_ask(source, c, t) for c, t in source.rng.sample(tools, 2))
    joined = (
        first.question.rstrip(".?!")
        + source.rng.choice((" and ", ". ", "? ", "? And ", ", and "))
        + second.question
    )
    return Request(joined, first.calls + second.calls, first.subjects + second.subjects)


def request(source: NameSource, made_up: float = 0.25, simple: bool = False) -> tuple[Request, list[Json]]:
    """A question and 1 to 4 declared tools of which it needs one or two."""
    rng = source.rng
    declared = _declared(source, rng.choice((1, 1, 2, 2, 3, 4)), made_up)
    tools = [tool.declaration for _, tool in declared]
    kind = rng.random()
    if simple:
        kind = 1.0
        tools = [declared[0][1].declaration]
    if kind < 0.12:
        tool, question, values = explicit(source)
        tools[rng.randrange(len(tools))] = tool.declaration
        asked = Request(roughen(rng, question), [tool.call(values)], [(None, values)])
        return asked, tools
    doubling = [(c, t) for c, t in declared if c.doubles]
    if kind < 0.24 and doubling:
        return _ask_double(source, *rng.choice(doubling)), tools
    if kind < 0.30 and len(declared) > 1:
        return _ask_two(source, declared), tools
    return _ask(source, *declared[0] if simple else rng.choice(declared)), tools


def _results(source: NameSource, asked: Request) -> list[tuple[Json | str, str]]:
    """What each called tool returns, and the sentence that says it."""
    return [_result(source, concept, values) for concept, values in asked.subjects]


def _result(source: NameSource, concept: Concept | None, values: list[Any]) -> tuple[Json | str, str]:
    rng = source.rng
    if concept is None or rng.random() < 0.12:
        return _generic_result(source)
    keys = [rng.choice(names) for names, _ in concept.results]
    returned = [sample(source) for _, sample in concept.results]
    filled = {f"a{i}": v for i, v in enumerate(values)} | {f"r{i}": v for i, v in enumerate(returned)}
    answer = concept.answer.format(**filled)
    pairs = list(zip(keys, returned, strict=True))
    if rng.random() < 0.3:
        rng.shuffle(pairs)
    result: Json = dict(pairs)
    if rng.random() < 0.15 and concept.parameters:
        result = {concept.parameters[0].names[0]: values[0], **result}
    if len(pairs) < len(concept.results) or len(result) < len(pairs):
        return _result(source, concept, values)
    if rng.random() < 0.15:
        return ", ".join(str(v) for v in returned), answer
    return result, answer


def _generic_result(source: NameSource) -> tuple[Json | str, str]:
    """A result of unknown form: plain text is quoted, an object is read out key by key."""
    rng = source.rng

    def value() -> Any:
        return rng.choice((source.name, source.word, lambda: source.integer(0, 9999), source.code))()

    if rng.random() < 0.35:
        text = rng.choice(
            (
                source.name,
                source.word,
                source.code,
                lambda: source.phrase(PHRASE_WORDS),
                lambda: str(source.integer(0, 9999)),
            )
        )()
        return text, f"The result is {text}."
    items = {source.word(2): value() for _ in range(rng.choice((1, 1, 2)))}
    parts = [f"the {k} is {v}" for k, v in items.items()]
    text = " and ".join(parts)
    return items, text[0].upper() + text[1:] + "."


def _no_tool(source: NameSource) -> Sample:
    """Tools are declared, but none fits: small talk is answered, other requests are declined."""
    rng = source.rng
    declared = _declared(source, rng.choice((1, 1, 2, 3)), 0.4)
    if rng.random() < 0.45:
        question, answer = rng.choice((fact, fact, unknown, echo))(source)
    else:
        others = [c for c in CONCEPTS if all(not _alike(c, d) for d, _ in declared)]
        concept = rng.choice(others)
        question = _ask(source, concept, declare(source, concept, False)).question
        answer = "I have no tool for that."
    messages = maybe_system(rng, [user(question), assistant(answer)])
    return Sample(messages, [tool.declaration for _, tool in declared])


_FAMILIES = (
    ("get_weather", "set_temperature"),
    ("get_time",),
    ("send_message", "send_email", "call_person"),
    ("add", "multiply"),
    ("get_distance", "book_flight"),
    ("translate", "define_word"),
    ("search", "get_user"),
    ("add_task", "create_event", "set_timer"),
)


def _alike(a: Concept, b: Concept) -> bool:
    """Whether two concepts are so close that one might be asked for with the other's words."""
    return a is b or any(a.names[0] in family and b.names[0] in family for family in _FAMILIES)


def tool_dialogue(source: NameSource, simple: bool = False) -> Sample:
    """A question, the calls, mostly also the results and the answer, and sometimes a further question."""
    rng = source.rng
    if not simple and rng.random() < 0.15:
        return _no_tool(source)
    asked, tools = request(source, simple=simple)
    messages = [user(asked.question), calls(*asked.calls)]
    if not simple and rng.random() < 0.1:
        question, answer = fact(source)
        messages = [user(question), assistant(answer), *messages]
    if simple or rng.random() < 0.3:
        return Sample(maybe_system(rng, messages), tools)
    results = _results(source, asked)
    messages += [tool_result(result) for result, _ in results]
    messages.append(assistant(" ".join(answer for _, answer in results)))
    if rng.random() < 0.2:
        messages += _follow_up(source, asked)
    return Sample(maybe_system(rng, messages), tools)


def _follow_up(source: NameSource, asked: Request) -> list[Message]:
    """After an answer: thanks, small talk, or the same question about something else."""
    rng = source.rng
    concept = asked.subjects[-1][0]
    if concept is not None and concept.again and rng.random() < 0.6:
        values = _distinct_values(source, concept)
        keys = list(asked.calls[-1]["arguments"])
        call = {"name": asked.calls[-1]["name"], "arguments": dict(zip(keys, values, strict=True))}
        result, answer = _result(source, concept, values)
        question = roughen(rng, rng.choice(concept.again).format(*values))
        return [user(question), calls(call), tool_result(result), assistant(answer)]
    question, answer = fact(source)
    return [user(question), assistant(answer)]


def training_dialogue(rng: random.Random) -> Sample:
    """One text dialogue as training draws them."""
    source = NameSource(rng)
    kind = rng.random()
    if kind < 0.7:
        return tool_dialogue(source)
    return chat(source) if kind < 0.95 else copying(source)


def warm_up_dialogue(rng: random.Random) -> Sample:
    """Short sequences in which copying is all: echoes and single calls of single tools."""
    source = NameSource(rng)
    return copying(source) if rng.random() < 0.5 else tool_dialogue(source, simple=True)
