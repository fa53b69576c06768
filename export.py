"""Write a trained model in the format of another program.

    python export.py --to=nanogpt                  the run saved last
    python export.py --to=nanogpt --out_dir=out/x  another run
    python export.py --to=gguf                     for llama.cpp, Ollama, LM Studio
    python export.py --to=html                     a web page that generates stories

The files go to export/ in the run folder.
"""

import shutil
from dataclasses import dataclass
from importlib import import_module
from pathlib import Path
from typing import Literal

from configurator import RangedSettings, UserError, configure, start

FORMATS = ("gguf", "html", "nanogpt")  # modules of tinystories/formats/


@dataclass
class Settings(RangedSettings):
    to: str | None = None  # formats: gguf, html (a web page), nanogpt
    out_dir: str | None = None  # run folder; None: the run saved last
    checkpoint: str = "best.pt"  # or ckpt.pt, the newest; or out/RUN/ckpt.pt
    verify: bool = True  # read the export again and compare its logits
    overwrite: bool = False  # replace an earlier export
    gguf_dtype: Literal["f16", "f32", "q8_0"] = "f16"  # of the matrices in gguf

    def __post_init__(self):
        super().__post_init__()
        if self.to is None:
            raise UserError("name a format: --to=nanogpt")
        if unknown := set(self.to.split(",")) - set(FORMATS):
            raise UserError(f"to={unknown.pop()} is no format; there are: {', '.join(FORMATS)}")

    @staticmethod
    def bare_argument(argument: str) -> dict:
        """A run folder, or a checkpoint."""
        return {"checkpoint" if argument.endswith(".pt") else "out_dir": argument}


command_line = configure(Settings)  # answers --help and mistakes before the slow imports

from tinystories.files import replace_folder, short_path
from tinystories.formats.trained import TrainedModel
from tinystories.run import load_model, locate, read_config, run_folder


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
            allowed = writer.TOLERANCE
            if isinstance(allowed, dict):
                allowed = allowed[trained.gguf_dtype]
            if not difference <= allowed:
                raise UserError(f"{final.name}{checked}, too much; nothing was written")
        if partial.is_dir():
            replace_folder(partial, final)
        else:
            partial.replace(final)
    finally:
        remove(partial)
    print(f"{short_path(final)}{checked}\n  {usage}")


def main(s: Settings) -> None:
    out_dir, checkpoint = locate(s.out_dir, s.checkpoint)
    folder = run_folder(out_dir)
    writers = [import_module(f"tinystories.formats.{name}") for name in str(s.to).split(",")]
    paths = [folder / "export" / w.EXPORT.format(name=folder.resolve().name) for w in writers]
    for path in paths:
        if path.exists() and not s.overwrite:
            raise UserError(f"{path} is there already; --overwrite replaces it")
    model, tokenizer, state = load_model(folder, checkpoint)
    settings = read_config(folder) if (folder / "config.json").is_file() else {}
    trained = TrainedModel(folder, model, tokenizer, state, settings, s.gguf_dtype)
    for writer in writers:
        writer.check_exportable(model.config)
    print(f"exporting {checkpoint} of {out_dir}")
    for writer, path in zip(writers, paths, strict=True):
        export(writer, path, trained, s.verify)


if __name__ == "__main__":
    start(main, command_line.settings)
