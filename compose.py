"""Have a language model write new stories, to train on.

    python compose.py --url=http://localhost:8000/v1 --model=NAME
    python compose.py ... --count=100 --out=mine/few.jsonl
    python compose.py ... --instruct=True       records of TinyStories-Instruct
    python prepare.py --source=mine/composed.jsonl --tokenizer=bpe

Any OpenAI-compatible endpoint will do: a server of your own, or one that costs
money, with its key in OPENAI_API_KEY. Each story is ordered with a verb, a
noun, an adjective and some features (dialogue, twist, ...), drawn at random
from the files in prompts/. Answers that are refused, cut off, of another form,
without the words, or (nearly) there already are dropped, and kept in the .log
beside --out. Whatever stops it, the same command goes on, asking nothing twice.
"""

import itertools
import math
from collections.abc import Sequence
from concurrent.futures import FIRST_COMPLETED, Future, ThreadPoolExecutor, wait
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated

from configurator import ROOT, RangedSettings, UserError, configure, start
from tinystories.ranges import Count, Name, NonNegative, Range, Seed


@dataclass
class Settings(RangedSettings):
    # The model
    url: str | None = None  # OpenAI-compatible, as http://localhost:8000/v1
    model: str | None = None  # its name there
    temperature: NonNegative | None = None  # None: the endpoint's default
    max_tokens: Count | None = 1024  # of an answer; None: the endpoint's limit
    # The stories
    count: Count = 10_000  # how many, with those that are there
    out: Name = "mine/composed.jsonl"  # file of the stories, a line each
    instruct: bool = False  # with header lines, as TinyStories-Instruct
    prompts: Name = "prompts"  # folder with the words, features and prompts
    seed: Seed = 1337  # draws words and features
    # The requests
    concurrency: Annotated[int, Range(1, 100)] = 8  # requests at a time
    max_tokens_total: Count | None = None  # stop before more, over all calls
    price_in: NonNegative = 0.0  # of a million tokens of prompts
    price_out: NonNegative = 0.0  # of a million tokens of answers

    def __post_init__(self):
        super().__post_init__()
        if not self.url or not self.model:
            raise UserError("which model? give --url=http://localhost:8000/v1 and --model=NAME")
        if Path(self.out).suffix != ".jsonl":
            raise UserError(f"out is {self.out!r}; name a .jsonl file")


command_line = configure(Settings)  # answers --help and mistakes before the slow imports

from tinystories.endpoint import MAX_CONSECUTIVE_FAILURES, Endpoint, RequestFailed
from tinystories.files import only_writer, short_path
from tinystories.stories.collection import Collection
from tinystories.stories.composing import (
    Dropped,
    Order,
    Prompts,
    draw,
    plain,
    read_answer,
    read_prompts,
)
from tinystories.terminal import (
    command_text,
    counted,
    log_stderr,
    progress,
    short_count,
    wrapped,
)

TOKENS_EACH = (140, 250)  # about, of a prompt and of a story; until there are some to count
CHARS_PER_TOKEN = 4  # about, in English; where the server does not count
MAX_CONSECUTIVE_DROPPED = 50  # after which the model, or the prompt, will not do


def main(s: Settings) -> None:
    assert s.url and s.model  # by __post_init__
    path = Path(s.out).expanduser().resolve()
    endpoint = Endpoint(s.url, s.model)
    folder = next((p for p in (Path(s.prompts), ROOT / s.prompts) if p.is_dir()), Path(s.prompts))
    prompts = read_prompts(folder, s.instruct)
    identity = {"model": s.model, "seed": s.seed, "instruct": s.instruct, "prompts": prompts.key}
    with only_writer(path):
        collection = Collection(path, identity)
        before = collection.stories
        if before < s.count:
            print_estimate(s, collection)
            compose(s, prompts, endpoint, collection)
        print_summary(s, collection, before)


def compose(s: Settings, prompts: Prompts, endpoint: Endpoint, collection: Collection) -> None:
    """Ask until there are `count` stories, or no tokens are left for another one."""
    numbers = (number for number in itertools.count() if number not in collection.numbers)
    failures = dropped = 0  # in a row
    failed: list[str] = []  # why, of each request that failed
    running: set[Future] = set()
    pool = ThreadPoolExecutor(s.concurrency)
    bar = progress(None, "composing", "stories", total=s.count, initial=collection.stories)
    try:
        while True:
            while len(running) < s.concurrency and wanted(s, collection, len(running)):
                order = draw(prompts, s.seed, next(numbers))
                running.add(pool.submit(ask, s, endpoint, collection, order))
            if not running:
                if failed:
                    requests = counted(len(failed), "request")
                    print(wrapped(f"{requests} failed, the last one with {failed[-1]}"))
                return
            done, running = wait(running, return_when=FIRST_COMPLETED)
            for request in done:
                try:
                    reason, failures = request.result(), 0
                except RequestFailed as error:  # its number is asked again by the next call
                    reason, failures = str(error), failures + 1
                    failed.append(reason)
                    if failures == MAX_CONSECUTIVE_FAILURES:
                        raise stuck(collection, f"{failures} requests failed", reason) from None
                    continue
                dropped = dropped + 1 if reason else 0
                if reason and dropped == MAX_CONSECUTIVE_DROPPED:
                    reason = f"{reason}; see {collection.log.name}"
                    raise stuck(collection, f"{dropped} answers were dropped", reason)
            bar.update(collection.stories - bar.n)
    except KeyboardInterrupt:
        log_stderr(f"\nwaiting for {counted(len(running), 'answer')}, to keep them")
        raise
    finally:  # running requests are paid for: they end, and keep their answers
        bar.close()
        endpoint.stopped.set()
        pool.shutdown(cancel_futures=True)


