"""The storybook: short children's stories generated from templates, as many as wanted.

    for text in stories(50_000):    # the same ones every time; another seed gives others
        ...

`make_story` opens an empty `World` and gives it to one of the PLOTS, a function of this file. A
plot is an outline: it chooses people, a place and things, and then goes through the events. For
each event it first changes the world with a verb, which raises an error for what is impossible,
and then writes one of several sentences. A new plot is a function here and a line in PLOTS.

All random choices use `random.Random(str)` and its `random()`, which Python keeps stable.
"""

import json
import random
import tempfile
from collections.abc import Callable, Iterator
from typing import TextIO

from tinystories.stories.cast import ANIMALS, PLACE, TABLES, Person
from tinystories.stories.world import World


def lost(w: World) -> None:
    """A small thing is lost; searching in the wrong spots fails, remembering helps."""
    h, f, p = w.hero(), w.friend(), w.somewhere(without="room")
    t = w.thing("small")
    spot, *wrong = w.some(p.spots, 3)
    near = "near the " + spot.split(" the ")[-1]
    w.cast(h=h, f=f, t=t, s=spot, s1=wrong[0], s2=wrong[1], near=near)
    w.opening(p, h, f, thing=t)
    w.say(
        "They [played tag|raced|danced] until their legs were tired, and then they sat down "
        "{near}.",
        "First they [danced|jumped] like frogs. Then they had to rest for a while {near}.",
    )
    w.lose(h, t, spot)
    w.paragraph()
    w.say(
        "[Later|After that], {h} reached into {h.his} {h.bag}. There was only a hole in it!",
        "When it was time to go, {h} felt in {h.his} {h.bag}. There was nothing in it but a hole!",
    )
    w.feel("sad", h)
    w.speak(h, "My {t} is gone!", "Oh no! I have lost my {t}!", told="The {t} was gone!")
    w.chat(f, "Do not cry. I will help you look.", "Then we will look until we find it.")
    w.tries(
        "they looked {s1} -> there was only [a sleepy beetle|some dust|an old leaf]",
        "{f} looked {s2} -> {f.he} found only [a spider|a dry leaf|half a cookie]",
    )
    w.speak(f, "Where did you last have it?", "What did we do before it was gone?")
    w.say("{h} closed {h.his} eyes and thought [hard|for a long time].")
    w.speak(
        h,
        "We sat down {near}!",
        "I had it when we sat down {near}!",
        told="Then {h.he} remembered: they had sat down {near}.",
    )
    finder = w.pick((h, f))
    w.cast(who=finder)
    w.take(finder, t)
    w.say("They ran back. And there, {s}, {who} [found|saw] the {t}!")
    if finder is f:
        w.give(f, t, h)
        w.say("{f} [picked it up and gave|handed] it to {h}.")
    w.feel("happy", h, f)
    w.chat(h, "You are the best friend in the world!", "Thank you for helping me think!")
    w.outline(
        "{h} loses {h.his} {t} {p.at}. "
        "With the help of {f}, {h.he} remembers where it is and gets it back.",
        "{h} and {f} look for {t.a} that fell through a hole in {h}'s {h.bag}, and "
        "they find it {s}.",
    )
    w.closing(
        "{h} held the {t} [tight|very tight] until bedtime.",
        "From then on, {h} checked {h.his} {h.bag} [twice|three times] a day.",
        "And the hole in the {h.bag}? {h} closed it with a [big|strong] pin that very evening.",
        lesson=(
            "{h} had learned that it is better to think first and look second.",
            "Two friends find more than one.",
        ),
    )


def stuck_high(w: World) -> None:
    """The wind blows a thing up high; jumping fails, a helper who can reach it succeeds."""
    h = w.hero("flies climbs")
    f = w.friend("flies climbs")
    p = w.somewhere("high out")
    t = w.thing("light", without="small")
    w.cast(h=h, f=f, t=t, high=p.high)
    w.opening(p, h, f, thing=t, sky="windy")
    w.lose(h, t, f"on the {p.high}")
    w.paragraph()
    w.say(
        "Whoosh! The wind took the {t} and carried it up, up, up. "
        "It came down on top of the {high} and stayed there.",
        "Suddenly the wind pulled the {t} away from {h}. It flew over their heads "
        "and got stuck on top of the {high}.",
    )
    w.feel("sad", h)
    w.speak(h, "Come down, {t.name}!", "Oh no! How will I get it back?")
    w.tries(
        "{h} jumped as high as {h.he} could -> the {high} was much higher",
        "{f} poked at it with a long stick -> the stick was too short",
        "{h} stood on the back of {f} -> they wobbled and fell down in a heap",
        "they asked the wind to blow it down -> the wind did not listen",
    )
    helper = w.animal("flies") if w.animals or w.random() < 0.6 else w.adult("tall")
    w.cast(g=helper)
    w.enter(helper)
    w.say("Just then {g.full} came [by|along] and looked up.")
    w.chat(helper, "Is that {t.a} up there?", "That is a funny place for {t.a}.")
    w.speak(f, "Can you help us?", "We cannot reach it. Can you?", told="They pointed at the {t}.")
    w.take(helper, t)
    if "adult" in helper.traits:
        w.say("{g} [brought|got] a long ladder, climbed up step by step and took the {t} down.")
    else:
        w.say("{g} flew up to the {high}, [pulled|shook] the {t} free and brought it down.")
    w.give(helper, t, h)
    w.say("{g} gave the {t} back to {h}.", "{g} held it out to {h}, with a wink.")
    w.feel("happy", h, f)
    w.chat(h, "Thank you, {g}!", "Thank you! You are so kind, {g}!")
    w.maybe("{g} bowed. It was a very good bow.")
    w.outline(
        "The wind carries the {t} of {h} up to the {high}. "
        "{h} and {f} cannot reach it, but {g} brings it down.",
        "{h} loses {h.his} {t} to the wind, and {g} helps {h.him} to get it back from the {high}.",
        features="Foreshadowing",
    )
    w.closing(
        "On the way home, {h} held on to the {t}, and {f} held on to {h}.",
        "They all sat down and laughed at the greedy wind.",
        "The wind blew again, but this time {h} was [ready|holding on].",
        lesson=("It is no shame to ask for help when a thing is too high.",),
    )


