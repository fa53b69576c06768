"""Look inside a trained model: pictures, tables, and interpret.json.

    python interpret.py                        the run saved last
    python interpret.py out/x                  this run; hf:NAME works, too
    python interpret.py --text="One day, Tom"  only this text; FILE:path, or -
    python interpret.py --parts=heads,neurons  some of the parts
    python interpret.py --over_training        how kept checkpoints changed

Parts: text (how surprising each token is, and what was expected instead), lens
(what each layer would say), heads (what they look at), ablation (what gets
worse without each), neurons (what excites them). The pictures are in the folder
interpret of the run. docs/interpret.md explains them.
"""

import difflib
import os
import re
import sys
import time
from dataclasses import dataclass, replace
from pathlib import Path

from configurator import ROOT, RangedSettings, UserError, configure, start
from tinystories.ranges import Count

PARTS = ("text", "lens", "heads", "ablation", "neurons")


@dataclass
class Settings(RangedSettings):
    # Model
    out_dir: str | None = None  # run folder, RUN@STEP or hf:NAME; None: the run saved last
    checkpoint: str = "best.pt"  # or ckpt.pt; or out/RUN/ckpt.pt
    # What to look at
    parts: str | None = None  # of text,lens,heads,ablation,neurons; None: all
    text: str | None = None  # one text; FILE:path, or - for stdin
    dataset: str | None = None  # folder in data/ with stories; None: the run's own
    stories: Count | None = None  # validation stories; None: 50; 32 over training
    neurons: Count = 3  # shown of each layer
    over_training: bool = False  # curves over the kept checkpoints
    # Machine
    device: str = "auto"  # auto, cuda, cuda:1, mps, cpu

    def __post_init__(self):
        super().__post_init__()
        if not self.wanted():
            raise UserError(f"parts is empty; choose from {','.join(PARTS)}")
        for part in self.wanted():
            if part not in PARTS:
                near = difflib.get_close_matches(part, PARTS, n=1)
                hint = f"did you mean {near[0]}?" if near else f"choose from {','.join(PARTS)}"
                raise UserError(f"parts={self.parts}: there is no part {part!r}; {hint}")
        if self.over_training and (self.text is not None or self.parts is not None):
            raise UserError("over_training has parts and texts of its own; leave out both")
        if self.text is not None and not self.text.strip():
            raise UserError("text is empty; give some words, FILE:path, or -")

    def num_stories(self) -> int:
        """How many stories to look at."""
        return self.stories or (32 if self.over_training else 50)

    @staticmethod
    def bare_argument(argument: str) -> dict:
        """A run folder or a checkpoint; raises UserError for anything else."""
        if argument.endswith(".pt"):
            return {"checkpoint": argument}
        folder = os.path.expanduser(re.sub(r"@\d+$", "", argument))
        if argument.startswith("hf:") or (ROOT / folder).is_dir():
            return {"out_dir": argument}
        raise UserError(f"{argument} is no run folder; a text is given as --text={argument!r}")

    def wanted(self) -> list[str]:
        """The parts to measure: all of stories, those of a text where one is given."""
        if self.parts is None:
            return list(PARTS if self.text is None else PARTS[:2])
        return list(filter(None, map(str.strip, self.parts.split(","))))


command_line = configure(Settings)  # answers --help and mistakes before the slow imports

import numpy as np
import torch

from tinystories import device
from tinystories.activations import attention
from tinystories.evaluation.subject import Subject, open_subject
from tinystories.figures import short_name
from tinystories.files import atomic_write, read_whole, short_path, write_json
from tinystories.formats.causal_lm import is_published
from tinystories.interpretation import (
    ablation,
    figures,
    heads,
    lens,
    neurons,
    page,
    stories,
    summary,
    text,
    training,
)
from tinystories.interpretation.stories import ModelWithStories, Story
from tinystories.run import check_kept, kept_file, load_model, run_name, split_step
from tinystories.storystats import SENTENCE_END
from tinystories.terminal import command_text, counted, log_stderr, progress, time_taken, wrapped

