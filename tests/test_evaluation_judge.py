"""The judge against a server on this machine that speaks like an OpenAI endpoint."""

import json
import os
import subprocess
import sys
import textwrap
import threading
from types import SimpleNamespace

import pytest
from chat_server import serving

from configurator import UserError
from tinystories.endpoint import KEY_VARIABLE, Endpoint
from tinystories.evaluation import judge

GOOD = 'Nice. {"grammar": 8, "creativity": 6, "consistency": 7, "plot": 5, "age_group": "C"}'
STORY = ("Once there was a hen", " who sang to the moon.")


@pytest.fixture
def server():
    with serving(GOOD) as served:
        yield served


@pytest.fixture
def grade(server, tmp_path, monkeypatch):
    """Has stories graded by the server, with short waits."""
    monkeypatch.delenv(KEY_VARIABLE, raising=False)

    def call(*stories, model="teacher", url=server.url, workers=2, retry_delays=(0.01, 0.02, 0.04)):
        teacher = Endpoint(url, model, retry_delays)
        grades, reason = judge.grade(stories or [STORY], teacher, tmp_path, workers)
        return SimpleNamespace(**grades, reason=reason)

    return call


def numbered(count: int) -> list[tuple[str, str]]:
    return [(f"There were {n} hens", " and a fox.") for n in range(count)]


# What is sent, and how answers are summed up ---------------------------------------------------


def test_grades_and_age_groups_are_summed_up(server, grade):
    worse = GOOD.replace("8", "2.5").replace("C", "A")
    server.script = [GOOD, worse]
    grades = grade(*numbered(2))
    assert grades.means == {"grammar": 5.25, "creativity": 6, "consistency": 7, "plot": 5}
    assert grades.age_groups == {"A": 1, "C": 1}
    assert (grades.answered, grades.unparseable, grades.failed) == (2, 0, 0)


def test_the_prompt_marks_where_the_continuation_begins(server, grade):
    grade(STORY, model="teacher-2")
    (body,) = server.asked
    assert body["model"] == "teacher-2"
    assert "\n\nOnce there was a hen*** who sang to the moon.\n\n" in body["messages"][0]["content"]
    assert "A (3 or under), B (4-5), C (6-7), D (8-9)" in body["messages"][0]["content"]


def test_a_prompt_of_another_form_is_named(tmp_path, monkeypatch):
    path = tmp_path / "judge.txt"
    monkeypatch.setattr(judge, "PROMPT", path)
    with pytest.raises(UserError, match=r"cannot read .*judge\.txt"):
        judge.prompt("", "")
    for text in ('{"grammar": N}', "{0}", "{"):
        path.write_text(text)
        with pytest.raises(UserError, match=r"judge\.txt: it may have \{beginning\}, "):
            judge.prompt("", "")


def test_a_story_may_hold_braces(server, grade):
    assert grade(("A {hen} {0}", " said {}.")).answered == 1
    assert "A {hen} {0}*** said {}." in server.asked[0]["messages"][0]["content"]


UNPARSEABLE = {
    "empty": "",
    "in words": "Grammar: 8/10, creativity 7/10",
    "a grade too high": GOOD.replace("8", "11"),
    "a grade of zero": GOOD.replace("8", "0"),
    "a grade in words": GOOD.replace("8", '"eight"'),
    "a boolean grade": GOOD.replace("8", "true"),
    "no plot": GOOD.replace("plot", "action"),
    "no such age group": GOOD.replace("C", "G"),
    "an age": GOOD.replace('"C"', '["C"]'),
    "the example of the prompt": judge.prompt(*STORY).splitlines()[-1],
    "cut short": GOOD[:-3],
    "the example after the grades": GOOD + "\n" + judge.prompt(*STORY).splitlines()[-1],
}


@pytest.mark.parametrize("answer", UNPARSEABLE.values(), ids=UNPARSEABLE)
def test_an_answer_without_valid_grades_is_counted_and_not_guessed(answer):
    assert judge.summary([answer, GOOD])["unparseable"] == 1
    assert judge.summary([answer])["means"] == {}