def floated(w: World) -> None:
    """A thing floats away; sticks and stones fail, someone who swims gets it back."""
    h, p = w.hero("swims"), w.somewhere("float")
    t = w.thing("floats")
    a = w.adult() if p.water == "sea" else w.animal("swims")
    w.cast(h=h, t=t, a=a, water=p.water)
    w.opening(p, h, thing=t)
    w.say(
        "{h} put the {t} on the water, and it [floated|danced] like a [leaf|little duck].",
        "{h.He} let the {t} swim at the edge of the {water}, where the water was not deep.",
    )
    w.lose(h, t, f"on the {p.water}")
    w.say("But the wind came and [pushed|carried] it far out. Soon {h} could not reach it.")
    w.feel("sad", h)
    w.paragraph()
    w.tries(
        "{h} reached out with a long stick -> the {t} was too far away",
        "{h} threw a stone behind it -> the splash only made {h.his} nose wet",
        "{h} walked into the water -> it was cold and soon too deep for {h.him}",
        "{h} blew and blew -> the {t} only turned around in a circle",
        end=False,
    )
    w.chat(h, "Please come back!", "Now it will sail away to the end of the world.")
    w.paragraph()
    w.enter(a)
    swims = "swims" in a.traits
    w.say(
        "[A head came out of the water|Something went splash]. It was {a.full}."
        if swims
        else "A [little|green] boat came along. In it sat {a}."
    )
    w.speak(a, "Why do you look so sad?", "Is that {t} yours? I almost bumped into it.")
    w.speak(
        h,
        "My {t} is out there, and it is too far for me.",
        told="{h} pointed at the {t}, far out on the {water}.",
    )
    w.chat(a, "But not for me!", "Wait here. I will be back before you can count to twenty.")
    w.take(a, t)
    w.say(
        "{a} swam out, [quick as a fish|fast and straight], and pushed the {t} to the shore."
        if swims
        else "{a} rowed out, picked the {t} out of the water and rowed back."
    )
    w.give(a, t, h)
    w.say("{h} took it and [hugged it|held it up], and it dripped on {h.his} feet.")
    w.feel("happy", h, a)
    w.speak(h, "Thank you, {a}! Do you want to play with me?", "Come and play with me, {a}!")
    w.outline(
        "{h} lets {h.his} {t} swim, and the wind carries it far out on the {water}. "
        "{a} brings it back.",
        "A {t.name} floats away from {h}, who is sad until {a} gets it out of the {water}.",
    )
    w.closing(
        "All afternoon, {h} pushed the {t} out and {a} brought it back. It was the best game ever.",
        "They tied a long string to the {t}, and it never sailed away again.",
        "When {h} went home at last, {h.he} had wet feet and a very big smile.",
        lesson=("What is hard for one is easy for another.",),
    )


def mended(w: World) -> None:
    """A toy breaks; string and honey do not hold it together, a patient adult mends it."""
    h = w.hero()
    p, t, g = w.somewhere("home" if not w.animals else ""), w.thing("toy breaks"), w.adult("mends")
    w.cast(h=h, t=t, g=g)
    w.opening(p, h, thing=t)
    w.smash(h, t)
    w.paragraph()
    w.say(
        "{h} was dancing around with the {t} when {h.he} [slipped|tripped]. Crack! "
        "The {t} broke in two.",
        "{h} ran too fast and fell over {h.his} own feet. Crack! "
        "Now there were two halves of the {t}.",
    )
    w.feel("sad", h)
    w.maybe("{h} [looked at the pieces and began to cry|sat down, and a big tear rolled down].")
    w.tries(
        "{h} tied the pieces together with string -> the string slipped off",
        "{h} stuck the pieces together with honey -> only a lot of ants liked that",
        "{h} pressed the pieces together and counted to ten -> they fell apart at eleven",
        "{h} told the pieces to hold hands -> they did not have any hands",
    )
    w.enter(g)
    w.say("{g} heard the noise and came to look.", "Then {g} came.")
    w.speak(g, "What happened here?", "Why are you so sad?")
    w.speak(
        h,
        "I broke my {t}, and I cannot make it whole again.",
        told="{h} pointed at the two halves.",
    )
    w.speak(g, "Let us try it together. It only takes good glue and time.")
    w.give(h, t, g)
    w.mend(g, t)
    w.say(
        "{g} put glue on the pieces, and {h} held them. They waited and [sang|told jokes] "
        "until the glue was dry.",
        "{h} gave {g} the pieces, one by one. {g} glued them slowly and with great care.",
    )
    w.give(g, t, h)
    w.say(
        "When {h} got the {t} back, there was a thin line where it had been broken. "
        "[It looked like a smile|It looked like a tiny river].",
    )
    w.feel("happy", h)
    w.chat(h, "I like it even more now!", "Now it has a story to tell!")
    w.outline(
        "{h} breaks {h.his} {t} {p.at} and cannot fix it. {g} helps {h.him} to mend it with glue.",
        "The {t} of {h} breaks in two, and {g} and {h} glue it together.",
    )
    w.closing(
        "After that, {h} was careful with the {t} and walked with it [very slowly|like a king].",
        "And {g} got the biggest hug of the whole week.",
        "Every time {h} saw the thin line, {h.he} thought of {g} and smiled.",
        lesson=("Broken things need time, and so do tears.",),
    )


def truth(w: World) -> None:
    """The hero breaks a borrowed thing and hides it, and feels bad until saying so."""
    h, f, p = w.hero(), w.friend(), w.somewhere(without="room")
    t, spot = w.thing("breaks"), w.pick(p.spots)
    w.cast(h=h, f=f, t=t, s=spot)
    w.opening(p, h, f)
    w.own(f, t)
    w.say("{f} had brought {t.a}.", "{f} wanted to show {h} {t.a}.")
    w.speak(f, "You may hold it while I [get a drink|eat my lunch].", "Can you hold it for me?")
    w.give(f, t, h)
    w.leave(f)
    w.say("{f} gave {h} the {t} and went away for a while.")
    w.paragraph()
    w.smash(h, t)
    w.say(
        "{h} wanted to see if {h.he} could hold it on {h.his} [nose|head]. {h.He} could not. "
        "Crack! The {t} fell down and broke.",
        "{h} threw the {t} up, just a little. Then {h.he} threw it up a little higher. "
        "Crack! It fell down and broke.",
    )
    w.feel("scared", h)
    w.lose(h, t, spot)
    w.say("Quickly, {h} hid the pieces {s}.", "{h} looked around and hid the pieces {s}.")
    w.tries(
        "{h} sang a happy song -> it did not sound happy at all",
        "{h} took a bite of a sweet cookie -> it tasted like sand",
        "{h} told {h.himself} that it did not matter -> {h.his} tummy knew better",
    )
    w.enter(f)
    w.say("Soon {f} came back.", "Then {f} came back and looked around.")
    w.speak(f, "Where is my {t}?", told="{f.He} wanted to have the {t} back.")
    w.maybe("{h} looked at {h.his} feet. They could not help {h.him}.", "{h} turned very red.")
    w.speak(
        h,
        "I broke it, and I hid it {s}. I am so sorry.",
        told="{h} took {f} by the hand and showed {f.him} where it was.",
    )
    w.take(h, t)
    w.give(h, t, f)
    w.say("{h} got the pieces and gave them to {f}.")
    w.feel("sad", f)
    w.maybe("{f} was [sad|quiet] for a while. Then {f.he} took a deep breath.")
    w.speak(
        f,
        "It was good that you told me. Will you help me mend it?",
        told="It was good that it was no secret anymore. They sat down to mend the {t}.",
    )
    w.mend(h, t)
    w.say(
        "They worked until the sun was low, and at last the {t} was whole again.",
        "It took a lot of glue and time, but then the {t} was whole again.",
    )
    w.feel("happy", h, f)
    w.outline(
        "{h} breaks the {t} of {f} and hides it. "
        "{h.He} feels bad until {f} knows it, and they mend it.",
        "{f} lends {h} {t.a}. {h} breaks it and hides the pieces {s}, but in the end they mend it.",
    )
    w.closing(
        "{h} felt as light as a feather all evening.",
        "And the next time {h} held the {t}, {h.he} sat down first.",
        "They were still friends, and maybe even better friends than before.",
        lesson=("The truth was hard to say, but it was much harder to hide.",),
    )


