"""What one relies on in a tokenizer: lossless text, one end of text, the same ids every time."""

import base64
import functools
import json
import os
import pickle
import socket
import subprocess
import sys
from concurrent.futures import ProcessPoolExecutor
from multiprocessing import get_context
from pathlib import Path

import numpy as np
import pytest
import rustbpe
import tiktoken
from hypothesis import example, given, settings
from hypothesis import strategies as st

from configurator import ROOT, UserError
from tinystories.tokenizer import (
    END_OF_TEXT,
    MAX_ENCODE_CHARS,
    STORY_PATTERN,
    CharTokenizer,
    Tokenizer,
    _select_tokens,
    gpt2,
    gpt2_top,
    read_meta_pkl,
    train_bpe,
    write_meta_pkl,
)

needs_gpt2 = pytest.mark.skipif(
    "TIKTOKEN_CACHE_DIR" not in os.environ,
    reason="the GPT-2 encoding is looked for where TIKTOKEN_CACHE_DIR points, which is unset",
)
needs_tinystories = pytest.mark.skipif(
    "TINYSTORIES_DIR" not in os.environ,
    reason="real stories are read from the folder TINYSTORIES_DIR, which is unset",
)

STORIES = [
    'A snail and a goose shared a puddle. "Is it mine?" said the goose.\n\n"Ours," said he.',
    "The goose swam in circles, and the snail watched the goose swim. They weren't in a hurry.",
    'At noon it was gone. "Where did our puddle go?" cried the snail.\n\nIt was in the sky!',
    "So the goose and the snail looked up at a cloud, and the cloud looked like a goose.",
]
KINDS = ["bytes", "bpe", pytest.param("gpt2", marks=needs_gpt2)]
KINDS += [pytest.param("gpt2_top", marks=needs_gpt2)]
every_kind = pytest.mark.parametrize("tokenizer", KINDS, indirect=True)


@pytest.fixture(scope="module")
def tokenizer(request) -> Tokenizer:
    make = {
        "bytes": lambda: train_bpe(STORIES, 257),
        "bpe": lambda: train_bpe(STORIES, 320),
        "gpt2": gpt2,
        "gpt2_top": lambda: gpt2_top(STORIES, 300),
    }
    return make[request.param]()


@pytest.fixture(scope="module")
def small() -> Tokenizer:
    return train_bpe(STORIES, 320)


@pytest.fixture(scope="module")
def real_stories() -> list[str]:
    text = (Path(os.environ["TINYSTORIES_DIR"]) / "train.txt").read_text(encoding="utf-8")
    return [story.strip("\n") for story in text.split(END_OF_TEXT) if story.strip()]


# ----------------------------------------------------------------------- text to ids and back


@every_kind
@settings(max_examples=100, deadline=None)
@given(text=st.text())
@example(text="")
@example(text="  two spaces, a tab\t, Windows\r\n, blank lines\n\n \n and an end \n")
@example(text="naïve — 童話 🐌‍🪿 e\u0301 \x00 \u2028 \U0010ffff")
@example(text=f"She wrote {END_OF_TEXT} on the wall.")
def test_any_text_comes_back_unchanged(tokenizer, text):
    assert tokenizer.decode(tokenizer.encode(text)) == text


@every_kind
def test_the_vocabulary_ends_with_end_of_text(tokenizer):
    assert tokenizer.end_of_text == tokenizer.vocab_size - 1
    assert max(tokenizer.encode(" ".join(STORIES))) < tokenizer.end_of_text


@every_kind
def test_a_story_cannot_smuggle_in_end_of_text(tokenizer):
    story = f"One end.{END_OF_TEXT}Another."
    assert tokenizer.end_of_text not in tokenizer.encode(story)
    ids = tokenizer.encode_stories([story, "<|endoftext", "|>"])
    assert (ids == tokenizer.end_of_text).sum() == 3
    assert tokenizer.decode(ids) == story + "<|endoftext|>"


