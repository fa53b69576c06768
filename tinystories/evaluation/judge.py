"""Grades for stories by a large language model, behind any OpenAI-compatible endpoint.

The TinyStories paper (arXiv 2305.07759, section 3) showed GPT-4 a beginning and how a small model
went on with it, as a teacher sees a pupil's exercise, and asked for grades from 1 to 10 and the
pupil's age group. So do we, in words of our own, and so that a program can read the answer.
"""

import hashlib
import json
import os
import random
import re
import threading
import urllib.error
import urllib.parse
import urllib.request
from collections import Counter
from collections.abc import Iterable, Sequence
from concurrent.futures import ThreadPoolExecutor, as_completed
from dataclasses import dataclass
from datetime import UTC, datetime
from email.utils import parsedate_to_datetime
from http.client import HTTPException
from pathlib import Path

from tqdm import tqdm

from configurator import UserError

GRADES = ("grammar", "creativity", "consistency", "plot")
AGE_GROUPS = {"A": "3 or under", "B": "4-5", "C": "6-7", "D": "8-9", "E": "10-12", "F": "13-16"}
KEY = "OPENAI_API_KEY"  # the environment variable; a server of one's own needs none
TIMEOUT = 300.0  # seconds of silence; a model on one's own machine takes its time
WAITS = (1, 2, 4, 8, 16, 32)  # seconds before asking again
LONGEST_WAIT = 300.0  # seconds; a story that has to wait for longer counts as failed
GIVE_UP = 10  # stories that failed in a row: the endpoint is out of order, or out of money

# The example is no JSON on purpose: an answer that repeats it must not be taken for grades.
PROMPT = """\
A pupil was given the beginning of a story and wrote how it goes on. Three asterisks, ***, stand \
where the pupil's part begins; they do not belong to the story.

{beginning}***{continuation}

Judge the pupil's part in a few sentences. Is the language correct? Are there ideas that the \
beginning did not hold? Does it fit the beginning, and first of all the sentence that may have \
been broken off there? Does what happens make a whole story?

Then grade it for grammar, creativity, consistency with the beginning, and plot, each with a \
number from 1 (worst) to 10 (best), and guess the pupil's age group: {age_groups}.

Let the last line of your answer hold these as JSON, a number for each N and a letter for X:
{{"grammar": N, "creativity": N, "consistency": N, "plot": N, "age_group": "X"}}"""


@dataclass
class Grades:
    """What a judge said of some stories, whose number is answered + unparseable + failed."""

    means: dict[str, float]  # of each of GRADES; empty where no story was graded
    age_groups: Counter[str]  # stories by letter, see AGE_GROUPS
    answered: int  # stories with grades
    unparseable: int  # stories with an answer that holds no grades, or not all, or others
    failed: int  # stories without an answer; the next call asks for them again
    reason: str | None  # why the last of them failed


class Failure(Exception):
    """A question that was not answered.

    Attributes:
        wait: seconds after which it may be asked again; None: that is of no use.
    """

    def __init__(self, reason: str, wait: float | None = 0.0):
        super().__init__(reason)
        self.wait = wait


def grade(
    stories: Sequence[tuple[str, str]],
    url: str,
    model: str,
    folder: Path,
    workers: int = 8,
    waits: Sequence[float] = WAITS,
) -> Grades:
    """Have stories graded.

    Every answer is added to folder/judgements.jsonl as it arrives; what the same model has been
    asked before, and has answered there, is not asked again.

    Args:
        stories: pairs of the beginning that was given, and how the story goes on.
        url: of the endpoint, as in https://api.openai.com/v1.
        workers: how many questions to ask at a time.
        waits: seconds before each further attempt at a question.

    Raises:
        UserError: nothing like an endpoint is there, or it refuses the key.
    """
    prompts = [prompt(*story) for story in stories]
    judge = Judge(url, model, waits)
    reason, in_a_row = None, 0
    with Answers(folder / "judgements.jsonl", model) as answers:
        new = [text for text in dict.fromkeys(prompts) if text not in answers]
        pool = ThreadPoolExecutor(workers)
        asked = [pool.submit(lambda text: answers.keep(text, judge.ask(text)), t) for t in new]
        bar = tqdm(as_completed(asked), "judging", len(asked), unit="story", disable=None)
        try:
            for future in bar:
                try:
                    future.result()
                    in_a_row = 0
                except Failure as failure:
                    reason, in_a_row = str(failure), in_a_row + 1
                    if in_a_row == GIVE_UP:
                        break
        finally:  # the answers under way are paid for, and kept
            judge.stopped.set()
            pool.shutdown(cancel_futures=True)
        return summary((answers.get(text) for text in prompts), reason)


