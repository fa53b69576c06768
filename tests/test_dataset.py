"""The .bin format, and which windows of tokens make a batch."""

import json
import os
import pickle
import shutil

import numpy as np
import pytest
from conftest import SMALL, complaint, forked

from configurator import UserError
from tinystories.dataset import SplitWriter, TokenFile, WindowSampler, open_dataset
from tinystories.files import sha256_of
from tinystories.tokenizer import STORY_PATTERN, Tokenizer, write_meta_pkl


def bin_of(folder, ids):
    path = folder / "train.bin"
    np.asarray(ids, dtype="<u2").tofile(path)
    return path


@pytest.mark.parametrize("count", [11, 19, 20, 25, 100, 1003])
def test_every_token_is_a_target_at_most_once_an_epoch(count):
    sampler = WindowSampler(count, block_size=10, seed=3)
    size = sampler.windows_per_epoch
    for epoch in range(30):
        hits = np.zeros(count, dtype=int)
        for start in sampler.starts(epoch * size, size):
            hits[start + 1 : start + 11] += 1
        assert hits.max() == 1
        assert hits.sum() == 10 * size


def test_no_token_is_skipped_for_good():
    sampler = WindowSampler(1003, block_size=10, seed=3)
    hits = np.zeros(1003, dtype=int)
    for start in sampler.starts(0, 200 * sampler.windows_per_epoch):
        hits[start + 1 : start + 11] += 1
    assert hits[1:].min() > 0  # nothing precedes the first token, so nothing predicts it


def test_the_next_windows_depend_on_the_seed_and_the_windows_seen_alone():
    whole = WindowSampler(1003, 10, seed=3).starts(0, 500)
    resumed = WindowSampler(1003, 10, seed=3).starts(123, 77)
    assert np.array_equal(resumed, whole[123:200])
    other = WindowSampler(1003, 10, seed=4).starts(0, 500)
    assert not np.array_equal(other, whole)


def test_the_order_of_windows_never_changes_between_versions():
    assert WindowSampler(1003, 10, seed=3).starts(0, 5).tolist() == [242, 662, 402, 452, 702]


def test_a_batch_may_span_many_small_epochs():
    assert len(WindowSampler(25, 10, seed=0).starts(0, 5000)) == 5000


def test_targets_are_the_inputs_one_token_later(tmp_path):
    file = TokenFile(bin_of(tmp_path, range(50)), vocab_size=50, block_size=8)
    x, y = file.windows(np.array([0, 41]))
    assert x.tolist() == [list(range(8)), list(range(41, 49))]
    assert np.array_equal(y, x + 1)


def test_validation_covers_every_token_once_the_short_last_window_included(tmp_path):
    file = TokenFile(bin_of(tmp_path, range(50)), vocab_size=50, block_size=8)
    _, y = file.windows(file.sequential_starts())
    assert y[y >= 0].tolist() == list(range(1, 50))
    assert len(file.sequential_starts(tokens=16)) == 2


def test_spread_windows_reach_from_the_first_token_to_the_last(tmp_path):
    file = TokenFile(bin_of(tmp_path, range(50)), vocab_size=50, block_size=8)
    assert file.evenly_spaced_starts(3).tolist() == [0, 20, 41]
    assert len(file.evenly_spaced_starts(1000)) == 42


def test_an_id_outside_the_vocabulary_names_file_and_position(tmp_path):
    ids = np.zeros(50, dtype=int)
    ids[33] = 77
    file = TokenFile(bin_of(tmp_path, ids), vocab_size=77, block_size=8)
    file.windows(np.array([0, 8, 16]))
    with pytest.raises(UserError, match=r"train.bin holds the id 77 at position 33"):
        file.windows(np.array([0, 30]))


def test_a_bin_is_plain_little_endian_uint16(tmp_path):
    with SplitWriter(tmp_path / "train.bin") as writer:
        writer.write(np.array([1, 258], dtype=np.uint16), stories=1, text_bytes=3)
        writer.write(np.array([65535], dtype=np.uint16), stories=1, text_bytes=1)
    assert (tmp_path / "train.bin").read_bytes() == bytes([1, 0, 2, 1, 255, 255])
    metadata = writer.metadata()
    assert (metadata["stories"], metadata["tokens"], metadata["bytes"]) == (2, 3, 4)
    assert metadata["sha256"] == sha256_of(tmp_path / "train.bin")


def dataset_of(folder, ids):
    """A token file in a vocabulary of single bytes, where 256 is end of text."""
    return TokenFile(bin_of(folder, ids), vocab_size=257, block_size=1)


BYTES = Tokenizer("bpe", STORY_PATTERN, [bytes([byte]) for byte in range(256)])
END = BYTES.end_of_text


