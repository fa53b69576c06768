"""LLM-as-a-judge scores of generated stories, from any OpenAI-compatible endpoint.

The TinyStories paper (Eldan and Li 2023, arXiv 2305.07759, section 3) showed GPT-4 the prompt and
the continuation as an exercise of a student, and asked for grades from 1 to 10 and the student's
age group. So do we, in our own words, and in a form that a program can parse.
"""

import ipaddress
import json
import os
import random
import re
import threading
import urllib.parse
from collections import Counter
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor, as_completed
from pathlib import Path
from statistics import fmean

from huggingface_hub import InferenceClient
from huggingface_hub.errors import HfHubHTTPError, HTTPError

from configurator import ROOT, UserError
from tinystories.evaluation.generation import read_generated, stories_key
from tinystories.evaluation.results import Rows, number
from tinystories.evaluation.subject import Subject
from tinystories.files import checksum
from tinystories.terminal import counted, log_stderr, progress, wrapped

GRADES = ("grammar", "creativity", "consistency", "plot")
AGE_GROUPS = {"A": "3 or under", "B": "4-5", "C": "6-7", "D": "8-9", "E": "10-12", "F": "13-16"}
KEY_VARIABLE = "OPENAI_API_KEY"  # the environment variable with the API key
TIMEOUT = 300.0  # seconds without a byte; a local model can be slow
RETRY_DELAYS = (1, 2, 4, 8, 16, 32)  # seconds; about a minute, after which most rate limits pass
MAX_RETRY_DELAY = 300.0  # seconds; a server that asks for more has no quota left
MAX_CONSECUTIVE_FAILURES = 10  # after which the endpoint is considered down, or out of quota

# The example in judge.txt is not valid JSON, so that an answer that repeats it does not count.
# Answers are cached by the prompt: another wording would ask for all of them again.
PROMPT = (ROOT / "prompts" / "judge.txt").read_text(encoding="utf-8").rstrip("\n")


class RequestFailed(Exception):
    """A request without a usable answer; retry_after is in seconds, None if no retry will help."""

    def __init__(self, reason: str, retry_after: float | None = 0.0):
        super().__init__(reason)
        self.retry_after = retry_after


def key(subject: Subject) -> dict:
    """What the result depends on."""
    s = subject.settings
    return stories_key(subject) | {"model": Judge(s.judge_url, s.judge_model).model}


def measure(subject: Subject) -> dict:
    """Have the generated stories graded; the answers are kept in the run folder."""
    s = subject.settings
    stories = [(story.prompt, story.continuation) for story in read_generated(subject.folder)]
    judge = Judge(s.judge_url, s.judge_model)
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
    judge: "Judge",
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
        answer = judge.ask(new[key])
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
    """What the judge is asked about a story."""
    age_groups = ", ".join(f"{letter} ({years})" for letter, years in AGE_GROUPS.items())
    return PROMPT.format(beginning=beginning, continuation=continuation, age_groups=age_groups)


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


class Judge:
    """A model at an endpoint; raises UserError for a malformed URL or API key."""

    def __init__(self, url: str, model: str, retry_delays: Sequence[float] = RETRY_DELAYS):
        self.model, self.retry_delays = model, retry_delays
        try:
            parts = urllib.parse.urlsplit(url)
            host = (parts.hostname or "").encode("idna").decode()
            if re.fullmatch(r"\d+(\.\d+){3}", host):
                ipaddress.ip_address(host)
            valid = host and parts.port != 0 and re.fullmatch("https?://[!-~]+", url)
        except ValueError:  # an open bracket, a port in letters, "a..b"
            valid = False
        if not valid:
            raise UserError(
                f"{url!r} is not the URL of an endpoint, such as http://localhost:8000/v1"
            )
        self.endpoint = url.rstrip("/").removesuffix("/chat/completions") + "/chat/completions"
        key = os.environ.get(KEY_VARIABLE, "").strip() or "none"
        if not re.fullmatch("[!-~]+", key):
            raise UserError(f"{KEY_VARIABLE} has spaces or letters that no key has; copy it again")
        # Without a key the client would send the user's saved Hugging Face token to the endpoint.
        self.client = InferenceClient(base_url=self.endpoint, api_key=key, timeout=TIMEOUT)
        self.reached = False  # whether the endpoint has ever answered
        self.stopped = threading.Event()  # once set, nothing is retried

    def ask(self, prompt: str) -> str:
        """The answer; raises RequestFailed if retries do not help, UserError if no request can."""
        for delay in self.retry_delays:
            try:
                return self._attempt(prompt)
            except RequestFailed as error:
                after = error.retry_after
                if after is None or after > MAX_RETRY_DELAY:
                    raise
                spread = delay * random.uniform(1, 1.5)  # not all workers at the same moment
                if self.stopped.wait(max(spread, after)):
                    raise
        return self._attempt(prompt)

    def _attempt(self, prompt: str) -> str:
        """Ask once."""
        messages = [{"role": "user", "content": prompt}]
        try:
            answer = self.client.chat_completion(messages, model=self.model)
            content = answer.choices[0].message.content or ""
        except HfHubHTTPError as error:
            response, self.reached = error.response, True
            status = response.status_code
            reason = f"{status}: {' '.join(response.text.split())[:200]}"
            if status in (401, 403, 404):
                raise UserError(
                    f"{self.endpoint} refused the request ({reason}); check the URL, the model and "
                    f"the API key in {KEY_VARIABLE}"
                ) from None
            if status not in (408, 409, 429) and status < 500:  # no timeout, rate limit, overload
                raise RequestFailed(reason, retry_after=None) from None
            after = response.headers.get("Retry-After", "")  # seconds, or a date: not read
            raise RequestFailed(reason, float(after) if after.isdecimal() else 0.0) from None
        except (OSError, HTTPError) as error:
            cause: BaseException = error
            while cause.__context__:  # the client wraps what the system reports
                cause = cause.__context__
            reason = " ".join(f"{type(cause).__name__}: {cause}".split())
            broken_off = isinstance(cause, (ConnectionResetError, BrokenPipeError, TimeoutError))
            if self.reached or broken_off or not isinstance(cause, OSError):
                raise RequestFailed(reason) from None
            raise UserError(f"cannot reach {self.endpoint} ({reason}); check the URL") from None
        except json.JSONDecodeError:
            raise UserError(f"{self.endpoint} does not answer in JSON; check the URL") from None
        except (ValueError, LookupError, TypeError, AttributeError):
            raise RequestFailed("an answer without a message") from None
        self.reached = True
        if not isinstance(content, str):
            raise RequestFailed("an answer that is not text", retry_after=None)
        return content
