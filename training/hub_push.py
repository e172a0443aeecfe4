"""Push a folder to the Hugging Face Hub: one commit, after which the repository holds what the folder holds.

A folder that `training.publish_checkpoint` wrote, to a repository that is made if there is none:
    python -m training.hub_push runs/hub_folder ORG/NAME
The same, seen by its owner only, and with a name that this revision keeps:
    python -m training.hub_push runs/hub_folder ORG/NAME --private --tag v1.0
A Space (its README.md names the SDK):
    python -m training.hub_push runs/space ORG/NAME --repo-type space

Make a token with write permission at https://huggingface.co/settings/tokens and log in once with
`hf auth login`, or put it in the environment variable HF_TOKEN. This file sends it to the Hub and nowhere
else: it is in no file, log or message. A push that breaks off leaves the repository as it was; the same
command again goes on with it, and does not send a large file twice.
"""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path

import yaml
from huggingface_hub import CommitOperationAdd, CommitOperationDelete, HfApi, get_token, metadata_load
from huggingface_hub.errors import HfHubHTTPError, HTTPError, OfflineModeIsEnabled
from huggingface_hub.utils import validate_repo_id

REPO_TYPES = ("model", "space")
# Never part of what is published: what tools leave in a folder.
_LEFT_BY_TOOLS = {".git", ".cache", ".DS_Store", "__pycache__", ".ipynb_checkpoints"}
# The Hub keeps its rules of what goes through LFS here, and adds the file itself.
_KEPT_ON_THE_HUB = {".gitattributes"}
# A token is looked for in files up to this size; weights are larger.
_LARGEST_TEXT = 10 * 1024 * 1024
_LOG_IN = (
    "make one with write permission at https://huggingface.co/settings/tokens, then run `hf auth login` or "
    "set the environment variable HF_TOKEN, and push again."
)
_AGAIN = (
    "The repository holds either its old files or all the new ones, nothing between; run the same command "
    "again: what has arrived is not sent twice."
)


def main(argv: Sequence[str]) -> int:
    """Arguments → push → tag; the exit status is 1, with a sentence on what to do, when it fails."""
    options = parse_options(argv)
    try:
        url = push_folder(
            options.folder,
            options.repo_id,
            private=options.private,
            branch=options.branch,
            message=options.message,
            repo_type=options.repo_type,
        )
        print(url)
        if options.tag:
            tag_revision(options.repo_id, options.tag, url.rsplit("/", 1)[-1], repo_type=options.repo_type)
            print(f"tagged {options.tag}")
    except (OSError, ValueError) as error:
        print(f"error: {error}", file=sys.stderr)
        return 1
    return 0


def parse_options(argv: Sequence[str]) -> argparse.Namespace:
    """Read the command line."""
    parser = argparse.ArgumentParser(
        prog="python -m training.hub_push", description="Push a folder to the Hugging Face Hub as one commit."
    )
    parser.add_argument("folder", type=Path, help="everything in it is published")
    parser.add_argument("repo_id", help="ORG/NAME; made if it does not exist")
    parser.add_argument("--private", action="store_true", help="make a new repository private")
    parser.add_argument("--branch", help="commit there instead of to main; made if it does not exist")
    parser.add_argument("--message", help="of the commit")
    parser.add_argument("--tag", help="a name for this revision, which never moves")
    parser.add_argument("--repo-type", choices=REPO_TYPES, default="model")
    return parser.parse_args(argv)


