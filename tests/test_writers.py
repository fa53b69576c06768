"""Commands that write the same folder, and folders and files that are not theirs."""

import errno
import multiprocessing
import os
import re
import shutil
import signal
import time

import filelock
import pytest
from conftest import SMALL, complaint, contents, forked
from forks import ForkedCommand

from configurator import UserError
from tinystories.dataset import dataset_folder
from tinystories.files import only_writer
from tinystories.run import check_own_folder, load_checkpoint

PREPARE = ("prepare.py", "--source=storybook", "--tokenizer=bpe", "--vocab_size=300")


def hold(folder, ready) -> None:
    with only_writer(folder):
        ready.set()
        time.sleep(600)  # until it is killed


@pytest.fixture
def held(tmp_path):
    """Locks a folder in another process."""
    context = multiprocessing.get_context("fork")
    holders = []

    def start(folder) -> multiprocessing.Process:
        ready = context.Event()
        holders.append(context.Process(target=hold, args=(folder, ready)))
        holders[-1].start()
        assert ready.wait(60)
        return holders[-1]

    yield start
    for holder in holders:
        holder.kill()
        holder.join()


def test_a_folder_has_one_writer_and_the_second_learns_who_it_is(held, tmp_path):
    holder = held(tmp_path / "new")
    says = rf"new is being written by .*, process {holder.pid} on \S+ since \d{{4}}-\d\d-\d\d "
    with pytest.raises(UserError, match=says), only_writer(tmp_path / "new"):
        pass
    with only_writer(tmp_path / "other"):
        pass
    assert not (tmp_path / "new").exists()


def test_another_name_of_a_folder_is_the_same_folder(held, tmp_path):
    (tmp_path / "real").mkdir()
    (tmp_path / "link").symlink_to("real")
    held(tmp_path / "link")
    with pytest.raises(UserError, match="real is being written"), only_writer(tmp_path / "real"):
        pass


def test_a_killed_writer_blocks_nobody_and_an_ended_one_leaves_nothing(held, tmp_path):
    holder = held(tmp_path / "x")
    holder.kill()
    holder.join()
    assert (tmp_path / ".x.lock").exists()
    for _ in range(2):
        with only_writer(tmp_path / "x"):
            pass
        assert not list(tmp_path.iterdir())


@pytest.mark.parametrize(
    "arguments", [("--max_iters=20",), ("--init_from=resume", "--max_iters=20")]
)
def test_two_trainings_of_one_run(dataset, run, held, tmp_path, arguments):
    folder = shutil.copytree(run, tmp_path / "run")
    held(folder)
    before = contents(folder)
    options = (f"--dataset={dataset}", f"--out_dir={folder}", *SMALL)
    process = ForkedCommand("train.py", *options, *arguments)
    _, err = process.communicate()
    assert process.returncode == 2
    assert re.fullmatch(r"train.py: .* is being written by .*; wait until .*\n", err)
    assert contents(folder) == before
    forked("sample.py", f"--out_dir={folder}", "--max_new_tokens=5")  # readers do not wait


def test_two_preparations_of_one_dataset(tmp_path):
    folder = tmp_path / "both"
    options = (*PREPARE, "--max_stories=3000", f"--dataset={folder}")
    first = ForkedCommand(*options)
    while not (tmp_path / ".both.partial").exists():
        assert first.poll() is None
    line = complaint(*options, run=forked)
    assert f"being written by prepare.py, process {first.pid} on" in line
    out, err = first.communicate()
    assert first.returncode == 0, err
    assert "prepared" in out
    assert "already prepared" in forked(*options).stdout
    assert [path.name for path in tmp_path.iterdir()] == ["both"]


def test_a_dataset_that_a_crash_left_under_its_other_name_is_put_back(dataset, tmp_path):
    copy = shutil.copytree(dataset, tmp_path / ".mine.old")
    before = contents(copy)
    shutil.copytree(dataset, tmp_path / ".mine.partial")
    assert dataset_folder(str(tmp_path / "mine")) == tmp_path / "mine"
    assert contents(tmp_path / "mine") == before


def test_prepare_killed_at_any_instant_leaves_the_old_dataset_or_the_new_one(dataset, tmp_path):
    folder = shutil.copytree(dataset, tmp_path / "mine")
    new = (*PREPARE, "--max_stories=500", f"--dataset={folder}")
    forked(*new, "--overwrite")
    wanted = {path: data for path, data in contents(folder).items() if path.endswith(".bin")}
    shutil.rmtree(folder)
    shutil.copytree(dataset, folder)
    old = {path: data for path, data in contents(folder).items() if path.endswith(".bin")}
    for instant in ("partial", "old"):
        process = ForkedCommand(*new, "--overwrite")
        while not (tmp_path / f".mine.{instant}").exists() and process.poll() is None:
            pass
        process.kill()
        process.communicate()
        forked("explore.py", f"--dataset={folder}", f"--plot={tmp_path / 'page.png'}")
        found = {path: data for path, data in contents(folder).items() if path.endswith(".bin")}
        assert found in (old, wanted)
    forked(*new, "--overwrite")
    found = {path: data for path, data in contents(folder).items() if path.endswith(".bin")}
    assert found == wanted
    leftover = {path.name for path in tmp_path.iterdir()} - {"page.png", "page.txt"}
    assert leftover == {"mine"}


