"""The world of one story: who is there, who holds what, who feels what, and the text so far.

A plot changes the world with verbs (`give`, `lose`, `take`, `feel`, ...). A verb raises
ContradictionError for what is impossible, such as giving a thing that one does not hold, and it
records a `Fact`, which the tests check the text against. `say`, `speak` and `tries` fill in
templates: `{h}` is the person in role h, `{h.his}` a pronoun, `{t.a}` the thing with its
article, and `[ran|walked]` is replaced by one of the two.
"""

import random
import re
from collections.abc import Sequence
from functools import cache
from typing import Any, NamedTuple

import tinystories.stories.cast as cast
from tinystories.stories.cast import Person, Place, Thing

# Added after "said", by mood. VERBS: the verb by the line's last mark, then by mood.
MANNERS = {
    "sad": ("", " sadly", " in a small voice", " with a sigh"),
    "happy": ("", " with a smile", " happily", " with a big smile"),
    "scared": ("", " in a tiny voice", " very quietly"),
    "cross": ("", " crossly", " with a frown"),
    "sorry": ("", " in a small voice", " very quietly"),
    "": ("",),
}
VERBS = {
    "?": {"": ("asked",)},
    "!": {"": ("called", "said"), "happy": ("cheered", "called"), "sad": ("cried",)},
    ".": {"": ("said",)},
}


class Fact(NamedTuple):
    """One thing that happened; `at` is the offset in the text where it is described."""

    at: int
    verb: str
    who: str
    what: str = ""
    to: str = ""


class ContradictionError(Exception):
    """A plot wants something that is impossible in its world."""


@cache
def _pieces(template: str) -> tuple[tuple[str, ...], ...]:
    """Split "a [b|c] d" into its alternatives: (("a ",), ("b", "c"), (" d",))."""
    return tuple(tuple(piece.split("|")) for piece in re.split(r"[\[\]]", template))


@cache
def with_traits(pool: tuple, traits: str, without: str) -> tuple:
    """The items of a pool that have all traits in `traits` and none of those in `without`."""
    need, never = set(traits.split()), set(without.split())
    return tuple(item for item in pool if need <= item.traits and not never & item.traits)


GREETINGS = (
    "What a {day}!",
    "It is such a {day}!",
    "Look, it is a {day}!",
    "I was hoping for a {day}!",
)


