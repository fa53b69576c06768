"""Stories ordered from a language model: a server on this machine that writes them by rule."""

import json
import re
import shutil
import signal
import time
from collections import Counter
from collections.abc import Callable
from pathlib import Path

import pytest
from chat_server import serving
from conftest import ROOT, complaint, forked
from forks import ForkedCommand

import compose
from configurator import UserError
from tinystories.dataset import read_meta
from tinystories.endpoint import KEY_VARIABLE, Endpoint
from tinystories.files import only_writer
from tinystories.stories.collection import append_line
from tinystories.stories.composing import (
    Dropped,
    draw,
    missing_words,
    plain,
    read_answer,
    read_prompts,
)

PROMPTS = read_prompts(ROOT / "prompts", instruct=False)
SUMMARY = "Summary: Somebody finds\nsomething in the wood."


def asked_words(body: dict) -> list[str]:
    """The verb, the noun and the adjective that a request asks for."""
    return re.findall(r'"(\w+)" as an? ', body["messages"][0]["content"])


def story_of(body: dict) -> str:
    """A story with the words that are asked for; the same for the same words."""
    verb, noun, adjective = asked_words(body)
    return (
        f"In the wood there was a {adjective} {noun}. It liked to {verb} all day.\n\n"
        f'One day a bird saw the {noun}. "May I play with you, {noun}?" it asked.\n\n'
        "They were friends."
    )


def instruct_of(body: dict) -> str:
    return f"{story_of(body)}\n\n{SUMMARY}"


@pytest.fixture(autouse=True)
def no_key(monkeypatch):
    monkeypatch.delenv(KEY_VARIABLE, raising=False)


@pytest.fixture
def server():
    with serving(story_of) as served:
        yield served


@pytest.fixture
def out(tmp_path) -> Path:
    return tmp_path / "mine" / "composed.jsonl"


@pytest.fixture
def order(server, out, monkeypatch):
    """Has stories composed in this process, with short waits; returns the rows of the file."""
    monkeypatch.setattr(Endpoint.__init__, "__defaults__", ((0.01, 0.02),))

    def call(count=5, **settings) -> list[dict]:
        given = {"url": server.url, "model": "teller", "out": str(out), "concurrency": 3}
        compose.main(compose.Settings(count=count, **(given | settings)))
        return rows_of(out)

    return call


def rows_of(path: Path) -> list[dict]:
    return [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines()]


def dropped_of(out: Path) -> list[dict]:
    return rows_of(out.with_suffix(".log"))[1:]


# The words and the prompts --------------------------------------------------------------------


def test_the_lists_have_1500_simple_words_and_none_twice():
    sizes = {kind: len(words) for kind, words in PROMPTS.words.items()}
    assert 1400 <= sum(sizes.values()) <= 1600
    assert all(350 <= size <= 700 for size in sizes.values()), sizes
    words = [plain(entry) for entries in PROMPTS.words.values() for entry in entries]
    assert [word for word, n in Counter(words).items() if n > 1] == []
    forms = [form for entries in PROMPTS.words.values() for e in entries for form in e.split("/")]
    assert [form for form in forms if not re.fullmatch("[a-z]{2,14}", form)] == []


def test_no_kind_of_words_is_most_of_its_list():
    kinds, kind = Counter(), ""
    for line in (ROOT / "prompts" / "words.txt").read_text(encoding="utf-8").splitlines():
        kind = line if line.startswith("#") else kind
        kinds[kind] += len(line.split()) if line != kind else 0
    for kind, size in kinds.items():
        assert 25 <= size <= 110, kind


def test_real_stories_have_each_word_three_times(tinystories):
    letters = bytes(b if chr(b).isalpha() else 32 for b in range(128)) + b" " * 128
    counts = Counter((tinystories / "train.txt").read_bytes().lower().translate(letters).split())
    words = [plain(entry) for entries in PROMPTS.words.values() for entry in entries]
    assert [word for word in words if counts[word.encode()] < 3] == []


def test_an_order_depends_on_nothing_but_seed_and_number():
    orders = [draw(PROMPTS, 7, number) for number in range(300)]
    assert [draw(PROMPTS, 7, n) for n in (299, 5)] == [orders[299], orders[5]]
    assert len({order.words for order in orders}) > 290
    assert draw(PROMPTS, 8, 5).words != orders[5].words
    assert {name for order in orders for name in order.features} == set(PROMPTS.features)
    assert {len(order.features) for order in orders} == {0, 1, 2, 3}