def shared_bite(w: World) -> None:
    """The hero meets someone hungry and, after excuses, shares a treat; the sharing is repaid."""
    h, p, t = w.hero(), w.somewhere("out wild"), w.thing("food halves")
    w.cast(h=h, t=t)
    w.place = p
    a, treat = w.animal("plants"), w.pick(("berries", "nuts", "cherries"))
    w.cast(a=a, treat=treat)
    w.opening(p, h)
    w.own(h, t)
    w.say(
        "In {h.his} {h.bag} {h.he} had {t.a}. {h.He} had been looking forward to it all morning.",
        "{h.He} had {t.a} for lunch and could hardly wait to eat it.",
    )
    w.paragraph()
    w.enter(a)
    w.say("{h} was just going to take a bite when {h.he} heard a [sniff|cough]. It was {a.full}.")
    w.act(a, "look at the food")
    w.feel("sad", a)
    w.speak(
        a,
        "I have not eaten anything today.",
        "That smells so good. I am so hungry.",
        told="{a} had not eaten anything that day.",
    )
    w.maybe("{h} held the {t} a little tighter.", "{h} hid the {t} behind {h.his} back.")
    w.tries(
        "{h} gave {a} a stick -> {a} only shook {a.his} head and coughed politely",
        "{h} gave {a} a round stone -> not even a hungry {a.kind} can eat a stone",
        "{h} told {a} a joke about soup -> it only made {a} more hungry",
        "{h} turned around so that {h.he} could not see {a} -> {h.he} could still hear a "
        "hungry tummy",
    )
    w.maybe("{h} looked at {a}, and then at the {t}.", "{h} thought about it for a moment.")
    w.speak(h, "One half for you and one half for me.", "Here, let us share it.")
    w.act(h, "share")
    w.say("{h} broke the {t} in two and gave {a} the bigger half.")
    w.eat(h, t)
    w.say("They [sat down and ate|ate] together, and it tasted better than ever.")
    w.feel("happy", h, a)
    w.speak(
        a,
        "Now I will show you a secret!",
        "Come with me. I know something you will like!",
        told="Now {a} wanted to show {h} a secret.",
    )
    w.act(a, "show a secret")
    w.say(
        "{a} led {h} behind some bushes, and there were more {treat} than they could count.",
        "{a} pushed some leaves aside. Behind them was a bush full of {treat}."
        if treat == "berries"
        else "{a} pushed some leaves aside. Behind them lay a big pile of {treat}.",
    )
    w.outline(
        "{h} meets a hungry {a.kind} named {a} and shares {t.a} with {a.him}. "
        "{a} shows {h.him} a lot of {treat}.",
        "{h} gives half of {h.his} {t.name} to {a}, who is hungry, and they become friends.",
    )
    w.closing(
        "They ate {treat} until they could only roll home.",
        "From that day on, {h} and {a} had lunch together every [day|week].",
        "{h} had come with one {t.name} and went home with a friend.",
        lesson=("Half a lunch and a friend is more than a whole lunch.",),
    )


def brave(w: World) -> None:
    """The hero overcomes a fear: not alone, but with a friend and a trick."""
    fear, where, attempt, success = w.pick(TABLES["fears"])
    h, f = w.hero(animals=False), w.friend(animals=False)
    p = PLACE[where]
    w.cast(h=h, f=f, fear=fear)
    w.opening(p, h, f)
    w.paragraph()
    w.say("{f} was having a lot of fun. But {h} was afraid of {fear}.")
    w.act(h, "face the fear")
    w.feel("scared", h)
    w.speak(f, "Come on! It is fun!", "Are you coming, too?")
    w.speak(h, "Maybe tomorrow.", "I have to tie my shoe first.", "I will only watch.")
    w.tries(
        attempt,
        "{h} closed {h.his} eyes to feel braver -> that made it even worse",
        "{h} tried to be as brave as a lion -> {h.he} felt like a very small lion",
        "{h} told {h.his} feet to be brave -> they did not listen",
    )
    w.say("{f} saw it and did not laugh. {f.He} came and sat down next to {h}.")
    w.speak(
        f,
        "I was scared the first time, too. Do you know what I did?",
        told="{f} had been scared the first time, too. Then {f.he} had held on to a friend.",
    )
    w.speak(h, "What did you do?")
    w.speak(
        f,
        "I counted to three and [shouted my own name|held on to a friend].",
        "I sang a silly song. Nobody can be afraid and silly at the same time.",
    )
    w.act(f, "hold hands")
    w.say("{f} took {h} by the hand. {h} took a deep breath.")
    w.say(success + ".")
    w.feel("happy", h)
    w.chat(h, "I did it!", "Again! Again!")
    w.outline(
        "{h} is afraid of {fear}. {f} takes {h.him} by the hand, and {h} is brave and has fun.",
        "{f} helps {h} not to be scared of {fear} anymore.",
    )
    w.closing(
        "{h} did it [nine|ten|twelve] more times, and then they had to go home for dinner.",
        "The next day, {h} saw a smaller child standing there. {h.He} knew just what to say.",
        "{h} was still a little bit afraid, but now {h.he} knew what to do about it.",
        lesson=("Being brave does not mean that you are never scared.",),
    )


