"""The exported page in a real browser: opened from the disk, without a network.

It needs playwright (requirements-dev.txt) and Chromium, and is skipped without them.
"""

import shutil

import pytest
import torch
from test_formats_html import make_page, model_in, random_model

from tinystories.tokenizer import Tokenizer, train_bpe

playwright = pytest.importorskip("playwright.sync_api", reason="playwright is not installed")
pytestmark = pytest.mark.slow
OPTIONS = "--no-sandbox --disable-gpu --disable-background-networking --disable-component-update"
TALE = "Once a fox went up a hill. She wanted to look at the moon, and it was round. "


@pytest.fixture(scope="module")
def browser():
    """Chromium: the one of the system, or playwright's own."""
    names = ("chromium", "chromium-browser", "google-chrome")
    system = next(filter(None, map(shutil.which, names)), None)
    options = [*OPTIONS.split(), "--disable-sync", "--no-first-run"]
    with playwright.sync_playwright() as started:
        try:
            chromium = started.chromium.launch(executable_path=system, args=options)
        except playwright.Error as error:
            pytest.skip(f"no Chromium to open the page in: {str(error).splitlines()[0]}")
        yield chromium
        chromium.close()


@pytest.fixture(scope="module")
def story_page(tmp_path_factory):
    """A page with a random model that has the words of a tale."""
    tokenizer = train_bpe([TALE * 3], 330)
    model = random_model(tokenizer.vocab_size, arch="qwen3")
    return make_page(tmp_path_factory.mktemp("page") / "p.html", model, tokenizer), tokenizer


@pytest.fixture
def opened(browser, story_page, request):
    """The page in a window of `request.param`, (width, height, color scheme)."""
    width, height, scheme = getattr(request, "param", (1280, 900, "light"))
    context = browser.new_context(
        viewport={"width": width, "height": height}, color_scheme=scheme, offline=True
    )
    page, problems, requests = context.new_page(), [], []
    page.on("pageerror", lambda error: problems.append(str(error)))
    page.on("console", lambda message: problems.append(message.text))
    page.on("request", lambda asked: requests.append(asked.url))
    page.goto(story_page[0].as_uri())
    yield page
    assert (problems, requests) == ([], [story_page[0].as_uri()])
    context.close()


def greedy(page_path, tokenizer: Tokenizer, prompt: list[int], length: int) -> str:
    """What torch writes after some ids with the weights in the page, the prompt included."""
    model, end = model_in(page_path), tokenizer.end_of_text
    new = list(model.generate(torch.tensor([prompt]), length, eot_id=end, temperature=0))
    return tokenizer.decode([*prompt, *torch.cat(new).tolist()])


def write(page, prompt: str, length: int) -> None:
    page.fill("#prompt", prompt)
    if not page.is_visible("#length"):
        page.click("summary")
    page.fill("#length", str(length))
    page.evaluate("document.getElementById('temperature').value = 0")
    page.click("text=Write")
    wait(page)


def wait(page) -> None:
    """Until the newest story is finished."""
    page.wait_for_function(
        "/The end|Stopped here/.test(document.querySelector('article footer').textContent)"
    )


def texts(page) -> list[str]:
    """Of all stories, the newest first."""
    return page.locator("article .text").all_text_contents()


def test_a_story_and_another_one_from_one_of_its_words(opened, story_page):
    path, tokenizer = story_page
    prompt = [tokenizer.first_id, *tokenizer.encode("Once a fox")]
    write(opened, "Once a fox", 30)
    first = texts(opened)[0]
    assert first == greedy(path, tokenizer, prompt, 30)

    opened.click("article .word >> nth=1")
    panel = opened.get_by_role("dialog")
    assert "Instead of “a”" in panel.text_content()
    choices = panel.locator("li button")
    assert choices.count() >= 8
    assert panel.locator("[aria-current] span").text_content() == "a"
    other = opened.evaluate("alternatives(model, tokenizer, stories[0], stories[0].words[1].start)")
    choices.nth(1).click()
    wait(opened)
    before = prompt[: len(tokenizer.encode("Once")) + 1]
    length = 30 if other[1]["text"] else 0
    second = greedy(path, tokenizer, [*before, *other[1]["ids"]], length)
    assert texts(opened) == [second, first]  # the old story stays beside the new one
    boxes = [article.bounding_box() for article in opened.locator("article").all()]
    assert boxes[0]["y"] == boxes[1]["y"]
    assert boxes[0]["x"] + boxes[0]["width"] < boxes[1]["x"]