def test_a_prompt_asks_for_the_words_and_the_features():
    asked = next(o for o in (draw(PROMPTS, 7, n) for n in range(99)) if len(o.features) == 2)
    words = [plain(entry) for entry in asked.words]
    assert asked_words({"messages": [{"content": asked.prompt}]}) == words
    for name, text in PROMPTS.features.items():
        assert (text in asked.prompt) == (name in asked.features)


def test_the_features_have_the_names_of_the_published_records():
    names = "Dialogue Twist BadEnding MoralValue Foreshadowing Conflict"
    assert list(PROMPTS.features) == names.split()


@pytest.mark.parametrize(
    ("name", "text", "says"),
    [
        ("words.txt", None, "words.txt: No such file"),
        ("words.txt", "# verbs\ngo\n# nouns\nhen\n", "words stand below lines '# verbs'"),
        ("features.txt", "Dialogue\n", "write each line as 'Name: "),
        ("compose.txt", "{verb} {thing}", "no other braces"),
        ("compose.txt", b"\xff", "not UTF-8"),
    ],
)
def test_prompts_of_ones_own_are_checked(order, tmp_path, server, out, name, text, says):
    folder = shutil.copytree(ROOT / "prompts", tmp_path / "own")
    (folder / name).unlink()
    if text:
        (folder / name).write_bytes(text if isinstance(text, bytes) else text.encode())
    with pytest.raises(UserError, match=says):
        order(prompts=str(folder))
    assert not server.asked and not out.exists()


# What is a story ------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("kind", "entry", "forms", "others"),
    [
        (0, "hop", "hop hops hopped hopping", "hope hoping"),
        (0, "bake", "bakes baked baking", "bakery"),
        (0, "carry", "carries carried carrying", "car"),
        (0, "lie/lay/lain", "lies lying lay lain", "line"),
        (0, "agree", "agreed agreeing", "agreement"),
        (0, "wash", "washes washed", "washer"),
        (0, "go/went/gone", "goes going went", "got"),
        (1, "fox", "fox foxes", "foxy"),
        (1, "puppy", "puppies", "pup"),
        (1, "mouse/mice", "mice", "moose"),
        (1, "piano", "pianos", "pianist"),
        (2, "big", "bigger biggest", "bug"),
        (2, "happy", "happier happily", "happen"),
        (2, "gentle", "gently gentler", "gent"),
        (2, "good/better/best", "best better", "goods"),
    ],
)
def test_inflected_forms_count_as_the_word(kind, entry, forms, others):
    entries = ["be/was", "it", "so"]
    entries[kind] = entry
    for form in forms.split():
        assert missing_words(f"It was so. {form.title()}!", entries) == []
    for other in others.split():
        assert missing_words(f"It was so. {other}!", entries) == [plain(entry)]


ORDER = draw(PROMPTS, 1, 1)
BODY = {"messages": [{"content": ORDER.prompt}]}
GOOD = story_of(BODY)


@pytest.mark.parametrize(
    "answer",
    [
        GOOD + "\n",
        f"**The Wood**\n\n{GOOD}",
        f"# The Wood\n{GOOD}",
        f"The Wood\n\n{GOOD}",
        f"Here is a story for you:\n\n{GOOD}",
        f"<think>\nA story. Hm.\n</think>\n\n{GOOD}",
        GOOD.replace('"May', "“May").replace('?"', "?”"),
        GOOD.replace("\n\n", "\n\n\n"),
    ],
)
def test_what_stands_around_a_story_is_removed(answer):
    assert read_answer(answer, ORDER, instruct=False) == GOOD


@pytest.mark.parametrize(
    ("answer", "reason"),
    [
        ("", "wrong format"),
        ("I'm sorry, but I can't write that story for a child.", "refused"),
        ("I cannot help with that. There are other stories that I could write.", "refused"),
        ("As an AI language model, I do not write stories about this.", "refused"),
        (GOOD.replace("They were", "**They** were"), "wrong format"),
        (f"{GOOD}\n\n- a hen\n- a fox.", "wrong format"),
        (GOOD[:-3], "wrong format"),
        ("There was a hen.", "wrong format"),
        (re.sub(r"liked to \w+", "sat there", GOOD), "words missing"),
    ],
)
def test_an_answer_that_is_no_such_story_is_dropped(answer, reason):
    with pytest.raises(Dropped, match=reason):
        read_answer(answer, ORDER, instruct=False)


