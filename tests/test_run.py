"""What a user relies on when a run is saved: it is whole, it is safe to read, nothing is lost."""

import hashlib
import json
import os
import pickle
import random
import shutil

import pytest
import torch
from conftest import ROOT, SMALL, command, complaint, contents, forked

import train
from configurator import UserError
from tinystories import run as run_module
from tinystories.dataset import open_dataset
from tinystories.run import (
    COMMENT,
    NEWEST,
    begin,
    load_checkpoint,
    load_model,
    locate,
    newest_run,
    note_newest,
    read_config,
    save_checkpoint,
)
from tinystories.tokenizer import Tokenizer

STATE = {
    "model": {
        "float32": torch.randn(5, 7),
        "float64": torch.randn(3, dtype=torch.float64),
        "bfloat16": torch.randn(4, 4).bfloat16(),
        "float16": torch.randn(4).half(),
        "int64": torch.arange(-3, 9),
        "uint8": torch.arange(256, dtype=torch.uint8),
        "bool": torch.tensor([True, False]),
        "odd": torch.tensor([float("nan"), float("inf"), -0.0, 1e-45]),
        "empty": torch.empty(0, 3),
        "scalar": torch.tensor(2.5),
        "transposed": torch.randn(3, 5).T,
    },
    "numbers": [1, -2, 3.5, 2**70, float("inf")],
    "words": ("Lily", "öö", None, True),
    "nested": {"a": {"b": [{"c": ()}]}},
}


@pytest.fixture
def saved(tmp_path):
    """A checkpoint file that holds STATE."""
    path = tmp_path / "ckpt.pt"
    save_checkpoint(path, STATE)
    return path


def sealed(body: bytes) -> bytes:
    """Bytes that end like a checkpoint, with a correct checksum."""
    checksum = hashlib.sha256(body).hexdigest().encode()
    return body + COMMENT.to_bytes(2, "little") + checksum


def refusal(path) -> str:
    """The line with which a file is refused."""
    with pytest.raises(UserError) as refused:
        load_checkpoint(path)
    assert "\n" not in str(refused.value)
    assert str(path) in str(refused.value)
    return str(refused.value)


# There and back -----------------------------------------------------------------------------


@pytest.mark.parametrize("name", STATE["model"])
def test_a_tensor_comes_back_bit_for_bit(saved, name):
    old, new = STATE["model"][name], load_checkpoint(saved)["model"][name]
    assert (new.dtype, new.shape, new.device.type) == (old.dtype, old.shape, "cpu")
    as_bytes = [tensor.contiguous().flatten().view(torch.uint8) for tensor in (old, new)]
    assert torch.equal(*as_bytes)


@pytest.mark.parametrize("name", ["numbers", "words", "nested"])
def test_plain_values_come_back_equal(saved, name):
    assert load_checkpoint(saved)[name] == STATE[name]


def test_saving_the_same_state_gives_the_same_bytes(saved, tmp_path):
    save_checkpoint(tmp_path / "again.pt", STATE)
    assert (tmp_path / "again.pt").read_bytes() == saved.read_bytes()


def test_plain_torch_reads_a_checkpoint_too(saved):
    state = torch.load(saved, weights_only=True)
    assert torch.equal(state["model"]["float32"], STATE["model"]["float32"])


def test_saving_leaves_no_temporary_file_behind(saved):
    assert [path.name for path in saved.parent.iterdir()] == ["ckpt.pt"]


def test_a_temporary_file_from_a_crash_is_no_obstacle(saved):
    saved.with_name("ckpt.pt.tmp").write_bytes(b"half a checkp")
    save_checkpoint(saved, {"step": 2})
    assert load_checkpoint(saved)["step"] == 2
    assert [path.name for path in saved.parent.iterdir()] == ["ckpt.pt"]


# Damage -------------------------------------------------------------------------------------


@pytest.mark.parametrize("length", [0, 1, 63, 64, 65, 66, 67, 1000, -1000, -66, -64, -2, -1])
def test_a_file_that_is_cut_short_is_refused(saved, length):
    saved.write_bytes(saved.read_bytes()[:length])
    assert "damaged" in refusal(saved)


@pytest.mark.parametrize("extra", [b"\0", b"\n", b"x" * 64])
def test_a_file_with_something_behind_it_is_refused(saved, extra):
    saved.write_bytes(saved.read_bytes() + extra)
    assert "damaged" in refusal(saved)