def little_one(w: World) -> None:
    """A baby animal looks for its mother; after two wrong ones, listening leads to her."""
    (baby, mother, call, _), *others = w.some(TABLES["babies"], 3)
    p = w.somewhere("farm out")
    h = w.hero(without="farm")
    b = Person(f"the {baby}", baby, "it")
    answers = {Person(f"the {kind}", kind, "she"): answer for _, kind, _, answer in others}
    m = Person(f"the {mother}", mother, "she")
    w.people += [b, m, *answers]
    w.cast(h=h, b=b, m=m, call=call, baby=baby)
    w.opening(p, h)
    w.enter(b)
    w.act(b, "be lost")
    w.feel("sad", b)
    w.paragraph()
    w.say(
        "{h} heard a tiny cry. Under a [bush|cart] sat a {baby}, all alone.",
        "Something small was crying behind the [fence|gate]. It was a {baby}.",
    )
    w.speak(
        b,
        "I cannot find my mother.",
        "I ran after a butterfly, and now my mother is gone.",
        told="It could not find its mother.",
    )
    w.speak(
        h,
        "Then we will find her together.",
        "Do not be afraid. I will help you.",
        told="{h} wanted to help.",
    )
    for wrong, answer in answers.items():
        w.enter(wrong)
        w.paragraph()
        w.cast(x=wrong)
        w.note("attempt", h, f"asked {wrong}", answer)
        w.say("{h} took the {baby} to {x}.", "Soon they met {x}.", "They walked on and met {x}.")
        w.speak(h, "Is this your baby?", "Did you lose a baby?")
        w.speak(wrong, f"No, that one is not mine. {answer}", told="But it was not {x.his} baby.")
        w.leave(wrong)
    w.paragraph()
    w.say("{h} [sat down and thought|scratched {h.his} head].", "What could they do now?")
    w.speak(h, "Let us be very quiet and listen.", "We have looked. Now we should listen.")
    w.say("They were as quiet as two stones. And then, far away, they heard something.")
    w.write(f"{call}!" if w.silent else f'"{call}!"')
    w.enter(m)
    w.feel("happy", b, m)
    w.paragraph()
    w.chat(b, "That is my mother!", "I know that voice!")
    w.say("They ran [over the grass|as fast as they could], and there was {m}!")
    w.say("The {baby} cuddled up to {m} and would not let go.")
    w.chat(m, "Thank you for bringing my little one back.", "Thank you, dear {h}.")
    w.outline(
        "{h} finds a lost {baby} {p.at} and helps it to find its mother by listening.",
        "A {baby} cannot find its mother, until {h} listens and hears {m} far away.",
    )
    w.closing(
        "{h} waved until they were out of sight. The {baby} waved back with its whole body.",
        "From then on, every time {h} came by, the {baby} ran up to say hello.",
        "And the {baby} never ran away from its mother again. Well, not that day.",
        lesson=("Sometimes ears can find what eyes cannot.",),
    )


def gift(w: World) -> None:
    """Every birthday present goes wrong, until the hero gives away a favorite thing."""
    h, f = w.hero(animals=False), w.friend(animals=False)
    p, t = w.somewhere("home", "farm out"), w.thing("toy", without="wear")
    w.cast(h=h, f=f, t=t)
    w.opening(p, h, scene=False)
    w.own(h, t)
    w.say(
        "One day, {who} sat {p.at} and thought. Tomorrow was the birthday of {f}, "
        "and there was no present yet.",
        "It was a {day}, but {who} sat {p.at} and worried. {f} had a birthday the next day, "
        "and {h} had no present.",
    )
    w.act(h, "have no present")
    w.feel("sad", h)
    w.chat(h, "What could I give to {f}?", "It has to be a very good present.")
    w.paragraph()
    w.tries(
        "{h} picked some flowers -> a goat ate them, one by one, and licked its lips",
        "{h} baked a little cake -> it came out of the oven as black as a boot",
        "{h} painted a picture of {f} -> the cat walked over it with wet feet",
        "{h} wrote a song for {f} -> it had only one word, and that word was soup",
        "{h} caught a butterfly -> it looked so sad that {h.he} let it go again",
        count=w.pick((2, 3)),
    )
    w.say(
        "That night, {h} looked at {h.his} {t}. {h.He} had loved it for a long time. "
        "And then {h.he} knew.",
        "In the evening, {h} played with {h.his} {t}. {f} had always liked it. "
        "Slowly, an idea grew in {h}'s head.",
    )
    w.chat(h, "This is the one.", "Yes. That is what I will do.")
    w.enter(f)
    w.say(
        "The next day, {h} [put the {t} in a box|tied a bow around the {t}] and waited for {f}. "
        "[Soon {f} came in.|At last there was a knock at the door.]"
    )
    w.feel("happy", h)
    w.speak(h, "Happy birthday, {f}!")
    w.give(h, t, f)
    w.say("{h} gave {f} the {t}.", "{h} held out the {t}, and {f} took it.")
    w.speak(f, "But this is your {t}! You love it!", told="{f} knew how much {h} loved it.")
    w.speak(h, "Yes. That is why I am giving it to you.", "I do. But I like you even more.")
    w.feel("happy", f)
    w.maybe("{f} hugged {h}, and then {f.he} hugged the {t}, and then {h} again.")
    w.outline(
        "{h} has no present for the birthday of {f}. "
        "In the end {h.he} gives {f.him} {h.his} own {t}.",
        "{f} has a birthday, and {h} gives away the {t} that {h.he} loves.",
    )
    w.closing(
        "They played with the {t} together until it was time for cake.",
        "And the best part was that {h} could come and play with the {t} every day.",
        "When {f} went home, {h} had empty hands and a full heart.",
        lesson=("A present does not have to be new. It has to come from the heart.",),
    )


def rained_out(w: World) -> None:
    """Rain falls on a picnic; trees and umbrellas do not help, so they eat on the kitchen floor."""
    h, f = w.hero(animals=False), w.friend(animals=False)
    p, t, g = w.somewhere("soil high", "home"), w.thing("food baked"), w.adult("tall")
    w.cast(h=h, f=f, t=t, g=g)
    w.opening(p, h, f, g, scene=False)
    w.own(g, t)
    w.say(
        "One {day}, {who}, {f} and {g} wanted to have a picnic {p.at}. {g} had made {t.a}.",
        "It was a {day}. {who} and {f} went to {p} for a picnic, and {g} brought {t.a}.",
    )
    w.feel("happy", h, f)
    w.paragraph()
    w.say(
        "But as soon as they sat down, a drop fell on {h}'s nose. Then it began to rain.",
        "They had just sat down when a big gray cloud came along. Plip, plop! It began to rain.",
    )
    w.act(h, "get wet")
    w.feel("sad", h, f)
    w.speak(h, "Our picnic!", "Stop it, rain!", "Oh no! Everything is getting wet!")
    w.tries(
        "they hid under the {p.high} -> the rain dripped through and ran down their necks"
        if "tree" in p.high
        else "they hid behind a wall -> the rain came from that side, too",
        "{g} opened an umbrella -> the wind turned it inside out",
        "{f} told the clouds to go away -> the clouds called their friends",
        "they held a blanket over their heads -> soon the blanket was as heavy as a cow",
    )
    w.speak(
        g,
        "Who says that a picnic needs grass?",
        "I have an idea. Follow me!",
        told="Then {g} had an idea.",
    )
    w.scene(PLACE["kitchen"], h, f, g)
    w.say("They ran to the house with the {t.name}. {g} put a dry blanket on the kitchen floor.")
    w.maybe(
        "{h} [made a sun out of paper|put up a paper sun], and {f} [sang like a bird|buzzed like "
        "a bee].",
    )
    w.feel("happy", h, f)
    w.chat(f, "Now it is a real picnic!", "And there are no ants here!")
    w.eat(g, t)
    w.say("{g} cut the {t.name} into pieces, and they ate every crumb.")
    w.outline(
        "{h}, {f} and {g} want to have a picnic, but it rains. "
        "They eat the {t.name} on the kitchen floor.",
        "Rain falls on the picnic of {h} and {f}, so {g} takes them to the kitchen.",
    )
    w.closing(
        "Outside it rained and rained, and nobody wanted it to stop.",
        "When the sun came out, they did not even see it.",
        "After that, they had a kitchen picnic every time it rained.",
        lesson=("Rain can stop a plan, but it cannot stop friends.",),
    )