class World:
    """Who is there, who holds what, who feels what, and the text so far.

    Args:
        silent: True: nobody speaks; False: somebody does from the beginning; None: perhaps.
        moral: whether the story says what somebody learned; None: perhaps a lesson, without that.
    """

    def __init__(
        self, rng: random.Random, silent: bool | None = None, moral: bool | None = None
    ) -> None:
        self.plot = ""  # name of the plot's function
        self.random = rng.random
        self.animals = self.random() < 0.3  # a story about animals, or about children
        self.place: Place = cast.PLACES[0]
        self.here: list[Person] = []
        self.holder: dict[object, Person | str] = {}  # a person, a spot, or "" for eaten
        self.mood: dict[Person, str] = {}
        self.moved: dict[Person, int] = {}  # how many facts there were when a mood changed
        self.broken: set[Thing] = set()
        self.roles: dict[str, Any] = {"later": "That evening"}
        self.people: list[Person] = []
        self.things: list[Thing] = []
        self.facts: list[Fact] = []
        self.silent, self.moral = silent, moral
        self.summaries: list[str] = []  # each of all of the story
        self.features: list[str] = []  # of the plot, as TinyStories-Instruct names them
        self.text = self.gap = ""  # gap: what separates the next sentence from the text
        self.subject: Person | None = None  # whom "he" or "she" would mean now
        self.speaker: Person | None = None  # who spoke in the last sentence
        self.brief = self.random() < 0.35

    # Random choices

    def pick(self, options: Sequence):
        """One of the options, at random."""
        return options[int(self.random() * len(options))]

    def some(self, options: Sequence, count: int) -> list:
        """`count` different options, in random order."""
        left = list(options)
        return [left.pop(int(self.random() * len(left))) for _ in range(count)]

    # Casting

    def _person(self, pool: tuple[Person, ...]) -> Person:
        person = self.pick([p for p in pool if all(p.name != q.name for q in self.people)])
        self.people.append(person)
        return person

    def hero(self, without: str = "", animals: bool = True) -> Person:
        """The hero: a child, or an animal in a story about animals."""
        self.animals = self.animals and animals
        pool = with_traits(cast.ANIMALS, "lead", without) if self.animals else cast.CHILDREN
        return self._person(pool)

    friend = hero

    def animal(self, traits: str = "", without: str = "") -> Person:
        """An animal, where possible one that lives at the place of the story."""
        homes = self.place.traits & cast.HABITATS
        pool = with_traits(cast.ANIMALS, traits, without)
        return self._person(tuple(p for p in pool if p.traits & homes) or pool)

    def adult(self, traits: str = "") -> Person:
        """An adult from the world of the hero, children's or animals'."""
        kind = "animals " if self.animals else "people "
        return self._person(with_traits(cast.ADULTS, kind + traits, ""))

    def thing(self, traits: str, without: str = "", look: str = "") -> Thing:
        """A thing with these traits that is not yet in the story."""
        used = [thing.name for thing in self.things]
        pool = with_traits(cast.THING_ROWS, traits, without)
        name, looks, marks = self.pick([row for row in pool if row.name not in used])
        self.things.append(Thing(name, look or self.pick(looks), marks))
        return self.things[-1]

    def somewhere(self, traits: str = "", without: str = "") -> Place:
        """A place with these traits, in the wild if the story is about animals."""
        wild = " wild" if self.animals else ""
        return self.pick(with_traits(cast.PLACES, traits + wild, without))

    # What happens

    def note(self, verb: str, who: Person, what: object = "", to: object = "") -> None:
        """Record a fact. Only who is there does something, and only with a thing that they hold."""
        self.must(who in self.here, f"{who} cannot {verb} without being there")
        if verb in ("give", "lose", "break", "eat"):
            self.must(self.holder.get(what) == who, f"{who} {verb}s the {what} of another")
        at = len(self.text) + len(self.gap)
        self.facts.append(Fact(at, verb, who.name, str(what), str(to)))

    def must(self, possible: bool, what: str) -> None:
        """Raise ContradictionError unless `possible`."""
        if not possible:
            raise ContradictionError(what)

    def scene(self, place: Place, *who: Person) -> None:
        """Move the story to a place with only these people in it."""
        for person in [person for person in self.here if person not in who]:
            self.leave(person)
        self.place = self.roles["p"] = place
        for person in who:
            self.enter(person)

    def enter(self, who: Person) -> None:
        """Someone comes to where the story is."""
        if who not in self.here:
            self.here.append(who)
            self.note("enter", who, self.place)

    def leave(self, who: Person) -> None:
        """Someone goes away, and cannot speak or act until they enter again."""
        self.note("leave", who, self.place)
        self.here.remove(who)

    def own(self, who: Person, thing: Thing) -> None:
        """Someone has a thing from the start, or has made it."""
        self.must(thing not in self.holder, f"the {thing} has somebody already")
        self.note("own", who, thing)
        self.holder[thing] = who

    def give(self, who: Person, thing: Thing, to: Person) -> None:
        """Someone gives a thing to someone else."""
        self.must(to in self.here, f"{who} and {to} do not meet")
        self.note("give", who, thing, to)
        self.holder[thing] = to

    def lose(self, who: Person, thing: Thing, spot: str) -> None:
        """Someone loses a thing, which is then at a spot."""
        self.note("lose", who, thing, spot)
        self.holder[thing] = spot

    def take(self, who: Person, thing: Thing) -> None:
        """Someone picks up a thing from the spot where it is."""
        spot = self.holder.get(thing)
        self.must(isinstance(spot, str) and spot != "", f"the {thing} does not lie anywhere")
        self.note("take", who, thing, spot)
        self.holder[thing] = who

    def smash(self, who: Person, thing: Thing) -> None:
        """Someone breaks a thing that can break."""
        can_break = "breaks" in thing.traits and thing not in self.broken
        self.must(can_break, f"the {thing} cannot break")
        self.note("break", who, thing)
        self.broken.add(thing)

    def mend(self, who: Person, thing: Thing) -> None:
        """Someone repairs a broken thing."""
        self.must(thing in self.broken, f"{who} cannot mend the {thing}")
        self.note("mend", who, thing)
        self.broken.discard(thing)

    def eat(self, who: Person, thing: Thing) -> None:
        """The holder of food eats it, and it is gone."""
        self.must("food" in thing.traits, f"nobody eats a {thing}")
        self.note("eat", who, thing)
        self.holder[thing] = ""

    def act(self, who: Person, what: str) -> None:
        """Someone who is there does something that may change how others feel."""
        self.note("act", who, what)

    def feel(self, mood: str, *who: Person) -> None:
        """Change moods. Something must have happened since the last change to cause it."""
        for person in who:
            since = self.facts[self.moved.get(person, 0) :]
            cause = [fact.verb for fact in since if fact.verb not in ("feel", "speak")]
            self.must(bool(cause), f"{person} feels {mood} for no reason")
            self.mood[person] = mood
            self.note("feel", person, mood, cause[-1])
            self.moved[person] = len(self.facts)

    # Text

    def cast(self, **roles: object) -> None:
        """Name the people, places and things of the story, for use in templates."""
        self.roles.update(roles)

    def fill(self, template: str) -> str:
        """The text of a template: one of each alternatives, roles replaced by names."""
        parts = _pieces(template)
        chosen = [p[0] if len(p) == 1 else p[int(self.random() * len(p))] for p in parts]
        mentioned = str(self.roles.get("t")) in self.text
        if mentioned and self.random() < 0.7:  # its look is known, so the name is enough
            chosen = [part.replace("{t}", "{t.name}") for part in chosen]
        return "".join(chosen).format_map(self.roles)

    def write(self, sentence: str, speaker: Person | None = None) -> None:
        """Append a sentence; its first name becomes a pronoun where that is unambiguous."""
        about = next((p for p in self.people if sentence.startswith(f"{p} ")), None)
        if about and self.pronoun(about):
            sentence = about.He + sentence[len(about.name) :]
        self.text += self.gap + sentence[0].upper() + sentence[1:]
        self.gap = " "
        self.speaker, self.subject = speaker, speaker or about
        if self.subject:
            rivals = [p for p in self.people if p is not self.subject and p.he == self.subject.he]
            last = re.split(r"[.!?] ", sentence)[-1]
            clear = speaker or last.startswith((f"{self.subject} ", self.subject.He))
            if not clear or any(p.name in sentence or p.kind in sentence for p in rivals):
                self.subject = None

    def pronoun(self, who: Person) -> bool:
        """Whether to use a pronoun: only for the subject of the previous sentence, at random."""
        return who is self.subject and self.gap == " " and self.random() < 0.75

    def say(self, *phrasings: str) -> None:
        """Write one of several phrasings."""
        self.write(self.fill(self.pick(phrasings)))

    def maybe(self, *phrasings: str) -> None:
        """Write one of several phrasings, or nothing."""
        if not self.brief and self.random() < 0.6:
            self.say(*phrasings)

    def chat(self, who: Person, *lines: str) -> None:
        """Someone says one of several lines, or nothing."""
        if not self.brief and self.random() < 0.6:
            self.speak(who, *lines)

    def paragraph(self) -> None:
        """Begin a new paragraph."""
        if self.text:
            self.gap = "\n\n"

    def speak(self, who: Person, *lines: str, told: str = "") -> None:
        """Someone who is there says one of several lines, in the manner of their mood.

        In a silent story it is `told` what the line was needed for, if it was.
        """
        if self.silent:
            if told:
                self.say(told)
            return
        if self.speaker not in (None, who):
            self.paragraph()  # an answer begins a new line
        self.note("speak", who)
        line = self.fill(self.pick(lines))
        mood = self.mood.get(who, "")
        verbs = VERBS[line[-1]]
        verb = self.pick(verbs.get(mood) or verbs[""])
        manner = self.pick(MANNERS[mood]) if verb == "said" else ""
        quote = line[:-1] + "," if line[-1] == "." else line
        first = self.random() < 0.6
        if first and self.pronoun(who):
            self.write(f'"{quote}" {who.he} {verb}{manner}.', who)
        elif first:
            self.write(f'"{quote}" {verb} {who}{manner}.', who)
        else:
            self.write(f'{who} {verb}{manner}, "{line}"', who)

    def tries(self, *attempts: str, count: int = 2, end: bool = True) -> None:
        """Write `count` attempts, each given as "what was done -> why it failed".

        They end the paragraph, unless `end` is False.
        """
        count = max(1, count - 1) if self.brief else count
        for number, attempt in enumerate(self.some(attempts, count)):
            done, why = attempt.split(" -> ")
            order = self.pick((("First, ", ""), ("Then ", "Next, "), ("After that, ",))[number])
            self.note("attempt", self.roles["h"], done, why)
            self.say(f"{order}{done}, but {why}.", f"{order}{done}. But {why}.")
        if end:
            self.paragraph()

    # How stories begin and end

    def opening(
        self, place: Place, *who: Person, thing: Thing | None = None, sky="", scene=True
    ) -> None:
        """Open the first scene with these people in it, and introduce the hero, who comes first.

        Args:
            thing: what the hero has, to be introduced too.
            sky: the weather, "" for a random one.
            scene: whether to say that the hero, perhaps with a friend, comes to the place.
        """
        h = who[0]
        self.scene(place, *who)
        habit, echo = self.pick(cast.TABLES["habits"])
        self.cast(habit=habit.format_map(self.roles), echo=echo, met="")
        sky = sky or self.pick(("sunny", "warm", "bright", "quiet"))
        self.cast(day=sky + self.fill(" [morning|day]"))
        if self.random() < (0.4 if self.brief else 0.85):
            self.cast(who=h)
            self.say(
                "Once upon a time, there was a [little|small|cheerful] {h.kind} named {h}. "
                "{h.He} {habit}.",
                "{h} was a [little|small|busy] {h.kind} who {habit}.",
                "Not far from here lived {h.a} named {h}, who {habit}.",
                "There was once {h.a} named {h}. {h.He} {habit}.",
                "Let me tell you about {h}. {h.He} was a [little|young|merry] {h.kind} who "
                "{habit}.",
            )
            self.cast(met=echo)
        else:
            self.cast(who=h.full)
        if scene:
            self._going_out(h, friend=self.roles.get("f") in who)
        if thing:
            self.own(h, thing)
            self.say(
                "{h} had {t.a} and took it everywhere, even to [breakfast|bed].",
                "{h} had {t.a} with {h.him}. It was {h.his} favorite thing[| in the world].",
                "{h} had brought {t.a}, of course. {h.He} never went anywhere without it.",
            )

    def _going_out(self, h: Person, friend: bool) -> None:
        """The hero comes to the place, alone or with a friend."""
        self.cast(going=self.pick(("went", "walked", "ran", "skipped")))
        if (self.random() < 0.15 and not self.silent) or self.silent is False:
            self.note("speak", h)
            line = "What a {day}!" if self.silent is None else self.pick(GREETINGS)
            self.write(self.fill(f'"{line}" said {{who}}.'), h)
            self.cast(who=h)
            with_friend = " with {h.his} friend {f.full}" if friend else ""
            self.say("{who} {going} to {p}" + with_friend + ".")
        elif friend:
            self.say(
                "One {day}, {who} and {h.his} friend {f.full} {going} to {p}.",
                "It was a {day}. {who} {going} to {p} with {h.his} friend {f.full}.",
                "{who} and {h.his} friend {f.full} were {p.at}. It was a {day}.",
            )
        else:
            self.say("One {day}, {who} {going} to {p}.")

    def outline(self, *summaries: str, features: str = "") -> None:
        """What happens in the story, in one or two sentences, and what features the plot has."""
        self.summaries = [summary.format_map(self.roles) for summary in summaries]
        self.features = features.split()

    def closing(self, *endings: str, lesson: Sequence[str] = ()) -> None:
        """End the story: perhaps a lesson, then a last sentence or the hero's habit."""
        self.paragraph()
        if lesson and self.moral is None:
            self.maybe(*lesson)
        elif lesson and self.moral:
            taught = self.pick(lesson)
            if "learned" not in taught:
                taught = "{h} had learned [a lesson|something]: " + taught[0].lower() + taught[1:]
            self.say(taught)
        if self.roles["met"] and self.random() < 0.35:
            self.say("{later}, " + self.roles["met"])
        elif self.random() < 0.9:
            self.say(self.pick(endings))
        else:
            self.say("{h} remembered it for a long, long time.")