def test_a_dataset_behind_a_link_is_replaced_there(dataset, tmp_path):
    shutil.copytree(dataset, tmp_path / "disk")
    (tmp_path / "link").symlink_to("disk")
    for _ in range(2):
        forked(*PREPARE, "--max_stories=300", f"--dataset={tmp_path / 'link'}", "--overwrite")
        assert (tmp_path / "link").is_symlink()
        assert {path.name for path in tmp_path.iterdir()} == {"disk", "link"}


def test_a_run_is_written_only_into_a_new_folder_an_empty_one_or_a_run(dataset, tmp_path):
    options = (f"--dataset={dataset}", *SMALL, "--max_iters=1")
    diary = tmp_path / "diary"
    diary.mkdir()
    (diary / "log.csv").write_text("Monday,rain\n")
    for folder in (diary, shutil.copytree(dataset, tmp_path / "d")):
        before = contents(folder)
        name = min(path.name for path in folder.iterdir())
        for more in ((), ("--overwrite",)):
            line = complaint("train.py", *options, f"--out_dir={folder}", *more, run=forked)
            assert f"{folder} has {name}" in line and "is no run" in line
        assert contents(folder) == before
    (tmp_path / "empty").mkdir()
    forked("train.py", *options, f"--out_dir={tmp_path / 'empty'}")


def test_a_run_that_was_killed_before_its_first_save_can_be_started_again(dataset, tmp_path):
    options = (f"--dataset={dataset}", *SMALL, "--max_iters=1", f"--out_dir={tmp_path / 'run'}")
    process = ForkedCommand("train.py", *options)
    while not (tmp_path / "run" / "settings.json").exists():
        assert process.poll() is None
    process.send_signal(signal.SIGKILL)
    process.communicate()
    forked("train.py", *options, "--overwrite")
    assert load_checkpoint(tmp_path / "run" / "ckpt.pt")["progress"]["step"] == 1


@pytest.mark.parametrize("left", ["best.pt", "kept"])
def test_the_weights_of_a_run_without_its_newest_state_are_not_overwritten(run, tmp_path, left):
    folder = shutil.copytree(run, tmp_path / "run")
    (folder / "ckpt.pt").unlink()
    if left == "kept":
        (folder / "best.pt").unlink()
        (folder / "kept").mkdir()
    before = contents(folder)
    line = complaint("train.py", *SMALL, f"--out_dir={folder}", run=forked)
    assert f"already has a run ({left}); choose another --out_dir, or start over" in line
    assert contents(folder) == before


@pytest.mark.parametrize("number", [errno.EMFILE, errno.EACCES])
def test_a_lock_that_cannot_be_had_is_no_disk_without_locks(tmp_path, monkeypatch, number):
    def acquire(self) -> None:
        raise OSError(number, os.strerror(number))

    (tmp_path / ".x.lock").touch()  # of somebody else
    monkeypatch.setattr(filelock.FileLock, "acquire", acquire)
    with pytest.raises(UserError, match=r"cannot lock .*x: "), only_writer(tmp_path / "x"):
        pass


def test_a_disk_without_locks_is_said_once(tmp_path, monkeypatch, capsys):
    def acquire(self) -> None:
        raise OSError(errno.ENOLCK, os.strerror(errno.ENOLCK))

    monkeypatch.setattr(filelock.FileLock, "acquire", acquire)
    for name in ("x", "y"):
        with only_writer(tmp_path / name):
            pass
    assert capsys.readouterr().err.count("no lock here") == 1


def test_a_run_that_was_killed_while_it_wrote_its_first_file_can_be_started_again(tmp_path):
    (tmp_path / "settings.json.tmp").write_text('{"out_')
    check_own_folder(tmp_path)


def test_prepare_does_not_delete_what_is_not_its_own(dataset, tmp_path):
    folder = shutil.copytree(dataset, tmp_path / "mine")
    (folder / "notes.txt").write_text("which stories to add")
    before = contents(folder)
    line = complaint(*PREPARE, f"--dataset={folder}", "--overwrite", run=forked)
    assert "has notes.txt, which is no part of a dataset" in line
    assert contents(folder) == before


@pytest.mark.parametrize("text", ["# My thesis\n", '{"results": [1]}', ""])
def test_bench_overwrites_only_what_it_wrote(tmp_path, text):
    path = tmp_path / "thesis.md"
    path.write_text(text)
    line = complaint("bench.py", f"--output={path}", "--what=sample", run=forked)
    assert "name another --output" in line
    assert path.read_text() == text
    assert "is a folder" in complaint("bench.py", f"--output={tmp_path}", run=forked)