def prompt(beginning: str, continuation: str) -> str:
    """The question about a story."""
    age_groups = ", ".join(f"{letter} ({years})" for letter, years in AGE_GROUPS.items())
    return PROMPT.format(beginning=beginning, continuation=continuation, age_groups=age_groups)


def read_grades(answer: str) -> dict | None:
    """The grades and the age group at the end of an answer; None unless all are there and valid."""
    objects = re.findall(r"\{[^{}]*\}", answer)
    try:
        told = json.loads(objects[-1])
    except (IndexError, ValueError):
        return None
    numbers = [told.get(name) for name in GRADES]
    valid = all(type(number) in (int, float) and 1 <= number <= 10 for number in numbers)
    return told if valid and told.get("age_group") in tuple(AGE_GROUPS) else None


def summary(answers: Iterable[str | None], reason: str | None) -> Grades:
    """Sum up the answers to all stories, None for each that has none."""
    answers = list(answers)
    there = [answer for answer in answers if answer is not None]
    graded = [told for told in map(read_grades, there) if told]
    sums = {name: sum(told[name] for told in graded) for name in GRADES}
    return Grades(
        means={name: sums[name] / len(graded) for name in GRADES if graded},
        age_groups=Counter(told["age_group"] for told in graded),
        answered=len(graded),
        unparseable=len(there) - len(graded),
        failed=len(answers) - len(there),
        reason=reason,
    )


def check_url(url: str) -> None:
    """Raises UserError for what cannot be the URL of an endpoint."""
    try:
        found = urllib.parse.urlsplit(url)
        valid = found.scheme in ("http", "https") and found.hostname and found.port != 0
    except ValueError:  # a bracket left open, a port that is no number
        valid = False
    if not valid or not re.fullmatch("[!-~]+", url):
        raise UserError(f"{url!r} is no endpoint's URL; it looks like http://localhost:8000/v1")


class Answers:
    """A model's answers, by prompt, in a file of JSON lines that only grows."""

    def __init__(self, path: Path, model: str):
        self.model = model
        self.lock = threading.Lock()
        self.answers = {}  # by key
        old = path.read_bytes() if path.exists() else b""
        for line in old.splitlines():
            try:
                row = json.loads(line)
                if isinstance(row["answer"], str):
                    self.answers[row["key"]] = row["answer"]
            except (ValueError, KeyError, TypeError):
                continue  # cut short by a crash: the question is asked again
        path.parent.mkdir(parents=True, exist_ok=True)
        self.file = open(path, "ab")
        if old and not old.endswith(b"\n"):
            self.file.write(b"\n")

    def __enter__(self):
        return self

    def __exit__(self, *error):
        self.file.close()

    def __contains__(self, prompt: str) -> bool:
        return self._key(prompt) in self.answers

    def get(self, prompt: str) -> str | None:
        """The answer to a prompt, if there is one."""
        return self.answers.get(self._key(prompt))

    def keep(self, prompt: str, answer: str) -> None:
        """Add an answer; any thread may."""
        key = self._key(prompt)
        row = {"key": key, "model": self.model, "prompt": prompt, "answer": answer}
        with self.lock:
            self.file.write(json.dumps(row).encode() + b"\n")
            self.file.flush()
            self.answers[key] = answer

    def _key(self, prompt: str) -> str:
        return hashlib.sha256(json.dumps([self.model, prompt]).encode()).hexdigest()


