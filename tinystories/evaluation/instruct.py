"""Instructions: does a story keep to the header lines that ask for it?

For records as those of TinyStories-Instruct (stories/instruct.py). The model writes a story for
each of the first headers of validation, and of what they ask for it is counted what a story has.
Beside it stand the same for the headers of other stories, which is chance, and for the stories
that the headers were written for. And how well the model predicts these stories after their header,
after that of another story, and after none: a header that is read makes its own story likelier.
"""

import json
import math
import statistics
from collections import Counter, defaultdict
from collections.abc import Sequence
from itertools import islice
from typing import Any

import numpy as np

from configurator import UserError
from tinystories import generate
from tinystories.evaluation.features import RULES
from tinystories.evaluation.results import Rows, percent, proportion_with_ci
from tinystories.evaluation.subject import Subject, Unsuitable
from tinystories.files import atomic_write, checksum
from tinystories.loss import Loss
from tinystories.stories.instruct import Record, cut_for, has_records, only_story, parse
from tinystories.stories.words import Lexicon, read_words, words_in

MAX_HEADERS = 200
MAX_SHIFTS = 20  # how many other headers each story is compared with for chance
STORIES = "evaluation_instruct.jsonl"  # in the run folder
WORDS, SENTENCE, SUMMARY = "words", "sentence", "own summary"  # the nearer of two


def key(subject: Subject) -> dict:
    """What the result depends on; raises Unsuitable for stories without headers."""
    try:
        data, s = subject.dataset(), subject.settings
    except UserError as error:
        raise Unsuitable(*error.args) from None
    if not has_records(data.first_stories()):
        raise Unsuitable(
            f"instruct: the stories of {data.folder.name} have no header lines, as those of "
            "--source=tinystories_instruct or --source=storybook --instruct have"
        )
    if len(read_records(subject, 2)) < 2:
        raise Unsuitable(f"instruct needs two records or more; {data.folder.name} has fewer")
    names = ("max_chars", "temperature", "seed")
    return {
        "data": data.fingerprint,
        "words": checksum(read_words()),
        "version": 2,  # of how a header becomes ids
        **{name: getattr(s, name) for name in names},
        **subject.machine(),
    }


def measure(subject: Subject) -> dict:
    """Write a story for each header, keep them in the run folder, and score them."""
    records = read_records(subject)
    stories = write_stories(subject, records)
    rows = [{"header": r.prompt, "story": story} for r, story in zip(records, stories, strict=True)]
    lines = [json.dumps(row, ensure_ascii=False) + "\n" for row in rows]
    atomic_write(subject.folder / STORIES, "".join(lines).encode())
    scorer = Scorer(records)
    real = scorer.shares([record.story for record in records])
    losses = story_losses(subject, records)
    return scorer.shares(stories) | {"validation_stories": real, "bits_per_byte": losses}


def rows(result: dict) -> Rows:
    """The result in the table."""
    asked = result["asked"]
    shares = {f"{name}, of {share['count']}": percent(share) for name, share in asked.items()}
    chance = {f"{name}, chance": percent(share["chance"]) for name, share in asked.items()}
    return {
        "Stories that have what their header asks for": shares,
        "The same for the headers of other stories": chance,
        "Bits per byte of the validation stories": {
            name: f"{bits:.4f}" for name, bits in result.get("bits_per_byte", {}).items()
        },
    }


def read_records(subject: Subject, count: int = MAX_HEADERS) -> list[Record]:
    """The first records of validation that have a header and a story."""
    data, tokenizer = subject.dataset(), subject.tokenizer
    found = filter(None, map(parse, data.val.stories(data.tokenizer)))
    usable = (r for r in found if r.headers and r.story and tokenizer.can_encode(r.prompt))
    return list(islice(usable, count))


def write_stories(subject: Subject, records: Sequence[Record]) -> list[str]:
    """A story of the model for each header; headers of as many tokens are a batch."""
    s, hardware, encode = subject.settings, subject.hardware, subject.tokenizer.encode
    model = generate.prepare_for_generation(subject.model.eval(), hardware)
    prompts = [cut_for(record.prompt, encode) for record in records]
    batches = defaultdict(list)
    for number, prompt in enumerate(prompts):
        batches[len(encode(prompt))].append(number)
    stories = [""] * len(records)
    with subject.progress(None, "writing to order", "stories", total=len(records)) as bar:
        for batch in batches.values():
            pieces = generate.generate_stories(
                model,
                subject.tokenizer,
                hardware,
                [prompts[number] for number in batch],
                max_new_tokens=4 * s.max_chars,  # never cuts: a character has at most 4 tokens
                sampling=generate.Sampling(s.temperature),
                seed=s.seed + batch[0],
                max_chars=s.max_chars,
            )
            written = generate.collect_stories(pieces, "", len(batch))
            for number, story in zip(batch, written, strict=True):
                stories[number] = only_story(story.text)[: s.max_chars]
            bar.update(len(batch))
    return stories