@pytest.mark.parametrize(
    "first", ["Mia looked up and cried:\n\n", "Er sagte: »Hallo!«\n\n", "It was still…\n\n"]
)
def test_a_first_sentence_is_no_title(first):
    assert read_answer(first + GOOD, ORDER, instruct=False).endswith(GOOD)
    assert len(read_answer(first + GOOD, ORDER, instruct=False)) > len(GOOD)


def test_a_story_that_is_broken_into_lines_keeps_its_first():
    lines = GOOD.replace(" ", "\n", 12)
    assert read_answer(lines, ORDER, instruct=False).split() == GOOD.split()


def test_a_story_that_begins_with_speech_is_no_refusal():
    story = f'"I\'m sorry," said the hen. "I cannot come."\n\n{GOOD}'
    assert read_answer(story, ORDER, instruct=False) == story


@pytest.mark.parametrize("answer", [GOOD, f"{GOOD}\n\nSummary:", SUMMARY, f"{GOOD}\n{SUMMARY}" * 2])
def test_an_instruct_answer_has_a_story_and_one_summary(answer):
    with pytest.raises(Dropped, match="wrong format"):
        read_answer(answer, ORDER, instruct=True)


def test_a_record_has_the_published_form():
    headers = Counter()
    for number in range(60):
        asked = draw(PROMPTS, 1, number)
        body = {"messages": [{"content": asked.prompt}]}
        record = read_answer(
            f"{story_of(body)}\n\n**Summary:** A bird comes.", asked, instruct=True
        )
        lines, mark, story = record.partition("Story: \n\n")
        assert mark and story == story_of(body)
        values = dict(line.split(": ", 1) for line in lines.splitlines())
        assert values
        headers.update(values.keys())
        assert values.get("Words", "") in ("", ", ".join(map(plain, asked.words)))
        assert values.get("Features", "") in ("", ", ".join(asked.features))
        assert values.get("Summary", "A bird comes.") == "A bird comes."
        assert values.get("Random sentence", "They were friends.") in story
    assert set(headers) == {"Words", "Features", "Summary", "Random sentence"}


# Ordering -------------------------------------------------------------------------------------


def test_stories_are_written_with_their_number_and_order(order, server, capsys):
    rows = order(5)
    assert sorted(row["number"] for row in rows) == list(range(5))
    for row in rows:
        asked = draw(PROMPTS, 1337, row["number"])
        assert row["text"] == story_of({"messages": [{"content": asked.prompt}]})
        assert row["words"] == [plain(entry) for entry in asked.words]
        assert row["features"] == list(asked.features)
    assert {body["max_tokens"] for body in server.asked} == {1024}
    assert "about 1.95K tokens to go" in capsys.readouterr().out


def test_the_endpoints_own_settings_can_be_left_to_it(order, server):
    order(2, max_tokens=None, temperature=0.5)
    assert all("max_tokens" not in body and body["temperature"] == 0.5 for body in server.asked)


def test_more_are_ordered_and_nothing_is_asked_twice(order, server):
    order(3)
    assert sorted(row["number"] for row in order(6)) == list(range(6))
    order(6)
    assert len(server.asked) == len({body["messages"][0]["content"] for body in server.asked}) == 6


def full(text: str, finish_reason: str, **usage) -> str:
    """A response with all that servers say."""
    choice = {"message": {"role": "assistant", "content": text}, "finish_reason": finish_reason}
    return "RAW " + json.dumps({"choices": [choice], "usage": usage})


def test_what_is_dropped_is_counted_and_another_is_drawn(order, server, out, capsys):
    refusal = {"role": "assistant", "content": None, "refusal": "I'm sorry, I can't."}
    server.script = [
        "I'm sorry, but no.",
        "RAW " + json.dumps({"choices": [{"message": refusal, "finish_reason": "stop"}]}),
        full("There was", "length", prompt_tokens=100, completion_tokens=1024),
        full("", "content_filter"),
        "A hen and a fox went up a hill. They saw the moon, and it was round.",
        "Once",
    ]
    rows = order(3, concurrency=1, price_in=1, price_out=2)
    assert [row["number"] for row in rows] == [6, 7, 8]
    reasons = ["refused", "refused", "cut off", "refused", "words missing", "wrong format"]
    assert [row["dropped"] for row in dropped_of(out)] == reasons
    assert dropped_of(out)[2]["tokens"] == [100, 1024]
    assert dropped_of(out)[0]["answer"] == "I'm sorry, but no."
    printed = capsys.readouterr().out
    says = "6 answers dropped: 3 refused, 1 cut off, 1 words missing, 1 wrong format"
    assert says in " ".join(printed.split())
    order(3)
    assert len(server.asked) == 9


