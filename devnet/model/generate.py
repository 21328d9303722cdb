"""Generates what the model is trained and tested on.

A *pair* is (prompt, answer). Facts are finite tables of pairs (a phrasing of a fact); arithmetic is drawn. Which pairs
are held out is decided by a hash, so it never depends on the order of the tables:

- a fact is held out in about 8 % of its phrasings, and some phrasings (`unseen` below) are held out for every fact;
- a sum, difference or comparison is held out with its operands (10 % of them), in every phrasing and either order.

`python generate.py` writes heldout.jsonl, a stratified choice from what is held out. Training draws from the rest.
"""

import argparse
import hashlib
import json
import random
import re
from pathlib import Path

import facts

HELDOUT_FILE = Path(__file__).with_name("heldout.jsonl")
DO_NOT_KNOW = "I do not know that yet."
# Asked first by every visitor: never held out.
PINNED = {"what is the capital of france", "capital of france"}


def normalise(prompt: str) -> str:
    """The form in which prompts are compared: case, punctuation, contractions and politeness do not count."""
    text = prompt.lower().replace("what's", "what is").replace("whats ", "what is ")
    text = re.sub(r"\b(please|hey|hi|ok|so)\b,?", " ", text) if len(text.split()) > 2 else text
    return " ".join(re.sub(r"[?!.,:;]", " ", text).split())


def share(*key) -> float:
    """A number in [0, 1) that depends on nothing but the key."""
    digest = hashlib.sha256("|".join(map(str, key)).encode()).digest()
    return int.from_bytes(digest[:8], "big") / 2**64


# ------------------------------------------------------------------------------------------------- phrasings of facts

PLACE_CAPITAL = """
What is the capital of {x}?|Capital of {x}?|Tell me the capital of {x}.|What city is the capital of {x}?
Which city is the capital of {x}?|Name the capital of {x}.|What is {x}'s capital?|{x} capital?|What is the capital city of {x}?
Do you know the capital of {x}?|Can you tell me the capital of {x}?|The capital of {x} is?|Give me the capital of {x}.
What is the name of the capital of {x}?|I want to know the capital of {x}.|Capital city of {x}?|{x}'s capital city?
What is the capital of the country {x}?|The capital of {x}?|What do you call the capital of {x}?
""".replace("\n", "|").strip("|").split("|")


class Family:
    """Facts that are asked for in the same ways. A fact is (slots of the phrasing, answer)."""

    def __init__(self, name, weight, facts_, phrasings, unseen=(), quota=0):
        self.name, self.weight, self.quota = name, weight, quota
        split = lambda text: text.replace("\n", "|").strip("|").split("|") if isinstance(text, str) else list(text)
        self.train, self.heldout, self.facts = [], [], []
        for slots, answer in facts_:
            key = tuple(slots.values())
            mine = []
            for phrasing in split(phrasings):
                prompt = phrasing.format(**slots)
                norm = normalise(prompt)
                held = share(name, normalise(phrasing), key) < 0.08 and norm not in PINNED
                (self.heldout if held else mine).append((prompt, answer))
            self.heldout += [(phrasing.format(**slots), answer) for phrasing in split(unseen)] if unseen else []
            self.train.append(mine)
        for (slots, answer) in facts_:
            self.facts.append((slots.get("x", ""), answer))

    def draw(self, rng):
        return rng.choice(rng.choice(self.train))