def story_losses(subject: Subject, records: Sequence[Record]) -> dict[str, float]:
    """Bits per byte of the stories of records, by the header that they are read after."""
    tokenizer = subject.tokenizer
    first = [tokenizer.first_id]
    end = [] if tokenizer.end_of_text is None else [tokenizer.end_of_text]
    stories = [tokenizer.encode(record.story) + end for record in records]
    sizes = [len(record.story.encode()) for record in records]
    # With a letter after it, the end of a header has the ids that it has in training.
    headers = [first + tokenizer.encode(f"{record.prompt}S")[:-1] for record in records]
    others = headers[1:] + headers[:1]
    losses = {}
    for name, before in {"own": headers, "another's": others, "no": [first] * len(stories)}.items():
        texts = [np.array(ids + story) for ids, story in zip(before, stories, strict=True)]
        lengths = list(map(len, before))
        found = subject.loss_per_text(texts, lengths, sizes, f"{name} header", "stories")
        losses[f"after {name} header"] = sum(found, Loss()).bits_per_byte
    return losses


class Scorer:
    """Counts what stories have of what the headers of some records ask for."""

    def __init__(self, records: Sequence[Record]):
        self.records = records
        self.lexicon = Lexicon(read_words())
        self.summaries = [words_in(record.summary) for record in records]
        real = [words_in(record.story) for record in records]
        counts = Counter(word for words in real for word in words)
        # Inverse document frequency (Spärck Jones 1972): a word of all stories says nothing.
        self.weight = {word: math.log(len(real) / n) for word, n in counts.items()}

    def shares(self, stories: Sequence[str]) -> dict[str, Any]:
        """The share of each thing asked for that the stories have, and the share by chance.

        For chance each story is held against the headers of up to 20 others.
        """
        n = len(stories)
        shifts = range(1, n, math.ceil((n - 1) / MAX_SHIFTS))
        found = [(" ".join(story.split()), words_in(story)) for story in stories]
        own, other = self.outcomes(found, 0), defaultdict(list)
        for shift in shifts:
            for name, values in self.outcomes(found, shift).items():
                other[name] += values
        asked = {
            name: proportion_with_ci(values) | {"chance": statistics.fmean(other[name])}
            for name, values in own.items()
        }
        return {"headers": n, "asked": asked}

    def outcomes(self, stories: Sequence[tuple[str, set[str]]], shift: int) -> dict[str, list]:
        """For each thing that is asked for, whether the story has it; by what is asked for.

        Args:
            stories: each as its text in one line, and its words.
            shift: story i is held against the header of record i + shift.
        """
        n, outcomes = len(stories), {name: [] for name in (WORDS, SENTENCE, *RULES, SUMMARY)}
        for i, (text, words) in enumerate(stories):
            number = (i + shift) % n
            record = self.records[number]
            outcomes[WORDS] += [self.lexicon.occurs(word, words) for word in record.words]
            if record.sentence:
                outcomes[SENTENCE].append(" ".join(record.sentence.split()) in text)
            for name in record.features:
                if name in RULES:
                    outcomes[name].append(RULES[name](text))
            if record.summary and (other := self.another_summary(number)) is not None:
                own = self.nearness(number, words)
                outcomes[SUMMARY].append(own > self.nearness(other, words))
        return {name: values for name, values in outcomes.items() if values}

    def another_summary(self, number: int) -> int | None:
        """The next record with a summary that is not this record's; None where there is none."""
        n, own = len(self.records), self.summaries[number]
        others = ((number + step) % n for step in range(1, n))
        return next((i for i in others if self.summaries[i] and self.summaries[i] != own), None)

    def nearness(self, number: int, words: set[str]) -> float:
        """How much of a record's summary is in the words of a story, from 0 to 1.

        The words that they share, each by its weight, of all words of the summary. A word that is
        in none of the real stories does not count.
        """
        weights = {word: self.weight.get(word, 0.0) for word in self.summaries[number]}
        shared = sum(weight for word, weight in weights.items() if word in words)
        return shared / (sum(weights.values()) or 1.0)