@pytest.mark.parametrize(
    ("ids", "stories"),
    [
        ([*b"Hi.", END, *b"Bye.", END], ["Hi.", "Bye."]),
        ([*b"Hi.", END, *b"cut off"], ["Hi.", "cut off"]),
        ([END, *b"Hi.", END, END], ["", "Hi.", ""]),
        ([*b"no end"], ["no end"]),
    ],
)
def test_stories_end_at_end_of_text_or_at_the_end_of_the_file(tmp_path, ids, stories):
    file = dataset_of(tmp_path, ids)
    assert list(file.stories(BYTES)) == stories
    assert [bytes(part[part < END].tolist()).decode() for part in file.story_ids(END)] == stories
    assert np.array_equal(np.concatenate(list(file.story_ids(END))), ids)


def test_stretches_of_whole_stories_cover_the_file_whatever_their_size(tmp_path):
    ids = [*b"One", END, *b"a longer story", END, *b"x", END] * 5
    file = dataset_of(tmp_path, ids)
    for size in (1, 4, 10, 1000):
        chunks = list(file.story_chunks(END, size))
        assert [start for start, _ in chunks] == [0, *(stop for _, stop in chunks[:-1])]
        assert chunks[-1][1] == len(ids)
        assert all(ids[stop - 1] == END for _, stop in chunks)


def test_padded_batches_all_have_the_same_size_and_the_same_targets(tmp_path):
    file = TokenFile(bin_of(tmp_path, range(50)), vocab_size=50, block_size=8)
    starts = file.sequential_starts()
    batches = list(file.batches(starts, 4, pad=True))
    assert [x.shape for x, _ in batches] == [(4, 8), (4, 8)]
    targets = np.concatenate([y[y >= 0] for _, y in batches])
    assert targets.tolist() == list(range(1, 50))
    assert [len(x) for x, _ in file.batches(starts, 4)] == [4, 3]


# Datasets of other repos --------------------------------------------------------------------


def nanogpt_dataset(folder, text):
    """What nanoGPT's data/shakespeare_char/prepare.py writes."""
    characters = sorted(set(text))
    stoi = {character: id for id, character in enumerate(characters)}
    for split in ("train", "val"):
        np.array([stoi[c] for c in text], dtype=np.uint16).tofile(folder / f"{split}.bin")
    meta = {"vocab_size": len(stoi), "itos": dict(enumerate(characters)), "stoi": stoi}
    (folder / "meta.pkl").write_bytes(pickle.dumps(meta))


def bins_of(folder, ids, dtype="<u2"):
    for split in ("train", "val"):
        np.asarray(ids).astype(dtype).tofile(folder / f"{split}.bin")


def refused(folder) -> str:
    with pytest.raises(UserError) as error:
        open_dataset(str(folder), block_size=8)
    assert "\n" not in str(error.value)
    return str(error.value)


def test_a_dataset_of_nanogpt_opens_in_its_own_characters(tmp_path):
    text = "First Citizen:\nBefore we proceed any further, hear me speak.\n\nAll:\nSpeak!\n" * 40
    nanogpt_dataset(tmp_path, text)
    data = open_dataset(str(tmp_path), block_size=8)
    assert data.tokenizer.vocab_size == len(set(text))
    assert list(data.val.stories(data.tokenizer)) == [text]
    assert "nanoGPT's meta.pkl" in data.note


def test_a_tokenizer_json_without_meta_json_is_used(tmp_path):
    bins_of(tmp_path, [*b"Once upon a time.", END] * 100)
    BYTES.save(tmp_path / "vocabulary.json")
    write_meta_pkl(tmp_path / "meta.pkl", BYTES)  # which does not win over vocabulary.json
    data = open_dataset(str(tmp_path), block_size=8)
    assert data.tokenizer.fingerprint == BYTES.fingerprint
    assert "vocabulary.json" in data.note


def test_a_tokenizer_json_of_others_is_refused(tmp_path):
    bins_of(tmp_path, range(9))
    (tmp_path / "vocabulary.json").write_text('{"model": {"type": "BPE"}}')
    assert "vocabulary.json is not a complete tokenizer (not written by" in refused(tmp_path)
    (tmp_path / "vocabulary.json").unlink()
    (tmp_path / "tokenizer.json").write_text('{"added_tokens": [], "model": {"type": "BPE"}}')
    assert "tokenizer.json is a tokenizer of Hugging Face's" in refused(tmp_path)


def test_ids_of_32_bits_are_named(tmp_path):
    BYTES.save(tmp_path / "vocabulary.json")
    bins_of(tmp_path, [*b"Once upon a time.", END] * 100, "<u4")
    assert "train.bin holds ids of 32 bits (every second number of 16 bits is 0)" in refused(
        tmp_path
    )
    bins_of(tmp_path, np.arange(40_000, 80_000), "<u4")  # of a larger vocabulary
    assert "holds ids of 32 bits" in refused(tmp_path)