@every_kind
def test_encoding_many_stories_is_encoding_each_and_adding_end_of_text(tokenizer):
    stories = [*STORIES, "", "ends in blanks \n\n", "  begins with them", "é🪿"]
    expected = [i for story in stories for i in [*tokenizer.encode(story), tokenizer.end_of_text]]
    ids = tokenizer.encode_stories(stories)
    assert ids.dtype == np.uint16
    assert ids.tolist() == expected


def test_no_stories_are_no_ids(small):
    assert small.encode_stories([]).shape == (0,)
    assert small.encode_stories([]).dtype == np.uint16


@every_kind
def test_lone_surrogates_are_read_as_the_replacement_sign(tokenizer):
    assert tokenizer.decode(tokenizer.encode("a\udcffb")) == "a\ufffdb"
    assert tokenizer.decode(tokenizer.encode_stories(["ok", "a\udcffb"])) == "oka\ufffdb"


@every_kind
def test_a_million_blanks_in_a_row_are_encoded_too(tokenizer):
    text = "far" + " \n" * 600_000 + "away"
    assert tokenizer.decode(tokenizer.encode(text)) == text
    assert tokenizer.decode(tokenizer.encode_stories([text])) == text


@pytest.mark.parametrize("kind", ["bpe", pytest.param("gpt2", marks=needs_gpt2)])
def test_a_very_long_text_is_cut_like_a_short_one(kind):
    tokenizer = train_bpe(STORIES, 320) if kind == "bpe" else gpt2()
    text = " \n".join(STORIES * 2500) + "  the end "
    assert len(text) > MAX_ENCODE_CHARS
    assert tokenizer.encode(text) == tokenizer._encoding.encode_ordinary(text)


def test_end_of_text_decodes_to_nothing(small):
    ids = [*small.encode("Hello"), small.end_of_text, *small.encode(" again")]
    assert small.decode(ids) == "Hello again"


def test_ids_may_come_as_a_list_or_an_array(small):
    ids = small.encode(STORIES[0])
    assert small.decode(np.array(ids, dtype=np.uint16)) == small.decode(ids) == STORIES[0]
    assert small.decode([]) == small.decode(np.array([], dtype=np.uint16)) == ""


def test_half_a_character_is_one_replacement_sign_in_text_and_kept_in_bytes():
    tokenizer = train_bpe([], 257)
    ids = tokenizer.encode("é")
    assert tokenizer.decode(ids[:1]) == "\ufffd"
    assert tokenizer.decode_bytes(ids[:1]) == "é".encode()[:1]


@pytest.mark.parametrize("bad", [320, -1, 65_535, 2**40])
def test_an_id_outside_the_vocabulary_is_named(small, bad):
    with pytest.raises(UserError, match=rf"id {bad} is outside .* vocabulary of 320"):
        small.decode([0, bad])


def test_ids_that_are_no_integers_are_refused(small):
    with pytest.raises(TypeError, match="ids are integers"):
        small.decode([1.5])


@every_kind
def test_byte_lengths_add_up_to_the_bytes_of_the_text(tokenizer):
    lengths = tokenizer.byte_lengths()
    assert (lengths.shape, lengths.dtype) == ((tokenizer.vocab_size,), np.int64)
    assert lengths[tokenizer.end_of_text] == 0
    texts = [*STORIES, "童話 🐌"]
    assert lengths[tokenizer.encode_stories(texts)].sum() == sum(len(t.encode()) for t in texts)


# ----------------------------------------------------------------------- saved, loaded, handed on


@every_kind
def test_a_saved_tokenizer_comes_back_the_same(tokenizer, tmp_path):
    tokenizer.save(tmp_path / "vocabulary.json")
    loaded = Tokenizer.load(tmp_path / "vocabulary.json")
    assert loaded.kind == tokenizer.kind
    assert loaded.vocab_size == tokenizer.vocab_size
    assert loaded.fingerprint == tokenizer.fingerprint
    assert loaded.encode(STORIES[0]) == tokenizer.encode(STORIES[0])