def test_a_story_that_is_there_is_dropped(order, server, out, tmp_path):
    folder = shutil.copytree(ROOT / "prompts", tmp_path / "own")
    (folder / "words.txt").write_text("# verbs\nhop\n# nouns\nhen fox\n# adjectives\nred\n")
    order(2, prompts=str(folder))
    says = r"the last 50 answers were dropped \(duplicate; see composed.log\); .* 2 stories"
    with pytest.raises(UserError, match=says):
        order(3, prompts=str(folder))
    assert len(rows_of(out)) == 2
    assert {row["dropped"] for row in dropped_of(out)} == {"duplicate"}


def with_names(hero: str, friend: str) -> Callable[[dict], str]:
    """A server's stories, whatever it is asked for, in which only the names change."""

    def answer(body: dict) -> str:
        verb, noun, adjective = asked_words(body)
        return (
            f"One day {hero} went to the lake with a {adjective} {noun}. {friend} saw it and "
            f"wanted to {verb}, too.\n\n{hero} was not happy, but then {friend} asked nicely and "
            f"gave him a piece of her cake.\n\nSo {hero} and {friend} sat down by the water and "
            "ate the cake until the sun was gone. It was the best day of the summer."
        )

    return answer


def test_a_story_with_only_the_names_changed_is_dropped(order, server, out, capsys):
    other_names = [with_names(*names) for names in (("Omar", "Zoe"), ("Finn", "Ivy"))]
    server.script = [with_names("Tim", "Lily"), *other_names, story_of, *other_names]
    rows = order(3, concurrency=1)
    assert [row["number"] for row in rows] == [0, 3, 6]
    assert "4 answers dropped: 4 near-duplicate" in " ".join(capsys.readouterr().out.split())
    dropped = dropped_of(out)
    assert {row["dropped"] for row in dropped} == {"near-duplicate"}
    assert "Omar" in dropped[0]["answer"]


@pytest.mark.parametrize("instruct", [False, True])
def test_a_resumed_file_drops_the_same_answers(order, server, out, tmp_path, instruct):
    stories = [with_names("Tim", "Lily"), story_of, with_names("Finn", "Ivy"), story_of]
    end = f"\n\n{SUMMARY}" if instruct else ""
    script = [lambda body, story=story: story(body) + end for story in stories]
    server.script = list(script)
    order(3, concurrency=1, instruct=instruct)
    whole = {path.name: path.read_bytes() for path in out.parent.iterdir()}
    shutil.rmtree(out.parent)
    server.script = list(script)
    for count in (1, 2, 3):  # each begins with what is in the file
        order(count, concurrency=1, instruct=instruct)
    assert {path.name: path.read_bytes() for path in out.parent.iterdir()} == whole
    assert [row["dropped"] for row in dropped_of(out)] == ["near-duplicate"]


def test_instruct_records(order, server, capsys):
    server.always = instruct_of
    rows = order(4, instruct=True)
    assert all("Story: \n\nIn the wood" in row["text"] for row in rows)
    assert "Summary: " in server.asked[0]["messages"][0]["content"]


def test_it_stops_before_more_tokens_than_it_may(order, server, capsys):
    server.always = lambda body: full(
        story_of(body), "stop", prompt_tokens=100, completion_tokens=100
    )
    rows = order(50, max_tokens=150, max_tokens_total=2000)
    assert len(rows) == 9  # the tenth might have brought 150
    assert "stopped at --max_tokens_total=2000; raise it to go on" in capsys.readouterr().out
    assert len(order(50, max_tokens=150, max_tokens_total=3000)) == 14


def test_temporary_errors_are_retried(order, server):
    server.script, server.headers = [429, None], {"Retry-After": "1"}
    rows = order(2, concurrency=1)
    assert [row["number"] for row in rows] == [0, 1]
    assert server.times[1] - server.times[0] > 0.9


def test_a_request_that_failed_is_made_again_next_time(order, server, capsys):
    server.script = [story_of, 400, "RAW <html>Busy</html>", "RAW {}"]
    assert [row["number"] for row in order(3, concurrency=1)] == [0, 2, 3]
    assert "1 request failed, the last one with 400: no way\n" in capsys.readouterr().out
    assert sorted(row["number"] for row in order(5)) == [0, 1, 2, 3, 4]


