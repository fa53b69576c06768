"""evaluation.json: which model, under "run", and the result of each part with its "key"."""

from pathlib import Path
from typing import Any

from tinystories.files import read_json

OLD_NAMES = {  # of entries, in files of earlier versions
    "asked": "key",
    "memory": "memorization",
    "whole": "all_text",
    "by_story": "per_story",
    "share": "proportion",
    "beginnings": "prompts",
    "beginning": "prompt",
    "told": "continuation",
    "stories_each": "samples_per_prompt",
    "max_characters": "max_chars",
    "repeated_4grams": "seq_rep_4",
    "unknown_words": "oov_rate",
    "copies": "copy_rate",
    "above": "threshold",
    "real": "validation_stories",
}


def read_results(path: Path, info: dict) -> dict:
    """The result of each part in evaluation.json; none if it is about another model than `info`.

    Raises:
        UserError: it cannot be read, or is not a JSON object.
    """
    try:
        stored = read_json(path, rename, "delete it to measure again")
    except FileNotFoundError:
        return {}
    if stored.pop("run", None) != info:
        return {}
    results = {
        part: result
        for part, result in rename(stored).items()
        if isinstance(result, dict) and isinstance(result.get("key"), dict)
    }
    if "sha256" in results.get("generation", {}):  # where earlier versions had it
        generation = results["generation"]
        generation["key"]["stories_sha256"] = generation.pop("sha256")
    return results


def rename(value: Any, is_groups: bool = False) -> Any:
    """A JSON value with its OLD_NAMES replaced, but not those of the user's groups of pairs."""
    if isinstance(value, list):
        return [rename(item) for item in value]
    if not isinstance(value, dict):
        return value
    new_names = {} if is_groups else OLD_NAMES
    return {new_names.get(k, k): rename(item, k == "groups") for k, item in value.items()}
