"""Who and what occurs in the storybook's stories: people, animals, things, places and habits.

To add someone or something, add a row to a table; the stories of every seed change with it.
"""

from __future__ import annotations

from dataclasses import dataclass

GIRLS = "Lily Mia Anna Rosa Nora Ella Zoe Ruby Maya Ivy Lucy Sara"
BOYS = "Tom Ben Max Leo Sam Jack Finn Omar Noah Theo Adam Luca"

# name | kind | pronoun | what it can do, what it eats, where it lives
# (lead: may be the hero of a story)
ANIMAL_TABLE = """
Pip    | mouse    | he  | lead tiny plants woods farm
Midge  | mouse    | she | tiny plants woods farm town
Dot    | duck     | she | lead swims flies water farm
Olly   | otter    | he  | lead swims water
Hop    | frog     | he  | lead swims tiny water
Tilly  | turtle   | she | lead swims water
Hazel  | squirrel | she | lead climbs plants woods town
Bruno  | bear     | he  | strong plants woods
Clover | rabbit   | she | lead plants woods farm
Rex    | dog      | he  | digs town farm
Misty  | cat      | she | climbs town farm
Gus    | goat     | he  | lead plants stuck farm
Daisy  | cow      | she | strong plants stuck farm
Star   | pony     | he  | strong plants stuck farm
Bella  | sheep    | she | plants stuck farm
Percy  | pig      | he  | lead plants stuck farm
Jet    | crow     | he  | flies town woods farm
Peep   | sparrow  | she | flies town woods farm
Spike  | hedgehog | he  | lead plants woods town
Milo   | mole     | he  | lead digs woods
Ruddy  | fox      | he  | lead woods
Fern   | deer     | she | plants woods
Pearl  | swan     | she | swims flies water
Chip   | beaver   | he  | lead swims water
Bram   | badger   | he  | lead digs woods
"""

# The adults in stories about children, then those in stories about animals.
ADULT_TABLE = """
Mom        | woman  | she | people bakes grows tall
Dad        | man    | he  | people mends bakes tall
Grandma    | woman  | she | people bakes grows
Grandpa    | man    | he  | people mends grows
Aunt May   | woman  | she | people mends bakes tall
Uncle Bob  | man    | he  | people mends tall
Miss Reed  | woman  | she | people bakes grows tall
Farmer Joe | man    | he  | people mends grows tall
Old Owl    | owl    | he  | animals flies grows
Mama Bear  | bear   | she | animals bakes grows
Papa Otter | otter  | he  | animals mends
Granny Goat| goat   | she | animals bakes grows mends
"""

