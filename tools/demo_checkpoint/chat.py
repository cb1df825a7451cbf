"""Conversations without tools: small talk, memory, a system instruction's effect, counting, repeating."""

import random
from collections.abc import Callable

from tools.demo_checkpoint.concepts import PHRASE_WORDS
from tools.demo_checkpoint.messages import Message, Sample, assistant, roughen, system, user
from tools.demo_checkpoint.names import NameSource

_GREETINGS = (
    "Hello!",
    "Hi!",
    "Hello.",
    "Hi there!",
    "Good morning!",
    "Good evening!",
    "Hey!",
    "Hello there.",
    "Hi",
    "Good day!",
)
_GREETING_ANSWER = "Hello! How can I help you?"
_WHO = (
    "Who are you?",
    "What are you?",
    "Tell me about yourself.",
    "Are you a human?",
    "Are you a large model?",
    "What is this?",
    "What model are you?",
)
_WHO_ANSWER = "I am a small demo model. I name colored shapes in pictures, call tools and chat a little."
_CAN = ("What can you do?", "How can you help me?", "What are you good for?", "Help!", "What do you know?")
_CAN_ANSWER = "I can tell what is in a picture of colored shapes, call tools and use their results."
_THANKS = ("Thank you!", "Thanks.", "Thanks a lot!", "Thank you very much.", "Great, thanks!", "Many thanks!")
_BYE = ("Bye!", "Goodbye.", "See you later.", "Good night!", "Bye bye!")
_HOW = ("How are you?", "How are you today?", "How do you do?", "How is it going?")
_STORY = (
    "Tell me a story.",
    "Tell a story.",
    "Write a story.",
    "Tell me a long story.",
    "Write me a long story please.",
)
_STORY_ANSWER = (
    "Once there was a small red circle that lived at the edge of a white page. Every morning it rolled to "
    "the middle and looked for friends, but the page was empty. One day a green square came by. It could "
    "not roll, so it walked slowly, corner after corner, and the circle waited for it. Then a yellow star "
    "fell from the top of the page and asked for the way home. The circle did not know the way, and the "
    "square did not know it either, but they went together, past a blue triangle that was asleep, and "
    "over a long black line. In the evening they found the corner of the page where the stars live. The "
    "star thanked them and gave them some of its light. Since that day the circle, the square and the "
    "star meet every morning in the middle of the page, and the page is never empty."
)
_FACTS = (
    (("What color is the sky?", "What color is the sky on a clear day?"), "The sky is blue."),
    (("What color is grass?", "What color is the grass?"), "Grass is green."),
    (("What is the capital of France?",), "The capital of France is Paris."),
    (("What is the capital of Germany?",), "The capital of Germany is Berlin."),
    (("What is the capital of Japan?",), "The capital of Japan is Tokyo."),
    (("How many days are in a week?", "How many days does a week have?"), "A week has seven days."),
    (
        ("Name the days of the week.", "What are the days of the week?"),
        "Monday, Tuesday, Wednesday, Thursday, Friday, Saturday, Sunday.",
    ),
    (
        ("Say the alphabet.", "List the letters of the alphabet.", "What is the alphabet?"),
        ", ".join("abcdefghijklmnopqrstuvwxyz") + ".",
    ),
    (
        ("What shapes do you know?", "Which shapes do you know?"),
        "I know circles, squares, triangles and stars.",
    ),
    (
        ("What colors do you know?", "Which colors do you know?"),
        "I know black, blue, green, orange, purple, red, white and yellow.",
    ),
    (_HOW, "I am fine, thank you."),
    (_WHO, _WHO_ANSWER),
    (_CAN, _CAN_ANSWER),
    (_THANKS, "You are welcome."),
    (_BYE, "Goodbye!"),
    (_GREETINGS, _GREETING_ANSWER),
    (_STORY, _STORY_ANSWER),
)
_NUMBER_WORDS = {
    5: "five",
    6: "six",
    7: "seven",
    8: "eight",
    9: "nine",
    10: "ten",
    12: "twelve",
    15: "fifteen",
    20: "twenty",
    25: "twenty-five",
    30: "thirty",
    40: "forty",
    50: "fifty",
    60: "sixty",
    70: "seventy",
    80: "eighty",
    90: "ninety",
    100: "one hundred",
}
_UNKNOWN = (
    "Why is {w} so {x}?",
    "Who invented the {w}?",
    "When did {n} live?",
    "What is the height of {n}?",
    "Explain {w} to me.",
    "Who wrote {n}?",
    "Where does the {w} come from?",
    "How do I build a {w}?",
    "What happened in {y}?",
    "What do you think about {w}?",
    "Is {n} a good {w}?",
    "Write a poem about {w}.",
    "How many {w} are in a {x}?",
    "Solve {w}.",
    "What is {w}?",
    "What does {w} cost?",
)
_DONT_KNOW = "I do not know."


