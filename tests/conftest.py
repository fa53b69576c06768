"""What the tests share: the commands as real processes, and small datasets made by them."""

import copy
import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest
from forks import ForkedCommand

# Models of the tests are too small for a second thread; on a busy machine it only waits.
os.environ.setdefault("OMP_NUM_THREADS", "1")
os.environ.setdefault("OMP_WAIT_POLICY", "passive")  # where a test takes two, they do not spin
# A shell's background jobs ignore Ctrl-C, and so would the commands that get it from the tests.
signal.signal(signal.SIGINT, signal.default_int_handler)

ROOT = Path(__file__).resolve().parent.parent
NEWEST = ROOT / "out" / ".newest_run"
LONGEST = (
    "test_bench",
    "test_real_stories",
    "test_resume",
    "test_soak",
    "test_sweep",
    "test_train",
)
SMALL = (
    "--n_layer=2 --n_head=2 --n_embd=32 --block_size=32 --batch_size=4 "
    "--gradient_accumulation_steps=2 --eval_interval=5 --eval_tokens=1000 --log_interval=1 "
    "--full_eval=True "
    "--warmup_iters=2 --dropout=0.2 --device=cpu --dtype=float32"
).split()  # a run of a few seconds


def pytest_configure(config):
    """Runs of the tests must not become the newest run of whoever runs them."""
    if not hasattr(config, "workerinput"):  # once, before any worker of pytest-xdist begins
        config.newest_run = NEWEST.read_bytes() if NEWEST.is_file() else None


def pytest_unconfigure(config):
    if not hasattr(config, "workerinput"):
        NEWEST.unlink(missing_ok=True)
        if config.newest_run is not None:
            NEWEST.write_bytes(config.newest_run)


@pytest.hookimpl(optionalhook=True)
def pytest_xdist_auto_num_workers(config) -> int:
    """One more than there are cores: much of a test's time is waiting for commands."""
    return (os.cpu_count() or 1) + 1


def pytest_collection_modifyitems(items):
    """Tests that need a trained run are slow; the longest files go first, so that workers end
    at about the same time.
    """
    for item in items:
        if {"dataset", "run"} & set(item.fixturenames):
            item.add_marker("slow")
    items.sort(key=lambda item: item.path.stem not in LONGEST)


def command(*args, status: int = 0, **options) -> subprocess.CompletedProcess:
    """Run a command of the repo as a user would, e.g. command("train.py", "--max_iters=5").

    Fails unless it ends with `status`; its output is in .stdout and .stderr.
    """
    done = subprocess.run(
        [sys.executable, ROOT / args[0], *map(str, args[1:])],
        capture_output=True,
        encoding="utf-8",
        timeout=900,
        **options,
    )
    assert done.returncode == status, done.stdout + done.stderr
    return done


def forked(*args, status: int = 0, **options) -> subprocess.CompletedProcess:
    """Like command, in a process that has torch already: for what is not about the start.

    The options are those of forks.ForkedCommand.
    """
    process = ForkedCommand(*args, **options)
    out, err = process.communicate()
    assert process.returncode == status, out + err
    return subprocess.CompletedProcess(args, status, out, err)


def complaint(*args, run=command, **options) -> str:
    """The one line with which a command refuses what the user asked, ending with status 2."""
    done = run(*args, status=2, **options)
    assert done.stderr.count("\n") == 1, done.stderr
    return done.stderr.strip()


def contents(folder) -> dict[str, bytes]:
    """All files of a folder and their bytes."""
    files = (path for path in folder.rglob("*") if path.is_file())
    return {str(path.relative_to(folder)): path.read_bytes() for path in files}


def sign(folder) -> None:
    """Give the .bin files of a dataset the checksums that they have: as if prepared like this."""
    from tinystories.dataset import read_meta, write_meta
    from tinystories.files import sha256_of

    meta = read_meta(folder)
    for split in ("train", "val"):
        meta["splits"][split]["sha256"] = sha256_of(folder / f"{split}.bin")
    write_meta(folder, meta)


@pytest.fixture(scope="session")
def dataset(tmp_path_factory) -> Path:
    """A small prepared dataset: 400 storybook stories, 300 ids."""
    folder = tmp_path_factory.mktemp("data") / "small"
    options = f"--source=storybook --max_stories=400 --val_fraction=0.05 --dataset={folder}"
    forked("prepare.py", *options.split(), "--tokenizer=bpe", "--vocab_size=300")
    return folder


@pytest.fixture(scope="session")
def printed_run(dataset, tmp_path_factory) -> tuple[Path, str]:
    """The folder of a small finished run of ten steps, which tests leave as it is, and what it
    printed.
    """
    folder = tmp_path_factory.mktemp("out") / "run"
    options = (f"--dataset={dataset}", f"--out_dir={folder}", *SMALL, "--max_iters=10")
    return folder, forked("train.py", *options).stdout


@pytest.fixture(scope="session")
def run(printed_run) -> Path:
    """The folder of `printed_run`."""
    return printed_run[0]


@pytest.fixture(scope="session")
def tinystories() -> Path:
    """The folder with real stories."""
    folder = os.environ.get("TINYSTORIES_DIR")
    if not folder:
        pytest.skip("TINYSTORIES_DIR names no folder with real stories")
    return Path(folder)


def make_reciter(folder: Path, *texts: bytes, window: int = 64) -> Path:
    """Make a run folder whose model recites texts.

    Its vocabulary is the 256 bytes and end of text. After T tokens, end of text in front included,
    the most probable token by far is the T-th of these texts, each followed by end of text.
    """
    import torch

    from model import GPT, GPTConfig
    from tinystories.run import model_state, save_checkpoint
    from tinystories.tokenizer import STORY_PATTERN, Tokenizer

    tokenizer = Tokenizer("bpe", STORY_PATTERN, [bytes([byte]) for byte in range(256)])
    ids = [id for text in texts for id in (*text, tokenizer.end_of_text)]
    model = GPT(GPTConfig(257, window, n_layer=1, n_head=1, n_embd=320))
    with torch.no_grad():
        for weights in (model.wpe.weight, *model.h.parameters()):
            weights.zero_()  # the layer adds nothing
        model.wte.weight.copy_(torch.eye(320))
        model.wpe.weight[range(len(ids)), ids] = 100.0  # each position points at its token
        model.ln_f.weight.fill_(10.0)
    folder.mkdir(parents=True)
    tokenizer.save(folder / "vocabulary.json")
    save_checkpoint(folder / "best.pt", model_state(model, tokenizer))
    save_checkpoint(folder / "ckpt.pt", model_state(model, tokenizer))
    return folder


@pytest.fixture
def reciter(tmp_path):
    """Makes a run in the test's folder: reciter(b"One.", b"Two.") -> Path, see make_reciter."""

    def make(*texts: bytes, name: str = "reciter", window: int = 64) -> Path:
        return make_reciter(tmp_path / name, *texts, window=window)

    return make


def damaged(value, replacements: list):
    """The JSON value with each of its parts in turn missing or replaced."""
    if isinstance(value, dict):
        for name in value:
            yield {key: item for key, item in value.items() if key != name}
            for item in damaged(value[name], replacements):
                yield value | {name: item}
    elif isinstance(value, list):
        for i in range(len(value)):
            for item in damaged(value[i], replacements):
                yield [*value[:i], item, *value[i + 1 :]]
    yield from copy.deepcopy(replacements)