# name | looks (one is chosen and stays) | what it is like. small: fits a pocket; light: the
# wind can take it; shiny: a crow may like it; halves: can be eaten by two.
THING_TABLE = """
ball         | red blue green yellow   | toy floats pair rolls
kite         | red blue yellow purple  | toy light high
balloon      | red blue green orange   | light
paper plane  | white yellow green      | toy light high
ribbon       | pink red blue           | small light
scarf        | red blue green          | light wear
straw hat    | yellow brown            | light wear
cap          | red blue green          | light wear pair
paper boat   | white blue red          | toy floats
toy boat     | red blue yellow         | toy floats breaks pair
toy ship     | white brown             | toy floats breaks
rubber duck  | yellow                  | toy floats
wooden fish  | blue green              | toy floats
bucket       | red blue green          | tool floats pair
toy car      | red blue green          | toy small breaks rolls pair
toy train    | red green black         | toy breaks rolls pair
toy horse    | brown white black       | toy breaks pair
toy robot    | silver blue             | toy breaks pair
drum         | red blue                | toy breaks pair
doll         | little tiny             | toy breaks pair
teddy bear   | brown white             | toy pair soft
wagon        | red blue                | toy rolls pair
puppet       | red green yellow        | toy breaks pair
music box    | silver blue             | toy breaks
cup          | blue white yellow       | tool breaks
teapot       | blue white              | tool breaks
bowl         | yellow blue             | tool breaks
vase         | green white             | breaks
lamp         | green yellow            | tool breaks
clock        | blue white              | tool breaks
marble       | green blue red          | toy small shiny rolls
coin         | gold silver             | small shiny
key          | gold silver             | small shiny tool
ring         | gold silver             | small shiny wear
bell         | gold silver             | small shiny
button       | gold silver             | small shiny
spoon        | silver gold             | small shiny tool
whistle      | silver gold             | small shiny toy
star pin     | gold silver             | small shiny wear
shell        | pink white              | small
feather      | white blue              | small light
stone        | round smooth            | small
acorn        | round brown             | small
mitten       | red blue green          | small wear soft
top          | red yellow              | toy small
brush        | yellow blue             | tool small
crayon       | red blue green          | tool small
book         | blue green red          | pair
rope         | long yellow             | toy pair
blanket      | blue green              | soft
puzzle       | new big                 | toy pair
apple        | red green yellow        | food plant halves
pear         | green yellow            | food plant halves
carrot       | big orange              | food plant halves
plum         | purple big              | food plant halves
banana       | yellow big              | food plant halves
bun          | warm brown              | food plant halves
peach        | soft big                | food plant halves
cake         | big round               | food baked
pie          | big round               | food baked
loaf         | big brown               | food baked
pancake      | big round               | food baked
muffin       | big brown               | food baked
pumpkin      | big orange              | heavy rolls
melon        | big green               | heavy rolls
barrel       | big brown               | heavy rolls
snowball     | big white               | heavy rolls cold
log          | long brown              | heavy rolls
"""

# name | preposition | what it is like | spots for small things | high spot | water
PLACE_TABLE = """
park       | in | out town | under bench; behind fountain; in tall grass | oak tree |
garden     | in | out home town wild soil | under bush; between beans; behind shed | apple tree |
yard       | in | out home town soil | under steps; behind fence; in sandbox | roof |
playground | on | out town | under slide; beside swing; in sandbox | old tree |
kitchen    | in | home | under table; behind stove; beside sink |  |
bedroom    | in | home | under bed; behind curtain; inside toy box |  |
attic      | in | home | behind old trunk; under dusty chair; beside ladder |  |
library    | in | room | under desk; behind tall shelf; beside globe |  |
classroom  | in | room | under desk; behind door; beside fish tank |  |
bakery     | in | room | under counter; behind flour sack; beside oven |  |
market     | at | out town | under fruit cart; behind barrel; beside well | church roof |
beach      | on | out | under beach chair; between rocks; behind sand castle |  | sea
harbor     | at | out | under net; behind crate; beside old boat |  | sea
forest     | in | out woods wild | under fern; between roots; behind tree stump | pine tree |
meadow     | in | out woods farm wild soil | in clover; under bush; behind gray rock | birch tree |
hill       | on | out woods wild soil | under bush; between rocks; in tall grass | lonely tree |
farm       | on | out farm wild soil | behind gate; under cart; in hay | barn roof |
barn       | in | farm wild | in hay; under ladder; behind milk can |  |
orchard    | in | out farm woods wild soil | under basket; in grass; behind ladder | cherry tree |
pond       | by | out water wild | in reeds; under willow; behind gray rock | willow tree | pond
river      | by | out water wild | under bridge; between rocks; in reeds |  | river
lake       | by | out water wild | under old boat; in reeds; behind log |  | lake
"""

# a habit of the hero | how the story comes back to it at the end
HABIT_TABLE = """
made up songs about soup | {h} made up a new song about soup. It was a very long song.
talked to stones | {h} told a stone the whole story. It was a very good listener.
counted everything twice | {h} counted {h.his} toes twice. They were all there.
asked a hundred questions a day | {h} had only one question left: what was for dinner?
hopped on one leg to think better | {h} hopped on one leg, just to think about it all again.
talked to snails | {h} told a snail all about it. The snail was late for dinner.
liked to walk backward | {h} walked backward all the way to bed.
laughed at {h.his} own jokes | {h} made a joke about it and laughed before it was over.
waved at every bird | {h} waved at a bird, and the bird almost waved back.
had a name for every cloud | {h} saw a round little cloud and named it Potato.
could yawn like a lion | {h} yawned like a lion, and then it was very quiet.
liked to smell things before looking at them | {h} said that the day had smelled of luck.
said good night to the moon | {h} wished the moon good night, and a good dinner, too.
liked to do things the long way | {h} went to bed the long way, three times around the table.
"""