def accepted_flips(path, places) -> list[tuple[int, int]]:
    """The (place, bit) pairs whose flip goes unnoticed; places count from the end if negative."""
    whole = path.read_bytes()
    unnoticed = []
    for place, bit in places:
        damaged = bytearray(whole)
        damaged[place] ^= 1 << bit
        path.write_bytes(damaged)
        try:
            load_checkpoint(path)
        except UserError as error:
            assert "damaged" in str(error), error
        else:
            unnoticed.append((place, bit))
    return unnoticed


def test_a_single_flipped_bit_anywhere_is_noticed(saved):
    random.seed(1)
    size = saved.stat().st_size
    places = [(random.randrange(size), random.randrange(8)) for _ in range(2000)]
    assert accepted_flips(saved, places) == []


@pytest.mark.parametrize(
    "places",
    [
        pytest.param(range(0, 64), id="the first bytes"),
        pytest.param(range(-64, 0), id="the checksum"),
        pytest.param(range(-66, -64), id="the length of the checksum"),
        pytest.param(range(-88, -66), id="the end of the archive"),
    ],
)
def test_every_flipped_bit_is_noticed_in(saved, places):
    assert accepted_flips(saved, [(place, bit) for place in places for bit in range(8)]) == []


def test_a_flipped_bit_in_the_padding_of_the_archive_is_noticed(saved):
    whole = saved.read_bytes()
    padding = whole.index(b"FB") + 4  # PyTorch aligns its records with an extra field "FB" of Zs
    assert whole[padding : padding + 4] == b"ZZZZ"
    assert accepted_flips(saved, [(padding, bit) for bit in range(8)]) == []


def test_swapped_tensors_are_noticed(saved):
    """A file put together from the pieces of two good ones."""
    other = saved.with_name("other.pt")
    save_checkpoint(other, STATE | {"model": {"float32": torch.zeros(5, 7)}})
    saved.write_bytes(other.read_bytes()[:-64] + saved.read_bytes()[-64:])
    assert "damaged" in refusal(saved)


def test_a_checkpoint_of_another_program_is_refused(tmp_path):
    torch.save({"net": torch.ones(2), "epoch": 3}, tmp_path / "foreign.pt")
    assert "is of another program (it holds net, epoch)" in refusal(tmp_path / "foreign.pt")


def test_a_missing_checkpoint_is_named(tmp_path):
    assert refusal(tmp_path / "ckpt.pt") == f"there is no checkpoint {tmp_path / 'ckpt.pt'}"


@pytest.mark.parametrize("state", [{"format": 99}, {"format": None}])
def test_another_format_is_refused(tmp_path, state):
    save_checkpoint(tmp_path / "new.pt", state)
    assert "has another format than this version reads" in refusal(tmp_path / "new.pt")


# Code in a checkpoint -----------------------------------------------------------------------


class Evil:
    """What runs a command as soon as it is unpickled."""

    def __init__(self, marker):
        self.marker = marker

    def __reduce__(self):
        return os.mkdir, (str(self.marker),)


def evil_file(kind: str, marker) -> bytes:
    """A file that makes a folder where it is read with a trusting reader."""
    path = marker.with_name("evil.pt")
    match kind:
        case "bare pickle":
            return pickle.dumps({"format": 1, "model": Evil(marker)})
        case "sealed pickle":
            return sealed(pickle.dumps({"format": 1, "model": Evil(marker)}, protocol=2))
        case "torch.save":
            torch.save({"format": 1, "model": Evil(marker)}, path)
        case "old torch.save":
            torch.save(
                {"format": 1, "model": Evil(marker)}, path, _use_new_zipfile_serialization=False
            )
            path.write_bytes(sealed(path.read_bytes()))
        case "save_checkpoint":
            save_checkpoint(path, {"model": Evil(marker)})
    return path.read_bytes()


KINDS = ["bare pickle", "sealed pickle", "torch.save", "old torch.save", "save_checkpoint"]


@pytest.mark.parametrize("kind", KINDS)
def test_code_in_a_checkpoint_is_refused_and_never_run(kind, tmp_path):
    marker = tmp_path / "marker"
    (tmp_path / "ckpt.pt").write_bytes(evil_file(kind, marker))
    refusal(tmp_path / "ckpt.pt")
    assert not marker.exists()


def test_the_evil_of_these_tests_is_real(tmp_path):
    marker = tmp_path / "marker"
    (tmp_path / "ckpt.pt").write_bytes(evil_file("save_checkpoint", marker))
    torch.load(tmp_path / "ckpt.pt", weights_only=False)
    assert marker.is_dir()


def test_the_refusal_of_code_does_not_advise_to_run_it(tmp_path):
    (tmp_path / "ckpt.pt").write_bytes(evil_file("save_checkpoint", tmp_path / "marker"))
    assert "weights_only" not in refusal(tmp_path / "ckpt.pt")