@pytest.mark.parametrize(
    ("magic", "advice"), [(20240520, "tail -c +1025 train.bin"), (20240801, "prepare.py")]
)
def test_the_header_of_llm_c_is_named(tmp_path, magic, advice):
    BYTES.save(tmp_path / "vocabulary.json")
    header = np.zeros(256, "<i4")
    header[:3] = magic, 1, 1000
    (tmp_path / "val.bin").write_bytes(bytes(2000))
    (tmp_path / "train.bin").write_bytes(header.tobytes() + bytes(2000))
    message = refused(tmp_path)
    assert "train.bin is a file of llm.c" in message and advice in message


def foreign(folder, ids) -> TokenFile:
    """A .bin whose ids are assumed to be GPT-2's."""
    return TokenFile(bin_of(folder, ids), vocab_size=50_257, block_size=8)


def test_ids_far_below_the_vocabulary_are_named(tmp_path):
    rng = np.random.default_rng(0)
    with pytest.raises(UserError, match=r"only ids up to 64 .* too few for 50,257; add its meta"):
        foreign(tmp_path, rng.integers(0, 65, 100_000)).check_foreign()
    foreign(tmp_path, rng.integers(0, 65, 900)).check_foreign()  # too short to tell
    foreign(tmp_path, rng.integers(0, 50_257, 100_000)).check_foreign()


def test_only_some_places_of_a_large_file_are_looked_at(tmp_path):
    path = tmp_path / "train.bin"
    with open(path, "wb") as file:
        file.truncate(2**33)  # 8 GB of zeros that take no room
    with pytest.raises(UserError, match="only ids up to 0"):
        TokenFile(path, vocab_size=50_257, block_size=8).check_foreign()


@pytest.mark.slow
def test_a_dataset_of_nanogpt_trains_and_its_run_samples_without_the_data(tmp_path):
    data, out = tmp_path / "shakespeare_char", tmp_path / "run"
    data.mkdir()
    nanogpt_dataset(data, "First Citizen:\nBefore we proceed any further, hear me speak.\n" * 40)
    options = (f"--dataset={data}", f"--out_dir={out}", *SMALL, "--eval_tokens=30000")
    told = forked("train.py", *options, "--max_iters=2")
    assert "the vocabulary is that of nanoGPT's meta.pkl" in told.stdout
    sample = (out / "samples.txt").read_text().partition("--- step 2 ---\n")[2]
    assert len(sample) == 500 + 2  # as long as one of sample.py, which has no end here; \n\n
    measuring = ("evaluate.py", f"--out_dir={out}", "--device=cpu")
    assert "bits per byte" in forked(*measuring, "--what=loss").stdout
    assert "no minimal pair can be written" in complaint_of(*measuring, "--what=pairs")
    shutil.rmtree(data)
    options = ("sample.py", f"--out_dir={out}", "--device=cpu", "--max_new_tokens=40")
    text = forked(*options, "--num_samples=1", "--start=Before we").stdout
    assert text.startswith("Before we") and len(text) == len("Before we") + 40 + 1
    assert "the character '7' is not in the vocabulary" in complaint_of(*options, "--start=7")


def complaint_of(*args) -> str:
    """The last line of a command that ends with status 2 after it has named its model."""
    return forked(*args, status=2).stderr.splitlines()[-1]


@pytest.mark.slow
def test_stories_cannot_be_masked_where_they_have_no_end(tmp_path):
    nanogpt_dataset(tmp_path, "To be, or not to be.\n" * 100)
    options = [f"--dataset={tmp_path}", f"--out_dir={tmp_path / 'run'}", "--story_mask=True"]
    assert "has no end of text between stories" in complaint("train.py", *options, *SMALL)


def test_a_bin_that_has_changed_since_it_was_made_is_refused(dataset, tmp_path):
    folder = shutil.copytree(dataset, tmp_path / "d")
    open_dataset(str(folder), 16)
    assert (folder / "checked.json").exists()
    path = folder / "train.bin"
    ids = np.fromfile(path, "<u2")
    ids[: len(ids) // 2] = ids[0]
    ids.tofile(path)
    for _ in range(2):
        with pytest.raises(UserError, match=r"train.bin has changed since it was made: prepare"):
            open_dataset(str(folder), 16)


def test_checksums_are_taken_once_for_each_state_of_the_files(dataset, tmp_path):
    folder = shutil.copytree(dataset, tmp_path / "d")
    open_dataset(str(folder), 16)
    seen = json.loads((folder / "checked.json").read_text())
    path = folder / "val.bin"
    meta = path.stat()
    data = bytearray(path.read_bytes())
    data[:2] = data[2:4]
    path.write_bytes(data)
    os.utime(path, ns=(meta.st_atime_ns, meta.st_mtime_ns))  # a state that was seen before
    open_dataset(str(folder), 16)
    assert json.loads((folder / "checked.json").read_text()) == seen
    os.utime(path)
    with pytest.raises(UserError, match=r"val\.bin has changed"):
        open_dataset(str(folder), 16)