@dataclass(frozen=True, eq=False)
class Person:
    """Someone in a story: a child, an animal or an adult, with the words for them in templates."""

    name: str
    kind: str
    he: str  # or "she"
    traits: frozenset[str] = frozenset()

    @property
    def him(self) -> str:
        return "him" if self.he == "he" else "her"

    @property
    def his(self) -> str:
        return "his" if self.he == "he" else "her"

    @property
    def himself(self) -> str:
        return self.him + "self"

    @property
    def He(self) -> str:
        return self.he.title()

    @property
    def His(self) -> str:
        return self.his.title()

    @property
    def a(self) -> str:
        """Such as "a boy" or "an otter"."""
        return f"{'an' if self.kind[0] in 'aeiou' else 'a'} {self.kind}"

    @property
    def is_animal(self) -> bool:
        return self.kind not in ("girl", "boy", "woman", "man")

    @property
    def full(self) -> str:
        """The name, with the kind of an animal that is no adult."""
        named = self.is_animal and "adult" not in self.traits
        return f"{self.name} the {self.kind}" if named else self.name

    @property
    def bag(self) -> str:
        """Where small things are kept."""
        return "bag" if self.is_animal else "pocket"

    def __str__(self) -> str:
        return self.name


@dataclass(frozen=True, eq=False)
class Thing:
    """Something that can be held. Its look belongs to it and never changes."""

    name: str
    look: str
    traits: frozenset[str]

    def __str__(self) -> str:
        return f"{self.look} {self.name}"

    @property
    def a(self) -> str:
        """The thing with its indefinite article, such as "a red ball"."""
        return f"{'an' if self.look[0] in 'aeiou' else 'a'} {self}"


@dataclass(frozen=True)
class Place:
    """Where a scene takes place."""

    name: str
    preposition: str
    traits: frozenset[str]
    spots: tuple[str, ...]
    high: str
    water: str

    def __str__(self) -> str:
        return f"the {self.name}"

    @property
    def at(self) -> str:
        """Such as "in the park"."""
        return f"{self.preposition} the {self.name}"


def table_rows(table: str) -> list[list[str]]:
    """The rows of a table, each a list of cells without the spaces around them."""
    return [[cell.strip() for cell in line.split("|")] for line in table.strip().splitlines()]


def _people(table: str, *more: str) -> tuple[Person, ...]:
    return tuple(
        Person(n, k, he, frozenset([*t.split(), *more])) for n, k, he, t in table_rows(table)
    )


def _place(name: str, prep: str, traits: str, spots: str, high: str, water: str = "") -> Place:
    marks = [*traits.split(), *(["high"] if high else []), *(["float"] if water else [])]
    return Place(
        name,
        prep,
        frozenset(marks),
        tuple(spot.replace(" ", " the ", 1) for spot in spots.split("; ")),
        high,
        water,
    )


CHILDREN = tuple(Person(n, "girl", "she") for n in GIRLS.split()) + tuple(
    Person(n, "boy", "he") for n in BOYS.split()
)
ANIMALS = _people(ANIMAL_TABLE)
ADULTS = _people(ADULT_TABLE, "adult")
PEOPLE = CHILDREN + ANIMALS + ADULTS
THING_ROWS = tuple(
    (n, tuple(looks.split()), frozenset(t.split())) for n, looks, t in table_rows(THING_TABLE)
)
PLACES = tuple(_place(*row) for row in table_rows(PLACE_TABLE))
HABITS = tuple((habit, echo) for habit, echo in table_rows(HABIT_TABLE))
HABITATS = frozenset(["woods", "farm", "water", "town"])
