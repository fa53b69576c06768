"""The run folder out/<run>/: how a run begins, and how its files are written and read safely.

    ckpt.pt         the newest state, everything needed to resume
    best.pt         the weights with the lowest validation loss
    settings.json   the settings
    vocabulary.json the tokenizer
    log.csv         one row per logged step and per evaluation
    samples.txt     one story per evaluation
    loss.png        the numbers of log.csv as curves
    kept/           the weights at earlier steps

A .pt file is the zip archive that torch.save writes, with the SHA-256 of its bytes as the archive's
comment: `torch.load` reads it like any other, and `load_checkpoint` notices a single changed bit.
Only tensors and plain values are ever read from it (weights_only). Checkpoints of other programs
are converted when they are read (formats/).
"""

import contextlib
import dataclasses
import fnmatch
import hashlib
import io
import os
import re
from pathlib import Path

import torch

from configurator import ROOT, UserError, check
from model import GPT, GPTConfig
from tinystories.dataset import Dataset
from tinystories.files import atomic_write, first_of, read_json, settings_path, write_json
from tinystories.formats import foreign, hf, hf_hub
from tinystories.tokenizer import GPT2_VOCAB_SIZE, VOCABULARY, Tokenizer
from tinystories.trackers import CURVES

FORMAT = 1  # of the .pt files
COMMENT = 64  # bytes of the zip comment: a SHA-256 in hexadecimal
# Settings that are fixed once a model exists; dropout may change.
MODEL_SETTINGS = [name for name in vars(GPTConfig()) if name not in ("vocab_size", "dropout")]
KEPT = "kept"  # the folder of checkpoints of earlier steps
NEWEST = "out/.newest_run"  # holds the path of the run saved last
OWN_FILES = {  # what commands write into a run's folder, exports apart
    *("ckpt.pt", "best.pt", "settings.json", "config.json", *VOCABULARY),
    *("log.csv", "samples.txt", "loss.png", "wandb", "output.txt", "result.json"),
    *("evaluation.json", "evaluation_stories.jsonl", "evaluation_instruct.jsonl"),
    *("judgements.jsonl", KEPT, "interpret"),
}
WRITTEN = ("ckpt.pt", "best.pt", "settings.json", VOCABULARY[0], "loss.png")  # atomically
NOT_SAVED = ("init_from", "overwrite", "eval_only")  # settings of the start, not of the run


def run_folder(out_dir: str) -> Path:
    """The folder of a run: relative to the scripts, or an absolute path."""
    return ROOT / os.path.expanduser(out_dir)


def newest_run() -> str:
    """The out_dir of the run that was saved last; raises UserError if there is none."""
    saved = [*ROOT.glob("out/*/ckpt.pt"), *ROOT.glob("*/ckpt.pt")]
    with contextlib.suppress(OSError):
        saved.append(Path(os.fsdecode((ROOT / NEWEST).read_bytes())) / "ckpt.pt")
    saved = [path for path in saved if path.is_file()]
    if not saved:
        raise UserError("no run found in out/; train one first, for example with: make story")
    folder = max(saved, key=lambda path: path.stat().st_mtime).parent
    return folder.relative_to(ROOT).as_posix() if folder.is_relative_to(ROOT) else str(folder)


def note_newest(folder: Path) -> None:
    """Note where the run is that was saved last, for `newest_run`; a failure is ignored."""
    with contextlib.suppress(UserError, OSError):
        (ROOT / NEWEST).parent.mkdir(exist_ok=True)
        atomic_write(ROOT / NEWEST, os.fsencode(folder))


def locate(out_dir: str | None, checkpoint: str) -> tuple[str, str]:
    """The run folder and the file in it that two settings mean.

    Args:
        out_dir: None is the newest run; RUN@STEP names a kept checkpoint, too.
        checkpoint: a file in it; a path with folders names the run, too.

    Raises:
        UserError: both name a run, or there is none.
    """
    if out_dir and (step := split_step(out_dir)[1]) is not None:
        if checkpoint != "best.pt":
            raise UserError(f"{out_dir} names a checkpoint, and so does checkpoint; give one")
        out_dir, checkpoint = split_step(out_dir)[0], kept_file(step)
        check_kept(out_dir, step)
    path = Path(checkpoint)
    parent, name = path.parent, path.name
    if parent.name == KEPT:
        parent, name = parent.parent, f"{KEPT}/{name}"
    if name != checkpoint:
        if out_dir is not None:
            raise UserError(f"checkpoint={checkpoint} names a run, and so does out_dir; give one")
        out_dir = str(parent)
    out_dir = out_dir or newest_run()
    folder = run_folder(out_dir)
    return out_dir, find_checkpoint(folder, name).relative_to(folder).as_posix()