@every_kind
def test_the_file_holds_the_full_ranks_in_order(tokenizer, tmp_path):
    tokenizer.save(tmp_path / "vocabulary.json")
    stored = json.loads((tmp_path / "vocabulary.json").read_text(encoding="utf-8"))
    assert [base64.b64decode(rank) for rank in stored["ranks"]] == list(tokenizer.tokens)
    assert stored["end_of_text"] == len(stored["ranks"])


def test_saving_what_was_loaded_writes_the_same_bytes(small, tmp_path):
    small.save(tmp_path / "a.json")
    Tokenizer.load(tmp_path / "a.json").save(tmp_path / "b.json")
    assert (tmp_path / "a.json").read_bytes() == (tmp_path / "b.json").read_bytes()


def with_ranks(change):
    """Damage that leaves a JSON file whole: the list of ranks, changed."""
    return lambda stored: json.dumps(stored | {"ranks": change(stored["ranks"])})


DAMAGES = {
    "empty": lambda stored: "",
    "cut short": lambda stored: json.dumps(stored)[:-200],
    "not JSON": lambda stored: "once upon a time",
    "foreign JSON": lambda stored: '{"model": {"type": "BPE"}}',
    "a list": lambda stored: "[1, 2, 3]",
    "nested without end": lambda stored: "[" * 100_000,
    "another version": lambda stored: json.dumps(stored | {"format_version": 2}),
    "another kind": lambda stored: json.dumps(stored | {"kind": "words"}),
    "end of text elsewhere": lambda stored: json.dumps(stored | {"end_of_text": 0}),
    "another pattern": lambda stored: json.dumps(stored | {"pattern": r"\w+|\W"}),
    "a broken pattern": lambda stored: json.dumps(stored | {"pattern": "("}),
    "no pattern": lambda stored: json.dumps(stored | {"pattern": None}),
    "a byte missing": with_ranks(lambda ranks: ranks[1:]),
    "a rank missing": with_ranks(lambda ranks: ranks[:-1]),
    "a rank twice": with_ranks(lambda ranks: [*ranks[:-1], ranks[-2]]),
    "two ranks swapped": with_ranks(lambda ranks: [*ranks[:-2], ranks[-1], ranks[-2]]),
    "an empty rank": with_ranks(lambda ranks: [*ranks[:-1], ""]),
    "a rank that is not base64": with_ranks(lambda ranks: [*ranks[:-1], "*"]),
    "a rank that is no text": with_ranks(lambda ranks: [*ranks[:-1], 5]),
    "ranks that are no list": with_ranks(lambda ranks: 5),
}


@pytest.mark.parametrize("damage", DAMAGES)
def test_a_damaged_or_foreign_file_is_named(small, tmp_path, damage):
    path = tmp_path / "vocabulary.json"
    small.save(path)
    stored = json.loads(path.read_text(encoding="utf-8"))
    path.write_text(DAMAGES[damage](stored), encoding="utf-8")
    with pytest.raises(UserError, match=r"vocabulary\.json is not a complete tokenizer") as error:
        Tokenizer.load(path)
    assert "\n" not in str(error.value)


def test_a_file_that_is_not_utf8_is_named(tmp_path):
    (tmp_path / "vocabulary.json").write_bytes(b"\xff\xfe{}")
    with pytest.raises(UserError, match=r"vocabulary\.json is not a complete tokenizer"):
        Tokenizer.load(tmp_path / "vocabulary.json")


def test_a_missing_file_is_named(tmp_path):
    with pytest.raises(UserError, match=r"cannot read the tokenizer .*nowhere\.json"):
        Tokenizer.load(tmp_path / "nowhere.json")


