"""How the results of an evaluation read on a screen of 80 columns.

    table(names, columns)     columns side by side, made by `run_column` and `real_column`
    closest_stories(match)    a story told beside the training story that it is closest to

The results are those that evaluate.py keeps in evaluation.json.
"""

import itertools
import textwrap

from tinystories.evaluation.judge import AGE_GROUPS

SCREEN = 80  # columns
LABEL = 29  # of these, for the labels
CELL = 17  # and for a run, at least
NAME = SCREEN - LABEL - 2  # the longest name that heads a column

Column = dict[str, dict[str, str]]  # of a table: the cell of each label, by section


def run_column(result: dict) -> Column:
    """A run: what was measured of it."""
    about = result["run"]
    column = {
        "Run": {
            "steps": count(about["step"]),
            "parameters": f"{about['parameters'] / 1e6:.2f} M",
            "vocabulary": count(about["vocabulary"]),
            "window, tokens": count(about["block_size"]),
        }
    }
    cells = {
        "loss": loss_cells,
        "pairs": pairs_cells,
        "generation": told_cells,
        "memory": memory_cells,
        "judge": judge_cells,
    }
    for part, fill in cells.items():
        if part in result:
            column |= fill(result[part])
    return column


def real_column(result: dict) -> Column:
    """Real stories, measured as those that a run told: what its figures should come close to."""
    column = {}
    if real := result.get("generation", {}).get("real"):
        column |= {TOLD: {"stories": count(real["stories"])} | words_cells(real)}
    if real := result.get("memory", {}).get("real"):
        column |= memory_cells(real)
    return column


# The cells of a column ----------------------------------------------------------------------

TOLD = "Stories told"


def loss_cells(loss: dict) -> Column:
    def rows(part: dict) -> dict[str, str]:
        return {
            "nats per token": f"{part['nats_per_token']:.4f}",
            "perplexity": f"{part['perplexity']:.3f}",
            "bits per byte": f"{part['bits_per_byte']:.4f}",
        }

    interval = loss["by_story"]["bits_per_byte_95"]
    return {
        "Validation text": {
            "sha256 of the file": loss["asked"]["sha256"][:12],
            "stories": count(loss["stories"]),
            "bytes": count(loss["bytes"]),
        },
        "Loss, all in one": rows(loss["whole"]),
        "Loss, each story by itself": rows(loss["by_story"])
        | {"95 % interval": "{:.4f}-{:.4f}".format(*interval) if interval else "n/a"},
    }


def pairs_cells(pairs: dict) -> Column:
    rows = {"all": pairs["all"]} | pairs["groups"]
    rows |= {f"at distance {number}": part for number, part in pairs["distances"].items()}
    return {
        "Story pairs right (chance 50 %)": {
            f"{group}, of {part['count']}": percent(part) for group, part in rows.items()
        }
    }


def told_cells(told: dict) -> Column:
    ended, alike = told["ended"], told["self_bleu"]
    return {
        TOLD: {"stories": count(ended["count"]), "end by themselves": percent(ended)}
        | words_cells(told)
        | {f"self-BLEU, {alike['pairs']} pairs": ratio(alike["mean"])}
    }


def words_cells(stories: dict) -> dict[str, str]:
    return {
        "words, mean": f"{stories['words']['mean']:.1f}",
        "words, median": f"{stories['words']['median']:.0f}",
        **{f"distinct-{n}": ratio(value) for n, value in stories["distinct"].items()},
        "repeated 4-grams": percent(stories["repeated_4grams"]),
        "words not in training text": percent(stories["unknown_words"]),
    }


def memory_cells(copied: dict) -> Column:
    copies = copied["copies"]
    return {
        "Copied from training stories": {
            "longest copy, median": f"{copied['copied_words']['median']:.0f} words",
            "longest copy, 95 % within": f"{copied['copied_words']['p95']:.0f} words",
            "best ROUGE-L, mean": ratio(copied["rouge_l"]["mean"]),
            "best ROUGE-L, highest": ratio(copied["rouge_l"]["max"]),
            f"best ROUGE-L above {copies['above']}": percent(copies),
        }
    }


def judge_cells(grades: dict) -> Column:
    marks = {name: f"{mean:.2f}" for name, mean in grades["means"].items()}
    ages = {f"would be {AGE_GROUPS[a]}": count(n) for a, n in grades["age_groups"].items()}
    numbers = {
        "stories judged": count(grades["answered"]),
        "unparseable answers": count(grades["unparseable"]),
        "no answer": count(grades["failed"]),
    }
    return {f"Judged by {grades['asked']['model']}, 1 to 10": marks | ages | numbers}


def count(value: int | None) -> str:
    return "n/a" if value is None else f"{value:,}"


def ratio(value: float | None) -> str:
    return "n/a" if value is None else f"{value:.3f}"


def percent(value: dict | float | None) -> str:
    """A share in percent, with its interval where it has one."""
    if value is None:
        return "n/a"
    if isinstance(value, float):
        return f"{100 * value:.2f} %"
    low, middle, high = (100 * value[name] for name in ("low", "share", "high"))
    return f"{'100' if middle == 100 else f'{middle:.1f}'} % [{low:.0f}-{high:.0f}]"


# The screen ---------------------------------------------------------------------------------


def table(names: list[str], columns: list[Column]) -> str:
    """The columns side by side, as many at a time as the screen takes."""
    names = [name if len(name) <= NAME else "..." + name[3 - NAME :] for name in names]
    width = max(CELL, *(len(name) + 2 for name in names))
    beside = (SCREEN - LABEL) // width
    lines = []
    for first in range(0, len(names), beside):
        shown = columns[first : first + beside]
        labels = {}  # of these columns, by section
        for column in shown:
            for section, rows in column.items():
                labels.setdefault(section, {}).update(rows)
        lines += ["", " " * LABEL + "".join(n.rjust(width) for n in names[first : first + beside])]
        for section, rows in labels.items():
            lines.append(section[:SCREEN])
            for label in rows:
                cells = (column.get(section, {}).get(label, "") for column in shown)
                lines.append(
                    f"  {label:{LABEL - 3}.{LABEL - 3}} "
                    + "".join(cell.rjust(width) for cell in cells)
                )
    return "\n".join(line.rstrip() for line in lines[1:])


def closest_stories(match: dict) -> str:
    """A story told beside the training story that it is closest to."""
    width = (SCREEN - 3) // 2
    told, nearest = (
        [row for line in side.strip().splitlines() for row in textwrap.wrap(line, width) or [""]]
        for side in (match["told"], match["nearest_story"])
    )
    heading = textwrap.shorten(f"TOLD: {match['beginning']}", width, placeholder=" ...")
    beside = itertools.zip_longest([heading, *told], ["NEAREST TRAINING STORY", *nearest])
    return "\n".join(
        [
            f"ROUGE-L {match['rouge_l']:.3f}; {match['copied_words']} words copied: "
            + textwrap.shorten(match["copied_text"], 60, placeholder=" ..."),
            *(f"{left or '':{width}} | {right or ''}".rstrip() for left, right in beside),
        ]
    )