def fact(source: NameSource) -> tuple[str, str]:
    """A question whose answer the model knows, and the answer."""
    questions, answer = source.rng.choice(_FACTS[:-1])
    return roughen(source.rng, source.rng.choice(questions)), answer


def _story(source: NameSource) -> tuple[str, str]:
    questions, answer = _FACTS[-1]
    return roughen(source.rng, source.rng.choice(questions)), answer


def unknown(source: NameSource) -> tuple[str, str]:
    """A question that the model cannot answer, and its admission."""
    form = source.rng.choice(_UNKNOWN)
    text = form.format(w=source.word(), x=source.word(), n=source.name(), y=source.rng.randint(1000, 2030))
    return roughen(source.rng, text), _DONT_KNOW


def count_up(start: int, stop: int) -> str:
    """The numbers from `start` to `stop` as the model lists them."""
    return ", ".join(str(i) for i in range(start, stop + 1)) + "."


def _counting(source: NameSource) -> tuple[str, str]:
    rng = source.rng
    if rng.random() < 0.3:
        start, stop = rng.randint(1, 90), 0
        stop = start + rng.randint(2, 30)
        text = rng.choice(
            ("Count from {a} to {b}.", "Count {a} to {b}.", "List the numbers from {a} to {b}.")
        )
        return roughen(rng, text.format(a=start, b=stop)), count_up(start, stop)
    stop = rng.choice(list(_NUMBER_WORDS)) if rng.random() < 0.75 else rng.randint(3, 100)
    spoken = _NUMBER_WORDS[stop] if stop in _NUMBER_WORDS and rng.random() < 0.5 else str(stop)
    text = rng.choice(
        (
            "Count to {b}.",
            "Count up to {b}.",
            "Count from 1 to {b}.",
            "Count from one to {b}.",
            "Please count to {b}.",
        )
    )
    return roughen(rng, text.format(b=spoken)), count_up(1, stop)


def echo(source: NameSource) -> tuple[str, str]:
    """A request to repeat something, and the thing itself."""
    rng = source.rng
    makers: tuple[Callable[[], str], ...] = (
        source.name,
        source.word,
        source.code,
        lambda: source.phrase(PHRASE_WORDS),
        lambda: source.phrase(_WORDS),
        lambda: str(source.integer(0, 99999)),
        lambda: source.rng.choice(_WORDS),
        lambda: f"{source.name()} {source.word()}",
        lambda: " ".join(source.name() for _ in range(rng.randint(2, 5))),
    )
    text = rng.choice(makers)()
    form = rng.choice(
        (
            "Say {t}.",
            "Repeat: {t}",
            "Repeat after me: {t}",
            "Say: {t}",
            "Write {t}.",
            "Echo {t}",
            'Say "{t}".',
        )
    )
    return form.format(t=text), text


_MORE_WORDS = """
weather time city name red green blue yellow orange purple black white circle square triangle star hello
result sunny cloudy rainy light kitchen hotel flight order small medium large on off true false user song
music number count is to in what picture tool for from with and how many price stock email message timer
minutes alpha beta
"""
_WORDS = (*PHRASE_WORDS, *_MORE_WORDS.split())