def noise(w: World) -> None:
    """A noise at night is frightening in the dark, and harmless in the light of a lamp."""
    h, f = w.hero(animals=False), w.friend(animals=False)
    g = w.adult()
    sound, guess, truth_ = w.pick(TABLES["noises"])
    p = PLACE["bedroom"]
    w.cast(h=h, f=f, g=g, sound=sound, guess=guess, later="The next evening")
    w.opening(p, h, f, scene=False)
    w.say(
        "One night, {f} [slept over|stayed] at the house of {who}. "
        "They whispered for a long time, and then the light went out.",
        "One evening, {who} and {f} were in bed {p.at}. It was dark, and they were almost asleep.",
    )
    w.paragraph()
    w.act(h, "hear a noise")
    w.write(f"{sound}!")
    w.feel("scared", h, f)
    w.speak(h, "Did you hear that?", "What was that?")
    w.speak(
        f, "It must be {guess}!", "I think it is {guess}.", told="{f} thought that it was {guess}."
    )
    w.tries(
        "they pulled the blanket over their heads -> the noise came under the blanket, too",
        "{h} put {h.his} fingers in {h.his} ears -> now {h.he} could hear it with {h.his} nose",
        "{f} told it to go away, please -> it did not know the word please",
        "they sang a loud song -> when the song was over, the noise was still there",
        end=False,
    )
    w.write(f"{sound}!")
    w.paragraph()
    w.speak(
        h,
        "I want to know what it is.",
        "We have to look, or we will never sleep again.",
        told="But {h} wanted to know what it was.",
    )
    w.say("They took [a lamp|a small light], held hands and walked on their toes toward the noise.")
    if "{g}" in truth_:
        w.enter(g)
    w.act(h, "look with a light")
    w.say("{h} held up the light.", "{h} held the light high, and {f} held on to {h}.")
    w.say("It was not {guess} at all. It was " + truth_ + ".")
    w.feel("happy", h, f)
    w.maybe("First they stared. Then they laughed so hard that they had to sit down.")
    if "{g}" in truth_:
        w.speak(g, "Would you like some, too?", "Please do not tell anybody.")
    else:
        w.speak(f, "I was not scared. Only my knees were.", "And I thought it was {guess}!")
    w.outline(
        "{h} and {f} hear a noise at night and think that it is {guess}. "
        "With a light they see that it is something else.",
        "A noise at night scares {h} and {f}, but it is not {guess} at all.",
        features="Twist",
    )
    w.closing(
        "Soon they were back in bed, and this time the only noise was a snore.",
        "Then they went back to bed and slept until the sun came up.",
        "After that, the dark was only dark, and {h} slept very well.",
        lesson=("Things seem bigger when you cannot see them.",),
    )


def seed(w: World) -> None:
    """A seed does not grow faster for what the hero tries; waiting helps."""
    h, p, g = w.hero(), w.somewhere("soil"), w.adult("grows")
    plant, size = w.pick(TABLES["plants"])
    w.cast(h=h, g=g, plant=plant, later="One evening")
    w.opening(p, h, g)
    w.say("{g} was there, too, and gave {h.him} a tiny {plant} seed.")
    w.speak(g, "Put it in the ground, give it water and wait.")
    w.say("{h} made a hole, put in the seed and [covered it up|patted the ground].")
    w.leave(g)
    w.paragraph()
    w.say(
        "The next morning, {h} came to look. There was nothing. {h.He} [hated|did not like] "
        "waiting."
    )
    w.act(h, "see nothing grow")
    w.feel("cross", h)
    w.chat(h, "Hurry up, seed!", "Why are you so slow?")
    w.tries(
        "{h} gave the seed some of {h.his} soup -> seeds do not like soup",
        "{h} dug up the seed to look at it -> it looked just the same, only colder",
        "{h} danced around it -> only {h.his} thirst grew",
        "{h} shouted at the ground -> only a worm came out to see who was so loud",
        "{h} read a story to it -> it slept right through the story",
        count=w.pick((2, 3)),
    )
    w.enter(g)
    w.say("{g} came by and saw {h}'s long face.", "Then {g} sat down next to {h.him}.")
    w.speak(h, "It does not work!", "I think my seed is broken.")
    w.speak(
        g,
        "It is working all the time, deep down where you cannot see it. Just wait.",
        told="{g} knew that a seed needs only water and time.",
    )
    w.say("So {h} gave it a little water every day, and did not dig, and did not shout.")
    w.say(
        "One day went by, then [five|six], then [nine|ten]. And one morning, there was a tiny "
        "green leaf!",
    )
    w.act(h, "see a leaf")
    w.feel("happy", h)
    w.chat(h, "It said hello!", "Look, {g}! It is here!")
    w.say(f"The {plant} grew and grew. By the end of summer, it was {size}.")
    w.outline(
        "{g} gives {h} a {plant} seed. "
        "{h} cannot wait for it to grow, but learns that it needs only water and time.",
        "{h} puts a {plant} seed in the ground, and it takes a long time to grow.",
    )
    w.closing(
        "{h} kept one seed from it. {h.He} knew now how to wait for the next one.",
        "{h} showed it to everyone who came by, even to a worm.",
        lesson=("Good things take their time.",),
    )