FOLDER = "interpret"  # in the run folder
OWN_FILES = {
    *("interpret.json", "text.png", "text.html", "lens.png", "attention.png", "heads.png"),
    *("ablation.png", "neurons.txt", "over_training.csv", "over_training.png", "over_training.txt"),
    "text",
}
OWN_TEXT = "text"  # the folder in FOLDER for a text of one's own
OF_FILE_MANAGERS = {".DS_Store", ".ipynb_checkpoints", "Thumbs.db", "desktop.ini"}
LONGEST_TEXT = 10_000_000  # characters
ATTENTION_TOKENS = 48  # of a text, shown in attention.png
EXPECTED_LONG = 300  # seconds, from which on a part says beforehand how long it takes


def main(s: Settings) -> None:
    start_time = time.perf_counter()
    given = None if s.text is None else read_text(s.text)
    name, checkpoint = s.out_dir, s.checkpoint
    if not name or not is_published(name):
        name, checkpoint = run_name(s.out_dir, s.checkpoint), Path(s.checkpoint).name
    s = replace(s, checkpoint=checkpoint)
    if s.over_training and (is_published(name) or split_step(name)[1] is not None):
        raise UserError(f"over_training takes a run with all that it kept; {name} is one model")
    steps = check_kept(name) if s.over_training else []
    hardware = device.select_hardware(s.device, "float32")
    opened = open_subject(s, name, hardware)
    folder = output_folder(opened.folder, given is not None)
    log_stderr(f"{opened.info['checkpoint']} of {name}, {hardware.reasons[0]}")
    with device.out_of_memory("take few stories at a time (--stories=4), or --device=cpu"):
        subject, shown = choose_stories(s, opened, given)
        folder.mkdir(parents=True, exist_ok=True)
        if steps:
            lines, made = follow(s, opened, subject, shown, folder, steps)
        else:
            check_finite(opened.model, f"{opened.info['checkpoint']} of {name}")
            results, made = look(s, subject, shown, folder, short_name(name))
            lines = summary.of_results(results)
    took = time.perf_counter() - start_time
    if not steps:
        tokens = sum(len(story.x) for story in subject.stories)
        data = opened.data.folder.name if opened.data and given is None else None
        about = {"run": name, **opened.info, "dataset": data, "text": given}
        about |= {"stories": len(subject.stories), "tokens": tokens}
        last = results.get("layers", [{}])[-1]
        about["bits_per_byte"] = last.get("lens_bits_per_byte")  # None without the part lens
        write_json(folder / "interpret.json", about | {"seconds": round(took, 1)} | results)
        made.append("interpret.json")
    print("\n".join(map(wrapped, lines)))
    log_stderr(
        wrapped(f"made in {short_path(folder)}: {', '.join(made)}; time: {time_taken(took)}")
    )
    if given is None:
        options = [f"--out_dir={name}"]
        if checkpoint != "best.pt" and not is_published(name) and split_step(name)[1] is None:
            options.append(f"--checkpoint={checkpoint}")
        words = ("python", "interpret.py", *options, "--text=One day, Tom")
        log_stderr("look at a text of your own:\n" + command_text(*words))


def follow(
    s: Settings,
    opened: Subject,
    subject: ModelWithStories,
    shown: Story,
    folder: Path,
    steps: list[int],
) -> tuple[list[str], list[str]]:
    """Measure each kept checkpoint, and let it tell a story; a summary, and names of files."""
    rows, tales = [], []
    prompt = first_sentence(shown)
    for step in progress(steps, "over training", "checkpoints"):
        model = load_model(opened.folder, kept_file(step))[0].to(subject.device)
        check_finite(model, f"step {step:,} of {opened.name}")
        own = replace(subject, model=model)
        rows.append({"step": step} | training.measure(own))
        tales.append(f"--- step {step} ---\n{training.story(own, opened.hardware, prompt)}\n")
    training.write(rows, folder, f"{short_name(opened.name)}: how it learned")
    atomic_write(folder / "over_training.txt", "\n".join(tales).encode(errors="replace"))
    return training.summary(rows), [f"over_training.{end}" for end in ("png", "csv", "txt")]


def first_sentence(story: Story) -> str:
    """The text of a story up to the end of its first sentence, or its first 60 characters."""
    content = b"".join(story.pieces).decode(errors="ignore")
    end = SENTENCE_END.search(content)
    return content[: end.end() if end and end.end() < 200 else 60]


