"""Memorization: how much of the generated stories is copied from the training stories.

Also --leak, which looks for the validation stories in the training stories.
"""

import statistics
from collections.abc import Iterable
from itertools import zip_longest
from textwrap import shorten, wrap

import numpy as np

from tinystories.dataset import Dataset
from tinystories.evaluation import copies
from tinystories.evaluation.generation import read_generated, real_stories, stories_key
from tinystories.evaluation.results import Rows, number, percent, proportion_with_ci
from tinystories.evaluation.subject import Subject
from tinystories.terminal import SCREEN, counted, progress

COPY_ROUGE_L = 0.7  # the similarity at which Wang et al. 2023 (Self-Instruct) drop a text
NUM_NEAREST_SHOWN = 3  # stories that --nearest shows


def key(subject: Subject) -> dict:
    """What the result depends on."""
    max_chars, data = subject.settings.max_chars, subject.dataset().fingerprint
    return stories_key(subject) | {"max_chars": max_chars, "data": data}


def measure(subject: Subject) -> dict:
    """How much of the generated and of the real stories is in the training stories."""
    data, generated = subject.dataset(), read_generated(subject.folder)
    real = real_stories(subject, len(generated))
    texts = [story.continuation for story in generated] + real
    options = {"total": len(data.train), "unit_scale": True}
    with subject.progress(None, "copies", "tokens", **options) as bar:
        matches = copies.nearest(texts, data.folder, data.tokenizer, bar.update)
    matches, real_matches = matches[: len(generated)], matches[len(generated) :]
    pairs = list(zip(generated, matches, strict=True))
    pairs.sort(key=lambda pair: (pair[1].rouge_l, pair[1].copied_words), reverse=True)
    return {
        **copy_stats(matches),
        "closest": [
            {"prompt": story.prompt, "continuation": story.continuation, **vars(match)}
            for story, match in pairs[:NUM_NEAREST_SHOWN]
        ],
        "validation_stories": copy_stats(real_matches) if real_matches else None,
    }


def rows(result: dict) -> Rows:
    """The result in the table."""
    copied, rouge_l, rate = (result[name] for name in ("copied_words", "rouge_l", "copy_rate"))
    return {
        "Copied from training stories": {
            "longest copy, median": counted(round(copied["median"]), "word"),
            "longest copy, 95th perc.": counted(round(copied["p95"]), "word"),
            "best ROUGE-L, mean": number(rouge_l["mean"]),
            "best ROUGE-L, highest": number(rouge_l["max"]),
            f"best ROUGE-L above {rate['threshold']}": percent(rate),
        }
    }


def copy_stats(matches: list[copies.Match]) -> dict:
    """Metrics of what stories, generated or real, have in common with the training stories."""
    copied = [match.copied_words for match in matches]
    rouge_l = [match.rouge_l for match in matches]
    is_copy = [value > COPY_ROUGE_L for value in rouge_l]
    p95 = float(np.percentile(copied, 95))
    return {
        "copied_words": {"median": statistics.median(copied), "p95": p95},
        "rouge_l": {"mean": statistics.fmean(rouge_l), "max": max(rouge_l)},
        "copy_rate": {"threshold": COPY_ROUGE_L} | proportion_with_ci(is_copy),
    }


def nearest_stories(result: dict) -> str:
    """The generated stories that are most similar to training stories, next to those."""
    width = (SCREEN - 3) // 2
    lines = []
    for match in result["closest"]:
        prompt = shorten(f"PROMPT: {match['prompt']}", width, placeholder=" ...")
        score = f"ROUGE-L {match['rouge_l']:.3f}; {counted(match['copied_words'], 'word')} copied: "
        copied = shorten(match["copied_text"], SCREEN - len(score), placeholder=" ...")
        columns = [[prompt], ["NEAREST TRAINING STORY"]]
        for column, name in zip(columns, ("continuation", "nearest_story"), strict=True):
            for line in match[name].strip().splitlines():
                column += wrap(line, width) or [""]
        rows = zip_longest(*columns, fillvalue="")
        lines += ["", f"{score}{copied}", *(f"{a:{width}} | {b}".rstrip() for a, b in rows)]
    return "\n".join(lines)


def leak_table(stories: Iterable[str], data: Dataset) -> str:
    """How many validation stories are in the training stories of a dataset."""
    with progress(None, "training text", "tokens", total=len(data.train), unit_scale=True) as bar:
        leaked = copies.leak(stories, data.folder, data.tokenizer, bar.update)
    total, *counts = leaked.values()
    labels = ("entire story", "first 100 characters", "13 consecutive words")
    validation = counted(total, "validation story", "validation stories")
    lines = [f"Of {validation}, found in the training text:"]
    for label, count in zip(labels, counts, strict=True):
        lines.append(f"  {label:28}{count:9,}{100 * count / total:8.2f} %")
    return "\n".join(lines)