def bake(w: World) -> None:
    """Baking fails twice, each time for a simple reason, and then succeeds."""
    h = w.hero(animals=False)
    p = PLACE["kitchen"]
    t, g, f = w.thing("food baked"), w.adult("bakes"), w.friend(animals=False)
    w.cast(h=h, t=t, g=g, f=f)
    w.opening(p, h, g)
    w.speak(
        h,
        "I want to bake {t.a} all by myself!",
        "May I bake {t.a} for {f}?",
        told="{h} wanted to bake {t.a} all by {h.himself}.",
    )
    w.speak(
        g,
        "Go ahead. I will sit here and watch.",
        "Very well. Call me if you need help.",
        told="{g} sat down to watch.",
    )
    w.paragraph()
    w.act(h, "bake badly")
    w.tries(
        "{h} put in three spoons of salt -> it should have been sugar, and the first bite was "
        "awful",
        "{h} put the dough in the oven and began to play -> when {h.he} came back, it was as "
        "black as coal",
        "{h} mixed the dough without flour -> it ran over the table and dripped on {h.his} feet",
        "{h} put in a whole egg with its shell -> it crunched when {h.he} tried it",
        end=False,
    )
    w.feel("sad", h)
    w.chat(h, "I will never be a baker.", "Why does it not work?")
    w.maybe("{g} did not laugh. Well, only a little.", "{g} tasted it and made a very funny face.")
    w.speak(
        g,
        "Every baker has a bad day. Let us do it once more, step by step.",
        told="So {g} and {h} did it once more, step by step.",
    )
    w.paragraph()
    w.own(h, t)
    w.say(
        "This time {h} [tasted the sugar first|read every word twice] and stayed next to the oven. "
        "Soon the whole kitchen smelled [wonderful|sweet].",
        "They counted the spoons out loud. {h} watched the oven like a cat watches a mouse, "
        "and out came {t.a}.",
    )
    w.feel("happy", h)
    w.chat(h, "Look at it! It is perfect!", "We did it!")
    w.enter(f)
    w.say(
        "Then {h.his} friend {f} came by, following {f.his} nose.",
        "There was a knock. It was {h.his} friend {f}.",
    )
    w.chat(f, "What smells so good?", "Is there a party?")
    w.give(h, t, f)
    w.say("{h} handed {f} the {t.name}, and {f} cut it into three pieces.")
    w.eat(f, t)
    w.outline(
        "{h} bakes {t.a}. It goes wrong at first, but {g} helps {h.him}, and {f} eats it, too.",
        "{h} wants to bake {t.a} in the kitchen and does it well in the end, with the help of {g}.",
    )
    w.closing(
        "They ate it while it was still warm, and there was not a crumb left for a mouse.",
        "{f} ate {f.his} piece and asked for one more, and that was the best prize of all.",
        "And the first try? Even the birds said no, thank you.",
        lesson=("{h} had learned that you may fail twice and still have a sweet day.",),
    )


def unstuck(w: World) -> None:
    """A big animal is stuck and pulling fails; the smallest one has a better idea."""
    p = w.place = w.somewhere("farm out")
    h, f, a = w.hero(without="stuck tiny"), w.friend(without="stuck tiny"), w.animal("stuck")
    tiny = w.animal("tiny")
    snack = w.thing("food halves")
    hole = w.pick(("the mud", "a hole in the fence", "a narrow gate", "an old barrel"))
    w.cast(h=h, f=f, a=a, x=tiny, t=snack, hole=hole)
    w.opening(p, h, f)
    w.enter(a)
    w.feel("sad", a)
    w.paragraph()
    w.say(
        "There they met {a.full}, who was stuck in {hole}.",
        "Somebody was calling. It was {a.full}. {a.He} was stuck in {hole}!",
    )
    w.speak(a, "I cannot move at all!", "I only wanted to see what was there. Help!")
    w.tries(
        "{h} pulled with all {h.his} might -> {a} did not move",
        "{h} pulled {a}, and {f} pulled {h} -> they all fell down, and only {a} stayed where "
        "{a.he} was",
        "{f} pushed from behind -> {f.he} only got a very red face",
        count=w.pick((2, 3)),
    )
    w.enter(tiny)
    w.own(tiny, snack)
    w.say(
        "Then {x.full} came by and pulled {t.a} along behind {x.him}.",
        "Just then {x.full} came along. {x.He} was rolling {t.a} home.",
    )
    w.speak(
        tiny,
        "May I try?",
        "Let me help. I may be small, but I have an idea.",
        told="{x} wanted to help.",
    )
    w.speak(
        f,
        "But you are so tiny!",
        "You? You are smaller than {a}'s ear!",
        told="But {x} was smaller than {a}'s ear!",
    )
    w.say(
        "{x} did not pull. {x.He} only put the {t} down in front of {a}, just a little too far "
        "away."
    )
    w.lose(tiny, snack, f"in front of {a}")
    w.say(
        "{a} [sniffed|smelled it]. {a.He} stretched. {a.He} wanted it so much that "
        "{a.he} gave one big jump. Pop! {a.He} was free!"
    )
    w.take(a, snack)
    w.eat(a, snack)
    w.feel("happy", a, h, f)
    w.maybe("And the {t.name} was gone in one bite.")
    w.chat(a, "Thank you! And that was delicious.", "That was the best help I ever ate!")
    w.outline(
        "{a} the {a.kind} is stuck in {hole}. "
        "{h} and {f} cannot pull {a.him} out, but a tiny {x.kind} does it with {t.a}.",
        "Nobody can help {a}, who is stuck, until {x} has a clever idea.",
        features="Twist",
    )
    w.closing(
        "{h} laughed and clapped for {x}, who took a very small bow.",
        "From then on, when something was hard, they all asked {x} first.",
        "{a} never went near {hole} again, but {a.he} thought about that {t.name} for weeks.",
        lesson=("A clever idea can be stronger than four strong arms.",),
    )