def test_the_fingerprint_tells_tokenizers_apart(small):
    again = Tokenizer(small.kind, small.pattern, small.tokens)
    fewer = Tokenizer(small.kind, small.pattern, small.tokens[:-1])
    swapped = Tokenizer(small.kind, small.pattern, (*small.tokens[:-2], *small.tokens[:-3:-1]))
    other_pattern = Tokenizer(small.kind, r"\s+|\S+", small.tokens)
    assert again.fingerprint == small.fingerprint
    assert len({t.fingerprint for t in (small, fewer, swapped, other_pattern)}) == 4


def test_a_spawned_worker_encodes_as_we_do(small):
    with ProcessPoolExecutor(1, mp_context=get_context("spawn")) as pool:
        ids = pool.submit(small.encode_stories, STORIES).result()
    assert ids.tolist() == small.encode_stories(STORIES).tolist()


# ----------------------------------------------------------------------- GPT-2


@needs_gpt2
def test_gpt2_gives_the_ids_of_tiktoken():
    theirs = tiktoken.get_encoding("gpt2")
    ours = gpt2()
    assert (ours.kind, ours.vocab_size, ours.end_of_text) == ("gpt2", 50_257, 50_256)
    assert ours.encode("Once upon a time") == [7454, 2402, 257, 640]
    for text in [*STORIES, "  spaces\n\n\nand 1234 ¿qué?  \n"]:
        assert ours.encode(text) == theirs.encode_ordinary(text)


def download_through(proxy: str, cache) -> str:
    """The one line with which gpt2() fails where the network is this proxy; it waits a second."""
    code = (
        "import configurator; from tinystories import tokenizer\n"
        "tokenizer.DOWNLOAD_SECONDS = 1; configurator.start(tokenizer.gpt2)"
    )
    environment = os.environ | {"TIKTOKEN_CACHE_DIR": str(cache), "NO_PROXY": "", "no_proxy": ""}
    environment |= {"HTTPS_PROXY": proxy, "https_proxy": proxy, "PYTHONPATH": str(ROOT)}
    result = subprocess.run(
        [sys.executable, "-c", code], env=environment, capture_output=True, text=True, timeout=60
    )
    assert result.returncode == 2
    assert len(result.stderr.splitlines()) == 1
    assert list(cache.iterdir()) == []
    return result.stderr


def test_without_network_or_cache_one_line_says_what_to_do(tmp_path):
    line = download_through("http://127.0.0.1:9", tmp_path)  # the discard port: closed
    assert "TIKTOKEN_CACHE_DIR" in line and "--tokenizer=bpe" in line


def test_a_server_that_never_answers_is_not_waited_for(tmp_path):
    with socket.create_server(("127.0.0.1", 0)) as silent:  # the system takes the connection
        line = download_through(f"http://127.0.0.1:{silent.getsockname()[1]}", tmp_path)
    assert "Timeout): try again" in line


# ----------------------------------------------------------------------- GPT-2, cut to the stories


@needs_gpt2
def test_the_most_frequent_tokens_are_kept():
    tokenizer = gpt2_top(["a goose, a goose, a goose and a snail"], 264)
    assert {b" goose", b" go", b"ose"} <= set(tokenizer.tokens)
    assert b" snail" not in tokenizer.tokens


@needs_gpt2
def test_what_a_kept_token_is_merged_from_is_kept_too():
    whole = {token: rank for rank, token in enumerate(gpt2().tokens)}
    tokens = gpt2_top(STORIES, 330).tokens
    for token in tokens[256:]:
        splits = ((token[:i], token[i:]) for i in range(1, len(token)))
        assert any(a in tokens and b in tokens and whole[a + b] > whole[b] for a, b in splits)
        assert Tokenizer("gpt2", r"(?s).+", tokens).encode(token.decode()) == [tokens.index(token)]


