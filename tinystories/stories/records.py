"""The storybook's stories as records of TinyStories-Instruct: see instruct.py for the form.

    for text in records(50_000):    # the same ones every time; another seed gives others
        ...

What a header asks for is true of its story: its words stand there as a verb, a noun and an
adjective, its features are all that the story has, its summary is by the plot, and its sentence is
one of the story's. Half of the stories have no dialogue and half of them no moral, since a model
learns from the difference what these features mean; the others have dialogue from the beginning, as
that is learned sooner.
"""

import random
from collections.abc import Iterator
from functools import cache

from tinystories.stories import instruct
from tinystories.stories.storybook import PLOTS
from tinystories.stories.words import KINDS, Lexicon, read_words, words_in
from tinystories.stories.world import World

SHARE = {"Words": 0.7, "Features": 0.8, "Summary": 0.6, "Random sentence": 0.25}
# Never asked for: words that a third of the stories have, which say nothing,
COMMON = (
    "come go sit take look learn lesson give ask want run hold tell walk make bring "
    "day time morning friend home girl boy good little big small"
)
# and words that are often of another kind in these stories, as an adverb.
UNSURE = (
    "back well show sound side orange first next far near fast many half mean kind fun other "
    "second late right bite hard high straight deep tight enough alone sudden same rubber free"
)
EXCLUDED = {*COMMON.split(), *UNSURE.split()}


@cache
def _lexicon() -> Lexicon:
    return Lexicon(read_words())


def make_record(index: int, seed: int = 0) -> str:
    """Record number `index` of a seed."""
    rng = random.Random(f"storybook record {seed} {index}")
    silent, moral = rng.random() < 0.5, rng.random() < 0.5
    world = World(rng, silent=silent, moral=moral)
    world.brief = True  # so that most records fit into a window of 256 tokens
    plot = world.pick(PLOTS)
    plot(world)
    values = {
        "Words": ", ".join(some_words(world)),
        "Features": ", ".join(features(world)),
        "Summary": world.pick(world.summaries),
        "Random sentence": world.pick(instruct.sentences(world.text)),
    }
    wanted = [name for name in values if values[name] and world.random() < SHARE[name]]
    names = wanted or ["Summary"]
    ordered = world.some(names, len(names))
    return instruct.write({name: values[name] for name in ordered}, world.text)


def some_words(world: World) -> list[str]:
    """A verb, a noun and an adjective of the story, where it has one."""
    names = {word for person in world.people for word in words_in(person.name)}
    found = _lexicon().certain(words_in(world.text) - names)
    choices = [[word for word in found[kind] if word not in EXCLUDED] for kind in KINDS]
    return [world.pick(words) for words in choices if words]


def features(world: World) -> list[str]:
    """The features of the story, in random order."""
    has = {"Dialogue": not world.silent, "MoralValue": bool(world.moral)}
    names = [name for name, holds in has.items() if holds] + world.features
    return world.some(names, len(names))


def records(count: int, seed: int = 0) -> Iterator[str]:
    """Yield records 0 to count - 1 of a seed; each depends only on (seed, index)."""
    for index in range(count):
        yield make_record(index, seed)