def fact_families():
    the = lambda name: name[4:] if name.startswith("the ") else name
    up = lambda text: text[0].upper() + text[1:]
    capitals = [({"x": c}, f"The capital of {c} is {k}.") for c, k, _ in facts.COUNTRIES]
    states = [({"x": s}, f"The capital of {s} is {k}.") for s, k in facts.STATES]
    of_capital = [({"x": k}, f"{k} is the capital of {c}.") for c, k, _ in facts.COUNTRIES]
    continents = [({"x": c, "be": "Are" if the(c).endswith("s") and c.startswith("the ") else "Is"},
                   f"{up(c)} {'are' if the(c).endswith('s') and c.startswith('the ') else 'is'} in {k}.")
                  for c, _, k in facts.COUNTRIES]
    languages = [({"x": c}, f"The main language of {c} is {k}.") for c, k in facts.LANGUAGES]
    currencies = [({"x": c}, f"The currency of {c} is {k}.") for c, k in facts.CURRENCIES]
    opposites = [({"x": a}, f"The opposite of {a} is {b}.") for p in facts.OPPOSITES for a, b in (p, p[::-1])]
    plurals = [({"x": a}, f"The plural of {a} is {b}.") for a, b in facts.PLURALS]
    pasts = [({"x": a}, f"The past tense of {a} is {b}.") for a, b in facts.PAST_TENSES]
    an = lambda noun: ("an " if noun[0] in "aeio" else "a ") + noun
    young = [({"x": an(a)}, f"The young of {an(a)} is called {an(b) if b != 'fry' else b}.") for a, b in facts.YOUNG]
    sounds = [({"x": an(a), "n": a}, f"{up(an(a))} {b}.") for a, b in facts.SOUNDS]
    legs = [({"x": an(a), "n": a}, f"{up(an(a))} has {b} legs.") for a, b in facts.LEGS]
    colours = [({"x": a}, f"{up(a)} {be} {c}.") for a, be, c in facts.COLOURS]
    mixed = [({"x": a, "y": b}, f"{up(a)} and {b} make {c}.") for p in facts.MIXED_COLOURS
             for a, b, c in (p, [p[1], p[0], p[2]])]
    symbols = [({"x": a}, f"The chemical symbol for {a} is {b}.") for a, b in facts.SYMBOLS]
    sides = [({"x": an(a)}, f"{up(an(a))} has {b} sides.") for a, b in facts.SIDES]
    ring = lambda names, step: [({"x": n}, f"{names[(i + step) % len(names)]} comes {'after' if step > 0 else 'before'} {n}.")
                                for i, n in enumerate(names)]
    line = lambda names, step: [({"x": n}, f"{names[i + step]} comes {'after' if step > 0 else 'before'} {n}.")
                                for i, n in enumerate(names) if 0 <= i + step < len(names)]
    letters = [chr(c) for c in range(65, 91)]
    nth = lambda names, what: [({"x": facts.ORDINALS[i], "what": what}, f"The {facts.ORDINALS[i]} {what} is {n}.")
                               for i, n in enumerate(names)]
    lengths = [({"x": m}, f"{m} has {d} days.") for m, d in zip(facts.MONTHS, facts.MONTH_LENGTHS)]
    counts = [({"x": q}, a) for q, a in facts.COUNTS]
    after = """What comes after {x}?|What follows {x}?|{x} is followed by what?|After {x} comes what?|Tell me what comes after {x}.
Which one comes after {x}?|What is next after {x}?|What is after {x}?"""
    before = """What comes before {x}?|What precedes {x}?|Before {x} comes what?|Tell me what comes before {x}.
Which one comes before {x}?|What is before {x}?|What is just before {x}?"""
    nth_ways = """What is the {x} {what}?|Which is the {x} {what}?|Name the {x} {what}.|Tell me the {x} {what}.|The {x} {what} is?
What {what} is the {x}?|Which {what} is {x}?"""
    F = Family
    return [
        F("capital", 18, capitals, PLACE_CAPITAL, "Which city serves as the capital of {x}?", quota=60),
        F("state capital", 6, states, [p for p in PLACE_CAPITAL if "country" not in p] + ["What is the state capital of {x}?"], quota=20),
        F("capital of", 9, of_capital, """{x} is the capital of which country?|{x} is the capital of what?
Which country has the capital {x}?|Of which country is {x} the capital?|What country is {x} the capital of?
Which country's capital is {x}?|{x} is the capital of?|Tell me which country has {x} as its capital.
What is {x} the capital of?""", quota=18),
        F("continent", 9, continents, """Which continent is {x} in?|What continent is {x} in?|On which continent is {x}?
Where is {x}?|{x} is on which continent?|In which continent is {x}?|Tell me the continent of {x}.|What is the continent of {x}?
Which part of the world is {x} in?|{x} continent?|Name the continent of {x}.""", quota=18),
        F("language", 3, languages, """What language is spoken in {x}?|Which language do people speak in {x}?
What do they speak in {x}?|What is the language of {x}?|What is the main language of {x}?|Language of {x}?
Which language is spoken in {x}?|Tell me the language of {x}.|Name the language of {x}.""", quota=6),
        F("currency", 2, currencies, """What is the currency of {x}?|What money is used in {x}?|Currency of {x}?
What currency is used in {x}?|Which currency does {x} use?|Tell me the currency of {x}.|What do people pay with in {x}?
Name the currency of {x}.""", quota=4),
        F("opposite", 9, opposites, """What is the opposite of {x}?|Opposite of {x}?|Tell me the opposite of {x}.|What is the antonym of {x}?
The opposite of {x} is?|Give me the opposite of {x}.|Name the opposite of {x}.|Which word is the opposite of {x}?|{x} opposite?
What word means the opposite of {x}?|Antonym of {x}?|Do you know the opposite of {x}?|What is the reverse of {x}?|Which word means the opposite of {x}?|What has the opposite meaning to {x}?
Can you tell me the opposite of {x}?""", "Which word has the opposite meaning of {x}?", quota=24),
        F("plural", 5, plurals, """What is the plural of {x}?|Plural of {x}?|Tell me the plural of {x}.|The plural of {x} is?
What is the plural form of {x}?|Give me the plural of {x}.|One {x}, two what?|How do you write the plural of {x}?|{x} plural?
What do you call more than one {x}?|Name the plural of {x}.|What is more than one {x} called?""", quota=14),
        F("past tense", 5, pasts, """What is the past tense of {x}?|Past tense of {x}?|Tell me the past tense of {x}.|{x} past tense?
The past tense of {x} is?|What is the past of {x}?|Give me the past tense of {x}.|What is the past form of {x}?
How do you say {x} in the past?|Put {x} into the past tense.|Name the past tense of {x}.|What is {x} in the past tense?""", quota=14),
        F("young", 2, young, """What is the young of {x} called?|What is a baby of {x} called?|What do you call the young of {x}?
Name the young of {x}.|What is the young of {x}?|Tell me the young of {x}.|The young of {x} is called?""", quota=5),
        F("sound", 1, sounds, """What sound does {x} make?|What noise does {x} make?|Which sound does {x} make?
What does {x} do to make a sound?|Tell me the sound of {x}.|How does {x} sound?""", quota=2),
        F("legs", 1.2, legs, """How many legs does {x} have?|How many legs has {x}?|Tell me how many legs {x} has.|{x} has how many legs?
What number of legs does {x} have?|Number of legs of {x}?""", quota=3),
        F("colour", 2, colours, """What colour is {x}?|Which colour is {x}?|What is the colour of {x}?|What color is {x}?
Tell me the colour of {x}.|What is the color of {x}?|Which color does {x} have?|{x} has what colour?|Colour of {x}?""", quota=6),
        F("mixing", 0.5, mixed, """What do {x} and {y} make?|What do you get when you mix {x} and {y}?|Mix {x} and {y}.
What colour do {x} and {y} make?|What color do {x} and {y} make?|{x} and {y} make what?""", quota=1),
        F("symbol", 2, symbols, """What is the chemical symbol for {x}?|What is the symbol for {x}?|Chemical symbol of {x}?
What is the chemical symbol of {x}?|Tell me the chemical symbol for {x}.|Symbol for {x}?|Which symbol does {x} have?
Name the chemical symbol for {x}.""", quota=4),
        F("sides", 0.6, sides, """How many sides does {x} have?|How many sides has {x}?|Tell me how many sides {x} has.
{x} has how many sides?|What number of sides does {x} have?|Number of sides of {x}?""", quota=2),
        F("day", 1.2, ring(facts.DAYS, 1), after + "|Which day comes after {x}?|What day follows {x}?", quota=2),
        F("day before", 1, ring(facts.DAYS, -1), before + "|Which day comes before {x}?|What day is before {x}?", quota=1),
        F("month", 1.2, ring(facts.MONTHS, 1), after + "|Which month comes after {x}?|What month follows {x}?", quota=2),
        F("month before", 1, ring(facts.MONTHS, -1), before + "|Which month comes before {x}?|What month is before {x}?", quota=2),
        F("month length", 0.8, lengths, """How many days does {x} have?|How many days are in {x}?|How long is {x}?|{x} has how many days?
How many days are there in {x}?|Tell me how many days {x} has.""", quota=2),
        F("season", 0.4, ring(facts.SEASONS, 1), after + "|Which season comes after {x}?"),
        F("planet", 0.6, line(facts.PLANETS, 1), after + "|Which planet comes after {x}?"),
        F("letter", 1.2, line(letters, 1), after + "|Which letter comes after {x}?|What letter follows {x}?|What is the letter after {x}?", quota=2),
        F("letter before", 1, line(letters, -1), before + "|Which letter comes before {x}?|What letter is before {x}?"),
        F("nth day", 0.6, nth(facts.DAYS, "day of the week"), nth_ways, quota=1),
        F("nth month", 0.8, nth(facts.MONTHS, "month of the year"), nth_ways, quota=1),
        F("nth planet", 0.6, nth(facts.PLANETS, "planet"), nth_ways, quota=1),
        F("count", 1.5, counts, "How many {x}?|Tell me how many {x}.|Do you know how many {x}?|I want to know how many {x}.|Can you tell me how many {x}?", quota=3),
        Ways("world", 1.2, facts.MISCELLANY, quota=3),
        Ways("small talk", 5, facts.SMALL_TALK, quota=6, marks=True),
    ]


