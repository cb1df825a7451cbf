"""What tools can do, how people ask for it, and what they return.

A `Concept` is one thing that a tool can do, with several names, descriptions and phrasings. In training
its tool appears under one of those names or, so that declarations have to be read, under a made-up one.
"""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from tools.demo_checkpoint.messages import Json
from tools.demo_checkpoint.names import NameSource

Sampler = Callable[[NameSource], Any]

_PHRASE_WORDS = """
call buy clean walk feed read write send pay book visit paint the a my new old big red blue car dog cat
house garden door table milk bread tea coffee letter report doctor mother friend kitchen window paper
phone
"""
PHRASE_WORDS = tuple(_PHRASE_WORDS.split())


@dataclass(frozen=True, slots=True)
class Parameter:
    """A parameter under one of several names. `values` limits a string to an enumeration."""

    names: tuple[str, ...]
    type: str
    sample: Sampler
    values: tuple[str, ...] = ()

    def schema(self) -> Json:
        """Its JSON Schema."""
        return {"type": self.type, "enum": list(self.values)} if self.values else {"type": self.type}


@dataclass(frozen=True, slots=True)
class Concept:
    """`questions` have one slot per parameter: {0}, {1}. `doubles` ask about two values at once ("What
    is the weather in {0} and in {1}?"), `results` the keys and samplers of what the tool returns, and
    `answer` the sentence made from them and the arguments.
    """

    names: tuple[str, ...]
    descriptions: tuple[str, ...]
    parameters: tuple[Parameter, ...]
    questions: tuple[str, ...]
    results: tuple[tuple[tuple[str, ...], Sampler], ...]
    answer: str
    doubles: tuple[str, ...] = ()
    again: tuple[str, ...] = ()


CITY = Parameter(("city", "city", "location", "place", "town"), "string", NameSource.city)
PERSON = Parameter(("name", "person", "recipient", "contact", "user"), "string", NameSource.person)
CODE = Parameter(("id", "code", "order_id", "number"), "string", NameSource.code)
TASK = Parameter(("text", "task", "message", "title"), "string", lambda s: s.phrase(PHRASE_WORDS))
WORD = Parameter(("word", "term", "query", "text"), "string", NameSource.word)


def _integer(names: tuple[str, ...], low: int, high: int) -> Parameter:
    return Parameter(names, "integer", lambda s: s.integer(low, high))


def _one_of(names: tuple[str, ...], values: tuple[str, ...]) -> Parameter:
    return Parameter(names, "string", lambda s: s.rng.choice(values), values)


_SKIES = (
    "sunny",
    "cloudy",
    "rainy",
    "windy",
    "foggy",
    "snowy",
    "clear",
    "stormy",
    "warm",
    "cold",
    "dry",
    "hot",
)


def _sky(source: NameSource) -> str:
    return source.rng.choice(_SKIES)


def _degrees(source: NameSource) -> int:
    return source.rng.randint(-20, 45)


def _clock(source: NameSource) -> str:
    return f"{source.rng.randint(0, 23):02d}:{source.rng.randint(0, 59):02d}"


def _count(source: NameSource) -> int:
    return source.integer(1, 10 ** source.rng.randint(2, 7))


def _price(source: NameSource) -> Any:
    return source.rng.choice((source.integer(1, 999), round(source.rng.uniform(1, 500), 2)))


