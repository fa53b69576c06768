"""LLM-as-a-judge scores of generated stories, from any OpenAI-compatible endpoint.

The TinyStories paper (Eldan and Li 2023, arXiv 2305.07759, section 3) showed GPT-4 the prompt and
the continuation as an exercise of a student, and asked for grades from 1 to 10 and the student's
age group. So do we, in our own words, and in a form that a program can parse.
"""

import json
import re
import threading
from collections import Counter
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor, as_completed
from pathlib import Path
from statistics import fmean

from configurator import ROOT, UserError
from tinystories.endpoint import MAX_CONSECUTIVE_FAILURES, Endpoint, RequestFailed
from tinystories.evaluation.generation import read_generated, stories_key
from tinystories.evaluation.results import Rows, number
from tinystories.evaluation.subject import Subject
from tinystories.files import checksum
from tinystories.stories.words import read_text
from tinystories.terminal import counted, log_stderr, progress, wrapped

GRADES = ("grammar", "creativity", "consistency", "plot")
AGE_GROUPS = {"A": "3 or under", "B": "4-5", "C": "6-7", "D": "8-9", "E": "10-12", "F": "13-16"}

# The example in judge.txt is not valid JSON, so that an answer that repeats it does not count.
# Answers are cached by the prompt: another wording asks for all of them again.
PROMPT = ROOT / "prompts" / "judge.txt"


def key(subject: Subject) -> dict:
    """What the result depends on; raises UserError for a prompt of another form."""
    s = subject.settings
    values = {
        "model": Endpoint(s.judge_url, s.judge_model).model,
        "prompt": checksum(prompt("", "")),
    }
    return stories_key(subject) | values


def measure(subject: Subject) -> dict:
    """Have the generated stories graded; the answers are kept in the run folder."""
    s = subject.settings
    stories = [(story.prompt, story.continuation) for story in read_generated(subject.folder)]
    judge = Endpoint(s.judge_url, s.judge_model)
    grades, reason = grade(stories, judge, subject.folder, stage=subject.stage)
    if failed := grades["failed"]:
        failed = counted(failed, "story was", "stories were")
        log_stderr(wrapped(f"{failed} not judged ({reason}); run the same command to retry"))
    return grades


def rows(result: dict) -> Rows:
    """The result in the table."""
    return {
        f"Judged by {result['key']['model']}, 1 to 10": {
            **{name: f"{mean:.2f}" for name, mean in result["means"].items()},
            **{f"judged age {AGE_GROUPS[a]}": number(n) for a, n in result["age_groups"].items()},
            "stories judged": number(result["answered"]),
            "unparseable answers": number(result["unparseable"]),
            "no answer": number(result["failed"]),
        }
    }


def grade(
    stories: Sequence[tuple[str, str]],
    judge: Endpoint,
    folder: Path,
    workers: int = 8,
    stage: str = "",
) -> tuple[dict, str | None]:
    """Grade stories, given as (prompt, continuation), with `workers` parallel requests.

    Every answer is added to folder/judgements.jsonl as it arrives. Stories that the same model has
    already answered there are not sent again. `stage` begins the name of the progress bar. Returns
    the result for evaluation.json, and why the last story without an answer has none.
    """
    path, reason, failures = folder / "judgements.jsonl", None, 0
    prompts = [prompt(*story) for story in stories]
    keys = [checksum([judge.model, text]) for text in prompts]
    answers = read_answers(path)
    new = {key: text for key, text in zip(keys, prompts, strict=True) if key not in answers}
    lock = threading.Lock()

    def ask(key: str) -> None:
        answer = judge.ask(new[key]).text
        row = {"key": key, "model": judge.model, "prompt": new[key], "answer": answer}
        with lock:
            append_line(path, row)
        answers[key] = answer

    pool = ThreadPoolExecutor(workers)
    requests = [pool.submit(ask, key) for key in new]
    try:
        answered = as_completed(requests)
        for request in progress(answered, f"{stage}judge", "stories", total=len(new)):
            try:
                request.result()
                failures = 0
            except RequestFailed as error:
                reason, failures = str(error), failures + 1
                if failures == MAX_CONSECUTIVE_FAILURES:
                    break
    finally:  # running requests are paid for: they end, and keep their answers
        judge.stopped.set()
        pool.shutdown(cancel_futures=True)
    return summary(list(map(answers.get, keys))), reason


def summary(answers: Sequence[str | None]) -> dict:
    """Sum up the answers for all stories, where None is a story without an answer."""
    received = [answer for answer in answers if answer is not None]
    graded = [parsed for parsed in map(read_grades, received) if parsed]
    return {
        "means": {name: fmean(parsed[name] for parsed in graded) for name in GRADES if graded},
        "age_groups": dict(sorted(Counter(parsed["age_group"] for parsed in graded).items())),
        "answered": len(graded),  # stories with grades
        "unparseable": len(received) - len(graded),  # in whose answer grades are missing or invalid
        "failed": len(answers) - len(received),  # the next call asks for them again
    }


def prompt(beginning: str, continuation: str) -> str:
    """What the judge is asked about a story; raises UserError for a judge.txt of another form."""
    age_groups = ", ".join(f"{letter} ({years})" for letter, years in AGE_GROUPS.items())
    fields = {"beginning": beginning, "continuation": continuation, "age_groups": age_groups}
    try:
        return read_text(PROMPT).rstrip("\n").format(**fields)
    except (LookupError, ValueError):
        names = ", ".join(f"{{{name}}}" for name in fields)
        raise UserError(f"{PROMPT}: it may have {names}; write other braces twice") from None


def read_grades(answer: str) -> dict | None:
    """The grades and the age group at the end of an answer; None unless all are valid."""
    objects = re.findall(r"\{[^{}]*\}", answer)
    try:
        parsed = json.loads(objects[-1])
    except (IndexError, ValueError):
        return None
    grades = [parsed.get(name) for name in GRADES]
    valid = all(type(grade) in (int, float) and 1 <= grade <= 10 for grade in grades)
    return parsed if valid and parsed.get("age_group") in tuple(AGE_GROUPS) else None


def read_answers(path: Path) -> dict[str, str]:
    """The answers in a file of JSON lines, by their key; empty if there is no file."""
    answers = {}
    for line in path.read_bytes().splitlines() if path.exists() else ():
        try:
            row = json.loads(line)
            if isinstance(row["answer"], str):
                answers[row["key"]] = row["answer"]
        except (ValueError, LookupError, TypeError):
            continue  # cut short by a crash: the judge is asked again
    return answers


def append_line(path: Path, row: dict) -> None:
    """Add a row to the file, on a line of its own even after one that a crash cut short."""
    with open(path, "a+b") as file:
        file.seek(max(0, file.tell() - 1))
        file.write(b"\n" * (file.read(1) not in (b"", b"\n")) + json.dumps(row).encode() + b"\n")
