"""Write a trained model in the format of another program.

    python export.py --to=nanogpt                  the run saved last
    python export.py --to=nanogpt --out_dir=out/x  another run

The files go to export/nanogpt/ in the run folder.
"""

import shutil
from dataclasses import dataclass
from importlib import import_module
from typing import Literal

from configurator import RangedSettings, UserError, configure, start


@dataclass
class Settings(RangedSettings):
    to: Literal["nanogpt"] | None = None  # format: nanogpt
    out_dir: str | None = None  # run folder; None: the run saved last
    checkpoint: str = "best.pt"  # or ckpt.pt, the newest; or out/RUN/ckpt.pt
    overwrite: bool = False  # replace an earlier export

    def __post_init__(self):
        super().__post_init__()
        if self.to is None:
            raise UserError("name a format: --to=nanogpt")

    @staticmethod
    def bare_argument(argument: str) -> dict:
        """A run folder, or a checkpoint."""
        return {"checkpoint" if argument.endswith(".pt") else "out_dir": argument}


command_line = configure(Settings)  # answers --help and mistakes before the slow imports

from tinystories.files import replace_folder
from tinystories.run import load_model, locate, read_config, run_folder


def main(s: Settings) -> None:
    writer = import_module(f"tinystories.formats.{s.to}")
    out_dir, checkpoint = locate(s.out_dir, s.checkpoint)
    run = run_folder(out_dir)
    folder = run / "export" / str(s.to)
    if folder.exists() and not s.overwrite:
        raise UserError(f"{folder} is there already; --overwrite replaces it")
    model, tokenizer, state = load_model(run, checkpoint)
    writer.check_exportable(model.config)
    settings = read_config(run) if (run / "config.json").is_file() else {}
    temp_folder = folder.with_name(f".{folder.name}.partial")
    shutil.rmtree(temp_folder, ignore_errors=True)
    temp_folder.mkdir(parents=True)
    try:
        usage = writer.write(temp_folder, folder, model, tokenizer, state, settings)
        replace_folder(temp_folder, folder)
    finally:
        shutil.rmtree(temp_folder, ignore_errors=True)
    print(f"{checkpoint} of {out_dir} as {s.to}: {folder}")
    print(", ".join(sorted(path.name for path in folder.iterdir())))
    print(usage)


if __name__ == "__main__":
    start(main, command_line.settings)