CONCEPTS: tuple[Concept, ...] = (
    Concept(
        ("get_weather", "weather", "get_current_weather", "current_weather", "weather_lookup"),
        (
            "Get the weather in a city.",
            "Get the current weather.",
            "The weather of a place.",
            "Current weather for a city.",
        ),
        (CITY,),
        (
            "What is the weather in {0}?",
            "What's the weather like in {0}?",
            "How is the weather in {0} today?",
            "Tell me the weather in {0}.",
            "Is it raining in {0}?",
            "Check the weather in {0}.",
            "Weather in {0}?",
            "What is the weather like in {0} right now?",
            "How warm is it in {0}?",
            "I need the weather for {0}.",
        ),
        (
            (("condition", "weather", "sky", "description", "conditions"), _sky),
            (("temperature", "temp", "degrees", "temperature_c"), _degrees),
        ),
        "The weather in {a0} is {r0}, {r1} degrees.",
        (
            "What is the weather in {0} and in {1}?",
            "What is the weather in {0} and {1}?",
            "How is the weather in {0} and in {1}?",
            "Tell me the weather in {0} and {1}.",
        ),
        ("And in {0}?", "What about {0}?", "And {0}?"),
    ),
    Concept(
        ("get_time", "current_time", "get_local_time", "time_in", "clock"),
        ("Get the local time in a city.", "What time it is in a place.", "The current time of a city."),
        (CITY,),
        (
            "What time is it in {0}?",
            "What is the time in {0}?",
            "Tell me the time in {0}.",
            "What's the local time in {0}?",
            "How late is it in {0}?",
        ),
        ((("time", "local_time", "now"), _clock),),
        "The time in {a0} is {r0}.",
        ("What time is it in {0} and in {1}?", "What is the time in {0} and {1}?"),
        ("And in {0}?", "What about {0}?"),
    ),
    Concept(
        ("get_population", "population", "city_population", "count_people"),
        ("Get the population of a city.", "How many people live in a place."),
        (CITY,),
        (
            "How many people live in {0}?",
            "What is the population of {0}?",
            "Tell me the population of {0}.",
            "How big is the population of {0}?",
        ),
        ((("population", "people", "count"), _count),),
        "The population of {a0} is {r0}.",
        ("What is the population of {0} and of {1}?", "How many people live in {0} and in {1}?"),
        ("And in {0}?", "What about {0}?"),
    ),
    Concept(
        ("set_timer", "start_timer", "timer", "countdown"),
        ("Set a timer for some minutes.", "Start a timer.", "Start a countdown in minutes."),
        (_integer(("minutes", "duration", "time"), 1, 120),),
        (
            "Set a timer for {0} minutes.",
            "Start a timer of {0} minutes.",
            "Timer for {0} minutes.",
            "Wake me in {0} minutes.",
            "Start a {0} minute timer.",
        ),
        ((("status", "state"), lambda s: s.rng.choice(("started", "ok", "running", "set"))),),
        "The timer for {a0} minutes is {r0}.",
    ),
    Concept(
        ("send_message", "send_text", "message", "text_person"),
        ("Send a message to a person.", "Send a text to somebody."),
        (PERSON, TASK),
        (
            "Send {0} the message: {1}",
            "Tell {0}: {1}",
            "Text {0}: {1}",
            "Send a message to {0}: {1}",
            "Write to {0}: {1}",
        ),
        ((("status", "state"), lambda s: s.rng.choice(("sent", "ok", "delivered", "failed"))),),
        "The message to {a0} is {r0}.",
    ),
    Concept(
        ("send_email", "email", "write_email", "mail"),
        ("Send an email to a person.", "Write an email with a text."),
        (PERSON, TASK),
        ("Send {0} an email: {1}", "Email {0}: {1}", "Write an email to {0}: {1}", "Mail {0}: {1}"),
        ((("status", "state"), lambda s: s.rng.choice(("sent", "ok", "queued", "failed"))),),
        "The email to {a0} is {r0}.",
    ),
    Concept(
        ("call_person", "phone_call", "call", "dial"),
        ("Call a person.", "Call somebody on the phone."),
        (PERSON,),
        ("Call {0}.", "Phone {0}.", "Give {0} a call.", "Can you call {0}?", "Ring {0}."),
        ((("status", "state"), lambda s: s.rng.choice(("connected", "busy", "ringing", "failed"))),),
        "The call to {a0} is {r0}.",
        ("Call {0} and {1}.", "Phone {0} and {1}."),
    ),
    Concept(
        ("add_task", "create_task", "add_reminder", "remind", "create_todo"),
        ("Add a task to the list.", "Create a reminder.", "Remember a task."),
        (TASK,),
        (
            "Remind me: {0}",
            "Add a task: {0}",
            "Remind me to {0}.",
            "New task: {0}",
            "Put this on my list: {0}",
        ),
        ((("id", "task_id"), NameSource.code),),
        "The task is saved as {r0}.",
    ),
    Concept(
        ("add", "add_numbers", "sum", "plus"),
        ("Add two numbers.", "The sum of two numbers."),
        (_integer(("a", "x", "first"), 0, 999), _integer(("b", "y", "second"), 0, 999)),
        (
            "Add {0} and {1}.",
            "What is {0} plus {1}?",
            "What is the sum of {0} and {1}?",
            "Compute {0} + {1}.",
            "{0} + {1}?",
        ),
        ((("sum", "result", "value"), _count),),
        "{a0} plus {a1} is {r0}.",
    ),
    Concept(
        ("multiply", "multiply_numbers", "product", "times"),
        ("Multiply two numbers.", "The product of two numbers."),
        (_integer(("a", "x", "first"), 0, 999), _integer(("b", "y", "second"), 0, 999)),
        (
            "Multiply {0} by {1}.",
            "What is {0} times {1}?",
            "What is the product of {0} and {1}?",
            "Compute {0} * {1}.",
        ),
        ((("product", "result", "value"), _count),),
        "{a0} times {a1} is {r0}.",
    ),
    Concept(
        ("convert_currency", "currency", "exchange", "convert_money"),
        ("Convert money to another currency.", "Convert an amount to a currency."),
        (
            _integer(("amount", "value", "money"), 1, 999),
            _one_of(("currency", "to", "target"), ("dollars", "euros", "yen", "pounds", "won")),
        ),
        ("Convert {0} to {1}.", "How much is {0} in {1}?", "Change {0} into {1}.", "What is {0} in {1}?"),
        ((("amount", "result", "value"), _price),),
        "{a0} is {r0} {a1}.",
    ),
    Concept(
        ("get_stock_price", "stock_price", "stock", "share_price"),
        ("Get the price of a stock.", "The share price of a company."),
        (Parameter(("company", "symbol", "stock"), "string", NameSource.name),),
        (
            "What is the stock price of {0}?",
            "How is the stock of {0}?",
            "Get the share price of {0}.",
            "What is a share of {0} worth?",
        ),
        ((("price", "value"), _price),),
        "The stock price of {a0} is {r0}.",
        ("What is the stock price of {0} and of {1}?", "Get the share price of {0} and {1}."),
        ("And {0}?", "What about {0}?"),
    ),
    Concept(
        ("get_distance", "distance", "route", "how_far"),
        ("Get the distance between two cities.", "How far it is from one place to another."),
        (
            Parameter(("origin", "start", "from_city", "a"), "string", NameSource.city),
            Parameter(("destination", "end", "to_city", "b"), "string", NameSource.city),
        ),
        (
            "How far is it from {0} to {1}?",
            "What is the distance from {0} to {1}?",
            "Distance between {0} and {1}?",
            "How far is {0} from {1}?",
        ),
        ((("distance", "km", "kilometers"), _count),),
        "The distance from {a0} to {a1} is {r0} km.",
    ),
    Concept(
        ("book_flight", "find_flight", "flight", "search_flights"),
        ("Book a flight from one city to another.", "Find a flight."),
        (
            Parameter(("origin", "start", "from_city"), "string", NameSource.city),
            Parameter(("destination", "end", "to_city"), "string", NameSource.city),
        ),
        (
            "Book a flight from {0} to {1}.",
            "I want to fly from {0} to {1}.",
            "Find a flight from {0} to {1}.",
            "Fly me from {0} to {1}.",
        ),
        ((("flight", "number", "flight_number"), NameSource.code),),
        "The flight from {a0} to {a1} is {r0}.",
    ),
    Concept(
        ("book_hotel", "find_hotel", "hotel", "reserve_room"),
        ("Book a hotel in a city for some nights.", "Reserve a room in a hotel."),
        (CITY, _integer(("nights", "days"), 1, 30)),
        (
            "Book a hotel in {0} for {1} nights.",
            "I need a room in {0} for {1} nights.",
            "Reserve a hotel in {0} for {1} nights.",
            "Find me a hotel in {0} for {1} nights.",
        ),
        ((("hotel", "name"), NameSource.name),),
        "The hotel in {a0} is {r0}.",
    ),
    Concept(
        ("set_light", "light", "switch_light", "lights"),
        ("Switch the light in a room on or off.", "Turn a light on or off."),
        (
            _one_of(("room", "place"), ("kitchen", "bedroom", "garden", "office", "hall")),
            _one_of(("state", "mode", "power"), ("on", "off")),
        ),
        (
            "Switch the light in the {0} {1}.",
            "Turn the {0} light {1}.",
            "Turn the light in the {0} {1}.",
            "Light in the {0} {1}.",
        ),
        ((("status", "result"), lambda s: s.rng.choice(("ok", "done", "failed"))),),
        "The light in the {a0} is {a1}: {r0}.",
    ),
    Concept(
        ("set_temperature", "thermostat", "set_thermostat", "heat_room"),
        ("Set the temperature of a room.", "Set the thermostat in degrees."),
        (_integer(("degrees", "temperature", "value"), 5, 35),),
        (
            "Set the temperature to {0} degrees.",
            "Set the thermostat to {0}.",
            "Make it {0} degrees.",
            "Heat the room to {0} degrees.",
        ),
        ((("status", "result"), lambda s: s.rng.choice(("ok", "done", "set"))),),
        "The temperature of {a0} degrees is {r0}.",
    ),
    Concept(
        ("play_song", "play_music", "music", "play"),
        ("Play a song.", "Play music of an artist."),
        (Parameter(("song", "title", "artist"), "string", NameSource.name),),
        ("Play {0}.", "Play the song {0}.", "I want to hear {0}.", "Put on {0}.", "Play some music by {0}."),
        ((("status", "state"), lambda s: s.rng.choice(("playing", "ok", "started"))),),
        "The song {a0} is {r0}.",
    ),
    Concept(
        ("translate", "translate_word", "translator", "translation"),
        ("Translate a word into a language.", "Translate text."),
        (WORD, _one_of(("language", "to", "target"), ("french", "german", "spanish", "korean", "italian"))),
        (
            "Translate {0} into {1}.",
            "What is {0} in {1}?",
            "How do you say {0} in {1}?",
            "Translate the word {0} to {1}.",
        ),
        ((("translation", "result", "text"), NameSource.word),),
        "{a0} in {a1} is {r0}.",
    ),
    Concept(
        ("define_word", "dictionary", "define", "meaning"),
        ("Get the meaning of a word.", "Define a word."),
        (WORD,),
        ("What does {0} mean?", "Define {0}.", "What is the meaning of {0}?", "Look up the word {0}."),
        ((("meaning", "definition"), lambda s: s.phrase(PHRASE_WORDS)),),
        "{a0} means {r0}.",
    ),
    Concept(
        ("search", "web_search", "search_web", "find"),
        ("Search the web.", "Search for something."),
        (Parameter(("query", "q", "text"), "string", lambda s: s.phrase(PHRASE_WORDS)),),
        ("Search for {0}.", "Search the web for {0}.", "Look for {0}.", "Find {0} on the web."),
        ((("hits", "count", "results"), _count),),
        "The search for {a0} has {r0} results.",
    ),
    Concept(
        ("get_order_status", "order_status", "track_order", "find_order"),
        ("Get the status of an order.", "Track an order."),
        (CODE,),
        (
            "Where is order {0}?",
            "What is the status of order {0}?",
            "Track order {0}.",
            "Has order {0} arrived?",
        ),
        ((("status", "state"), lambda s: s.rng.choice(("sent", "delivered", "lost", "late", "ready"))),),
        "The order {a0} is {r0}.",
        ("What is the status of order {0} and order {1}?", "Where are order {0} and order {1}?"),
    ),
    Concept(
        ("get_user", "find_user", "lookup_user", "user_info"),
        ("Find a user.", "Get the data of a user."),
        (Parameter(("user", "name", "user_name"), "string", NameSource.person),),
        ("Who is the user {0}?", "Find the user {0}.", "Look up user {0}.", "Show me the user {0}."),
        ((("city", "home"), NameSource.city), (("age",), lambda s: s.integer(18, 90))),
        "The user {a0} is {r1} years old and lives in {r0}.",
    ),
    Concept(
        ("roll_dice", "dice", "roll", "throw_dice"),
        ("Roll dice.", "Roll some dice."),
        (_integer(("count", "dice", "n"), 1, 20),),
        ("Roll {0} dice.", "Throw {0} dice.", "Please roll {0} dice for me.", "Give me a roll of {0} dice."),
        ((("total", "sum", "result"), lambda s: s.integer(1, 120)),),
        "The dice show {r0}.",
    ),
    Concept(
        ("order_food", "food", "order_pizza", "restaurant"),
        ("Order food of some size.", "Order a pizza."),
        (_one_of(("size",), ("small", "medium", "large")), _integer(("count", "amount", "quantity"), 1, 20)),
        (
            "Order a {0} pizza, {1} times.",
            "I want {1} {0} pizzas.",
            "Order {1} {0} pizzas.",
            "Get me {1} {0} pizzas.",
        ),
        ((("minutes", "wait"), lambda s: s.integer(5, 90)),),
        "The food will come in {r0} minutes.",
    ),
    Concept(
        ("create_event", "add_event", "calendar", "schedule"),
        ("Create an event in the calendar.", "Schedule something at an hour."),
        (Parameter(("title", "name", "event"), "string", NameSource.name), _integer(("hour", "time"), 0, 23)),
        (
            "Schedule {0} at {1}.",
            "Create the event {0} at {1} o'clock.",
            "Put {0} in my calendar at {1}.",
            "Add {0} at {1} to my calendar.",
        ),
        ((("id", "event_id"), NameSource.code),),
        "The event {a0} is saved as {r0}.",
    ),
)
