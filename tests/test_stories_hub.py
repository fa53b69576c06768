"""Sources on the hub: the real client, in a process of its own, against a hub on this machine."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pyarrow
import pyarrow.parquet
import pytest
from conftest import ROOT
from hub_server import Hub, etag, serving

pytestmark = pytest.mark.slow

TINYSTORIES = "roneneldan/TinyStories"
INSTRUCT = "roneneldan/TinyStoriesInstruct"
CLEAN = "karpathy/tinystories-gpt4-clean"

# Opens a source and prints the texts of each split, or the error.
CLIENT = """
import json, sys
from configurator import UserError
from tinystories.stories.catalog import open_source

name, revision, *splits = sys.argv[1:]
try:
    source = open_source(name, revision=revision)
    result = {"revision": source.revision, "origin": source.origin, "instruct": source.instruct}
    for split in splits:
        result[split] = list(source.stories(split))
        assert list(source.stories(split)) == result[split]  # a second time, the same
except UserError as mistake:
    result = {"mistake": str(mistake)}
print(json.dumps(result))
"""


def story(number: int) -> str:
    return f"Story {number}.\n\nThe fox went to the hill to look at the moon. It was round."


def parquet(texts: list[str]) -> bytes:
    sink = pyarrow.BufferOutputStream()
    pyarrow.parquet.write_table(pyarrow.table({"text": texts}), sink)
    return sink.getvalue().to_pybytes()


def separated(texts: list[str]) -> bytes:
    return "".join(f"{text}\n<|endoftext|>\n" for text in texts).encode()


def version_2(train: range, val: range) -> dict[str, dict[str, bytes]]:
    files = {
        "README.md": b"# Stories",
        "TinyStoriesV2-GPT4-train.txt": separated([story(n) for n in train]),
        "TinyStoriesV2-GPT4-valid.txt": separated([story(n) for n in val]),
    }
    return {TINYSTORIES: files}


def fetch(
    hub: Hub | str,
    home: Path,
    source: str,
    *splits: str,
    revision: str = "main",
    **more: str,
) -> dict:
    """Run the client with a new cache folder; returns what it printed."""
    env = {key: value for key, value in os.environ.items() if not key.startswith("HF_")}
    env |= {
        "HF_ENDPOINT": hub if isinstance(hub, str) else hub.url,
        "HF_HOME": str(home),
        "HF_HUB_DISABLE_TELEMETRY": "1",
        "HF_HUB_DISABLE_PROGRESS_BARS": "1",
        "PYTHONIOENCODING": "utf-8",
        "NO_PROXY": "127.0.0.1",
        **more,
    }
    command = [sys.executable, "-c", CLIENT, source, revision, *splits]
    done = subprocess.run(command, cwd=ROOT, env=env, capture_output=True, text=True, timeout=60)
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout)


def mistake(result: dict) -> str:
    """The message of the error, which is one line, and no story."""
    assert list(result) == ["mistake"], result
    assert "\n" not in result["mistake"]
    return result["mistake"]


# What the sources hold ----------------------------------------------------------------------


def test_tinystories_comes_from_all_parquet_files_of_the_split_in_order(tmp_path):
    files = {
        "data/train-00001-of-00002-beef.parquet": parquet([story(3), story(4)]),
        "data/train-00000-of-00002-cafe.parquet": parquet([story(1), story(2)]),
        "data/validation-00000-of-00001-f00d.parquet": parquet([story(5)]),
        "TinyStories-train.txt": b"not this one",
    }
    with serving({TINYSTORIES: files}) as hub:
        result = fetch(hub, tmp_path, "tinystories", "train", "val")
    assert result["train"] == [story(1), story(2), story(3), story(4)]
    assert result["val"] == [story(5)]
    assert result["origin"] == TINYSTORIES and not result["instruct"]


def test_no_second_copy_of_a_table_is_made(tmp_path):
    files = {
        "data/train-00000-of-00001.parquet": parquet([story(n) for n in range(5000)]),
        "data/validation-00000-of-00001.parquet": parquet([story(0)]),
    }
    with serving({TINYSTORIES: files}) as hub:
        fetch(hub, tmp_path, "tinystories", "train")
    on_disk = sum(
        p.stat().st_size for p in tmp_path.rglob("*") if p.is_file() and not p.is_symlink()
    )
    assert on_disk < 1.5 * sum(map(len, files.values()))


def test_version_2_comes_from_its_text_files(tmp_path):
    with serving(version_2(range(3), range(9, 11))) as hub:
        result = fetch(hub, tmp_path, "tinystories_v2", "train", "val")
    assert result["train"] == [story(0), story(1), story(2)]
    assert result["val"] == [story(9), story(10)]


RECORDS = [
    f"Words: fox, moon\nSummary: A fox looks up.\nStory: \n\n{story(1)}",
    f"Features: Dialogue\nWords: hill\nFeatures: Twist\nStory: \n\n{story(2)}",
]


def test_instruct_records_stay_whole(tmp_path):
    files = {
        "TinyStories-Instruct-train.txt": separated(RECORDS),
        "TinyStories-Instruct-valid.txt": separated(RECORDS[:1]),
    }
    with serving({INSTRUCT: files}) as hub:
        result = fetch(hub, tmp_path, "tinystories_instruct", "train")
    assert result["train"] == RECORDS
    assert result["instruct"]


def test_instruct_records_are_put_together_from_a_table_of_lines(tmp_path):
    lines = separated(RECORDS).decode().splitlines()
    files = {
        "data/train-00000-of-00001.parquet": parquet(lines),
        "data/validation-00000-of-00001.parquet": parquet(lines),
    }
    with serving({INSTRUCT: files}) as hub:
        assert fetch(hub, tmp_path, "tinystories_instruct", "train")["train"] == RECORDS


def test_tinystories_clean_is_split_by_row(tmp_path):
    texts = [f"Row {n}" for n in range(20_003)]
    with serving({CLEAN: {"tinystories_gpt4_clean.parquet": parquet(texts)}}) as hub:
        result = fetch(hub, tmp_path, "tinystories_clean", "train", "val", "test")
    assert result["train"] == ["Row 20000", "Row 20001", "Row 20002"]
    assert result["val"] == texts[10_000:20_000]
    assert result["test"] == texts[:10_000]


STORY_SETS = "someone/story-sets"


def test_any_dataset_with_a_text_column_is_a_source_by_its_id(tmp_path):
    files = {
        "README.md": b"# Stories",
        "data/train-00000-of-00001.parquet": parquet([story(1), story(2)]),
        "data/test-00000-of-00001.parquet": parquet([story(3)]),
    }
    with serving({STORY_SETS: files}) as hub:
        result = fetch(hub, tmp_path, STORY_SETS, "train", "val")
        assert result["revision"] == hub.commit(STORY_SETS)
    assert result["train"] == [story(1), story(2)]
    assert result["val"] == [story(3)]
    assert fetch(hub, tmp_path, STORY_SETS, "train", "val") == result  # the server has gone


def test_a_dataset_without_validation_is_split_by_hash(tmp_path):
    texts = [story(n) for n in range(1000)]
    with serving({STORY_SETS: {"stories.parquet": parquet(texts)}}) as hub:
        result = fetch(hub, tmp_path, STORY_SETS, "train", "val")
    assert sorted(result["train"] + result["val"]) == sorted(texts)
    assert 1 <= len(result["val"]) < 40 and result["revision"]


def test_a_folder_of_a_repository_may_be_named(tmp_path):
    files = {
        f"{name}/train-0.parquet": parquet([story(n)]) for n, name in enumerate(("big", "small"))
    }
    with serving({STORY_SETS: files}) as hub:
        assert f"name one, as {STORY_SETS}/big" in mistake(fetch(hub, tmp_path, STORY_SETS))
        result = fetch(hub, tmp_path, f"{STORY_SETS}/small", "train")
        assert not [asked for asked in hub.requests if "big" in asked and "/resolve/" in asked]
    assert result["train"] == [story(1)]


def test_the_id_of_tinystories_is_the_same_as_its_name(tmp_path):
    files = {
        "data/train-00000-of-00001.parquet": parquet([story(1)]),
        "data/validation-00000-of-00001.parquet": parquet([story(5)]),
        "TinyStories-train.txt": b"not this one",
    }
    with serving({TINYSTORIES: files}) as hub:
        by_id, by_name = (
            fetch(hub, tmp_path, name, "train", "val") for name in (TINYSTORIES, "tinystories")
        )
    assert by_id == by_name and by_id["train"] == [story(1)]


def test_an_id_that_is_not_there_is_named(tmp_path):
    with serving({}) as hub:
        assert "cannot get no-one/nothing from" in mistake(fetch(hub, tmp_path, "no-one/nothing"))


# Revisions ----------------------------------------------------------------------------------


def test_the_commit_is_recorded_and_every_file_comes_from_it(tmp_path):
    with serving(version_2(range(3), range(2))) as hub:
        commit = hub.commit(TINYSTORIES)
        assert fetch(hub, tmp_path, "tinystories_v2")["revision"] == commit
        downloads = [asked for asked in hub.requests if "/resolve/" in asked]
        assert downloads and all(f"/resolve/{commit}/" in asked for asked in downloads)


def test_a_commit_can_be_asked_for(tmp_path):
    with serving(version_2(range(3), range(2))) as hub:
        commit = hub.commit(TINYSTORIES)
        result = fetch(hub, tmp_path, "tinystories_v2", "train", revision=commit)
    assert result["revision"] == commit and len(result["train"]) == 3


def test_an_unknown_revision_is_named(tmp_path):
    with serving(version_2(range(3), range(2))) as hub:
        result = fetch(hub, tmp_path, "tinystories_v2", revision="v99")
    assert "no revision 'v99'" in mistake(result)


# Broken downloads ---------------------------------------------------------------------------


def test_a_download_that_breaks_off_is_completed(tmp_path):
    with serving(version_2(range(400), range(2)), cuts=2) as hub:
        result = fetch(hub, tmp_path, "tinystories_v2", "train")
        assert hub.cuts == 0
    assert result["train"] == [story(n) for n in range(400)]


def test_a_download_that_never_ends_well_gives_no_story(tmp_path):
    repos = version_2(range(400), range(2))
    with serving(repos, wall=True) as hub:
        said = mistake(fetch(hub, tmp_path, "tinystories_v2"))
        assert "check the network and run again" in said and hub.url in said
    whole = {etag(body) for body in repos[TINYSTORIES].values()}
    assert not [path for path in tmp_path.rglob("*") if path.name in whole]
    with serving(repos) as hub:  # and the next attempt succeeds
        assert len(fetch(hub, tmp_path, "tinystories_v2", "train")["train"]) == 400


def test_a_download_that_ends_too_early_gives_no_story(tmp_path):
    with serving(version_2(range(400), range(2)), short=True) as hub:
        assert "run again" in mistake(fetch(hub, tmp_path, "tinystories_v2"))


def test_a_file_cut_short_in_the_cache_is_named(tmp_path):
    with serving(version_2(range(400), range(2))) as hub:
        fetch(hub, tmp_path, "tinystories_v2")
        body = hub.repos[TINYSTORIES]["TinyStoriesV2-GPT4-train.txt"]
        (cached,) = tmp_path.rglob(etag(body))
        cached.write_bytes(body[:1000])
        assert f"delete {cached} and run again" in mistake(fetch(hub, tmp_path, "tinystories_v2"))
        cached.unlink()
        assert len(fetch(hub, tmp_path, "tinystories_v2", "train")["train"]) == 400


# Without the network ------------------------------------------------------------------------


def test_without_network_the_cache_is_used_at_the_commit_it_holds(tmp_path):
    with serving(version_2(range(3), range(2))) as hub:
        first = fetch(hub, tmp_path, "tinystories_v2", "train")
    assert fetch(hub, tmp_path, "tinystories_v2", "train") == first  # the server has gone
    assert fetch(hub, tmp_path, "tinystories_v2", "train", HF_HUB_OFFLINE="1") == first


@pytest.mark.parametrize("offline", ["0", "1"])
def test_without_network_and_cache_the_way_out_is_named(tmp_path, offline):
    result = fetch("http://127.0.0.1:9", tmp_path, "tinystories", HF_HUB_OFFLINE=offline)
    said = mistake(result)
    assert "--source=PATH" in said and "--source=storybook" in said
    assert ("HF_HUB_OFFLINE is set" if offline == "1" else "check the network") in said


def test_half_a_cache_is_not_taken_for_the_whole(tmp_path):
    files = {
        "data/train-00000-of-00002.parquet": parquet([story(1)]),
        "data/train-00001-of-00002.parquet": parquet([story(2)]),
        "data/validation-00000-of-00001.parquet": parquet([story(3)]),
    }
    with serving({TINYSTORIES: files}) as hub:
        fetch(hub, tmp_path, "tinystories")
    (link,) = tmp_path.rglob("train-00001-of-00002.parquet")
    link.unlink()
    assert "check the network" in mistake(fetch(hub, tmp_path, "tinystories"))
    (listing,) = tmp_path.rglob("trees/*.json")
    listing.unlink()  # as in a cache that an older client left
    assert "there are 1" in mistake(fetch(hub, tmp_path, "tinystories"))


def test_half_a_cache_of_any_dataset_is_not_taken_for_the_whole(tmp_path):
    files = {f"data/train-{n}.jsonl": json.dumps(story(n)).encode() for n in range(3)}
    files["README.md"] = b"# Stories"
    with serving({STORY_SETS: files}) as hub:
        fetch(hub, tmp_path, STORY_SETS)
    (link,) = tmp_path.rglob("train-1.jsonl")
    link.unlink()
    assert "not in the cache" in mistake(fetch(hub, tmp_path, STORY_SETS, HF_HUB_OFFLINE="1"))
    for listing in tmp_path.rglob("trees/*.json"):
        listing.unlink()
    assert "connect to the network" in mistake(fetch(hub, tmp_path, STORY_SETS, HF_HUB_OFFLINE="1"))


def test_a_name_with_a_number_is_no_part_of_many(tmp_path):
    files = {"README.md": b"# Stories", "tales-of-1001-nights.jsonl": json.dumps(story(1)).encode()}
    with serving({STORY_SETS: files}) as hub:
        assert "mistake" not in fetch(hub, tmp_path, STORY_SETS)


# Refusals -----------------------------------------------------------------------------------


def test_a_repository_that_is_not_there_is_named(tmp_path):
    with serving({}) as hub:
        assert f"cannot get {TINYSTORIES}" in mistake(fetch(hub, tmp_path, "tinystories"))


def test_a_repository_that_wants_a_login_says_how(tmp_path):
    with serving(version_2(range(3), range(2)), gated=True) as hub:
        assert "hf auth login" in mistake(fetch(hub, tmp_path, "tinystories_v2"))


def test_a_repository_without_the_files_is_named(tmp_path):
    with serving({TINYSTORIES: {"README.md": b"moved"}}) as hub:
        said = mistake(fetch(hub, tmp_path, "tinystories"))
    assert "lacks files like *train*.parquet" in said


def test_a_table_that_is_none_is_named(tmp_path):
    files = {"data/train-0.parquet": b"oops" * 99, "data/validation-0.parquet": parquet([story(1)])}
    with serving({TINYSTORIES: files}) as hub:
        said = mistake(fetch(hub, tmp_path, "tinystories", "train"))
    assert "cannot read" in said and "train-0.parquet" in said