def test_after_many_failures_nothing_more_is_sent(order, server, out):
    server.always = 400
    with pytest.raises(UserError, match=r"the last 10 requests failed \(400: no way\); "):
        order(50)
    assert len(server.asked) < 20
    server.always = story_of
    assert len(order(3)) == 3


# The file -------------------------------------------------------------------------------------


def test_a_line_that_was_cut_short_is_cut_off(order, server, out):
    order(4)
    log = out.with_suffix(".log")
    whole = [path.read_bytes() for path in (out, log)]
    for path in (out, log):
        with path.open("ab") as file:
            file.write(b'{"number": 99, "tok')
    order(4)
    assert [path.read_bytes() for path in (out, log)] == whole


def test_a_file_that_ends_anywhere_gets_what_is_missing(order, server, out):
    order(3, concurrency=1)
    whole = out.read_bytes()
    for end in (0, 1, len(whole) // 2, len(whole) - 1):
        out.write_bytes(whole[:end])
        missing = 3 - whole[: end + 1].count(b"\n")  # a line may lack nothing but its end
        server.asked.clear()
        assert [row["number"] for row in order(3, concurrency=1)] == [0, 1, 2]
        assert out.read_bytes() == whole and len(server.asked) == missing


def test_prompts_may_begin_with_a_byte_order_mark(order, out, tmp_path):
    folder = shutil.copytree(ROOT / "prompts", tmp_path / "own")
    for name in ("words.txt", "features.txt"):
        (folder / name).write_bytes(b"\xef\xbb\xbf" + (folder / name).read_bytes())
    assert read_prompts(folder, instruct=False)[:3] == PROMPTS[:3]


@pytest.mark.parametrize(
    ("change", "says"),
    [
        ({"seed": 2}, "was begun with --seed=1337; go on with that"),
        ({"model": "other"}, "was begun with --model=teller; go on"),
        ({"instruct": True}, "was begun with --instruct=False"),
        ({"prompts": "own"}, "was begun with other words or prompts; choose another --out"),
    ],
)
def test_a_file_keeps_to_one_model_seed_and_list(order, server, out, tmp_path, change, says):
    order(1)
    if "prompts" in change:
        folder = shutil.copytree(ROOT / "prompts", tmp_path / "own")
        (folder / "compose.txt").write_text("{verb} {noun} {adjective}")
        change = {"prompts": str(folder)}
    with pytest.raises(UserError, match=says):
        order(2, **change)
    assert len(server.asked) == 1


def test_files_of_something_else_stay_as_they_are(order, server, out):
    out.parent.mkdir()
    out.write_text('{"text": "A hen."}')
    with pytest.raises(UserError, match=r"has stories, but no composed.log; choose another --out"):
        order()
    out.with_suffix(".log").write_text("Monday")
    with pytest.raises(UserError, match=r"is no log of stories; choose another --out"):
        order()
    assert out.read_text() == '{"text": "A hen."}'
    assert out.with_suffix(".log").read_text() == "Monday"
    assert not server.asked


@pytest.mark.parametrize("line", [b"\0\0\0\n", b"[]\n", b'{"number": 1}\n', b'{"text": 1}\n'])
def test_a_damaged_line_is_named(order, server, out, line):
    order(2)
    for path in (out, out.with_suffix(".log")):
        whole = path.read_bytes()
        with path.open("ab") as file:
            file.write(line)
        place = f"{path.name}, line {len(whole.splitlines()) + 1} is damaged; delete that line"
        with pytest.raises(UserError, match=place):
            order(3)
        path.write_bytes(whole)
    assert len(server.asked) == 2


@pytest.mark.parametrize(
    ("change", "says"),
    [
        ({"url": "localhost:1"}, "'localhost:1' is not the URL of an endpoint"),
        ({"prompts": "none"}, "cannot read none/words.txt: No such file"),
    ],
)
def test_a_mistake_leaves_no_file(order, out, change, says):
    with pytest.raises(UserError, match=says):
        order(**change)
    assert not out.parent.exists()


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="this system has no /dev/full")
def test_a_full_disk_is_one_line():
    with pytest.raises(UserError, match="cannot write /dev/full: No space left"):
        append_line(Path("/dev/full"), {"number": 1})


