"""Rules that tell whether a story has a feature of TinyStories-Instruct, where a rule can tell.

Held against stories of TinyStories that were read and judged by hand, 70 drawn at random and, for
the rarer ones, more that a rule had found:

    Dialogue     2 of 60 were no speech but a note or a sign
    MoralValue   found 11 of 14; of 40 that it found all had one
    BadEnding    found 5 of 6; of 35 that it found 2 ended well; and one in 20 of the storybook's
                 stories, which all end well

Twist, Conflict and Foreshadowing are not a matter of words.
"""

import re

from tinystories.stories.instruct import sentences

# Something between quotation marks, with a mark at its end: a title or a name has none.
_SPEECH = re.compile(r"""["“][^"“”]*[^\W_][^"“”]*[.,!?…-]["”]""")
_MORAL = re.compile(
    r"\b(?:lessons?|moral)\b|\blearn(?:s|ed|t)? (?:something:|(?:that|not|never)\b"
    r"|the (?:importance|value)\b|to (?:always|appreciate|ask|be|follow|help|listen|never|respect"
    r"|say|share|take|think|trust|work)\b)",
    re.IGNORECASE,
)
_SAD = re.compile(
    r"\b(?:alone|angry|broken|cr(?:y|ies|ied|ying)|dead|died|disappointed|gone|hurt|lonely|lost"
    r"|mad|regretted|ruined|sad|scared|sorry|trouble|wished|too late|bad (?:day|ending))\b"
    r"|(?:\b(?:never|not)|n't) (?:\w+ )?(?:again|find|found|fun|happy)\b",
    re.IGNORECASE,
)
_GLAD = re.compile(
    r"(?<!not )(?<!n't )(?<!never )(?<!\bno )(?<!not very )\b"
    r"(?:better|enjoy\w*|excited|friends?|fun|glad|happ(?:y|ier"
    r"|ily)|hug\w*|laugh\w*|loved?|played|proud|relieved|safe|safely|saved|smil\w+|thank\w*)\b",
    re.IGNORECASE,
)
_THE_END = re.compile(r"the end\.?", re.IGNORECASE)


def has_dialogue(story: str) -> bool:
    """Whether somebody speaks, in quotation marks."""
    return bool(_SPEECH.search(story))


def has_moral(story: str) -> bool:
    """Whether one of the last five sentences names what was learned, or a moral."""
    return bool(_MORAL.search(" ".join(sentences(story)[-5:])))


def ends_badly(story: str) -> bool:
    """Whether the last three sentences have sad words and no glad ones."""
    told = [sentence for sentence in sentences(story) if not _THE_END.fullmatch(sentence)]
    end = " ".join(told[-3:])
    return bool(_SAD.search(end)) and not _GLAD.search(end)


RULES = {"Dialogue": has_dialogue, "MoralValue": has_moral, "BadEnding": ends_badly}