@needs_gpt2
def test_text_whose_gpt2_tokens_are_all_kept_is_cut_as_by_gpt2():
    whole, top = gpt2(), gpt2_top(STORIES, 2000)
    for story in STORIES:
        cut = [whole.tokens[i] for i in whole.encode(story)]
        assert [top.tokens[i] for i in top.encode(story)] == cut


@needs_gpt2
def test_kept_tokens_stay_in_the_order_of_gpt2():
    whole = gpt2()
    ranks = [whole.tokens.index(token) for token in gpt2_top(STORIES, 400).tokens]
    assert ranks == sorted(ranks)
    assert ranks[:256] == list(range(256))


@needs_gpt2
@pytest.mark.parametrize("size", [257, 258, 260, 275, 300, 333])
def test_exactly_the_size_asked_for(size):
    assert gpt2_top(STORIES, size).vocab_size == size


@needs_gpt2
def test_stories_with_fewer_tokens_give_a_smaller_vocabulary():
    tokenizer = gpt2_top(["a b a b"], 10_000)
    assert tokenizer.tokens[256:] == (b" a", b" b")
    assert gpt2_top([], 10_000).vocab_size == 257


@needs_gpt2
def test_the_same_stories_give_the_same_cut_in_any_order():
    cut = gpt2_top(iter(STORIES), 320).fingerprint
    assert cut == gpt2_top(reversed(STORIES), 320).fingerprint


def test_a_path_that_no_longer_fits_is_passed_over_for_one_that_does():
    single = [bytes([byte]) for byte in range(256)]
    ranks = {token: rank for rank, token in enumerate([*single, b"ab", b"cd", b"abcd", b"ef"])}
    kept = _select_tokens([b"abcd", b"ef"], ranks, size=258)
    assert kept == {*single, b"ef", b"ab"}  # one id for ef, and one where the path to abcd begins


# ----------------------------------------------------------------------- trained on the stories


def test_training_twice_writes_the_same_file(tmp_path):
    train_bpe(iter(STORIES), 400).save(tmp_path / "a.json")
    train_bpe(iter(STORIES), 400).save(tmp_path / "b.json")
    assert (tmp_path / "a.json").read_bytes() == (tmp_path / "b.json").read_bytes()


def test_training_in_another_process_gives_the_same_vocabulary(small):
    with ProcessPoolExecutor(1, mp_context=get_context("spawn")) as pool:
        other = pool.submit(train_bpe, STORIES, 320).result()
    assert other.fingerprint == small.fingerprint


def test_257_ids_are_the_bytes_and_end_of_text():
    tokenizer = train_bpe(STORIES, 257)
    assert tokenizer.vocab_size == 257
    assert tokenizer.encode("Zoë") == list("Zoë".encode())


@settings(max_examples=200, deadline=None)
@given(text=st.text() | st.text(alphabet=" \n\r\t'.\"!sdtlvrem12é½\u3000"))
def test_training_cuts_text_as_encoding_does(text):
    """The regex engines of rustbpe, which trains, and of tiktoken understand one pattern alike."""
    trainer, tokenizer = _trained_twice()
    assert trainer.encode(text) == tokenizer.encode(text)


@functools.cache
def _trained_twice():
    trainer = rustbpe.Tokenizer()
    trainer.train_from_iterator(iter(STORIES), 319, pattern=STORY_PATTERN)
    return trainer, train_bpe(STORIES, 320)


def test_frequent_words_become_one_token(small):
    assert len(small.encode(" goose")) == 1
    assert len(small.encode(" walrus")) > 1


def test_the_end_of_a_paragraph_is_one_token():
    tokenizer = train_bpe(['"Come."\n\n"Go."\n\n"Stay."\n\n' * 10], 300)
    assert '."\n\n' in [tokenizer.decode([i]) for i in tokenizer.encode('"Come."\n\n"Go')]


def test_stories_that_run_out_of_pairs_give_a_smaller_vocabulary():
    tokenizer = train_bpe(["abc abc"], 4096)  # ab, abc, " abc"
    assert tokenizer.vocab_size == 260
    assert train_bpe([], 4096).vocab_size == 257