class Judge:
    """A model behind an endpoint."""

    def __init__(self, url: str, model: str, waits: Sequence[float]):
        self.model, self.waits = model, waits
        self.endpoint = url.rstrip("/").removesuffix("/chat/completions") + "/chat/completions"
        check_url(url)
        self.headers = {"Content-Type": "application/json"}
        if key := os.environ.get(KEY, "").strip():
            if not re.fullmatch("[!-~]+", key):
                raise UserError(f"{KEY} holds blanks or letters that no key has; copy it again")
            self.headers["Authorization"] = f"Bearer {key}"
        self.reached = False  # whether anyone has ever answered
        self.stopped = threading.Event()  # once set, nothing is asked again

    def ask(self, prompt: str) -> str:
        """The answer to a prompt, asked for again where that may help.

        Raises:
            Failure: it did not help.
            UserError: no question to this endpoint will ever be answered.
        """
        for wait in (*self.waits, None):
            try:
                return self._attempt(prompt)
            except Failure as failure:
                if wait is None or failure.wait is None or failure.wait > LONGEST_WAIT:
                    raise
                spread = wait * random.uniform(1, 1.5)  # not all workers at the same instant
                if self.stopped.wait(max(failure.wait, spread)):
                    raise

    def _attempt(self, prompt: str) -> str:
        """Ask once."""
        body = {"model": self.model, "messages": [{"role": "user", "content": prompt}]}
        request = urllib.request.Request(self.endpoint, json.dumps(body).encode(), self.headers)
        try:
            status, retry_after, text = _post(request)
        except (OSError, HTTPException) as error:
            raise self._silence(error) from None
        self.reached = True
        if status != 200:
            raise self._refusal(status, retry_after, text)
        try:
            content = json.loads(text)["choices"][0]["message"]["content"] or ""
        except ValueError:
            raise UserError(f"{self.endpoint} does not answer in JSON; check the URL") from None
        except (LookupError, TypeError):
            raise Failure(f"an answer without a message: {_start(text)}") from None
        if not isinstance(content, str):
            raise Failure(f"an answer that is no text: {_start(text)}", wait=None)
        return content

    def _silence(self, error: Exception) -> Exception:
        """What it means that no answer came, not even a bad one."""
        reason = getattr(error, "reason", error)
        told = " ".join(f"{type(reason).__name__}: {reason}".split())
        broken_off = (ConnectionResetError, BrokenPipeError, TimeoutError, HTTPException)
        somebody_is_there = self.reached or isinstance(reason, broken_off)
        if not somebody_is_there:
            return UserError(f"cannot reach {self.endpoint} ({told}); check the URL")
        return Failure(told)

    def _refusal(self, status: int, retry_after: str | None, text: bytes) -> Exception:
        """What an HTTP status other than 200 means."""
        told = f"{status}: {_start(text)}"
        if status in (401, 403):
            return UserError(f"{self.endpoint} wants another key in {KEY} ({told})")
        if status in (404, 405) or status < 400:
            return UserError(f"{self.endpoint} does not answer; check URL and model ({told})")
        if status in (408, 409, 429) or status >= 500:
            return Failure(told, _seconds(retry_after))
        return Failure(told, wait=None)


def _post(request: urllib.request.Request) -> tuple[int, str | None, bytes]:
    """Status, Retry-After and body of the response, whatever its status."""
    try:
        response = urllib.request.urlopen(request, timeout=TIMEOUT)
    except urllib.error.HTTPError as error:
        response = error
    with response:
        return response.status, response.headers["Retry-After"], response.read()


def _start(body: bytes) -> str:
    """The beginning of what a server said, in one line."""
    return " ".join(body.decode(errors="replace").split())[:200]


def _seconds(retry_after: str | None) -> float:
    """How long the header Retry-After asks to wait: it holds seconds or a date (RFC 9110)."""
    try:
        return float(retry_after or 0)
    except ValueError:
        pass
    try:
        return max(0.0, (parsedate_to_datetime(retry_after) - datetime.now(UTC)).total_seconds())
    except (ValueError, TypeError):
        return 0.0