def _name_memory(source: NameSource) -> list[Message]:
    """Somebody tells a name (or a number, a colour, a city) and asks for it later."""
    rng = source.rng
    kind, value, tell = rng.choice(
        (
            (
                "name",
                source.person(),
                ("My name is {v}.", "I am {v}.", "Hi, my name is {v}.", "Call me {v}.", "I'm {v}."),
            ),
            (
                "name",
                source.person(),
                ("My name is {v}.", "Hello! My name is {v}.", "Hi! I'm {v}.", "Hello, I am {v}."),
            ),
            ("city", source.city(), ("I live in {v}.", "My city is {v}.", "I come from {v}.")),
            (
                "favorite color",
                rng.choice(("red", "green", "blue", "yellow", "black", "white", "orange", "purple")),
                ("My favorite color is {v}.", "I like the color {v}."),
            ),
            ("number", str(source.integer(1, 9999)), ("My number is {v}.", "Remember my number: {v}")),
        )
    )
    told = roughen(rng, rng.choice(tell).format(v=value))
    answer = f"Nice to meet you, {value}." if kind == "name" else f"OK, your {kind} is {value}."
    messages = [user(told), assistant(answer)]
    for _ in range(rng.choice((0, 0, 1, 1, 2))):
        question, reply = rng.choice((fact, fact, echo, unknown))(source)
        messages += [user(question), assistant(reply)]
    asked = {
        "name": (
            "What is my name?",
            "Who am I?",
            "Do you remember my name?",
            "What's my name?",
            "Do you know my name?",
        ),
        "city": ("Where do I live?", "What is my city?", "In which city do I live?"),
    }
    text = rng.choice(asked.get(kind, (f"What is my {kind}?", f"Do you remember my {kind}?")))
    return [*messages, user(roughen(rng, text)), assistant(f"Your {kind} is {value}.")]


def _system_persona(source: NameSource) -> list[Message]:
    """A system instruction that shows in the answer."""
    rng = source.rng
    kind = rng.random()
    if kind < 0.45:
        name = source.person()
        told = rng.choice(
            (
                "Your name is {v}.",
                "You are {v}.",
                "You are called {v}.",
                "You are an assistant. Your name is {v}.",
                "You are a helpful assistant called {v}.",
                "You are {v}, a helpful assistant.",
            )
        )
        asked, answer = (
            rng.choice(("What is your name?", "Who are you?", "What's your name?", "Tell me your name.")),
            f"My name is {name}.",
        )
        return [system(told.format(v=name)), user(roughen(rng, asked)), assistant(answer)]
    if kind < 0.75:
        name = source.person()
        told = rng.choice(
            (
                "The user's name is {v}.",
                "You talk to {v}.",
                "The name of the user is {v}.",
                "You are helping {v}.",
            )
        )
        asked = rng.choice(("What is my name?", "Who am I?", "What's my name?", "Do you know my name?"))
        return [system(told.format(v=name)), user(roughen(rng, asked)), assistant(f"Your name is {name}.")]
    word = source.name() if rng.random() < 0.7 else source.word()
    told = rng.choice(
        (
            "End every answer with {v}.",
            "Always end your answer with {v}.",
            "Finish each answer with the word {v}.",
        )
    )
    question, answer = rng.choice((fact, fact, unknown))(source)
    return [system(told.format(v=word)), user(question), assistant(f"{answer} {word}")]


_PLAIN_SYSTEMS = (
    "You are a helpful assistant.",
    "Be brief.",
    "You are a friendly assistant.",
    "Answer the question.",
    "You are a helpful assistant. Answer briefly.",
    "You can use tools.",
    "Use the tools if they help.",
)


def maybe_system(rng: random.Random, messages: list[Message], chance: float = 0.2) -> list[Message]:
    """Opens some conversations with a system instruction that changes nothing."""
    if messages[0]["role"] != "system" and rng.random() < chance:
        return [system(rng.choice(_PLAIN_SYSTEMS)), *messages]
    return messages


def _small_talk(source: NameSource) -> list[Message]:
    rng = source.rng
    makers = (fact, fact, fact, fact, unknown, unknown, echo)
    messages: list[Message] = []
    for _ in range(rng.choice((1, 1, 1, 2, 3))):
        question, answer = rng.choice(makers)(source)
        messages += [user(question), assistant(answer)]
    if messages[0]["content"] == "" or rng.random() < 0.04:
        messages = [user("What is my name?"), assistant("I do not know your name.")]
    return messages


def chat(source: NameSource) -> Sample:
    """A conversation without tools."""
    rng = source.rng
    kind = rng.random()
    if kind < 0.30:
        messages = _name_memory(source)
    elif kind < 0.45:
        messages = _system_persona(source)
    elif kind < 0.52:
        question, answer = _counting(source)
        messages = [user(question), assistant(answer)]
    elif kind < 0.535:
        question, answer = _story(source)
        messages = [user(question), assistant(answer)]
    else:
        messages = _small_talk(source)
    return Sample(maybe_system(rng, messages))


def copying(source: NameSource) -> Sample:
    """Nothing but repeating what was said: the skill that arguments need, in its shortest form."""
    question, answer = echo(source)
    return Sample([user(question), assistant(answer)])