def read_text(value: str) -> str:
    """The text that --text means; raises UserError for what is no file of text."""
    if value != "-" and not value.startswith("FILE:"):
        return value
    path = value.removeprefix("FILE:")
    try:
        data = sys.stdin.buffer.read(4 * LONGEST_TEXT) if value == "-" else read_whole(Path(path))
        content = data.decode().removesuffix("\n")
    except FileNotFoundError:
        raise UserError(f"there is no file {path}") from None
    except UnicodeDecodeError:
        raise UserError(f"the text from {path} is not UTF-8") from None
    if not content.strip():
        raise UserError(f"the text from {path} is empty")
    return content


def output_folder(run: Path, own_text: bool) -> Path:
    """The folder for the results; raises UserError if it has files of somebody else.

    The results of a text of one's own have a folder of their own.
    """
    folder = run / FOLDER / OWN_TEXT if own_text else run / FOLDER
    if folder.exists():
        names = {path.name.removesuffix(".tmp") for path in folder.iterdir()}
        if foreign := sorted(names - OWN_FILES - OF_FILE_MANAGERS):
            raise UserError(
                f"{short_path(folder)} has {foreign[0]}, which interpret.py did not write"
            )
    return folder


def check_finite(model: torch.nn.Module, what: str) -> None:
    """Raises UserError if a weight is not a number, or infinite."""
    if not all(weight.isfinite().all() for weight in model.parameters()):
        raise UserError(f"{what} has weights that are not finite: there is nothing to see in it")


def choose_stories(
    s: Settings, opened: Subject, given: str | None
) -> tuple[ModelWithStories, Story]:
    """The model with the stories that it is looked at in, and the text that is shown."""
    model, tokenizer = opened.model, opened.tokenizer
    size = model.config.block_size
    chosen, names = [], set()
    uses_names = {"heads", "ablation"} & set(s.wanted())
    if given is None and opened.data is None:
        raise UserError(
            f"there are no stories for {opened.name}: its dataset is missing or has another "
            "tokenizer; name one with --dataset=, or give a text with --text="
        )
    if given is None or (opened.data is not None and uses_names):
        count = s.num_stories() if given is None else 1
        chosen, names = stories.validation_stories(opened.dataset(), tokenizer, size, count)
    if given is None:
        if not chosen:
            raise UserError("the validation stories are empty: there is nothing to look at")
        if len(chosen) < s.num_stories():
            log_stderr(f"there are only {counted(len(chosen), 'validation story', 'stories')}")
        shown = chosen[0]
    else:
        ids = tokenizer.encode(given)
        shown = stories.make_story(tokenizer, np.array(ids, dtype=int), size, names, ended=False)
        if len(ids) > len(shown.x):
            log_stderr(f"the text has {len(ids):,} tokens; the first {len(shown.x):,} are read")
        chosen = [shown]
    return ModelWithStories(model, tokenizer, opened.hardware.device, chosen), shown


def look(
    s: Settings, subject: ModelWithStories, shown: Story, folder: Path, title: str
) -> tuple[dict, list[str]]:
    """Measure the parts that are wanted and draw them; the results, and the names of the files."""
    results, made = {}, []
    wanted = [part for part in PARTS if part in s.wanted()]
    with progress(wanted, "looking", "parts") as bar:
        for part in bar:
            bar.set_description(part)
            result, files = LOOK[part](subject, shown, folder, title, s)
            results |= result
            made += files
    if s.text is not None and s.parts is None:
        try:
            made += draw_attention(subject, shown, folder, title)
        except UserError as error:  # attention that cannot be seen
            log_stderr(wrapped(f"no attention.png: {error}"))
    return results, made + join(results, folder, title)


# The parts ----------------------------------------------------------------------------------


def look_text(subject: ModelWithStories, shown: Story, folder: Path, title: str, _: Settings):
    """How surprising each token of the text is."""
    surprise = text.measure(subject, shown)
    bits = f"{surprise.bits_per_byte:.3f} bits per byte"
    figures.plot_text(surprise, f"{title}: {bits}", folder / "text.png")
    html = page.html_page(surprise, title)
    atomic_write(folder / "text.html", html.encode(errors="replace"))
    result = {"text": {"bits_per_byte": surprise.bits_per_byte, "tokens": len(surprise.pieces)}}
    return result, ["text.png", "text.html"]


