"""Write a trained model in the format of another program.

    python export.py                        hf, gguf and html, of the newest run
    python export.py --to=gguf out/x        for llama.cpp, Ollama and LM Studio
    python export.py --to=html              a web page that generates stories
    python export.py --to=nanogpt           a checkpoint that nanoGPT reads
    python export.py --to=hf                a folder that transformers opens
    python export.py --push=user/name       upload what was exported to the hub

The files go to export/ in the run folder.
"""

import re
import shutil
from dataclasses import dataclass
from importlib import import_module
from pathlib import Path
from typing import Literal

from configurator import RangedSettings, UserError, configure, start

FORMATS = ("hf", "gguf", "html", "nanogpt")  # modules of tinystories/formats/
USUAL = FORMATS[:3]


@dataclass
class Settings(RangedSettings):
    to: str | None = None  # hf, gguf, html, nanogpt; None: the first three
    out_dir: str | None = None  # run folder; None: the run saved last
    checkpoint: str = "best.pt"  # or ckpt.pt, the newest; or out/RUN/ckpt.pt
    verify: bool = True  # read the export again and compare its logits
    overwrite: bool = False  # replace an earlier export
    gguf_dtype: Literal["f16", "f32", "q8_0"] = "f16"  # of the matrices in gguf
    push: str | None = None  # upload export/hf to this user/name

    def __post_init__(self):
        super().__post_init__()
        if unknown := set(self.formats()) - set(FORMATS):
            raise UserError(f"to={unknown.pop()} is no format; there are: {', '.join(FORMATS)}")
        if self.push is not None and not re.fullmatch(r"[\w.-]+/[\w.-]+", self.push):
            raise UserError(f"push={self.push}: name a repository on the hub as user/name")

    def formats(self) -> list[str]:
        """What to write: nothing where an earlier export is only uploaded."""
        if self.to is None:
            return [] if self.push else list(USUAL)
        return self.to.split(",")

    @staticmethod
    def bare_argument(argument: str) -> dict:
        """A run folder, or a checkpoint."""
        return {"checkpoint" if argument.endswith(".pt") else "out_dir": argument}


command_line = configure(Settings)  # answers --help and mistakes before the slow imports

from tinystories.evaluation.results import PARTS, RESULT, Rows, read_results
from tinystories.files import (
    only_writer,
    read_json,
    replace_folder,
    settings_path,
    sha256_of,
    short_path,
)
from tinystories.formats import hf_hub
from tinystories.formats.trained import NotExportable, TrainedModel
from tinystories.run import (
    KEPT,
    find_checkpoint,
    load_model,
    locate,
    read_config,
    run_folder,
)
from tinystories.terminal import wrapped


def remove(path: Path) -> None:
    """Remove a file or a folder, if it is there."""
    shutil.rmtree(path) if path.is_dir() else path.unlink(missing_ok=True)


def export(writer, final: Path, trained: TrainedModel, s: Settings) -> None:
    """Write one format, whole or not at all, and say what it is for.

    Raises:
        NotExportable: the format cannot hold the model.
        UserError: what was written does not compute what the model does; it is removed.
    """
    writer.check_exportable(trained.model.config)
    with only_writer(final.resolve()):
        check_replaceable(final, s)
        write(writer, final, trained, s.verify)


def check_replaceable(final: Path, s: Settings) -> None:
    """Raises UserError for an earlier export that is to stay."""
    if final.exists() and not s.overwrite:
        raise UserError(f"{final} is there already; --overwrite replaces it")


def write(writer, final: Path, trained: TrainedModel, verify: bool) -> None:
    """The part of `export` in which no other command writes there."""
    target = final.resolve()  # behind a link
    partial = target.with_name(f".{target.name}.partial")
    remove(partial)
    try:
        usage = writer.write(partial, final, trained)
        checked = ""
        if verify:
            difference, allowed = writer.verify(partial, trained)
            checked = f", read again: logits differ by {difference:.2g} at most"
            if not difference <= allowed:
                raise UserError(f"{final.name}{checked}, too much; nothing was written")
        if partial.is_dir():
            replace_folder(partial, target)
        else:
            partial.replace(target)
    finally:
        remove(partial)
    print(wrapped(f"{short_path(final)}{checked}") + f"\n  {usage}")


def evaluation_rows(folder: Path, checkpoint: str) -> Rows:
    """The table of evaluate.py, by section; empty if it has not evaluated this checkpoint."""
    path = folder / RESULT
    if checkpoint.startswith(f"{KEPT}/"):  # whose results are in a folder beside it
        path = (folder / checkpoint).with_suffix("") / RESULT
    if not path.is_file():
        return {}
    stored = read_json(path, lambda v: type(v["run"]) is dict, "delete it and evaluate again")
    info = stored["run"]
    if info.get("sha256") != sha256_of(find_checkpoint(folder, checkpoint)):
        return {}
    results, rows = read_results(path, info), {}
    for part in [part for part in PARTS if part in results]:
        rows |= import_module(f"tinystories.evaluation.{PARTS[part]}").rows(results[part])
    return rows


def main(s: Settings) -> None:
    out_dir, checkpoint = locate(s.out_dir, s.checkpoint)
    folder = run_folder(out_dir)
    upload = folder / "export" / "hf"
    if s.push and "hf" not in s.formats() and not upload.is_dir():
        raise UserError(f"there is no {upload}; write it with --to=hf")
    writers = {}  # by where they write
    for name in s.formats():
        writer = import_module(f"tinystories.formats.{name}")
        path = folder / "export" / writer.EXPORT.format(name=folder.resolve().name)
        check_replaceable(path, s)
        writers[path] = writer
    if writers:
        trained = open_trained(s, folder, checkpoint)
        print(f"exporting {checkpoint} of {out_dir}")
        failed: list[UserError] = []
        for path, writer in writers.items():
            try:
                export(writer, path, trained, s)
            except UserError as error:
                if s.to is not None:  # this format was asked for
                    raise
                print(wrapped(f"no {path.name}: {error}"))
                failed += [] if isinstance(error, NotExportable) else [error]
        if failed:
            raise failed[0]
    if s.push:
        print(f"uploaded to {hf_hub.push(upload, s.push)}")


def open_trained(s: Settings, folder: Path, checkpoint: str) -> TrainedModel:
    """The model of a run with everything known about it."""
    model, tokenizer, state = load_model(folder, checkpoint)
    ours = not state.get("program") and settings_path(folder).is_file()
    settings = read_config(folder) if ours else {}
    rows = evaluation_rows(folder, checkpoint)
    return TrainedModel(folder, model, tokenizer, state, settings, rows, s.gguf_dtype)


if __name__ == "__main__":
    start(main, command_line.settings)