@pytest.mark.parametrize("opened", [(390, 844, "dark")], indirect=True, ids=["phone"])
def test_on_a_phone_nothing_overflows(opened):
    write(opened, "Once a fox", 60)
    for step in (".word >> nth=4", ".panel li button >> nth=2"):
        opened.click(f"article {step}")
        assert opened.evaluate("document.documentElement.scrollWidth") <= 390
    wait(opened)
    opened.check("#surprise")
    assert opened.evaluate("document.documentElement.scrollWidth") <= 390
    tops = [article.bounding_box()["y"] for article in opened.locator("article").all()]
    assert tops[0] < tops[1]  # the old story below


def test_by_keyboard_alone(opened):
    write(opened, "Once a fox", 20)
    opened.keyboard.press("Tab")  # from the button: Stop is off, then the switch
    for _ in range(20):
        if opened.evaluate("document.activeElement.className").startswith("word"):
            break
        opened.keyboard.press("Tab")
    opened.keyboard.press("ArrowRight")
    focused = "document.activeElement.textContent"
    assert opened.evaluate(focused) == "a"
    opened.keyboard.press("Enter")
    assert opened.evaluate("document.activeElement.closest('.panel') !== null")
    opened.keyboard.press("Escape")
    assert opened.locator(".panel").count() == 0
    assert opened.evaluate(focused) == "a"
    assert opened.locator("#status").text_content().startswith("Story 1: ")


def test_a_long_beginning_can_be_stopped_and_gone_on_with(opened):
    prompt = TALE * 20
    opened.fill("#prompt", prompt)
    opened.click("text=Write")
    opened.wait_for_function("stories[0]?.words.length > 4")
    opened.click("#stop")
    wait(opened)
    read = texts(opened)[0]
    assert prompt.startswith(read) and len(read) < len(prompt)
    assert opened.evaluate("document.activeElement.textContent") == "Go on"
    opened.keyboard.press("Enter")
    assert opened.evaluate("document.activeElement.id") == "stop"
    opened.wait_for_function("stories[0].ids.length > stories[0].promptLength + 3")
    assert texts(opened)[0].startswith(prompt)
    opened.keyboard.press("Enter")
    wait(opened)
    assert len(texts(opened)) == 1


def test_another_story_that_goes_on_takes_the_focus_from_the_first(opened):
    opened.click("summary")
    opened.fill("#length", "2000")
    for number in range(2):
        opened.click("text=Write")
        opened.wait_for_function(f"stories[{number}]?.words.length > 3")
        if number == 0:
            opened.click("#stop")
            wait(opened)
    opened.locator("article").nth(1).get_by_text("Go on").click()
    opened.wait_for_function("/Stopped/.test(stories[1].footer.textContent)")
    assert opened.evaluate("document.activeElement.id") == "stop"
    assert opened.evaluate("writing === stories[0]")
    opened.keyboard.press("Enter")
    assert opened.evaluate("writing") is None


def test_unlikely_words_have_a_shade_and_a_number(opened):
    write(opened, "Once a fox", 20)
    opened.check("#surprise")
    assert opened.locator("#legend li").count() == 5
    for word in opened.locator("article .word").all():
        number = word.get_attribute("data-percent")
        assert word.get_attribute("title") == f"{number} %"
        shade = sum(float(number.strip("<")) < limit for limit in (50, 10, 1, 0.1))
        assert word.get_attribute("data-shade") == str(shade)