@pytest.mark.parametrize("answer", [f"```json\n{GOOD}\n```", GOOD.replace(", ", ",\n  ")])
def test_grades_may_be_in_a_block_or_on_several_lines(answer):
    assert judge.read_grades(answer)["grammar"] == 8


def test_an_answer_without_text_is_unparseable(server, grade):
    server.always = 'RAW {"choices": [{"message": {"content": null}}]}'
    assert grade().unparseable == 1


def test_the_key_is_sent_if_there_is_one(server, grade, monkeypatch):
    grade(STORY)
    monkeypatch.setenv(KEY_VARIABLE, "secret\n")
    grade(("Another", " story."))
    assert server.keys == ["Bearer none", "Bearer secret"]


@pytest.mark.parametrize(("key", "variable"), [(None, True), (None, False), (" ", True)])
def test_a_saved_hub_token_is_never_sent(server, tmp_path, key, variable):
    hub, environment = tmp_path / "hub", {"PATH": os.environ["PATH"]}
    hub.mkdir()
    (hub / "token").write_text("hf_saved")
    environment |= {"HF_HOME": str(hub), "PYTHONPATH": os.pathsep.join(sys.path)}
    environment |= {"HF_TOKEN": "hf_saved"} if variable else {}
    environment |= {} if key is None else {KEY_VARIABLE: key}
    code = f"""
        from pathlib import Path
        from huggingface_hub import get_token
        from tinystories.endpoint import Endpoint
        from tinystories.evaluation import judge
        assert get_token() == "hf_saved"
        judge.grade([("A hen", " sang.")], Endpoint("{server.url}", "m"), Path("{tmp_path}"))
    """
    subprocess.run([sys.executable, "-c", textwrap.dedent(code)], env=environment, check=True)
    assert server.keys == ["Bearer none"]
    assert not any("hf_saved" in headers for headers in server.all_headers)


def test_requests_run_in_parallel(server, grade):
    server.together = threading.Barrier(4)
    assert grade(*numbered(8), workers=4).answered == 8


# What is kept ---------------------------------------------------------------------------------


def test_answered_stories_are_not_asked_again(server, grade, tmp_path):
    server.script = [GOOD, "no grades"]
    first = grade(*numbered(2), workers=1)
    assert grade(*numbered(3)).answered == 2
    assert (first.answered, first.unparseable) == (1, 1)
    assert len(server.asked) == 3
    rows = [json.loads(line) for line in (tmp_path / "judgements.jsonl").read_text().splitlines()]
    assert [row["answer"] for row in rows] == [GOOD, "no grades", GOOD]
    assert "There were 0 hens*** and a fox." in rows[0]["prompt"]


def test_another_model_is_asked_again(server, grade):
    grade(STORY)
    grade(STORY, model="other")
    assert [body["model"] for body in server.asked] == ["teacher", "other"]


def test_the_same_story_twice_is_asked_once_and_counts_twice(server, grade):
    assert grade(STORY, STORY).answered == 2
    assert len(server.asked) == 1


def test_an_answer_cut_short_by_a_crash_is_asked_for_again(server, grade, tmp_path):
    grade(*numbered(2), workers=1)
    path = tmp_path / "judgements.jsonl"
    path.write_bytes(path.read_bytes()[:-20])
    assert grade(*numbered(2)).answered == 2
    assert grade(*numbered(2)).answered == 2
    assert len(server.asked) == 3


# What goes wrong ------------------------------------------------------------------------------


@pytest.mark.parametrize("error", [429, 500, 503, None, 'RAW {"error": "overloaded"}'])
def test_temporary_errors_are_retried(server, grade, error):
    server.script = [error, error]
    assert grade().answered == 1
    assert len(server.asked) == 3


def test_retry_after_is_respected(server, grade):
    server.script, server.headers = [429], {"Retry-After": "1"}
    assert grade().answered == 1
    assert server.times[1] - server.times[0] > 0.9


