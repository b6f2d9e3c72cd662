"""The documented grammar of the mini corpus: short spoken commands, generated from a seed.

A sentence is made from one *template*: plain words, and slots in braces (``{room}``). A slot is either a list
of phrases in ``SLOTS`` or one of the small generators ``{number}``, ``{ordinal}``, ``{time}``, ``{date}``,
``{digits}``, ``{items}``. A template belongs to a *domain* (smart home, phone, numbers, dates, lists, media,
weather, small talk); the domain is drawn by its weight, then a template of the domain uniformly, then an
optional polite opening or ending. Only ``a-z``, the apostrophe and the space occur; a sentence has 2-12
words.
"""

from __future__ import annotations

import random
import re
from collections.abc import Callable, Iterable

MIN_WORDS, MAX_WORDS = 2, 12


def _phrases(text: str) -> tuple[str, ...]:
    """Split a comma-separated list of phrases."""
    return tuple(part.strip() for part in text.split(","))


def _words(text: str) -> tuple[str, ...]:
    """Split a list of single words at the spaces."""
    return tuple(text.split())


# fmt: off
UNITS = _words("zero one two three four five six seven eight nine ten eleven twelve thirteen fourteen "
               "fifteen sixteen seventeen eighteen nineteen")
TENS = _words("twenty thirty forty fifty sixty seventy eighty ninety")
ORDINAL_UNITS = _words("first second third fourth fifth sixth seventh eighth ninth tenth eleventh "
                       "twelfth thirteenth fourteenth fifteenth sixteenth seventeenth eighteenth nineteenth")
MONTHS = _words("january february march april may june july august september october november december")
WEEKDAYS = _words("monday tuesday wednesday thursday friday saturday sunday")

SLOTS: dict[str, tuple[str, ...]] = {
    "room": _phrases("kitchen, bedroom, bathroom, garage, hallway, office, garden, basement, living "
                      "room, dining room, balcony"),
    "device": _phrases("light, lamp, fan, heater, television, radio, speaker, camera, coffee machine, "
                        "oven, printer, dishwasher"),
    "cover": _phrases("door, front door, back door, window, windows, gate, curtains, blinds, garage "
                       "door"),
    "color": _phrases("red, green, blue, yellow, white"),
    "level": _phrases("low, medium, high, half, a quarter"),
    "name": _phrases("anna, ben, carlos, diana, emma, frank, grace, henry, julia, kevin, laura, noah, "
                      "olivia, peter, quinn, rachel, victor, wendy, zoe, max"),
    "relative": _phrases("mom, dad, my sister, my husband, the doctor, the bank"),
    "item": _phrases("milk, bread, butter, cheese, apples, bananas, oranges, coffee, tea, sugar, rice, "
                      "tomatoes, potatoes, onions, chicken, fish, juice, water, eggs, soap, batteries, "
                      "dog food"),
    "list": _phrases("shopping list, grocery list, work list"),
    "task": _phrases("water the garden, feed the cat, walk the dog, pay the bill, take out the trash, "
                      "buy a ticket, wash the car, fix the bicycle, charge the phone"),
    "event": _phrases("meeting, lunch, dinner, party, exam, concert, flight, football game, "
                       "birthday, piano lesson"),
    "genre": _phrases("jazz, rock, pop, classical music, quiet music"),
    "app": _phrases("calendar, weather report, news, audio book, photo album"),
    "city": _phrases("london, paris, berlin, boston, chicago, madrid, oxford"),
    "weather": _phrases("rain, snow, wind, fog, a storm, ice"),
    "when": _phrases("today, tomorrow, tonight, this weekend, next week, this afternoon, right now, "
                     "later today"),
    "daypart": _phrases("in the morning, in the afternoon, in the evening, at night"),
    "weekday": WEEKDAYS,
    "month": MONTHS,
    "unit": _phrases("seconds, minutes, hours, days"),
    "open": _phrases("please, could you, can you please, hey, okay now, i'd like you to"),
    "close": _phrases("please, now, for me, thanks, thank you, right away"),
}