def shiny(w: World) -> None:
    """A crow takes a shiny thing; begging fails, a fair trade succeeds."""
    h, p = w.hero("flies climbs"), w.somewhere("out high")
    t, other = w.thing("shiny"), w.thing("shiny")
    crow = next(animal for animal in ANIMALS if animal.name == "Jet")
    w.people.append(crow)
    w.cast(h=h, t=t, o=other, a=crow, high=p.high)
    w.opening(p, h, thing=t)
    w.own(h, other)
    w.lose(h, t, "beside a stone")
    w.enter(crow)
    w.take(crow, t)
    w.paragraph()
    w.say(
        "{h} put the {t} down beside a stone, only for a moment. "
        "Swoosh! Something black came down from the sky, and the {t} was gone.",
        "When {h} put the {t} down to scratch {h.his} ear, a black wing brushed {h.his} nose. "
        "Swoosh! The {t} was gone.",
    )
    w.say("It was {a.full}, and {a.he} flew up to the {high} with it.")
    w.feel("sad", h)
    w.speak(
        h, "That is mine! Give it back!", "Please give me back my {t}!", told="{h} wanted it back."
    )
    w.speak(
        crow,
        "But it shines so nicely!",
        "No. I found it, and I like it.",
        told="But {a} liked it, since it shone so nicely.",
    )
    w.tries(
        "{h} waited for {a} to come down -> {a} was in no hurry",
        "{h} tried to climb up -> {h.he} slid down again at once",
        "{h} said that the {t} was not even pretty -> {a} could see that it was",
        "{h} began to sing, very badly -> {a} liked it and asked for more",
    )
    w.say(
        "{h} sat down and thought. Then {h.he} felt something else in {h.his} {h.bag}. "
        "It was {o.a}."
    )
    w.speak(
        h,
        "I will give you my {o} for it. It shines even more.",
        told="{h} held up the {o}. It shone even more.",
    )
    w.say("{a} put {a.his} head to one side. {a.He} hopped down to look at it.")
    w.give(h, other, crow)
    w.give(crow, t, h)
    w.say(
        "Then {a} took the {o} and put the {t} into {h}'s hand."
        if not w.animals
        else "Then {a} took the {o} and put the {t} down in front of {h}, and {h} picked it up."
    )
    w.feel("happy", h, crow)
    w.speak(crow, "I never wanted to make you sad. I only like things that shine.")
    w.outline(
        "{a} the crow takes the {t} of {h} and does not give it back. {h} gets it for {o.a}.",
        "{h} loses {h.his} {t} to a crow and makes a fair trade for it.",
        features="Conflict",
    )
    w.closing(
        "From then on, {h} brought {a} something shiny every week, and {a} told {h} the news.",
        "High up on the {high}, the {o} shone like a star all evening.",
        "{h} went home with the {t}, and {a} flew home with the {o}. Both were happy.",
        lesson=("Asking is good, but a fair trade is better.",),
    )


def learn(w: World) -> None:
    """The hero learns a skill; each attempt fails for a reason, practice helps."""
    skill, where, attempts, success = w.pick(TABLES["skills"])
    h, f = w.hero(animals=False), w.friend(animals=False)
    p = PLACE[where]
    w.cast(h=h, f=f, skill=skill)
    w.opening(p, h, f)
    w.say("{f} could {skill}, and {h} wanted to learn it, too.")
    w.speak(h, "That looks easy!", "Let me try it!")
    w.paragraph()
    w.say("But it was not easy at all.", "It was not as easy as it looked.")
    w.tries(*attempts.split("; "), count=w.pick((2, 3)), end=False)
    w.feel("cross", h)
    w.speak(
        h, "I will never learn it!", "I give up! It is silly anyway!", told="{h} wanted to give up."
    )
    w.maybe("{h} sat down with {h.his} back to {f}.")
    w.paragraph()
    w.speak(
        f,
        "Do you know how often I failed before I could {skill}? A hundred times.",
        told="{f} had failed a hundred times before {f.he} could {skill}.",
    )
    w.speak(h, "A hundred times? Really?")
    w.speak(f, "Maybe a hundred and one. Come on, I will show you slowly.")
    w.act(f, "show how")
    w.say("{f} showed {h.him}, step by step. Then {h} tried again. And again. And again.")
    w.maybe("A snail came by, watched for a while and went on.", "The sun went slowly down.")
    w.say("And then it worked! " + success + ".")
    w.act(h, "succeed")
    w.feel("happy", h, f)
    w.chat(h, "Did you see that?", "I can do it! I can do it!")
    w.speak(f, "I knew it! That was wonderful!")
    w.outline(
        "{h} wants to learn to {skill}, but it is hard. {f} shows {h.him} how, and it works.",
        "{f} helps {h} to learn to {skill}.",
    )
    w.closing(
        "{h} did it until dinner time, and in {h.his} dreams, too.",
        "The next week, {h} showed it to a little boy. It was hard for him, and {h} helped him.",
        "{h} had two red cheeks and the biggest smile in town.",
        lesson=("What you cannot do yet, you can learn.",),
    )


def newcomer(w: World) -> None:
    """A newcomer is shy; loud greetings fail, playing quietly nearby helps."""
    h, f = w.hero(), w.friend()
    p, t = w.somewhere("out"), w.thing("toy pair")
    w.cast(h=h, f=f, t=t)
    w.opening(p, h, thing=t)
    w.enter(f)
    w.paragraph()
    w.act(f, "come new")
    w.feel("scared", f)
    w.say(
        "Somebody new was there, {f.a} that {h} had never seen before. {f.He} stood all alone "
        "and looked at the ground.",
        "Not far away stood {f.a}, quiet and alone. {f.He} was new and did not know anyone.",
    )
    w.speak(
        h,
        "Hello! I am {h}. Do you want to play?",
        "Hello! What is your name?",
        told="{h} waved at {f.him}.",
    )
    w.say("The {f.kind} did not say a word.", "But the {f.kind} only looked away.")
    w.tries(
        "{h} made a funny face -> the new {f.kind} hid {f.his} own face",
        "{h} sang {h.his} loudest song -> the new {f.kind} covered {f.his} ears",
        "{h} danced like a chicken -> the new {f.kind} took a step back",
        "{h} told a long joke -> {h.he} forgot the end of it",
    )
    w.say(
        "So {h} tried something else. {h.He} sat down, not too near, and played quietly with "
        "the {t}. {h.He} left a place free next to {h.him}.",
        "Then {h} stopped being loud. {h.He} sat down and played with the {t}, all by {h.himself}.",
    )
    w.say("[Step by step|Bit by bit], the new {f.kind} came closer.")
    w.give(h, t, f)
    w.say("{h} did not say anything. {h.He} just held out the {t}, and the {f.kind} took it.")
    w.feel("happy", f, h)
    w.speak(
        f,
        "My name is {f}. I like your {t}.",
        "I am {f}. Can we play together?",
        told="{f.He} was called {f}, and {f.he} liked the {t}.",
    )
    w.maybe("They played and talked, and {f} turned out to be [very funny|full of ideas].")
    w.give(f, t, h)
    w.say("When it was time to go, {f} gave the {t} back.")
    w.speak(f, "Will you be here tomorrow?", "See you tomorrow?")
    w.speak(h, "Yes! And the day after tomorrow, too.", "Of course! I will save you a place.")
    w.outline(
        "A new {f.kind} named {f} is shy. "
        "{h} plays quietly with {h.his} {t}, and they become friends.",
        "{h} makes friends with {f}, who is new, by being quiet.",
    )
    w.closing(
        "The next day, {f} was there first, and now it was {h} who had to run.",
        "Soon {f} was so loud that {h} had to laugh.",
        "And that is how {h} and {f} became friends.",
        lesson=("Some friends you find by being quiet.",),
    )