def test_faulty_stories_do_not_stop_the_training():
    tokenizer = train_bpe(["a\udcffb", " \n" * 600_000 + "x", ""], 260)
    assert tokenizer.vocab_size == 260


def test_an_interruption_while_stories_are_read_comes_through():
    def stories():
        yield STORIES[0]
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        train_bpe(stories(), 300)


# ----------------------------------------------------------------------- sizes


@pytest.mark.parametrize("size", [-1, 0, 256, 65_537])
def test_a_size_that_cannot_be_is_refused_before_any_story_is_read(size):
    with pytest.raises(UserError, match=f"vocab_size={size} .* 257 .* to 65536"):
        train_bpe(iter(pytest.fail, None), size)


@pytest.mark.parametrize("size", [256, 50_258])
def test_gpt2_cannot_be_cut_to_more_than_it_has(size):
    with pytest.raises(UserError, match=f"vocab_size={size} .* to 50257"):
        gpt2_top(iter(pytest.fail, None), size)


# ----------------------------------------------------------------------- real stories


@needs_gpt2
@needs_tinystories
def test_real_stories_fill_ten_thousand_ids_and_keep_nearly_all_cuts(real_stories):
    whole, top = gpt2(), gpt2_top(real_stories, 10_000)
    assert top.vocab_size == 10_000
    assert top.decode(top.encode_stories(real_stories)) == "".join(real_stories)
    longer = len(top.encode_stories(real_stories)) / len(whole.encode_stories(real_stories))
    assert 1 <= longer < 1.01


@needs_tinystories
def test_real_stories_train_the_same_vocabulary_twice(real_stories):
    first, second = (train_bpe(real_stories, 4096) for _ in range(2))
    assert first.vocab_size == 4096
    assert first.fingerprint == second.fingerprint
    ids = first.encode_stories(real_stories)
    assert first.decode(ids) == "".join(real_stories)
    assert first.byte_lengths()[ids].sum() / len(ids) > 3.9  # bytes per token


@needs_gpt2
@needs_tinystories
def test_real_stories_are_encoded_as_by_tiktoken(real_stories):
    theirs = tiktoken.get_encoding("gpt2").encode_ordinary_batch(real_stories[:2000])
    assert gpt2().encode_stories(real_stories[:2000]).tolist() == [
        i for ids in theirs for i in [*ids, 50_256]
    ]


# ----------------------------------------------------------------------- nanoGPT's characters


def meta_of(text: str) -> dict:
    """What nanoGPT's data/shakespeare_char/prepare.py writes to meta.pkl."""
    characters = sorted(set(text))
    return {
        "vocab_size": len(characters),
        "itos": dict(enumerate(characters)),
        "stoi": {character: id for id, character in enumerate(characters)},
    }


def characters_of(folder: Path, meta: object) -> CharTokenizer:
    (folder / "meta.pkl").write_bytes(pickle.dumps(meta))
    return read_meta_pkl(folder / "meta.pkl")


def test_the_characters_of_a_meta_pkl_keep_their_ids(tmp_path):
    text = "The puddle – naïve 🐌\n"
    meta = meta_of(text)
    chars = characters_of(tmp_path, meta)
    assert chars.vocab_size == meta["vocab_size"]
    assert chars.encode(text) == [meta["stoi"][character] for character in text]
    assert chars.decode(chars.encode(text)) == text
    assert chars.byte_lengths()[chars.encode(text)].sum() == len(text.encode())


def test_characters_have_no_end_of_text_and_generation_begins_with_a_line_break(tmp_path):
    chars = characters_of(tmp_path, meta_of("ab\n"))
    assert (chars.end_of_text, chars.first_id) == (None, chars.ids["\n"])
    assert chars.decode(chars.encode_stories(["ab", "ba"])) == "ab\nba\n"
    assert characters_of(tmp_path, meta_of("ba")).first_id == 0