TEMPLATES: dict[str, tuple[float, tuple[str, ...]]] = {
    "home": (0.28, (
        "turn on the {room} {device}", "turn off the {room} {device}",
        "switch the {device} off in the {room}",
        "switch on the {device}", "turn the {room} lights {color}",
        "set the {room} light to {number} percent",
        "dim the lights in the {room} to {level}", "open the {room} {cover}", "close the {cover} at {time}",
        "set the temperature to {number} degrees", "make the {room} warmer", "it's too cold in the {room}",
        "lock the {cover}", "unlock the {cover} for {name}", "is the {cover} still open",
        "start the {device} in {number} {unit}", "stop the {device}", "set the {device} to {level}",
        "don't turn on the {device} before {time}", "show me the {room} camera",
        "leave the {room} {device} on until {time}", "what's the temperature in the {room}")),
    "phone": (0.15, (
        "call {name}", "call {relative}", "call {relative} {when}", "call {name} on the mobile phone",
        "dial {digits}", "call back {digits}",
        "send a message to {name}", "tell {name} i'll be home at {time}",
        "read my new messages", "do i have any new calls",
        "put {name} on hold", "forward my calls to {name}", "mute the phone for {number} {unit}",
        "save this number as {name}", "answer the call from {name}", "the extension is {digits}",
        "my phone number is {digits}", "leave a message for {relative}")),
    "numbers": (0.14, (
        "what is {number} plus {number}", "what's {number} minus {number}", "multiply {number} by {number}",
        "the code is {digits}", "my pin is {digits}", "enter the number {digits}",
        "count from {number} to {number}",
        "set a timer for {number} {unit}", "add {number} {unit} to the timer", "{digits}",
        "{number} point {number}",
        "how much is {number} percent of {big}", "it costs {number} dollars and {number} cents",
        "the answer is {big}", "go to channel {number}",
        "wake me in {number} {unit}", "divide {big} by {number}")),
    "dates": (0.15, (
        "what day is {date}", "i see {relative} on {weekday}", "schedule a {event} for {date}",
        "move the {event} to {weekday} at {time}",
        "remind me to {task} on {date}", "set an alarm for {time}", "wake me up at {time} {daypart}",
        "cancel the {event} on {weekday}", "when is the {event} with {name}",
        "what's on my calendar for {date}",
        "the {event} starts at {time}", "book a table for {number} on {weekday}", "is {date} a holiday",
        "remind me about the {event} {when}", "cancel my alarm for {time}", "it's {time} {daypart}",
        "{weekday} the {ordinal} of {month}", "my birthday is on {date}",
        "invite {name} to the {event} on {weekday}")),
    "lists": (0.12, (
        "add {items} to my {list}", "put {items} on the {list}", "remove {item} from the {list}",
        "buy {items}",
        "what's on my {list}", "clear the {list}", "we need {items} and {number} bottles of water",
        "remember to {task}", "remind {name} to {task}", "add a task to {task}", "mark {task} as done",
        "how many {item} are on the list", "order {number} boxes of {item}", "did {name} {task}",
        "share the {list} with {name}")),
    "media": (0.12, (
        "play some {genre}", "play {genre} in the {room}", "open the {app}", "pause the {app}", "next song",
        "skip to the {ordinal} song", "turn the volume {level}", "turn up the volume by {number}",
        "stop playing in {number} {unit}", "play the {app} from the beginning", "repeat the {ordinal} track",
        "i don't like this song", "record the show on {weekday} at {time}")),
    "weather": (0.07, (
        "will there be {weather} in {city} {when}", "what's the weather in {city} {when}",
        "show the road to {city}", "find a train to {city} at {time}", "is there any {weather} in {city}",
        "how warm is it in {city} {when}",
        "book a flight to {city} for {date}")),
    "talk": (0.04, (
        "good morning {name}", "good night {name}", "thank you {name}", "where is {name}",
        "what time is it in {city}",
        "{name} wasn't at the {event}", "i can't find my {device}",
        "let's start the {event} at {time}", "we're leaving for {city} on {weekday}", "please help me {task}",
        "see you at the {event} on {weekday}", "i'd like {items} for dinner", "we're home {when}")),
}
VERBS = _words("turn set open close switch dim lock unlock start stop call send read play add put remove buy "
               "remind wake schedule move cancel show tell clear pause find book save mute order share")
# fmt: on