@pytest.mark.filterwarnings("ignore:Detected pickle protocol")
def test_rubbish_with_a_correct_checksum_is_refused(tmp_path):
    random.seed(1)
    path = tmp_path / "ckpt.pt"
    for length in (0, 1, 2, 3, 10, 100, 1000) * 10:
        path.write_bytes(sealed(random.randbytes(length)))
        refusal(path)


# Writing that fails -------------------------------------------------------------------------


def test_a_disk_that_fills_up_while_saving_leaves_the_run_as_it_was(run, dataset, tmp_path):
    resource = pytest.importorskip("resource", reason="file sizes are limited on POSIX only")
    folder = tmp_path / "run"
    shutil.copytree(run, folder)
    before = contents(folder)
    limit = len(before["best.pt"]) + 20_000  # enough for all but ckpt.pt
    assert limit < len(before["ckpt.pt"])
    line = complaint(
        "train.py",
        "--init_from=resume",
        f"--out_dir={folder}",
        "--max_iters=11",
        "--eval_interval=1000",
        preexec_fn=lambda: resource.setrlimit(resource.RLIMIT_FSIZE, (limit, limit)),
    )
    assert line.startswith(f"train.py: cannot write {folder / 'ckpt.pt'}: ")
    assert (folder / "ckpt.pt").read_bytes() == before["ckpt.pt"]
    assert set(contents(folder)) == set(before)
    forked("train.py", "--init_from=resume", f"--out_dir={folder}", "--max_iters=11")


def test_a_write_that_fails_leaves_the_old_file_and_no_other(saved, monkeypatch):
    before = saved.read_bytes()

    def full(descriptor):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, "fsync", full)
    with pytest.raises(UserError, match=r"cannot write .*ckpt\.pt: No space left on device"):
        save_checkpoint(saved, {"step": 2})
    assert contents(saved.parent) == {"ckpt.pt": before}


def test_saving_into_a_folder_that_has_gone_is_told_in_one_line(tmp_path):
    with pytest.raises(UserError, match="No such file or directory"):
        save_checkpoint(tmp_path / "gone" / "ckpt.pt", {})


def test_an_out_dir_that_is_a_file_is_told_in_one_line(dataset, tmp_path):
    (tmp_path / "notes.txt").write_text("Dear diary")
    options = [f"--dataset={dataset}", f"--out_dir={tmp_path / 'notes.txt'}", *SMALL]
    assert "notes.txt" in complaint("train.py", *options)
    assert (tmp_path / "notes.txt").read_text() == "Dear diary"


# The run folder -----------------------------------------------------------------------------


def test_a_run_folder_holds_all_that_is_promised(run):
    saved = {"ckpt.pt", "best.pt", "settings.json", "vocabulary.json"}
    assert set(contents(run)) == saved | {"log.csv", "samples.txt", "loss.png"}


def test_a_run_generates_stories_on_another_machine_without_data_or_network(run, tmp_path):
    folder = tmp_path / "elsewhere" / "my run"
    shutil.copytree(run, folder)
    config = json.loads((folder / "settings.json").read_text())
    (folder / "settings.json").write_text(json.dumps(config | {"dataset": "a dataset long gone"}))
    nowhere = "http://127.0.0.1:9"
    bare = os.environ | {"TIKTOKEN_CACHE_DIR": str(tmp_path), "HF_HUB_OFFLINE": "1"}
    bare |= {"https_proxy": nowhere, "http_proxy": nowhere, "no_proxy": ""}
    options = [f"--out_dir={folder}", "--max_new_tokens=5", "--device=cpu"]
    told = command("sample.py", *options, "--start=Once upon a time", cwd=tmp_path, env=bare)
    assert told.stdout.count("Once upon a time") == 3


def test_a_run_needs_the_tokenizer_that_lies_in_it(reciter):
    folder = reciter(b"Hi.")
    other = Tokenizer("bpe", r"\w+|\W+", [bytes([byte]) for byte in range(256)])
    other.save(folder / "vocabulary.json")
    with pytest.raises(UserError, match="is not the tokenizer of best"):
        load_model(folder)


@pytest.mark.parametrize("content", [b"", b"{", b"[]", b"null", b"\xff"])
def test_a_damaged_config_is_named(tmp_path, content):
    (tmp_path / "settings.json").write_bytes(content)
    with pytest.raises(UserError, match="is damaged"):
        read_config(tmp_path)


