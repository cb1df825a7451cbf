"""Names, words and numbers that questions carry and answers must copy; training and held-out ones never
meet.
"""

import random
import string
import zlib
from dataclasses import dataclass

_TRAINING_CITY_WORDS = """
Paris London Berlin Tokyo Madrid Vienna Prague Dublin Athens Cairo Delhi Mumbai Beijing Shanghai Seoul
Busan Sydney Melbourne Toronto Montreal Chicago Boston Denver Seattle Dallas Houston Miami Atlanta Austin
Phoenix Moscow Kiev Warsaw Krakow Budapest Bucharest Sofia Belgrade Zagreb Munich Hamburg Cologne
Frankfurt Zurich Geneva Basel Milan Naples Turin Venice Florence Lyon Nice Bordeaux Brussels Antwerp
Amsterdam Rotterdam Copenhagen Stockholm Helsinki Tallinn Riga Vilnius Istanbul Ankara Tehran Baghdad
Dubai Doha Karachi Lahore Dhaka Bangkok Hanoi Manila Jakarta Singapore Havana Bogota Quito Caracas
Santiago Lagos Accra Tunis Algiers Rabat
"""
TRAINING_CITIES = (
    *_TRAINING_CITY_WORDS.split(),
    "New York",
    "Los Angeles",
    "San Francisco",
    "Hong Kong",
    "Cape Town",
    "New Delhi",
    "São Paulo",
    "Málaga",
)
_HELD_OUT_CITY_WORDS = """
Oslo Rome Lima Kyoto Lisbon Nairobi Osaka Bergen Porto Seville Glasgow Leeds Bristol Ottawa Calgary
Memphis Detroit Portland Perth Brisbane Auckland Wellington Reykjavik Dakar Kampala Harare Salvador Cusco
Gdansk Graz Linz Bern Ghent Utrecht Malmo Turku Tartu Izmir Muscat Kabul Hue
"""
HELD_OUT_CITIES = (*_HELD_OUT_CITY_WORDS.split(), "New Orleans", "San Diego", "Buenos Aires", "Kuala Lumpur")
_TRAINING_PEOPLE_WORDS = """
Alice Bob Carol David Emma Frank Grace Henry Isabel Jack Karen Liam Mia Noah Olivia Peter Quinn Rachel Sam
Tom Ursula Victor Wendy Xavier Yusuf Zoe Anna Ben Clara Daniel Eva Felix George Hannah Ivan Julia Kevin
Laura Max Nina Oscar Paula Robert Sarah Tim Uma Vera Will Yara Jose Mei Raj Omar Fatima Lena Otto Jürgen
Zoë
"""
TRAINING_PEOPLE = tuple(_TRAINING_PEOPLE_WORDS.split())
_HELD_OUT_PEOPLE_WORDS = """
Kim Ada Bruno Chloe Dmitri Elena Fiona Gustav Hugo Ingrid Jonas Katya Luca Marta Nadia Olaf Priya Rosa
Stefan Tanya Ulrich Vikram Wanda Xenia Yolanda Zara
"""
HELD_OUT_PEOPLE = tuple(_HELD_OUT_PEOPLE_WORDS.split())

_ONSETS = (
    *"bcdfghjklmnpqrstvwxyz",
    "br",
    "ch",
    "cl",
    "dr",
    "fl",
    "gr",
    "kr",
    "ph",
    "pl",
    "qu",
    "sh",
    "sk",
    "st",
    "th",
    "tr",
)
_NUCLEI = ("a", "e", "i", "o", "u", "a", "e", "i", "o", "u", "ai", "ea", "ie", "oo", "ou", "y")
_CODAS = (
    "",
    "",
    "",
    "n",
    "r",
    "s",
    "l",
    "m",
    "t",
    "d",
    "k",
    "x",
    "ck",
    "ll",
    "nd",
    "st",
    "ng",
    "v",
    "z",
    "p",
    "b",
    "g",
)


def _belongs(word: str, held_out: bool) -> bool:
    """Splits all possible words: one in six is held out."""
    return (zlib.crc32(word.lower().encode()) % 6 == 0) == held_out


@dataclass(slots=True)
class NameSource:
    """Draws copyable values from one side of the split."""

    rng: random.Random
    held_out: bool = False

    def word(self, longest: int = 3) -> str:
        """A made-up lower-case word: mostly pronounceable, sometimes any letters at all."""
        rng = self.rng
        while True:
            if rng.random() < 0.25:
                word = "".join(rng.choices(string.ascii_lowercase, k=rng.randint(2, 2 + 2 * longest)))
            else:
                syllables = rng.randint(1, longest)
                word = "".join(
                    rng.choice(_ONSETS) + rng.choice(_NUCLEI) + rng.choice(_CODAS) for _ in range(syllables)
                )
            if len(word) >= 2 and _belongs(word, self.held_out):
                return word

    def name(self) -> str:
        """A made-up proper name, now and then of two words, with a hyphen, an accent or all capitals."""
        rng, kind = self.rng, self.rng.random()
        if kind < 0.8:
            return self.word().capitalize()
        if kind < 0.9:
            return f"{self.word(2).capitalize()} {self.word(2).capitalize()}"
        if kind < 0.93:
            return f"{self.word(2).capitalize()}-{self.word(2).capitalize()}"
        if kind < 0.96:
            word = list(self.word().capitalize())
            word.insert(rng.randint(1, len(word)), rng.choice("éüöäåøñçíóãšžł"))
            return "".join(word)
        return self.word().upper() if kind < 0.98 else self.word()

    def city(self) -> str:
        """A city: one in three exists."""
        known = HELD_OUT_CITIES if self.held_out else TRAINING_CITIES
        return self.rng.choice(known) if self.rng.random() < 0.35 else self.name()

    def person(self) -> str:
        """A person's first name: one in three exists."""
        known = HELD_OUT_PEOPLE if self.held_out else TRAINING_PEOPLE
        return self.rng.choice(known) if self.rng.random() < 0.35 else self.name()

    def code(self) -> str:
        """An identifier such as A17, QX-204 or 48213."""
        rng = self.rng
        while True:
            letters = "".join(rng.choices(string.ascii_uppercase, k=rng.randint(0, 3)))
            digits = "".join(rng.choices(string.digits, k=rng.randint(2, 6)))
            code = letters + (rng.choice(("", "", "-")) if letters else "") + digits
            if _belongs(code, self.held_out):
                return code

    def integer(self, low: int = 1, high: int = 100) -> int:
        """An integer; the held-out split holds out one in six of the two-digit and longer ones."""
        while True:
            value = self.rng.randint(low, high)
            if value < 10 or high < 30 or _belongs(str(value), self.held_out):
                return value

    def phrase(self, words: tuple[str, ...]) -> str:
        """Two to four words, some of `words` and some made up."""
        rng = self.rng
        return " ".join(
            rng.choice(words) if rng.random() < 0.75 else self.word(2) for _ in range(rng.randint(2, 4))
        )

    def identifier(self) -> str:
        """A made-up tool or parameter name in snake case."""
        return "_".join(self.word(1) for _ in range(self.rng.choice((1, 2, 2))))