def heavy(w: World) -> None:
    """A thing is too heavy to carry, but round things roll and others slide."""
    h, f, p = w.hero(), w.friend(), w.somewhere("out soil")
    g, t = w.adult(), w.thing("heavy", without="cold")
    w.cast(h=h, f=f, g=g, t=t)
    w.opening(p, h)
    w.own(h, t)
    w.say(
        "There {h} found {t.a}. It had no owner, and it would be a wonderful gift for {g}.",
        "There lay {t.a}. {g} had told {h.him} to bring it home.",
    )
    w.paragraph()
    w.say("But the {t.name} was very heavy.", "But it was not a light {t.name}.")
    w.act(h, "try to lift")
    w.tries(
        "{h} tried to lift it -> only {h.his} own feet left the ground",
        "{h} pulled it with a rope -> the rope broke and {h.he} sat down with a bump",
        "{h} asked it nicely to come along -> it was not that kind of {t.name}",
        "{h} tried to carry it on {h.his} back -> it was as heavy as an elephant",
        end=False,
    )
    w.feel("sad", h)
    w.enter(f)
    w.say("Then {f.full} came along.", "Along came {h.his} friend {f.full}.")
    w.speak(f, "What are you doing?", "Why is your face so red?")
    w.speak(h, "I want to bring this to {g}, but I cannot lift it.")
    w.say("They tried to lift it together, but they got it only as high as a mouse.")
    w.paragraph()
    w.say("{f} sat down on the {t.name} to rest. It moved a little. {h} saw it and jumped up.")
    w.speak(
        h,
        "It is round! We do not have to lift it. We can roll it!",
        told="It was round, so they did not have to lift it. They could roll it!",
    )
    w.act(h, "have an idea")
    w.say(
        "They gave it a push, and it rolled [slowly over the grass|along the road] like a "
        "[fat|sleepy] sheep."
    )
    w.maybe("Once it rolled over the hat of a scarecrow.", "A duck had to jump out of the way.")
    w.feel("happy", h, f)
    w.scene(p, h, f, g)
    w.give(h, t, g)
    w.say("At last they rolled it up to {g}.", "So they brought it to {g}, who was very surprised.")
    w.speak(g, "How did two little ones move such a heavy {t.name}?", "Did a giant help you?")
    w.speak(f, "We did not carry it. We thought about it!", "It walked. Well, almost.")
    w.outline(
        "{h} wants to bring {t.a} to {g}, but it is too heavy. {h} and {f} roll it there.",
        "{h} and {f} find out that a heavy {t.name} can be rolled, and take it to {g}.",
    )
    w.closing(
        "{g} laughed and gave each of them a big hug and a small cookie.",
        "That night, {h} and {f} both dreamed that they were rolling down a hill.",
        "Then they all sat down on the {t.name} and looked at the sky."
        if t.name in ("log", "barrel")
        else "It was the biggest {t.name} that {g} had ever been given.",
        lesson=("When strong arms are not enough, try a good idea.",),
    )


def turns(w: World) -> None:
    """Two friends fight over a toy until it falls into the mud, then invent a game for both."""
    h, f, p = w.hero(), w.friend(), w.somewhere("soil")
    t = w.thing("toy pair")
    w.cast(h=h, f=f, t=t)
    w.opening(p, h, f, thing=t)
    w.paragraph()
    w.say(
        "Both of them wanted to play with the {t}.",
        "{f} wanted to play with it, too. But there was only one {t.name}.",
    )
    w.speak(f, "Now it is my turn!", "Let me have it now!")
    w.speak(h, "No, I am not done yet!", "But it is mine!")
    w.lose(h, t, "in the mud")
    w.say(
        "{h} pulled, and {f} pulled. Plop! The {t} fell into the mud.",
        "They pulled and pulled until both of them fell down. The {t} landed in the mud.",
    )
    w.feel("cross", h, f)
    w.maybe("{h} sat down on one side of the mud and {f} on the other side. Nobody talked.")
    w.tries(
        "{h} tried to play alone -> it is no fun to hide when nobody looks for you",
        "{f} told a joke to a tree -> the tree did not laugh",
        "they played a game of being quiet -> that game had no winner",
    )
    w.maybe("A frog came out of the mud, looked at them and went back in.")
    w.act(h, "think it over")
    w.feel("sorry", h, f)
    w.speak(
        h,
        "I am sorry that I pulled.",
        "It is so boring without you.",
        told="{h} was sorry that {h.he} had pulled.",
    )
    w.speak(
        f,
        "I am sorry, too. Let us wash it.",
        "Me too. The poor {t.name} is all dirty.",
        told="{f} was sorry, too.",
    )
    w.take(f, t)
    w.say("{f} picked up the {t}, and together they washed it until it was clean.")
    w.chat(f, "Ten minutes for you and ten minutes for me?", "How can two play with one {t.name}?")
    w.act(h, "make up a game")
    w.feel("happy", h, f)
    w.speak(
        h,
        "I have an idea. Let us make up a game for two!",
        told="Then {h} thought of a game for two.",
    )
    w.say(
        "In the new game, {h} was a [king|pirate|doctor], {f} was a [dragon|captain|horse], and "
        "the {t} was a treasure that they had to bring home together.",
        "They pretended that the {t} was a [lost child|sick lion], and both of them took care "
        "of it.",
    )
    w.give(f, t, h)
    w.say("In the end, {f} handed the {t} back to {h}.")
    w.outline(
        "{h} and {f} both want the {t}, and it falls into the mud. "
        "They are sorry and make up a game for two.",
        "{h} and {f} fight over {t.a}, until they find a way to play with it together.",
        features="Conflict",
    )
    w.closing(
        "And they never pulled at it again. Well, almost never.",
        "It was such a good game that they played it again the next day, and the next.",
        "{h} and {f} went home side by side, and a little muddy.",
        lesson=("One toy is enough when you play together.",),
    )


PLOTS: tuple[Callable[[World], None], ...] = (
    *(lost, stuck_high, floated, mended, truth, shared_bite, brave, little_one, gift, rained_out),
    *(noise, seed, bake, unstuck, shiny, learn, newcomer, heavy, turns),
)


def make_story(index: int, seed: int = 0) -> World:
    """Generate story number `index` of a seed; its text and facts are in the world it leaves."""
    world = World(random.Random(f"storybook {seed} {index}"))
    plot = world.pick(PLOTS)
    world.plot = plot.__name__
    plot(world)
    return world


def stories(count: int, seed: int = 0) -> Iterator[str]:
    """Yield stories 0 to count - 1 of a seed; each depends only on (seed, index)."""
    for index in range(count):
        yield make_story(index, seed).text


class Storybook:
    """`make(count)`, made once: what is read to the end is kept in a temporary file."""

    def __init__(self, count: int, make: Callable[[int], Iterator[str]] = stories):
        self.count, self.make = count, make
        self.file: TextIO | None = None

    def __call__(self) -> Iterator[str]:
        if self.file:
            self.file.seek(0)
            yield from map(json.loads, self.file)
            return
        file = tempfile.TemporaryFile("w+", encoding="utf-8")
        for text in self.make(self.count):
            file.write(json.dumps(text) + "\n")
            yield text
        self.file = file
