"""Generated stories: stories for many prompts, kept in the run folder, and their diversity.

All metrics are of the continuations, without the prompts.
"""

import json
import re
import statistics
from itertools import islice
from pathlib import Path
from typing import NamedTuple

from configurator import ROOT
from tinystories import generate
from tinystories.evaluation import diversity
from tinystories.evaluation.results import Rows, number, percent, proportion_with_ci
from tinystories.evaluation.subject import Subject, Unsuitable, numbered_lines
from tinystories.files import atomic_write, checksum, sha256_of

PROMPTS = ROOT / "prompts" / "prompts.txt"
STORIES = "evaluation_stories.jsonl"  # in the run folder
FIRST_SENTENCE = re.compile(r".*?[.!?][\"”’')]*\s+", re.DOTALL)


class GeneratedStory(NamedTuple):
    """A story that the model generated."""

    prompt: str
    continuation: str
    ended: bool  # by the model


def read_prompts(path: str | Path = PROMPTS) -> list[str]:
    """Read prompts, one per line, without the spaces around them."""
    return [line for _, line in numbered_lines(path, "prompt")]


def key(subject: Subject) -> dict:
    """What the result depends on."""
    s = subject.settings
    names = ("samples_per_prompt", "max_chars", "temperature", "seed")
    return {
        "prompts": checksum(read_prompts(s.prompts or PROMPTS)),
        "data": subject.data and subject.data.fingerprint,
        **{name: getattr(s, name) for name in names},
        **subject.machine(),
        **stories_key(subject),
    }


def stories_key(subject: Subject) -> dict:
    """The checksum of the generated stories, in the key of every part that is about them.

    Raises Unsuitable where the model can begin none of them.
    """
    prompts = read_prompts(subject.settings.prompts or PROMPTS)
    if not any(map(subject.tokenizer.can_encode, prompts)):
        raise Unsuitable("no prompt can be written in the characters of this vocabulary")
    path = subject.folder / STORIES
    return {"stories_sha256": sha256_of(path) if path.is_file() else None}


def measure(subject: Subject) -> dict:
    """Generate stories for all prompts, write them to the run folder, and measure them."""
    count = subject.settings.samples_per_prompt
    generated = generate_for_prompts(subject)
    lines = [
        json.dumps({"beginning": p, "story": p + text, "ended": ended}, ensure_ascii=False) + "\n"
        for p, text, ended in generated
    ]
    atomic_write(subject.folder / STORIES, "".join(lines).encode())
    stories = [diversity.words(story.continuation) for story in generated]
    groups = [stories[first : first + count] for first in range(0, len(stories), count)]
    vocabulary = None
    if subject.data:
        data, splits = subject.data, (subject.data.meta or {}).get("splits", {})
        total = splits.get("train", {}).get("stories")  # unknown in a .bin of another repo
        training = data.train.stories(data.tokenizer)
        options = {"total": total, "unit_scale": True}
        bar = subject.progress(training, "training words", "stories", **options)
        vocabulary = diversity.vocabulary(bar)
    real = [diversity.words(story) for story in real_stories(subject, len(generated))]
    real_stats = {"stories": len(real)} | word_stats([real], vocabulary) if real else None
    return {
        "ended": proportion_with_ci([story.ended for story in generated]),
        **word_stats(groups, vocabulary),
        "validation_stories": real_stats,
    }


def rows(result: dict) -> Rows:
    """The result in the table; that of real stories has no "ended"."""
    ended = result.get("ended")
    shown = {
        "stories": number(ended["count"] if ended else result["stories"]),
        "words, mean": f"{result['words']['mean']:.1f}",
        "words, median": f"{result['words']['median']:.0f}",
        **{f"distinct-{n}": number(value) for n, value in result["distinct"].items()},
        "repeated 4-grams": percent(result["seq_rep_4"]),
        "words not in training text": percent(result["oov_rate"]),
    }
    if "self_bleu" in result:  # of real stories, earlier versions did not measure it
        shown["self-BLEU"] = number(result["self_bleu"]["mean"])
    if ended:
        shown["reached end of text"] = percent(ended)
    return {"Generated stories": shown}


def word_stats(groups: list[list[list[str]]], vocabulary: set[str] | None) -> dict:
    """Metrics of the words of stories, generated or real, in groups of the same prompt.

    Real stories are one group. They have no prompt in common, so their self-BLEU is that of
    independent stories: a model that is as diverse for each prompt comes close to it.
    """
    stories = [story for group in groups for story in group]
    self_bleu, pairs = diversity.self_bleu(groups)
    lengths = [len(story) for story in stories]
    repeated = [rate for rate in map(diversity.seq_rep_n, stories) if rate is not None]
    return {
        "self_bleu": {"mean": self_bleu, "pairs": pairs},
        "words": {"mean": statistics.fmean(lengths), "median": statistics.median(lengths)},
        "distinct": {n: diversity.distinct(stories, int(n)) for n in "123"},
        "seq_rep_4": statistics.fmean(repeated) if repeated else None,
        "oov_rate": diversity.oov_rate(stories, vocabulary) if vocabulary else None,
    }


def generate_for_prompts(subject: Subject) -> list[GeneratedStory]:
    """Generate stories for each prompt, one batch per prompt.

    The default temperature is 1, with which the metrics describe the model's own distribution;
    the 0.8 of sample.py makes fewer mistakes and less diverse stories.
    """
    s, hardware = subject.settings, subject.hardware
    model = generate.prepare_for_generation(subject.model.eval(), hardware)
    prompts = list(filter(subject.tokenizer.can_encode, read_prompts(s.prompts or PROMPTS)))
    stories = []
    for i, prompt in enumerate(subject.progress(prompts, "generating", "prompts")):
        pieces = generate.generate_stories(
            model,
            subject.tokenizer,
            hardware,
            prompt,
            s.samples_per_prompt,
            max_new_tokens=4 * s.max_chars,  # never cuts: a character has at most 4 tokens
            sampling=generate.Sampling(s.temperature),
            seed=s.seed + i,
            max_chars=s.max_chars,  # tokens would give small vocabularies shorter stories
        )
        for story in generate.collect_stories(pieces, prompt, s.samples_per_prompt):
            text = story.text[len(prompt) :]
            ended = story.ended and len(text) <= s.max_chars
            stories.append(GeneratedStory(prompt, text[: s.max_chars], ended))
    return stories


def read_generated(folder: Path) -> list[GeneratedStory]:
    """The stories that `measure` wrote."""
    with open(folder / STORIES, encoding="utf-8") as file:
        lines = [json.loads(line) for line in file]
    return [
        GeneratedStory(row["beginning"], row["story"][len(row["beginning"]) :], row["ended"])
        for row in lines
    ]


def _without_first_sentence(story: str) -> str:
    """A story after its first sentence; one of a single sentence is taken whole."""
    first = FIRST_SENTENCE.match(story)
    return story[first.end() :] if first else story


def real_stories(subject: Subject, count: int) -> list[str]:
    """The first validation stories, each without its first sentence, at most max_chars long.

    They are comparable to what a model writes after the first sentence.
    """
    if subject.data is None:
        return []
    stories = subject.data.val.stories(subject.data.tokenizer)
    continuations = map(_without_first_sentence, stories)
    max_chars = subject.settings.max_chars
    return [story[:max_chars] for story in islice(filter(None, continuations), count)]