def push_folder(
    folder: Path,
    repo_id: str,
    *,
    private: bool = False,
    branch: str | None = None,
    message: str | None = None,
    repo_type: str = "model",
) -> str:
    """Make a repository's files those of a folder, in one commit; files that are not in the folder go.

    Old revisions stay and can be loaded. Nothing is committed when nothing has changed. Only a new repository
    becomes private or public by `private`; one that exists stays what it is.

    Args:
        folder: with its sub-folders; what tools leave behind (`.git`, `.cache`, `.DS_Store`,
            `__pycache__`, `.ipynb_checkpoints`) stays out.
        repo_id: "ORG/NAME"; made if it does not exist.
        private: make a new repository private.
        branch: to commit to instead of "main"; a new one begins where "main" is.
        message: of the commit; one that names the folder if None.
        repo_type: "model" or "space". A new Space runs the SDK that its README.md names, or Gradio.

    Returns:
        The address of the commit, or of the newest one when nothing has changed; its last part is the
        commit's SHA, a `revision` for `from_pretrained`.

    Raises:
        ValueError: when the name, the type or the folder is not one that can be pushed, a file of the folder
            holds the token, the card's metadata are refused, or the repository is public and `private` is
            asked for.
        PermissionError: without a token, with one that the Hub refuses, or that may not write there.
        ConnectionError: when the Hub cannot be reached, breaks off, or fails.
        OSError: when it refuses for another reason, such as somebody else's commit in between.
    """
    if repo_type not in REPO_TYPES:
        raise ValueError(f"`repo_type` must be one of {', '.join(REPO_TYPES)}, got {repo_type!r}.")
    _check_repo_id(repo_id)
    files = _files(folder)
    sdk = _space_sdk(files) if repo_type == "space" else None
    token = _token()
    _refuse_token_in(files, token)
    api = HfApi(token=token)
    with _worded_errors(repo_id, token):
        api.create_repo(repo_id, private=private, repo_type=repo_type, exist_ok=True, space_sdk=sdk)
        is_private = bool(api.repo_info(repo_id, repo_type=repo_type).private)
    if private and not is_private:
        raise ValueError(
            f"`{repo_id}` exists and is public, but this push was to be private; nothing was pushed. Make it "
            "private in its settings on the Hub, choose another name, or push without `private`."
        )
    with _worded_errors(repo_id, token):
        if branch not in (None, "main"):
            api.create_branch(repo_id, branch=branch, repo_type=repo_type, exist_ok=True)
        head = api.repo_info(repo_id, repo_type=repo_type, revision=branch).sha
        there = set(api.list_repo_files(repo_id, repo_type=repo_type, revision=head))
        # Not `upload_folder`, which may make several commits of one folder.
        commit = api.create_commit(
            repo_id,
            [CommitOperationDelete(path) for path in sorted(there - set(files) - _KEPT_ON_THE_HUB)]
            + [CommitOperationAdd(path, file) for path, file in files.items()],
            commit_message=message or f"Push {folder.resolve().name}",
            revision=branch,
            repo_type=repo_type,
            parent_commit=head,
        )
        missing = set(files) - set(api.list_repo_files(repo_id, repo_type=repo_type, revision=commit.oid))
    if missing:
        raise ValueError(
            f"{commit.commit_url} lacks {', '.join(sorted(missing))}: a `.gitignore` in the folder or on "
            "the Hub names them. Take them out of it and push again."
        )
    return str(commit.commit_url)


def tag_revision(repo_id: str, tag: str, revision: str, *, repo_type: str = "model") -> None:
    """Give a revision a name that stays, such as "v1.0"; doing it again changes nothing.

    Args:
        repo_id: "ORG/NAME".
        tag: the new name.
        revision: the SHA of a commit.
        repo_type: "model" or "space".

    Raises:
        ValueError: when the tag is there already and means another commit.
        OSError: as `push_folder`.
    """
    token = _token()
    api = HfApi(token=token)
    with _worded_errors(repo_id, token):
        refs = api.list_repo_refs(repo_id, repo_type=repo_type)
        known = {ref.name: ref.target_commit for ref in refs.tags}
        if tag not in known:
            api.create_tag(repo_id, tag=tag, revision=revision, repo_type=repo_type)
    if known.get(tag, revision) != revision:
        raise ValueError(
            f"the tag {tag!r} of `{repo_id}` is the commit {known[tag]}, and people rely on it: choose "
            f"another name for {revision}."
        )


def _check_repo_id(repo_id: str) -> None:
    """Accept "ORG/NAME" only: without an owner, a name means another repository for every token."""
    remedy = "give it as ORG/NAME, such as `my-organisation/words-rcmstr`"
    try:
        validate_repo_id(repo_id)
    except ValueError as error:
        raise ValueError(f"`repo_id` {repo_id!r} is no name of a repository; {remedy}. {error}") from None
    if repo_id.count("/") != 1:
        raise ValueError(f"`repo_id` must name its owner, got {repo_id!r}; {remedy}.")


def _files(folder: Path) -> dict[str, Path]:
    """What is to be pushed: path in the repository → file, sorted."""
    if not folder.is_dir():
        raise ValueError(f"{folder} is no folder; write one with `python -m training.publish_checkpoint`.")
    paths = {path.relative_to(folder): path for path in sorted(folder.rglob("*")) if not path.is_dir()}
    files = {
        inside.as_posix(): path for inside, path in paths.items() if not _LEFT_BY_TOOLS & set(inside.parts)
    }
    broken = [name for name, path in files.items() if not path.is_file()]
    if broken:
        raise ValueError(f"{', '.join(broken)} in {folder} cannot be read: a link to nothing, or no file.")
    if not files:
        raise ValueError(f"{folder} holds no file; pushing it would empty the repository.")
    return files


