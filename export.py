"""Write a trained model in the format of another program.

    python export.py --to=nanogpt                  the run saved last
    python export.py --to=nanogpt --out_dir=out/x  another run
    python export.py --to=hf --push=user/name      upload it to Hugging Face

The files go to export/ in the run folder. Formats: nanogpt, a checkpoint for
its sample.py and train.py; hf, a folder that transformers opens.
"""

import re
import shutil
from dataclasses import dataclass
from importlib import import_module
from pathlib import Path

from configurator import RangedSettings, UserError, configure, start

FORMATS = ("nanogpt", "hf")  # modules of tinystories/formats/


@dataclass
class Settings(RangedSettings):
    to: str | None = None  # formats: nanogpt, hf
    out_dir: str | None = None  # run folder; None: the run saved last
    checkpoint: str = "best.pt"  # or ckpt.pt, the newest; or out/RUN/ckpt.pt
    verify: bool = True  # read the export again and compare its logits
    overwrite: bool = False  # replace an earlier export
    push: str | None = None  # upload export/hf to this user/name

    def __post_init__(self):
        super().__post_init__()
        if self.to is None and self.push is None:
            raise UserError("name a format: --to=nanogpt")
        if unknown := set(self.formats()) - set(FORMATS):
            raise UserError(f"to={unknown.pop()} is no format; there are: {', '.join(FORMATS)}")
        if self.push is not None and not re.fullmatch(r"[\w.-]+/[\w.-]+", self.push):
            raise UserError(f"push={self.push}: name a repository on the hub as user/name")

    def formats(self) -> list[str]:
        """What to write; nothing where only an earlier export is uploaded."""
        return self.to.split(",") if self.to else []

    @staticmethod
    def bare_argument(argument: str) -> dict:
        """A run folder, or a checkpoint."""
        return {"checkpoint" if argument.endswith(".pt") else "out_dir": argument}


command_line = configure(Settings)  # answers --help and mistakes before the slow imports

from tinystories.evaluation.results import PARTS, RESULT, Rows, read_results
from tinystories.files import read_json, replace_folder, sha256_of, short_path
from tinystories.formats import hf_hub
from tinystories.formats.trained import TrainedModel
from tinystories.run import find_checkpoint, load_model, locate, read_config, run_folder


def remove(path: Path) -> None:
    """Remove a file or a folder, if it is there."""
    shutil.rmtree(path) if path.is_dir() else path.unlink(missing_ok=True)


def export(writer, final: Path, trained: TrainedModel, verify: bool) -> None:
    """Write one format, whole or not at all, and say what it is for.

    Raises:
        UserError: what was written does not compute what the model does; it is removed.
    """
    partial = final.with_name(f".{final.name}.partial")
    remove(partial)
    partial.parent.mkdir(exist_ok=True)
    try:
        usage = writer.write(partial, final, trained)
        checked = ""
        if verify:
            difference = writer.verify(partial, trained)
            checked = f", read again: logits differ by {difference:.2g} at most"
            if not difference <= writer.TOLERANCE:
                raise UserError(f"{final.name}{checked}, too much; nothing was written")
        if partial.is_dir():
            replace_folder(partial, final)
        else:
            partial.replace(final)
    finally:
        remove(partial)
    print(f"{short_path(final)}{checked}\n  {usage}")


def evaluation_rows(folder: Path, checkpoint: str) -> Rows:
    """The table of evaluate.py, by section; empty if it has not evaluated this checkpoint."""
    path = folder / RESULT
    if not path.is_file():
        return {}
    info = read_json(path, bool, "delete it and evaluate again").get("run", {})
    if info.get("sha256") != sha256_of(find_checkpoint(folder, checkpoint)):
        return {}
    results, rows = read_results(path, info), {}
    for part in [part for part in PARTS if part in results]:
        rows |= import_module(f"tinystories.evaluation.{PARTS[part]}").rows(results[part])
    return rows


def main(s: Settings) -> None:
    out_dir, checkpoint = locate(s.out_dir, s.checkpoint)
    folder = run_folder(out_dir)
    writers = [import_module(f"tinystories.formats.{name}") for name in s.formats()]
    paths = [folder / "export" / w.EXPORT.format(name=folder.resolve().name) for w in writers]
    for path in paths:
        if path.exists() and not s.overwrite:
            raise UserError(f"{path} is there already; --overwrite replaces it")
    upload = folder / "export" / "hf"
    if s.push and upload not in paths and not upload.is_dir():
        raise UserError(f"there is no {upload}; write it with --to=hf")
    if writers:
        model, tokenizer, state = load_model(folder, checkpoint)
        ours = not state.get("program") and (folder / "config.json").is_file()
        settings = read_config(folder) if ours else {}
        rows = evaluation_rows(folder, checkpoint)
        trained = TrainedModel(folder, model, tokenizer, state, settings, rows)
        for writer in writers:
            writer.check_exportable(model.config)
        print(f"exporting {checkpoint} of {out_dir}")
        for writer, path in zip(writers, paths, strict=True):
            export(writer, path, trained, s.verify)
    if s.push:
        print(f"uploaded to {hf_hub.push(upload, s.push)}")


if __name__ == "__main__":
    start(main, command_line.settings)
