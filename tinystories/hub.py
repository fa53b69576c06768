"""The Hugging Face hub: files of a repository, downloaded once and kept in the hub's cache."""

from pathlib import Path

from configurator import EXPECTED_ERRNOS, UserError


def download(
    repo: str, revision: str, patterns: str | list[str], kind: str, advice: str, **options
) -> Path:
    """The folder of the files that fit a pattern.

    Args:
        kind: of the repository, "dataset" or "model".
        advice: what else the user can do where it fails: the end of the message.
        options: as snapshot_download takes them.

    Raises:
        UserError: says why it fails, and what to do.
    """
    from huggingface_hub import constants, errors, snapshot_download

    options |= {"repo_type": kind, "revision": revision, "allow_patterns": patterns}
    try:
        return Path(snapshot_download(repo, **options))
    except Exception as error:  # sockets, HTTP, TLS, Xet and disks have their own exceptions
        reason = error.__cause__ or error
        text = " ".join(f"{type(reason).__name__}: {reason}".split())[:160]
        messages = {  # the first that fits
            errors.HFValidationError: "not a name on the hub, which is OWNER/NAME",
            errors.RevisionNotFoundError: f"no revision {revision!r}; give a branch, tag or commit",
            errors.GatedRepoError: "access requires a login; run `hf auth login`",
            errors.RepositoryNotFoundError: "not found; if it is private, run `hf auth login`",
            errors.OfflineModeIsEnabled: "not in the cache, and HF_HUB_OFFLINE is set; unset it",
            Exception: f"{text}; check the network and run again",
        }
        if getattr(reason, "errno", None) in EXPECTED_ERRNOS:
            messages = {Exception: f"{text}; free some space, or set HF_HOME to another disk"}
        match = next(k for k in messages if isinstance(error, k) or isinstance(reason, k))
        raise UserError(
            f"cannot get {repo} from {constants.ENDPOINT}: {messages[match]}, {advice}"
        ) from None
