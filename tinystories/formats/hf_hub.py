"""Models on the Hugging Face hub: published weights come down, exports go up.

huggingface_hub does it, and knows HF_TOKEN, HF_ENDPOINT and the token of `hf auth login`.
"""

import re
from pathlib import Path

from configurator import UserError
from tinystories import hub
from tinystories.formats.hf_card import HERE

OPENAI = r"gpt2(-medium|-large|-xl)?"
NAME = r"[\w.-]+/[\w.-]+"  # owner/name
FILES = ("config.json", "tokenizer.json", "model*.safetensors")
BESIDE = ("*.gguf", "*.html")  # other formats in export/, which are uploaded with the folder


def repository(name: str) -> str | None:
    """The repository that a setting means: gpt2 and its sizes, or hf:owner/name; else None."""
    if re.fullmatch(OPENAI, name):
        return f"openai-community/{name}"
    return name[3:] if re.fullmatch(f"hf:{NAME}", name) else None


def download(repo: str) -> Path:
    """The folder of a model, downloaded once and kept in the hub's cache.

    Raises:
        UserError: it cannot be had, or has no weights in safetensors.
    """
    folder = hub.download(repo, "main", list(FILES), "model", "or name a folder")
    if not list(folder.glob(FILES[-1])):
        raise UserError(
            f"{repo} has no model.safetensors on the hub; its other files of weights, if any, are "
            "pickles, which can run code, and are never loaded"
        )
    return folder


def push(folder: Path, repo: str) -> str:
    """Upload an exported folder, and what BESIDE names, in one commit; returns the address.

    Raises:
        UserError: there is no token or no network, or the hub refuses it.
    """
    from huggingface_hub import CommitOperationAdd, HfApi, get_token

    if get_token() is None:
        raise UserError(f"pushing to {repo} needs a token: run `hf auth login`, or set HF_TOKEN")
    files = sorted(path for path in folder.iterdir() if path.is_file())
    files += sorted(path for pattern in BESIDE for path in folder.parent.glob(pattern))
    card = (folder / "README.md").read_text(encoding="utf-8")
    contents: dict[str, str | bytes] = {path.name: str(path) for path in files}
    contents["README.md"] = card.replace(f'("{HERE}")', f'("{repo}")').encode()
    added = [CommitOperationAdd(name, content) for name, content in contents.items()]
    api = HfApi()
    try:
        api.create_repo(repo, exist_ok=True)
        api.create_commit(repo, added, commit_message=f"Upload {folder.parent.parent.name}")
    except Exception as error:  # sockets, HTTP, TLS, Xet and disks have their own exceptions
        raise UserError(f"cannot push to {repo} at {api.endpoint}: {reason(error)}") from None
    return f"{api.endpoint}/{repo}"


def reason(error: Exception) -> str:
    """Why an upload failed, and what to do."""
    status = getattr(getattr(error, "response", None), "status_code", None)
    if status == 401:
        return "the token is not valid; run `hf auth login`"
    if status == 403:
        return "the token has no permission to write there"
    cause = error.__cause__ or error
    text = " ".join(f"{type(cause).__name__}: {cause}".split())[:160]
    return f"{text}; check the network and run again"