def test_a_wait_of_an_hour_is_a_failure(server, grade):
    server.always, server.headers = 429, {"Retry-After": "3600"}
    assert grade().failed == 1
    assert len(server.asked) == 1


def test_a_story_that_gets_no_answer_is_counted_and_asked_again_next_time(server, grade):
    server.script = [GOOD, 500, 500, 500, 500]
    first = grade(*numbered(2), workers=1)
    assert (first.answered, first.failed, first.reason) == (1, 1, "500: no way")
    second = grade(*numbered(2))
    assert (second.answered, second.failed, second.reason) == (2, 0, None)


def test_a_bad_request_is_not_retried(server, grade):
    server.script = [400]
    grades = grade(*numbered(2), workers=1)
    assert (grades.answered, grades.failed, grades.reason) == (1, 1, "400: no way")


def test_after_many_failures_in_a_row_nothing_more_is_sent(server, grade):
    server.always = 500
    grades = grade(*numbered(40), retry_delays=())
    assert grades.failed == 40
    assert len(server.asked) < 20


@pytest.mark.parametrize("status", [401, 403])
def test_a_rejected_key_ends_it_at_once(server, grade, status):
    server.always = status
    with pytest.raises(UserError) as refused:
        grade(*numbered(20))
    assert str(refused.value) == (
        f"{server.url}/chat/completions refused the request ({status}: no way); check the URL, the "
        "model and the API key in OPENAI_API_KEY"
    )
    assert len(server.asked) <= 4


def test_answers_of_running_requests_are_kept_when_another_ends_it(server, grade, tmp_path):
    server.script, server.together = [401, GOOD], threading.Barrier(2)
    with pytest.raises(UserError):
        grade(*numbered(2))
    server.together = None
    assert grade(*numbered(2)).answered == 2
    assert len(server.asked) == 3


@pytest.mark.parametrize(
    ("url", "message"),
    [
        ("localhost:8000/v1", "'localhost:8000/v1' is not the URL of an endpoint"),
        ("http://127.0.0.1:1/v1", "cannot reach http://127.0.0.1:1/v1/chat/completions"),
        ("http://127.0.0.1:port/v1", "is not the URL of an endpoint"),
        ("http://[x/v1", "is not the URL of an endpoint"),
        ("http://a..b/v1", "is not the URL of an endpoint"),
        ("http://256.1.1.1/v1", "is not the URL of an endpoint"),
        ("HTTP://localhost/v1", "is not the URL of an endpoint"),
        ("http://nowhere.invalid/v1", "cannot reach http://nowhere.invalid/v1"),
        ("http://localhost:8000/vü", "is not the URL of an endpoint"),
        ("{server}/v2", "/v2/chat/completions refused the request (404: "),
    ],
)
def test_a_wrong_url_is_reported_at_once(server, grade, url, message):
    with pytest.raises(UserError) as refused:
        grade(*numbered(5), url=url.format(server=server.url))
    assert message in str(refused.value)
    assert "\n" not in str(refused.value)


@pytest.mark.parametrize("key", ["“secret”", "secret\nsecret"])
def test_a_malformed_key_is_reported_but_not_shown(server, grade, monkeypatch, key):
    monkeypatch.setenv("OPENAI_API_KEY", key)
    with pytest.raises(UserError, match="OPENAI_API_KEY has") as refused:
        grade()
    assert "secret" not in str(refused.value)


def test_an_answer_that_is_not_text_is_a_failure_and_not_kept(server, grade, tmp_path):
    server.always = 'RAW {"choices": [{"message": {"content": [{"text": "8"}]}}]}'
    assert "an answer that is not text" in grade().reason
    assert not (tmp_path / "judgements.jsonl").exists()


def test_a_web_page_is_not_an_endpoint(server, grade):
    server.always = "RAW <html>Welcome</html>"
    with pytest.raises(UserError, match="does not answer in JSON; check the URL"):
        grade()


@pytest.mark.parametrize("end", ["", "/", "/chat/completions"])
def test_the_url_may_be_written_in_three_ways(server, grade, end):
    assert grade(url=server.url + end).answered == 1