def run_name(out_dir: str | None, checkpoint: str) -> str:
    """The run that two settings mean, as `locate` reads them; RUN@STEP for a kept checkpoint."""
    out_dir, name = locate(out_dir, checkpoint)
    step = re.fullmatch(rf"{KEPT}/step_0*(\d+)\.pt", name)
    return f"{out_dir}@{step[1]}" if step else out_dir


def results_folder(name: str) -> Path:
    """Where results about a run are kept: in its folder, those of RUN@STEP in one of their own."""
    out_dir, step = split_step(name)
    folder = run_folder(out_dir)
    return folder if step is None else (folder / kept_file(step)).with_suffix("")


def kept_file(step: int) -> str:
    """The name of a kept checkpoint in its run."""
    return f"{KEPT}/step_{step:07}.pt"


def kept_steps(folder: Path) -> list[int]:
    """The steps of a run's kept checkpoints, in order."""
    names = [path.name for path in (folder / KEPT).glob("step_*.pt")]
    return sorted(int(m[1]) for name in names if (m := re.fullmatch(r"step_(\d+)\.pt", name)))


def split_step(name: str) -> tuple[str, int | None]:
    """The run and the step that out/a@512 names; None where it names no step."""
    match = re.fullmatch(r"(.+)@(\d+)", name)
    return (match[1], int(match[2])) if match and not run_folder(name).is_dir() else (name, None)


def check_kept(out_dir: str, step: int | None = None) -> list[int]:
    """The steps that a run has kept; raises UserError if there are none, or `step` is not one."""
    steps = kept_steps(run_folder(out_dir))
    if not steps:
        raise UserError(f"{out_dir} has kept no checkpoints: train it with --keep_per_doubling=4")
    if step is not None and step not in steps:
        near = sorted(sorted(steps, key=lambda kept: abs(kept - step))[:4])
        raise UserError(
            f"{out_dir} has not kept step {step}; near it are {', '.join(map(str, near))}"
        )
    return steps


def find_checkpoint(folder: Path, name: str = "best.pt") -> Path:
    """The file `name` of a run; where it has no best.pt, as runs of nanoGPT, ckpt.pt.

    Of a folder of Hugging Face it is the file of weights, whatever the name.

    Raises:
        UserError: there is no such run or file.
    """
    if not folder.is_dir():
        raise UserError(f"there is no run in {folder}")
    if name == "best.pt" and not (folder / name).exists() and (folder / "ckpt.pt").is_file():
        name = "ckpt.pt"
    if not (folder / name).is_file():
        if weights := hf.find_weights(folder):
            return weights
        raise UserError(f"there is no checkpoint {folder / name}")
    return folder / name


def save_checkpoint(path: Path, state: dict) -> None:
    """Write a checkpoint so that a crash at any instant leaves the old file or the new one."""
    buffer = io.BytesIO()
    torch.save({"format": FORMAT} | state, buffer)
    archive = buffer.getbuffer()
    body, no_comment = archive[:-2], bytes(archive[-2:])
    assert no_comment == b"\0\0", "torch.save wrote a zip archive with a comment of its own"
    checksum = hashlib.sha256(body).hexdigest().encode()
    atomic_write(path, body, COMMENT.to_bytes(2, "little"), checksum)