def stuck(collection: Collection, what: str, reason: str) -> UserError:
    """The error that ends it where going on would only cost money."""
    stories = counted(collection.stories, "story", "stories")
    place = short_path(collection.path)
    return UserError(f"the last {what} ({reason}); {place} has {stories}, the same command goes on")


def wanted(s: Settings, collection: Collection, running: int) -> bool:
    """Whether to send another request while others are running."""
    prompt_tokens, answer_tokens = tokens_each(collection)
    largest = prompt_tokens + (s.max_tokens or max(answer_tokens, TOKENS_EACH[1]))
    within = sum(collection.tokens) + (running + 1) * largest <= (s.max_tokens_total or math.inf)
    return collection.stories + running < s.count and within


def ask(s: Settings, endpoint: Endpoint, collection: Collection, order: Order) -> str | None:
    """Order one story and write it to the collection; returns why not, where it is dropped."""
    options = {"max_tokens": s.max_tokens, "temperature": s.temperature}
    answer = endpoint.ask(order.prompt, **{k: v for k, v in options.items() if v is not None})
    estimate = (len(order.prompt) // CHARS_PER_TOKEN, len(answer.text) // CHARS_PER_TOKEN)
    row = {"number": order.number, "tokens": answer.tokens or estimate}
    try:
        if answer.finish_reason in ("length", "content_filter"):
            raise Dropped("cut off" if answer.finish_reason == "length" else "refused")
        story = read_answer(answer.text, order, s.instruct)
        words = [plain(entry) for entry in order.words]
        collection.add(row | {"words": words, "features": order.features, "text": story})
    except Dropped as why:
        collection.add(row | {"dropped": str(why), "answer": answer.text})
        return str(why)
    return None


def print_estimate(s: Settings, collection: Collection) -> None:
    """Say what is going to be asked, and about how many tokens it takes."""
    done, missing = len(collection.numbers), s.count - collection.stories
    means = tokens_each(collection)
    requests = missing * max(1.0, done / max(1, collection.stories))  # some are dropped
    tokens = [requests * mean for mean in means]
    there = f", {collection.stories:,} of them there" if collection.stories else ""
    print(wrapped(f"{counted(s.count, 'story', 'stories')} to {s.out}{there}"))
    print(wrapped(f"by {s.model}, {s.concurrency} at a time"))
    each = f"{means[0]:.0f} of the prompt and {means[1]:.0f} of the answer each"
    print(wrapped(f"about {short_count(sum(tokens))} tokens to go ({each}){cost(s, tokens)}"))


def tokens_each(collection: Collection) -> list[float]:
    """About how many tokens a prompt and an answer have, from those that are there."""
    done = len(collection.numbers)
    return [total / done for total in collection.tokens] if done else list(TOKENS_EACH)


def cost(s: Settings, tokens: Sequence[float]) -> str:
    """What tokens of prompts and answers cost, if there are prices."""
    total = (tokens[0] * s.price_in + tokens[1] * s.price_out) / 1e6
    return f", which cost {total:,.2f}" if s.price_in or s.price_out else ""


def print_summary(s: Settings, collection: Collection, before: int) -> None:
    """Say what there is, what was dropped and why, and what to type next."""
    new = f"{collection.stories - before:,} new"
    stories = counted(collection.stories, "story", "stories")
    print(f"{stories} in {s.out} ({new})")
    if dropped := collection.dropped.total():
        reasons = ", ".join(f"{n:,} {reason}" for reason, n in collection.dropped.most_common())
        print(wrapped(f"{counted(dropped, 'answer')} dropped: {reasons}"))
    spent = f"{sum(collection.tokens):,} tokens in all"
    print(f"{spent}{cost(s, collection.tokens)}")
    if collection.stories < s.count:
        print(f"stopped at --max_tokens_total={s.max_tokens_total}; raise it to go on")
    if collection.stories:
        print("make a dataset of it with:")
        print(command_text("python", "prepare.py", f"--source={s.out}", "--tokenizer=bpe"))


if __name__ == "__main__":
    start(main, command_line.settings)