def _space_sdk(files: dict[str, Path]) -> str:
    """What runs a Space: as its README.md says, Gradio without a word."""
    if "README.md" not in files:
        raise ValueError(
            "a Space needs a README.md with its metadata (title, sdk, app_file) between `---` lines."
        )
    try:
        metadata = metadata_load(files["README.md"]) or {}
    except yaml.YAMLError as error:
        raise ValueError(f"the metadata in README.md are no YAML: {error}") from error
    return str(metadata.get("sdk", "gradio"))


def _token() -> str:
    """The user's token, as huggingface_hub finds it."""
    token = get_token()
    if not token:
        raise PermissionError(f"pushing needs a token of the Hugging Face Hub, and none was found: {_LOG_IN}")
    # A header with such a character is refused by the HTTP library in an error that shows it.
    if not token.isascii() or not token.isprintable() or " " in token:
        raise PermissionError(f"the token that was found holds characters that no token has: {_LOG_IN}")
    return token


def _refuse_token_in(files: dict[str, Path], token: str) -> None:
    """A record of a run may hold its environment."""
    for name, path in files.items():
        if path.stat().st_size <= _LARGEST_TEXT and token.encode() in path.read_bytes():
            raise ValueError(
                f"{name} holds your Hugging Face token, and everybody could read it; nothing was pushed. "
                "Take it out of the file."
            )


@contextmanager
def _worded_errors(repo_id: str, token: str) -> Iterator[None]:
    """Say what to do about an error of the Hub or of the network, and never show the token."""
    try:
        yield
    except (HTTPError, OSError, RuntimeError, ValueError) as error:
        # The library's own error is left out on purpose: it may quote what was sent.
        raise _worded(error, repo_id, token) from None


def _worded(error: Exception, repo_id: str, token: str) -> Exception:
    """The error to show for one that happened."""
    text = str(error).replace(token, "[token]")
    if isinstance(error, HfHubHTTPError):
        return _worded_answer(error.response.status_code, dict(error.response.headers), text, repo_id)
    if isinstance(error, OfflineModeIsEnabled):
        return ConnectionError("nothing can be pushed while HF_HUB_OFFLINE is set; unset it and push again.")
    if isinstance(error, ValueError) and not isinstance(error, json.JSONDecodeError):
        return ValueError(f"`{repo_id}` was not pushed: {text}")
    # An upload of a large file fails with an error that names the file, and whose cause says why.
    causes = [str(one) or type(one).__name__ for one in (error, error.__cause__) if one is not None]
    reason = " ".join(dict.fromkeys(causes)).replace(token, "[token]").rstrip(".")
    if isinstance(error, FileNotFoundError):
        return OSError(f"a file went away while it was pushed to `{repo_id}`: {reason}. {_AGAIN}")
    return ConnectionError(
        f"the Hub could not be reached, or broke off while `{repo_id}` was pushed: {reason}. Check the "
        f"network and HF_ENDPOINT. {_AGAIN}"
    )


def _worded_answer(status: int, headers: Mapping[str, str], text: str, repo_id: str) -> Exception:
    """The error to show for an answer of the Hub."""
    if status == 401:
        return PermissionError(f"the Hub refused the token (401), it may be mistyped or expired: {_LOG_IN}")
    if status in (403, 404):
        return PermissionError(
            f"the token may not write to `{repo_id}` ({status}); nothing was pushed. Check the name; if it "
            "is right, the token needs write permission there, and its owner has to be a member of that "
            f"organisation. The Hub said: {text}"
        )
    if status in (409, 412):
        return OSError(
            f"somebody committed to `{repo_id}` while this push was under way ({status}); nothing was "
            "pushed. Look at what is new there, then push again, which replaces it by the folder's files."
        )
    if status == 429:
        wait = headers.get("retry-after")
        when = f"in {wait} seconds" if wait else "later"
        return ConnectionError(f"the Hub has had too many requests (429); push again {when}. {_AGAIN}")
    if status >= 500:
        return ConnectionError(f"the Hub failed ({status}) while `{repo_id}` was pushed. {_AGAIN} {text}")
    return OSError(f"the Hub refused the push to `{repo_id}` ({status}). It said: {text}")


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