def load_checkpoint(path: Path) -> dict:
    """Read a checkpoint that `save_checkpoint` wrote, or convert one of another program.

    Its tensors are on the CPU. `foreign.read_checkpoint` says what a converted one has besides.

    Raises:
        UserError: the file is missing, truncated, damaged or of a kind that cannot be read.
    """
    if not path.is_file():
        raise UserError(f"there is no checkpoint {path}")
    if path.suffix == ".safetensors":
        return foreign.read_checkpoint(path)
    data = path.read_bytes()
    body, comment = data[: -2 - COMMENT], data[-2 - COMMENT :]
    length = COMMENT.to_bytes(2, "little")
    if not comment.startswith(length):
        del data, body
        return foreign.read_checkpoint(path)
    if comment != length + hashlib.sha256(body).hexdigest().encode():
        raise UserError(f"{path} is damaged or cut short")
    try:
        state = torch.load(io.BytesIO(data), map_location="cpu", weights_only=True)
    except Exception:  # a crafted file can make the reader fail in any way it likes
        raise UserError(f"{path} has other objects than tensors: refused to load it") from None
    if not isinstance(state, dict) or state.get("format") != FORMAT:
        raise UserError(f"{path} has another format than this version reads")
    return state


def model_state(model: GPT, tokenizer: Tokenizer, headers: bool | None = None) -> dict:
    """Model config, state dict, tokenizer fingerprint, and whether its stories have headers."""
    return {
        "headers": headers,  # as those of TinyStories-Instruct; None: unknown
        "model_config": dataclasses.asdict(model.config),
        "model": model.state_dict(),
        "tokenizer": tokenizer.fingerprint,
    }


def load_model(folder: Path, name: str = "best.pt") -> tuple[GPT, Tokenizer, dict]:
    """A run's model in evaluation mode, its tokenizer, and the whole state in the file `name`.

    `find_checkpoint` says which file is taken where there is none of that name.

    Raises:
        UserError: no such run or file, a damaged one, or a tokenizer that is not the model's.
    """
    state = load_checkpoint(find_checkpoint(folder, name))
    path = first_of(folder, *VOCABULARY)
    tokenizer = state.get("foreign_tokenizer") or Tokenizer.load(path)
    if tokenizer.fingerprint != state["tokenizer"]:
        raise UserError(f"{path} is not the tokenizer of {name}")
    model = GPT(GPTConfig(**state["model_config"]))
    model.load_state_dict(state["model"])
    return model.eval(), tokenizer, state


def read_config(folder: Path) -> dict:
    """The settings of a run; raises UserError if they are missing or damaged."""
    try:
        return read_json(settings_path(folder), bool, "copy it again from a backup of the run")
    except FileNotFoundError:
        raise UserError(f"there is no run to resume in {folder}; --out_dir= names it") from None


def begin(settings, overrides: dict) -> tuple:
    """Decide what to train: from scratch, resumed, or fine-tuned from another run.

    Args:
        settings: train.py's Settings, of defaults and overrides.
        overrides: what config files and the command line gave.

    Returns:
        the settings of the run, and the checkpoint that it starts from or None.

    Raises:
        UserError: out_dir has a run, there is none to resume, or the model's shape would change.
    """
    folder = run_folder(settings.out_dir)
    if folder.exists() and not folder.is_dir():
        raise UserError(f"out_dir={settings.out_dir} is a file; name a folder")
    if settings.init_from != "resume" and not settings.eval_only:
        check_own_folder(folder)
    if settings.init_from == "scratch":
        saved = None
    elif settings.init_from == "resume":
        settings, saved = _resume(type(settings), overrides, folder)
    else:
        path = run_folder(settings.init_from)
        if not path.exists() and (repo := hf_hub.repository(settings.init_from)):
            path = hf_hub.download(repo)
        if not path.exists():
            raise UserError(
                "init_from is scratch, resume, a folder, a .pt file, gpt2, gpt2-medium, "
                f"gpt2-large, gpt2-xl or hf:owner/name: no {path}"
            )
        saved = load_checkpoint(find_checkpoint(path) if path.is_dir() else path)
    if saved:
        config = GPTConfig(**saved["model_config"])
        shape = {name: getattr(config, name) for name in MODEL_SETTINGS}
        for name, value in shape.items():
            if overrides.get(name, value) != value:
                raise UserError(f"{name}={overrides[name]}, but the saved model has {value}")
        settings = dataclasses.replace(settings, **shape)
    continues = settings.init_from == "resume" or (saved and settings.eval_only)
    there = [name for name in ("ckpt.pt", "best.pt", KEPT) if (folder / name).exists()]
    if there and not (continues or settings.overwrite):
        resume = "resume it (--init_from=resume), " if there[0] == "ckpt.pt" else ""
        raise UserError(
            f"{settings.out_dir} already has a run ({there[0]}); {resume}choose another --out_dir, "
            "or start over with --overwrite=True"
        )
    return settings, saved