def look_lens(subject: ModelWithStories, shown: Story, folder: Path, title: str, _: Settings):
    """What each layer would say."""
    bits = lens.measure(subject)
    best, right = lens.of_story(subject, shown)
    pieces = text.shown_pieces(subject, shown)
    guesses = [[text.name_of(subject, i) for i in row] for row in best]
    figures.plot_lens(bits, pieces, guesses, right, f"{title}: the logit lens", folder / "lens.png")
    return {"lens_bits_per_byte": bits}, ["lens.png"]


def look_heads(subject: ModelWithStories, shown: Story, folder: Path, title: str, _: Settings):
    """What each head looks at."""
    found, repeat = heads.measure(subject)
    figures.plot_heads(found, f"{title}: what heads look at", folder / "heads.png")
    made = draw_attention(subject, shown, folder, title)
    return {"heads": found, "repeat": repeat}, ["heads.png", *made]


def draw_attention(subject: ModelWithStories, shown: Story, folder: Path, title: str) -> list[str]:
    """Draw the attention of each head on the beginning of the text."""
    x = torch.from_numpy(shown.x[:ATTENTION_TOKENS])[None].to(subject.device)
    patterns = attention(subject.model, x, lambda _, pattern, visible: pattern[0].cpu().numpy())
    pieces = text.shown_pieces(subject, shown)[: x.shape[1] - 1]
    figures.plot_attention(patterns, pieces, f"{title}: attention", folder / "attention.png")
    return ["attention.png"]


def look_ablation(subject: ModelWithStories, shown: Story, folder: Path, title: str, s: Settings):
    """What gets worse without a head, an attention or an MLP."""
    count = len(ablation.removals(subject))
    warn_if_long(subject, count / 2, "ablation", s)
    whole, removed = ablation.measure(subject)
    return {"kinds": whole, "removed": removed}, []


def look_neurons(subject: ModelWithStories, shown: Story, folder: Path, title: str, s: Settings):
    """What excites the neurons that fire most selectively."""
    found = neurons.measure(subject, s.neurons)
    atomic_write(folder / "neurons.txt", neurons.listing(found).encode(errors="replace"))
    return {"neurons": found}, ["neurons.txt"]


def warn_if_long(subject: ModelWithStories, passes: float, part: str, s: Settings) -> None:
    """Say so if a part that needs so many passes over the stories takes minutes."""
    batches = list(subject.batches())
    start_time = time.perf_counter()
    with torch.no_grad():
        subject.model(batches[0][1]).sum().item()  # waits for the device
    seconds = passes * len(batches) * (time.perf_counter() - start_time)
    if seconds > EXPECTED_LONG:
        fewer = f"fewer stories (--stories={max(1, s.num_stories() // 4)}) or --parts are faster"
        log_stderr(f"{part} takes about {time_taken(seconds)}; {fewer}")


LOOK = {
    "text": look_text,
    "lens": look_lens,
    "heads": look_heads,
    "ablation": look_ablation,
    "neurons": look_neurons,
}


# The results --------------------------------------------------------------------------------


def join(results: dict, folder: Path, title: str) -> list[str]:
    """Put what was removed beside its head or its layer, and draw it; names of the pictures."""
    removed = results.pop("removed", None)
    bits = results.pop("lens_bits_per_byte", None)
    if removed is None and bits is None:
        return []
    count = 1 + max(layer for layer, _, _ in removed) if removed else len(bits or [])
    layers = [{"lens_bits_per_byte": bits[layer]} if bits else {} for layer in range(count)]
    for layer, result in enumerate(layers if removed else []):
        for part in ("attention", "mlp"):
            result[f"{part}_removed"] = removed[layer, part, None]
    results["layers"] = layers
    if not removed:
        return []
    each = {(layer, head): cost for (layer, _, head), cost in removed.items() if head is not None}
    known = results.get("heads") or [{"layer": layer, "head": head} for layer, head in each]
    results["heads"] = [head | {"removed": each[head["layer"], head["head"]]} for head in known]
    what = f"{title}: what gets worse without a part"
    figures.plot_ablation(
        results["heads"], results["layers"], results["kinds"], what, folder / "ablation.png"
    )
    return ["ablation.png"]


if __name__ == "__main__":
    start(main, command_line.settings)