class Ways(Family):
    """Rows of (ways to say it, answer): one way in ten is held out."""

    def __init__(self, name, weight, rows, quota=0, marks=False):
        super().__init__(name, weight, [], [], quota=quota)
        for ways, answer in rows:
            ways = ways.split("|")
            held = [w for w in ways[1:] if share(name, normalise(w)) < 0.1]
            self.heldout += [(w, answer) for w in held]
            self.train.append([(w, answer) for w in ways if w not in held])


# ---------------------------------------------------------------------------------------------------------- arithmetic

ONES = "zero one two three four five six seven eight nine ten eleven twelve thirteen fourteen fifteen sixteen seventeen eighteen nineteen".split()
TENS = "_ _ twenty thirty forty fifty sixty seventy eighty ninety".split()
PLUS = """What is {a} + {b}?|{a} + {b}|{a}+{b}|{a} + {b} = ?|{a}+{b}=|What is {a} plus {b}?|{a} plus {b}|Add {a} and {b}.|How much is {a} + {b}?
What is the sum of {a} and {b}?|How much is {a} plus {b}?|Calculate {a} + {b}.|{a} and {b} make?|What does {a} + {b} equal?|Compute {a}+{b}
Sum of {a} and {b}?|What do you get when you add {a} and {b}?|What is {a}+{b}?|{a} + {b}?|Tell me {a} plus {b}."""
MINUS = """What is {a} - {b}?|{a} - {b}|{a}-{b}|{a} - {b} = ?|{a}-{b}=|What is {a} minus {b}?|{a} minus {b}|Subtract {b} from {a}.|How much is {a} - {b}?
How much is {a} minus {b}?|Calculate {a} - {b}.|Take {b} away from {a}.|What does {a} - {b} equal?|Compute {a}-{b}|What is {a}-{b}?|{a} - {b}?
Tell me {a} minus {b}.|What is {a} less {b}?"""
TIMES = """What is {a} * {b}?|{a} * {b}|{a}*{b}|{a} x {b}|{a}x{b}|{a} * {b} = ?|What is {a} times {b}?|{a} times {b}|Multiply {a} by {b}.|How much is {a} * {b}?
How much is {a} times {b}?|Calculate {a} * {b}.|What is the product of {a} and {b}?|What is {a} multiplied by {b}?|What is {a} x {b}?|Compute {a}*{b}
Tell me {a} times {b}."""
OVER = """What is {a} / {b}?|{a} / {b}|{a}/{b}|{a} / {b} = ?|What is {a} divided by {b}?|{a} divided by {b}|Divide {a} by {b}.|How much is {a} / {b}?
How much is {a} divided by {b}?|Calculate {a} / {b}.|Compute {a}/{b}|Tell me {a} divided by {b}."""
LARGER = """Which is larger, {a} or {b}?|Which is bigger, {a} or {b}?|Which number is larger, {a} or {b}?|What is larger, {a} or {b}?|{a} or {b}, which is larger?
Is {a} larger than {b}?|Which is more, {a} or {b}?|What is the larger of {a} and {b}?"""
PARITY = "Is {a} even or odd?|Is {a} odd or even?|Is the number {a} even or odd?|{a}: even or odd?|Tell me whether {a} is even or odd."
NEXT = "What comes after {a}?|What number comes after {a}?|Which number follows {a}?|What is the number after {a}?|What is one more than {a}?|After {a} comes what?"
PREVIOUS = "What comes before {a}?|What number comes before {a}?|What is the number before {a}?|What is one less than {a}?|Which number is before {a}?"
TO_WORDS = "How do you write {a} in words?|Write {a} in words.|What is {a} in words?|{a} in words?|Spell the number {a}.|Say {a} in words."
TO_DIGITS = "How do you write {a} in digits?|Write {a} in digits.|What is {a} in digits?|Write {a} as a number.|What number is {a}?|{a} in digits?"
WAYS = {k: v.replace("\n", "|").split("|") for k, v in dict(
    add=PLUS, subtract=MINUS, multiply=TIMES, divide=OVER, compare=LARGER, parity=PARITY, next=NEXT, previous=PREVIOUS,
    words=TO_WORDS, digits=TO_DIGITS).items()}