def is_own(name: str) -> bool:
    """Whether a run writes a file or folder of this name into its folder."""
    return name in OWN_FILES or fnmatch.fnmatch(name, CURVES)


def check_own_folder(folder: Path) -> None:
    """Raises UserError if a folder holds other things than a run, which would be overwritten.

    A run writes its settings.json first, so one that was killed before its first save has it.
    """
    names = sorted(path.name for path in folder.iterdir()) if folder.exists() else []
    # Begun by sweep.py, and by a run that was killed.
    begun = ("output.txt", ".sweep.lock", "settings.json.tmp")
    names = [name for name in names if name not in begun]
    if not names or "ckpt.pt" in names:
        return
    with contextlib.suppress(FileNotFoundError, UserError):
        if "max_iters" in read_json(settings_path(folder), bool, ""):
            return
    raise UserError(f"{folder} has {names[0]} and is no run; choose another --out_dir")


def _resume(settings_type: type, overrides: dict, folder: Path) -> tuple:
    program = hf.PROGRAM if hf.find_weights(folder) else None
    if (folder / "ckpt.pt").is_file() and not settings_path(folder).exists():
        program = load_checkpoint(folder / "ckpt.pt").get("program")
    if program:
        raise UserError(
            f"{folder} is a run of {program}, which cannot be resumed here; fine-tune it into "
            f"a new run: --init_from={folder} --out_dir=out/NAME"
        )
    saved_settings = check(settings_type, read_config(folder), f"{settings_path(folder)}: ")
    saved_settings, _ = settings_type.foreign.translate(settings_type, saved_settings, [])
    settings = settings_type(**saved_settings | overrides)
    if not (folder / "ckpt.pt").exists():
        raise UserError(
            f"{folder} has no ckpt.pt: the run ended before it was saved; start it again with "
            "--overwrite=True, without --init_from=resume"
        )
    saved = load_checkpoint(folder / "ckpt.pt")
    if "optimizer" not in saved:
        raise UserError(
            f"{folder / 'ckpt.pt'} contains only weights, so it cannot be resumed; "
            f"fine-tune from it with --init_from={folder}"
        )
    if settings.seed != saved["seed"]:
        raise UserError(f"the run has seed={saved['seed']}; a resumed run keeps it")
    return settings, saved


def problem_with_best(folder: Path) -> str | None:
    """Why a resumed run cannot keep its best.pt; None where it is whole."""
    try:
        load_checkpoint(folder / "best.pt")
    except UserError as error:
        return str(error)
    return None


def check_same_data(saved: dict, data: Dataset, resumed: bool) -> None:
    """Raises UserError unless a checkpoint's model can be trained on, or resumed with, the data."""
    if saved["tokenizer"] != data.tokenizer.fingerprint:
        is_gpt2 = saved["model_config"]["vocab_size"] == GPT2_VOCAB_SIZE
        hint = "; it is GPT-2's: python prepare.py --tokenizer=gpt2" if is_gpt2 else ""
        raise UserError(f"the saved model has another tokenizer than {data.folder.name}{hint}")
    if resumed and saved["data"] != data.fingerprint:
        raise UserError(f"the run was trained on other data than {data.folder.name} has now")


def open_run_folder(settings, tokenizer: Tokenizer) -> Path:
    """Make the run folder with its settings and tokenizer; a new run starts without checkpoints."""
    folder = run_folder(settings.out_dir)
    folder.mkdir(parents=True, exist_ok=True)
    if folders := [folder / name for name in WRITTEN if (folder / name).is_dir()]:
        raise UserError(f"{folders[0]} is a folder, where a file belongs; move it away")
    for name in WRITTEN:  # by a process that was killed
        (folder / f"{name}.tmp").unlink(missing_ok=True)
    if settings.init_from != "resume":
        for path in (folder / "ckpt.pt", folder / "best.pt", *folder.glob(CURVES)):
            path.unlink(missing_ok=True)
    saved = {name: value for name, value in vars(settings).items() if name not in NOT_SAVED}
    write_json(folder / "settings.json", saved)
    tokenizer.save(folder / VOCABULARY[0])
    return folder