def number_words(value: int) -> str:
    """Spell a whole number from 0 to 9999."""
    if value < 20:
        return UNITS[value]
    if value < 100:
        return TENS[value // 10 - 2] + (f" {UNITS[value % 10]}" if value % 10 else "")
    size, name = (1000, "thousand") if value >= 1000 else (100, "hundred")
    rest = value % size
    return f"{number_words(value // size)} {name}" + (f" {number_words(rest)}" if rest else "")


def ordinal_words(value: int) -> str:
    """Spell an ordinal from 1st to 31st."""
    if value < 20:
        return ORDINAL_UNITS[value - 1]
    if value % 10 == 0:
        return {20: "twentieth", 30: "thirtieth"}[value]
    return f"{TENS[value // 10 - 2]} {ORDINAL_UNITS[value % 10 - 1]}"


def _number(rng: random.Random) -> str:
    return number_words(rng.choice((rng.randint(2, 12), rng.randint(11, 20), rng.randint(2, 99))))


def _big(rng: random.Random) -> str:
    odd, rounded = rng.randint(101, 999), 50 * rng.randint(2, 18)
    return number_words(rng.choice((100, 200, 500, 1000, 2000, odd, rounded)))


def _ordinal(rng: random.Random) -> str:
    return ordinal_words(rng.randint(1, 31))


def _time(rng: random.Random) -> str:
    hour = UNITS[rng.randint(1, 12)]
    minute = number_words(rng.choice((10, 15, 20, 25, 30, 35, 40, 45, 50, 55, rng.randint(11, 59))))
    return rng.choice(
        (
            f"{hour} o'clock",
            f"{hour} {minute}",
            f"{hour} {minute}",
            f"half past {hour}",
            f"quarter to {hour}",
            f"quarter past {hour}",
            f"ten past {hour}",
            "noon",
            "midnight",
        )
    )


def _date(rng: random.Random) -> str:
    month, day, weekday = rng.choice(MONTHS), ordinal_words(rng.randint(1, 31)), rng.choice(WEEKDAYS)
    return rng.choice((f"{month} {day}", f"the {day} of {month}", f"next {weekday}", f"{weekday} the {day}"))


def _digits(rng: random.Random) -> str:
    words = [rng.choice((*UNITS[:10], "oh")) for _ in range(rng.randint(3, 7))]
    return " ".join(words)


def _items(rng: random.Random) -> str:
    chosen = rng.sample(SLOTS["item"], rng.randint(1, 3))
    return chosen[0] if len(chosen) == 1 else f"{' '.join(chosen[:-1])} and {chosen[-1]}"


GENERATORS: dict[str, Callable[[random.Random], str]] = {
    "number": _number,
    "big": _big,
    "ordinal": _ordinal,
    "time": _time,
    "date": _date,
    "digits": _digits,
    "items": _items,
}


def _fill(match: re.Match[str], rng: random.Random) -> str:
    """Replace one slot by a drawn phrase."""
    slot = match.group(1)
    return GENERATORS[slot](rng) if slot in GENERATORS else rng.choice(SLOTS[slot])


def sentence(rng: random.Random) -> str:
    """Draw one sentence; its length is not checked here."""
    domains = list(TEMPLATES)
    domain = rng.choices(domains, [TEMPLATES[name][0] for name in domains])[0]
    text = re.sub(r"\{(\w+)\}", lambda match: _fill(match, rng), rng.choice(TEMPLATES[domain][1]))
    polite = rng.random()
    if text.split()[0] in VERBS:
        if polite < 0.20:
            text = f"{rng.choice(SLOTS['open'])} {text}"
        elif polite < 0.38:
            text = f"{text} {rng.choice(SLOTS['close'])}"
    text = re.sub(r"\ba (?=[aeio])", "an ", text)
    return text


def generate(count: int, seed: int, exclude: Iterable[str] = ()) -> list[str]:
    """Return ``count`` distinct sentences of 2-12 words, none of them in ``exclude``; seeded."""
    rng = random.Random(seed)
    taken = set(exclude)
    found: list[str] = []
    for _ in range(200 * count + 1000):
        if len(found) == count:
            return found
        text = sentence(rng)
        if text in taken or not MIN_WORDS <= len(text.split()) <= MAX_WORDS:
            continue
        taken.add(text)
        found.append(text)
    raise ValueError(f"the grammar gave only {len(found)} of {count} distinct sentences")