def in_words(n: int) -> str:
    if n < 20:
        return ONES[n]
    if n == 100:
        return "one hundred"
    return TENS[n // 10] + ("-" + ONES[n % 10] if n % 10 else "")


class Arithmetic:
    """Questions with drawn numbers. `held(kind, a, b)` tells whether operands are kept for the test."""

    quotas = dict(add=32, subtract=24, multiply=6, divide=2, compare=6, parity=3, next=5, previous=3, words=2, digits=2)
    weights = dict(add=32, subtract=28, multiply=5, divide=2, compare=4, parity=1, next=2, previous=2, words=1.5, digits=1.5)

    def held(self, kind, a, b, way):
        if kind in ("add", "compare"):
            a, b = min(a, b), max(a, b)
        if kind in ("multiply", "divide", "words", "digits"):  # tables to be known by heart: like facts, a phrasing is held out
            return share(kind, a, b, normalise(way)) < 0.08
        if kind == "subtract" and a < b:  # the few below zero are a table, too
            return False
        return share(kind, a, b) < 0.1

    def operands(self, kind, rng):
        if kind == "add":
            return (rng.randint(0, 99), rng.randint(0, 99)) if rng.random() < 0.75 else (rng.randint(0, 9), rng.randint(0, 9))
        if kind == "subtract":
            r = rng.random()
            if r < 0.25:
                return rng.randint(0, 10 if r < 0.08 else 19), rng.randint(0, 10)
            a, b = rng.randint(0, 99), rng.randint(0, 99)
            return max(a, b), min(a, b)
        if kind == "multiply":
            return rng.randint(0, 12), rng.randint(0, 12)
        if kind == "divide":
            b = rng.randint(1, 12)
            return b * rng.randint(0, 12), b
        if kind == "compare":
            a, b = rng.sample(range(100), 2)
            return a, b
        if kind in ("words", "digits"):
            return rng.randint(0, 100), 0
        return rng.randint(1, 99 if rng.random() < 0.5 else 999), 0

    @staticmethod
    def sum(a, b):
        """Tens and ones first: a small model learns the steps, not the whole."""
        steps = f" = {a // 10 * 10 + b // 10 * 10} + {a % 10 + b % 10}" if max(a, b) > 9 else ""
        return f"{a} + {b}{steps} = {a + b}."

    @staticmethod
    def difference(a, b):
        steps = f" = {a - b // 10 * 10} - {b % 10}" if a >= b > 9 else ""
        return f"{a} - {b}{steps} = {a - b}."

    def pair(self, kind, a, b, way, spelled=False):
        x, y = (in_words(a), in_words(b)) if spelled else (a, b)
        prompt = way.format(a=x, b=y)
        answer = {
            "add": lambda: self.sum(a, b),
            "subtract": lambda: self.difference(a, b),
            "multiply": lambda: f"{a} * {b} = {a * b}.",
            "divide": lambda: f"{a} / {b} = {a // max(b, 1)}.",
            "compare": lambda: f"{max(a, b)} is larger than {min(a, b)}.",
            "parity": lambda: f"{a} is {'odd' if a % 2 else 'even'}.",
            "next": lambda: f"After {a} comes {a + 1}.",
            "previous": lambda: f"Before {a} comes {a - 1}.",
            "words": lambda: f"{a} in words is {in_words(a)}.",
            "digits": lambda: f"{in_words(a)} in digits is {a}.",
        }[kind]()
        return (prompt[0].upper() + prompt[1:] if spelled else prompt), answer

    def draw(self, kind, rng, heldout=False):
        while True:
            a, b = self.operands(kind, rng)
            way = rng.choice(WAYS[kind])
            if self.held(kind, a, b, way) == heldout:
                small = kind in ("add", "subtract", "multiply") and max(a, b) <= 20
                spelled = kind == "digits" or (small and rng.random() < 0.15 and re.search(r"plus|minus|times|sum|[Aa]dd|from", way))
                return self.pair(kind, a, b, way, bool(spelled))


# ------------------------------------------------------------------------------------------------------ conversations

SYLLABLES = "ba be bi bo bu da de do fa fe fo ga ge go gu ha he hi ho ka ke ki ko ku la le li lo lu ma me mi mo na ne no nu pa pe po ra re ri ro ru sa se si so ta te ti to tu va ve vi vo wa we xa ya yo za ze zi zo bra cle dro fli gre plo sta tri qua ster".split()
ENDINGS = ["", "", "n", "r", "s", "l", "th", "x", "m", "nia", "land", "stan", "ville", "ton", "ing", "ish", "q", "ck"]
# How each family that can be followed up is: "And of {x}?"
FOLLOW_UP = {
    "capital": ["And of {x}?", "And {x}?", "What about {x}?", "And the capital of {x}?", "How about {x}?", "And what about {x}?"],
    "state capital": ["And of {x}?", "And {x}?", "What about {x}?", "How about {x}?", "And what about {x}?"],
    "opposite": ["And of {x}?", "And {x}?", "What about {x}?", "How about {x}?"],
    "plural": ["And of {x}?", "And {x}?", "What about {x}?", "How about {x}?"],
    "past tense": ["And of {x}?", "And {x}?", "What about {x}?", "How about {x}?"],
    "continent": ["And {x}?", "What about {x}?", "How about {x}?"],
}
MY_NAME = ["My name is {n}.", "I am {n}.", "Call me {n}.", "I am called {n}.", "Hello, my name is {n}.", "Hi, I am {n}.", "You can call me {n}."]
WHAT_NAME = ["What is my name?", "Who am I?", "Do you know my name?", "Do you remember my name?", "Tell me my name.", "How am I called?"]


class Generator:
    """Draws conversations: lists of (prompt, answer) turns, none of whose prompts is held out."""

    def __init__(self, seed):
        self.rng = random.Random(seed)
        self.families = fact_families()
        self.by_name = {f.name: f for f in self.families}
        self.arithmetic = Arithmetic()
        self.sources = [(f.weight, lambda f=f: [f.draw(self.rng)]) for f in self.families]
        self.sources += [(w, lambda k=k: [self.arithmetic.draw(k, self.rng)]) for k, w in Arithmetic.weights.items()]
        self.sources += [(9, self.unknown), (6, self.follow_up), (2.5, self.name)]
        self.weights = [w for w, _ in self.sources]
        self.forbidden = heldout_prompts()

    def unknown(self):
        rng = self.rng
        fill = {k: rng.choice(v) for k, v in facts.UNKNOWN_WORDS.items()}
        word = "".join(rng.choice(SYLLABLES) for _ in range(rng.choice([1, 2, 2, 3]))) + rng.choice(ENDINGS)
        fill |= {"fakeword": word, "fake": word.capitalize(), "number": rng.randint(2, 500), "big": rng.randint(101, 9999),
                        "year": rng.randint(1400, 2030)}
        if rng.random() < 0.04:  # anything at all: other scripts, emoji, noise
            alphabet = rng.choice(["abcdefghijklmnopqrstuvwxyz ", "äöüßéèñçøå aeiou", "абвгдежзиклмнопрст ", "あいうえおかきくけこ漢字", "😀🎉🚀❤",
                                   "!@#$%^&*(){}[]<>/\\|~`_=+-", "0123456789 ", "αβγδεζηθικλμ ", "اب ت ث ج ح"])
            text = "".join(rng.choice(alphabet) for _ in range(rng.randint(3, 14))).strip() or "?"
            return [(text, DO_NOT_KNOW)] if not re.fullmatch(r"[\d\s+*/=-]*", text) or len(text) > 6 else self.unknown()
        template = rng.choice(facts.UNKNOWN_TEMPLATES)
        prompt = template.format(**fill)
        if template in ("Where is {city}?",) and fill["city"] in ("France", "Germany", "Japan", "Brazil"):
            return self.unknown()
        return [(prompt, DO_NOT_KNOW)]

    def follow_up(self):
        rng = self.rng
        family = self.by_name[rng.choice(list(FOLLOW_UP) + ["capital"])]
        turns = [family.draw(rng)]
        for _ in range(rng.choice([1, 1, 2])):
            x, answer = rng.choice(family.facts)
            turns.append((rng.choice(FOLLOW_UP[family.name]).format(x=x), answer))
        return turns

    def name(self):
        rng = self.rng
        if rng.random() < 0.12:
            return [(rng.choice(WHAT_NAME), "I do not know your name yet.")]
        name = rng.choice(facts.NAMES)
        turns = [(rng.choice(MY_NAME).format(n=name), f"Nice to meet you, {name}.")]
        if rng.random() < 0.7:
            between = [self.plain() for _ in range(rng.choice([0, 0, 1, 2]))]
            turns += between + [(rng.choice(WHAT_NAME), f"Your name is {name}.")]
        return turns

    def plain(self):
        """A turn that needs no history and says nothing about names."""
        family = self.rng.choices(self.families, [f.weight for f in self.families])[0]
        return family.draw(self.rng)

    def vary(self, prompt):
        """How people type: without capitals or marks, with contractions and politeness."""
        rng = self.rng
        r = rng.random()
        words = len(prompt.split())
        if prompt.startswith("What is ") and rng.random() < 0.25:
            prompt = rng.choice(["What's ", "Whats "]) + prompt[8:]
        if " the " in prompt and rng.random() < 0.06:
            prompt = prompt.replace(" of the ", " of ")
        if words > 2 and rng.random() < 0.08:
            prompt = rng.choice(["Please ", "Hey, ", "Hi, ", "So, ", "OK, "]) + prompt[0].lower() + prompt[1:]
        elif words > 2 and rng.random() < 0.04:
            prompt = prompt.rstrip("?.") + rng.choice([" please", ", please", " please?"])
        if r < 0.22:
            prompt = prompt.lower()
        elif r < 0.24:
            prompt = prompt.upper()
        elif r < 0.30:
            prompt = prompt[0].lower() + prompt[1:]
        elif r < 0.34:
            prompt = prompt[0].upper() + prompt[1:]
        r = rng.random()
        if r < 0.25:
            prompt = prompt.rstrip("?.! ") or prompt
        elif r < 0.30:
            prompt = (prompt.rstrip("?.! ") + rng.choice(["?", ".", "!", " ?", "??"]))
        return prompt

    def turns(self):
        """One source's turns, varied and checked against the held-out list."""
        turns = self.rng.choices(self.sources, self.weights)[0][1]()
        turns = [(self.vary(prompt), answer) for prompt, answer in turns]
        for prompt, _ in turns:
            if normalise(prompt) in self.forbidden:
                raise SystemExit(f"held-out prompt in the training text: {prompt!r}")
        return turns

    def conversation(self, limit):
        """One to `limit` sources after each other: unrelated questions as history."""
        turns = self.turns()
        for _ in range(self.rng.randint(1, limit) - 1):
            turns += self.turns()
        return turns


# ---------------------------------------------------------------------------------------------------------- held out

def heldout_prompts() -> set[str]:
    if not HELDOUT_FILE.exists():
        raise SystemExit("heldout.jsonl is missing: run generate.py first")
    rows = [json.loads(line) for line in HELDOUT_FILE.read_text().splitlines()]
    if len(rows) < 200:
        raise SystemExit(f"heldout.jsonl holds {len(rows)} prompts, at least 200 are needed")
    return {normalise(row["prompt"]) for row in rows}


def choose_heldout(seed=1):
    rng = random.Random(seed)
    rows, seen = [], set()
    trained = {normalise(p) for f in fact_families() for mine in f.train for p, _ in mine}
    for family in fact_families():
        pairs = sorted(set(family.heldout))
        rng.shuffle(pairs)
        kept = [(p, a) for p, a in pairs if normalise(p) not in trained]
        rows += [(family.name, p, a) for p, a in kept[: family.quota]]
    arithmetic = Arithmetic()
    for kind, quota in Arithmetic.quotas.items():
        found = 0
        while found < quota:
            prompt, answer = arithmetic.draw(kind, rng, heldout=True)
            if normalise(prompt) not in seen:
                found += 1
                rows.append((kind, prompt, answer))
                seen.add(normalise(prompt))
    rng.shuffle(rows)
    return rows


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--show", type=int, metavar="N", help="print N conversations of the training text instead")
    args = parser.parse_args()
    if args.show:
        generator = Generator(0)
        for _ in range(args.show):
            for prompt, answer in generator.conversation(3):
                print(f"{prompt}  ->  {answer}")
            print()
        return
    rows = choose_heldout()
    lines = [json.dumps({"prompt": p, "answer": a, "family": f}, ensure_ascii=False) for f, p, a in rows]
    HELDOUT_FILE.write_text("\n".join(lines) + "\n")
    print(f"{len(lines)} prompts in {HELDOUT_FILE.name}")


if __name__ == "__main__":
    main()