# In a real process ----------------------------------------------------------------------------


def start_composing(server, out, *more) -> ForkedCommand:
    options = (f"--url={server.url}", "--model=teller", f"--out={out}", *more)
    return ForkedCommand("compose.py", *options)


def wait_for_lines(path: Path, count: int) -> None:
    until = time.monotonic() + 60
    while time.monotonic() < until:
        if path.exists() and path.read_bytes().count(b"\n") >= count:
            return
        time.sleep(0.01)
    raise AssertionError(f"no {count} lines in {path}")


def slowly(body: dict) -> str:
    time.sleep(0.05)
    return "No." if "hop" in body["messages"][0]["content"] else story_of(body)


@pytest.mark.slow
def test_killed_at_any_instant_and_resumed_it_has_every_number_once(server, out):
    server.always = slowly
    for lines in (4, 20):
        process = start_composing(server, out, "--count=40")
        wait_for_lines(out, lines)
        process.kill()
        process.communicate()
    with out.open("ab") as file:
        file.write(b'{"number": 30')  # as if one had been killed in the middle of writing
    process = start_composing(server, out, "--count=40")
    stdout, stderr = process.communicate()
    assert process.returncode == 0, stderr
    assert f"40 stories in {out}" in stdout
    rows, dropped = rows_of(out), dropped_of(out)
    numbers = sorted(row["number"] for row in rows + dropped)
    assert len(rows) == 40 and numbers == list(range(len(numbers)))
    assert len(server.asked) <= len(numbers) + 2 * 8  # what was under way at a kill


@pytest.mark.slow
def test_ctrl_c_keeps_the_answers_under_way(server, out):
    server.always = slowly
    process = start_composing(server, out, "--count=500")
    wait_for_lines(out, 3)
    process.send_signal(signal.SIGINT)
    _, stderr = process.communicate()
    assert process.returncode == 130, stderr
    assert stderr.endswith("to keep them\n\ncompose.py: interrupted\n")
    assert len(rows_of(out)) + len(dropped_of(out)) == len(server.asked) < 500


@pytest.mark.slow
def test_two_do_not_share_a_file(server, out):
    out.parent.mkdir()
    options = (f"--url={server.url}", "--model=m", f"--out={out}")
    with only_writer(out):
        line = complaint("compose.py", *options, run=forked)
    assert "composed.jsonl is being written by" in line and "choose another name" in line
    assert not out.exists()


@pytest.mark.slow
@pytest.mark.parametrize(
    ("options", "says"),
    [
        ("--model=m", "which model? give --url=http://localhost:8000/v1 and --model=NAME"),
        ("--url={url} --model=m --out=x.txt", "out is 'x.txt'; name a .jsonl file"),
        ("--url=http://127.0.0.1:1/v1 --model=m", "cannot reach http://127.0.0.1:1/v1"),
        ("--url={url} --model=m --concurrency=0", "concurrency is 0; it must be >= 1 and <= 100"),
    ],
)
def test_a_mistake_is_one_line(server, tmp_path, options, says):
    words = options.format(url=server.url).split()
    assert says in complaint("compose.py", *words, run=forked, cwd=tmp_path)
    assert not server.asked


@pytest.mark.slow
def test_a_key_that_is_refused_is_one_line(server, out, monkeypatch):
    monkeypatch.setenv(KEY_VARIABLE, "sk-secret")
    server.always = 401
    options = (f"--url={server.url}", "--model=m", f"--out={out}")
    line = complaint("compose.py", *options, run=forked)
    assert "refused the request (401: no way); check the URL, the model and the API key" in line
    assert "secret" not in line
    assert server.keys[0] == "Bearer sk-secret"


@pytest.mark.slow
@pytest.mark.parametrize("instruct", [False, True])
def test_prepare_reads_what_was_composed(order, server, out, tmp_path, instruct):
    server.always = instruct_of if instruct else story_of
    order(60, concurrency=8, instruct=instruct)
    folder = tmp_path / "data"
    options = "--tokenizer=bpe --vocab_size=300 --val_fraction=0.1".split()
    forked("prepare.py", f"--source={out}", f"--dataset={folder}", *options)
    meta = read_meta(folder)
    assert sum(meta["splits"][split]["stories"] for split in ("train", "val")) == 60
    rules = {rule for split in meta["cleaning"].values() for rule in split}
    assert rules == ({"spaces"} if instruct else set())  # after "Story:"; nothing is dropped