def test_the_newest_run_is_the_one_saved_last(reciter, tmp_path, monkeypatch):
    monkeypatch.setattr(run_module, "ROOT", tmp_path)
    for age, name in ((3, "b"), (1, "c"), (2, "a")):
        folder = reciter(b"Hi.", name=f"out/{name}")
        os.utime(folder / "ckpt.pt", (1e9 - age, 1e9 - age))
    (tmp_path / "out" / "unfinished").mkdir()
    assert newest_run() == "out/c"


@pytest.mark.parametrize("where", ["out", "out-shakespeare-char", "elsewhere/deep/run"])
def test_the_newest_run_is_found_wherever_it_is(reciter, tmp_path, monkeypatch, where):
    root = tmp_path / "project"
    monkeypatch.setattr(run_module, "ROOT", root)
    old = reciter(b"Hi.", name="project/out/old")
    os.utime(old / "ckpt.pt", (1e9, 1e9))
    note_newest(old)
    folder = reciter(b"Hi.", name=f"new/{where}")
    if where.startswith("out"):  # beside the scripts
        shutil.copytree(folder, root / where, dirs_exist_ok=True)
        assert newest_run() == where
    else:
        note_newest(folder)
        assert newest_run() == str(folder)
        shutil.rmtree(folder)  # what was noted is gone
        assert newest_run() == "out/old"


@pytest.mark.parametrize("content", [b"", b"\0", b"\xff\xfe", b"/nowhere/at/all", None])
def test_a_damaged_note_of_the_newest_run_breaks_nothing(reciter, tmp_path, monkeypatch, content):
    monkeypatch.setattr(run_module, "ROOT", tmp_path)
    reciter(b"Hi.", name="out/old")
    if content is None:
        (tmp_path / NEWEST).mkdir()
        note_newest(tmp_path)  # cannot be written
    else:
        (tmp_path / NEWEST).write_bytes(content)
    assert newest_run() == "out/old"


def test_the_run_that_was_trained_last_is_sampled_wherever_it_is(dataset, tmp_path):
    """In a copy of the scripts, so that the newest run of this one stays what it is."""
    for name in ("configurator.py", "model.py", "train.py", "sample.py"):
        shutil.copy(ROOT / name, tmp_path)
    shutil.copytree(ROOT / "tinystories", tmp_path / "tinystories")
    folder = tmp_path / "far" / "away"
    options = [f"--dataset={dataset}", f"--out_dir={folder}", *SMALL, "--max_iters=1"]
    command(tmp_path / "train.py", *options)
    assert (tmp_path / NEWEST).read_text() == str(folder)
    sampling = ["--num_samples=1", "--max_new_tokens=3", "--device=cpu"]
    assert "best.pt of far/away," in command(tmp_path / "sample.py", *sampling).stderr


def test_a_checkpoint_with_its_folders_names_the_run(reciter):
    folder = reciter(b"Hi.")
    assert locate(None, f"{folder}/ckpt.pt") == (str(folder), "ckpt.pt")
    assert locate(str(folder), "ckpt.pt") == (str(folder), "ckpt.pt")
    with pytest.raises(UserError, match="names a run, and so does out_dir; give one"):
        locate(str(folder), f"{folder}/ckpt.pt")
    done = command("sample.py", f"--checkpoint={folder}/ckpt.pt", "--num_samples=1", "--device=cpu")
    assert done.stdout == "Hi.\n"


def test_what_only_evaluates_needs_no_folder_of_its_own(tmp_path):
    (tmp_path / "diary.txt").write_text("Monday, rain")
    settings = train.Settings(out_dir=str(tmp_path), eval_only=True)
    assert begin(settings, {}) == (settings, None)


def test_without_any_run_one_is_told_how_to_make_one(tmp_path, monkeypatch):
    monkeypatch.setattr(run_module, "ROOT", tmp_path)
    with pytest.raises(UserError, match="no run found in out/; train one first"):
        newest_run()


def test_folders_of_earlier_versions_with_their_names_are_read(dataset, run, tmp_path):
    data, folder = shutil.copytree(dataset, tmp_path / "d"), shutil.copytree(run, tmp_path / "r")
    for path in (data / "vocabulary.json", folder / "vocabulary.json"):
        path.rename(path.with_name("tokenizer.json"))
    (folder / "settings.json").rename(folder / "config.json")
    assert read_config(folder) == read_config(run)
    assert load_model(folder)[1].fingerprint == load_model(run)[1].fingerprint
    assert open_dataset(str(data), 16).fingerprint == open_dataset(str(dataset), 16).fingerprint
    forked("train.py", "--init_from=resume", f"--out_dir={folder}", "--max_iters=11")
    assert load_checkpoint(folder / "ckpt.pt")["progress"]["step"] == 11
