"""The README.md of a model on the Hugging Face hub: its model card."""

import contextlib
from pathlib import Path

from configurator import UserError
from tinystories.dataset import dataset_folder, read_meta
from tinystories.files import first_of
from tinystories.formats.trained import TrainedModel
from tinystories.tokenizer import END_OF_TEXT, VOCABULARY, Tokenizer

HERE = "."  # the name of the model in the card, until it is uploaded
LICENSES = {"roneneldan/TinyStories": "CDLA-Sharing-1.0"}  # of data sets, as their cards say
# What says nothing about the model, or is a path of the machine that trained it.
NOT_SHOWN = {
    *("out_dir", "dataset", "device", "dtype", "compile", "log_interval", "save_minutes"),
    *("log_to", "wandb_log", "wandb_project", "wandb_run_name"),
}


def model_card(trained: TrainedModel, architecture: str) -> str:
    """The card, in Markdown with a YAML header; the same every time for the same run.

    Args:
        architecture: the class in transformers.
    """
    datasets, data = describe_data(trained)
    header = {"library_name": "transformers", "pipeline_tag": "text-generation"}
    lines = ["---", *(["datasets:"] if datasets else []), *(f"- {name}" for name in datasets)]
    lines += [*(f"{name}: {value}" for name, value in header.items()), "---", ""]
    lines += [f"# {trained.name}", "", describe_model(trained, architecture), ""]
    lines += [
        "```python",
        "from transformers import AutoModelForCausalLM, AutoTokenizer",
        f'tokenizer = AutoTokenizer.from_pretrained("{HERE}")',
        f'model = AutoModelForCausalLM.from_pretrained("{HERE}")',
        "",
        'story = model.generate(**tokenizer("Once upon a time", return_tensors="pt"))',
        "print(tokenizer.decode(story[0], skip_special_tokens=True))",
        "```",
        *("", how_to_prompt(trained), "", "## Training", "", data, "", losses(trained)),
    ]
    shown = {k: v for k, v in sorted(trained.settings.items()) if k not in NOT_SHOWN}
    if shown:
        lines += ["", *table({name: str(value) for name, value in shown.items()}, "setting")]
    lines += ["", "## Evaluation"] if trained.evaluation else []
    for section, cells in trained.evaluation.items():
        lines += ["", f"### {section}", "", *table(cells, "measured")]
    return "\n".join(lines) + "\n"


def table(cells: dict[str, str], heading: str) -> list[str]:
    """The lines of a table with two columns."""
    rows = [f"| {label} | {value} |" for label, value in cells.items()]
    return [f"| {heading} | |", "|---|---|", *rows]


def describe_model(trained: TrainedModel, architecture: str) -> str:
    """What the model is, in a sentence."""
    c, millions = trained.model.config, trained.model.count_parameters() / 1e6
    return (
        f"A small GPT that generates stories, as a `{architecture}` with {millions:.2f} M "
        f"parameters (n_layer={c.n_layer}, n_head={c.n_head}, n_embd={c.n_embd}), a vocabulary of "
        f"{c.vocab_size:,} ids and a context window of {c.block_size:,} tokens."
    )


def how_to_prompt(trained: TrainedModel) -> str:
    """What has to be known to get stories like those of the training data."""
    if trained.tokenizer.end_of_text is None:
        return "The vocabulary is one of characters; a text with others is an error."
    return (
        f"It generates one story at a time; give it end of text (`{END_OF_TEXT}`) first. The "
        "tokenizer puts it in front of every prompt, also of an empty one. It comes again where "
        "the story ends."
    )


def describe_data(trained: TrainedModel) -> tuple[list[str], str]:
    """The data sets of the hub that it was trained on, and a sentence about all of its data."""
    name = trained.settings.get("dataset")
    folder = dataset_folder(name) if isinstance(name, str) else None
    meta = read_meta(folder) if folder else None
    if not folder or not meta or not has_vocabulary(folder, trained.tokenizer):
        return [], "The training data is not known."
    parts = meta.get("sources") or [meta]  # earlier versions had one source only
    stories = f"{meta['splits']['train']['stories']:,} stories"
    described = [describe_source(part.get("source") or "", part.get("revision")) for part in parts]
    names = list(dict.fromkeys(part["source"] for part in parts if part.get("revision")))
    described = list(dict.fromkeys(described))
    if len(described) > 1:
        return names, f"Trained on {stories}, {' and '.join(described)}."
    return names, f"Trained on {described[0] if names else f'{stories} {described[0]}'}."


def has_vocabulary(folder: Path, tokenizer: Tokenizer) -> bool:
    """Whether a dataset still has the vocabulary of a model; else it was prepared anew."""
    with contextlib.suppress(UserError):
        return Tokenizer.load(first_of(folder, *VOCABULARY)).fingerprint == tokenizer.fingerprint
    return False


def describe_source(origin: str, revision: str | None) -> str:
    """Where stories are from; no path of a machine."""
    if revision:
        license = f", license {LICENSES[origin]}" if origin in LICENSES else ""
        link = f"[{origin}](https://huggingface.co/datasets/{origin})"
        return f"{link}, revision `{revision}`{license}"
    return "generated by rules" if origin.startswith("storybook of") else "of files"


def losses(trained: TrainedModel) -> str:
    """How long it was trained, and its loss on validation data, as far as they are known."""
    progress = trained.state.get("progress", {})
    step = trained.state.get("step", progress.get("step"))
    loss = trained.state.get("val_loss", progress.get("best_val"))
    parts = [f"{step:,} steps"] if isinstance(step, int) else []
    best = progress.get("best_step", step)
    if isinstance(loss, float) and best == step and not progress.get("best_is_average"):
        parts.append(f"the lowest validation loss is {loss:.4f} nats per token")
    elif isinstance(loss, float) and best >= 0:
        parts.append(f"the lowest validation loss of the run, of other weights, was {loss:.4f}")
    return f"{'; '.join(parts).capitalize()}." if parts else "Its losses are not known."