def test_a_saved_character_vocabulary_comes_back_the_same(tmp_path):
    chars = characters_of(tmp_path, meta_of(STORIES[0]))
    chars.save(tmp_path / "vocabulary.json")
    loaded = Tokenizer.load(tmp_path / "vocabulary.json")
    assert (loaded.kind, loaded.fingerprint) == ("char", chars.fingerprint)
    assert loaded.encode(STORIES[0]) == chars.encode(STORIES[0])
    stored = json.loads((tmp_path / "vocabulary.json").read_text())
    stored["ranks"][-2:] = stored["ranks"][:-3:-1]
    (tmp_path / "vocabulary.json").write_text(json.dumps(stored))
    with pytest.raises(UserError, match="fingerprint does not match"):
        Tokenizer.load(tmp_path / "vocabulary.json")


def test_a_character_that_has_no_id_is_named(tmp_path):
    chars = characters_of(tmp_path, meta_of("abc"))
    assert chars.can_encode("cab") and not chars.can_encode("cab 3")
    with pytest.raises(UserError, match="the character '3' is not in the vocabulary"):
        chars.encode("ab3")


class Bomb:
    def __reduce__(self):
        return os.mkdir, ("exploded",)


BAD_META = {
    "code": pickle.dumps(meta_of("ab") | {"more": Bomb()}),
    "code in front": b"cos\nmkdir\n(Vexploded\ntR." + pickle.dumps(meta_of("ab")),
    "an extension": b"\x80\x02\x82\x01.",
    "an object's state": b"\x80\x02}}b.",
    "a memo of gigabytes": b"\x80\x02}r\xff\xff\xff\x7f.",
    "cut short": pickle.dumps(meta_of("ab"))[:-9],
    "empty": b"",
    "no pickle": b"once upon a time",
    "a list": pickle.dumps([1, 2]),
    "the size alone": pickle.dumps({"vocab_size": 50304}),
    "a size too large": pickle.dumps(meta_of("ab") | {"vocab_size": 3}),
    "no size": pickle.dumps(meta_of("ab") | {"vocab_size": "2"}),
    "no characters": pickle.dumps({"vocab_size": 0, "itos": {}, "stoi": {}}),
    "words": pickle.dumps({"vocab_size": 1, "itos": {0: "ab"}, "stoi": {"ab": 0}}),
    "two that differ": pickle.dumps(meta_of("ab") | {"stoi": {"a": 1, "b": 0}}),
    "half a character": pickle.dumps(meta_of("\ud800b")),
}


@pytest.mark.parametrize("content", BAD_META.values(), ids=BAD_META)
def test_a_meta_pkl_that_is_no_vocabulary_is_refused_and_never_executed(
    tmp_path, monkeypatch, content
):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "meta.pkl").write_bytes(content)
    with pytest.raises(UserError, match=r"meta\.pkl is not a vocabulary of characters") as refused:
        read_meta_pkl(tmp_path / "meta.pkl")
    assert "\n" not in str(refused.value)
    assert [path.name for path in tmp_path.iterdir()] == ["meta.pkl"]


@every_kind
def test_nanogpt_reads_prompts_and_ids_with_our_meta_pkl(tokenizer, tmp_path):
    write_meta_pkl(tmp_path / "meta.pkl", tokenizer)
    meta = pickle.loads((tmp_path / "meta.pkl").read_bytes())  # as nanoGPT does
    assert meta["vocab_size"] == tokenizer.vocab_size
    prompt = "\nOnce upon a time, 3 geese"
    ids = [meta["stoi"][character] for character in prompt]  # its encode
    assert tokenizer.decode(ids) == prompt
    ids = [*tokenizer.encode(STORIES[0]), tokenizer.end_of_text]
    assert "".join(meta["itos"][id] for id in ids) == STORIES[0] + END_OF_TEXT  # its decode
