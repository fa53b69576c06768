"""Answers of language models, from any OpenAI-compatible endpoint.

    answer = Endpoint("http://localhost:8000/v1", "NAME").ask("Tell me a story.")
    answer.text, answer.finish_reason, answer.tokens

The key is in the environment variable OPENAI_API_KEY; what passes by itself is retried. The client
is that of huggingface_hub, which is here anyway: datasets needs it.
"""

import ipaddress
import json
import os
import random
import re
import threading
import urllib.parse
from collections.abc import Sequence
from typing import Any, NamedTuple

from huggingface_hub import InferenceClient
from huggingface_hub.errors import HfHubHTTPError, HTTPError

from configurator import UserError

KEY_VARIABLE = "OPENAI_API_KEY"  # the environment variable with the API key
TIMEOUT = 300.0  # seconds without a byte; a local model can be slow
RETRY_DELAYS = (1, 2, 4, 8, 16, 32)  # seconds; about a minute, after which most rate limits pass
MAX_RETRY_DELAY = 300.0  # seconds; a server that asks for more has no quota left
MAX_CONSECUTIVE_FAILURES = 10  # after which the endpoint is considered down, or out of quota


class Answer(NamedTuple):
    """What a model answered."""

    text: str
    finish_reason: str = ""  # "stop"; "length" where max_tokens cut it off; "content_filter"
    tokens: tuple[int, int] | None = None  # of the prompt and of the answer, where it says so


class RequestFailed(Exception):
    """A request without a usable answer; retry_after is in seconds, None if no retry will help."""

    def __init__(self, reason: str, retry_after: float | None = 0.0):
        super().__init__(reason)
        self.retry_after = retry_after


class Endpoint:
    """A model at an endpoint; raises UserError for a malformed URL or API key."""

    def __init__(self, url: str, model: str, retry_delays: Sequence[float] = RETRY_DELAYS):
        self.model, self.retry_delays = model, retry_delays
        try:
            parts = urllib.parse.urlsplit(url)
            host = (parts.hostname or "").encode("idna").decode()
            if re.fullmatch(r"\d+(\.\d+){3}", host):
                ipaddress.ip_address(host)
            valid = host and parts.port != 0 and re.fullmatch("https?://[!-~]+", url)
        except ValueError:  # an open bracket, a port in letters, "a..b"
            valid = False
        if not valid:
            raise UserError(
                f"{url!r} is not the URL of an endpoint, such as http://localhost:8000/v1"
            )
        self.endpoint = url.rstrip("/").removesuffix("/chat/completions") + "/chat/completions"
        key = os.environ.get(KEY_VARIABLE, "").strip() or "none"
        if not re.fullmatch("[!-~]+", key):
            raise UserError(f"{KEY_VARIABLE} has spaces or letters that no key has; copy it again")
        # Without a key the client would send the user's saved Hugging Face token to the endpoint.
        self.client = InferenceClient(base_url=self.endpoint, api_key=key, timeout=TIMEOUT)
        self.reached = False  # whether the endpoint has ever answered
        self.stopped = threading.Event()  # once set, nothing is retried

    def ask(self, prompt: str, **options: Any) -> Answer:
        """The answer; raises RequestFailed if retries do not help, UserError if no request can.

        `options` as the endpoint has them: max_tokens, temperature.
        """
        for delay in self.retry_delays:
            try:
                return self._attempt(prompt, options)
            except RequestFailed as error:
                after = error.retry_after
                if after is None or after > MAX_RETRY_DELAY:
                    raise
                spread = delay * random.uniform(1, 1.5)  # not all workers at the same moment
                if self.stopped.wait(max(spread, after)):
                    raise
        return self._attempt(prompt, options)

    def _attempt(self, prompt: str, options: dict[str, Any]) -> Answer:
        """Ask once."""
        messages = [{"role": "user", "content": prompt}]
        try:
            answer = self.client.chat_completion(messages, model=self.model, **options)
            choice = answer.choices[0]
            content = choice.message.content or getattr(choice.message, "refusal", None) or ""
        except HfHubHTTPError as error:
            response, self.reached = error.response, True
            status = response.status_code
            reason = f"{status}: {' '.join(response.text.split())[:200]}"
            if status in (401, 403, 404):
                raise UserError(
                    f"{self.endpoint} refused the request ({reason}); check the URL, the model and "
                    f"the API key in {KEY_VARIABLE}"
                ) from None
            if status not in (408, 409, 429) and status < 500:  # no timeout, rate limit, overload
                raise RequestFailed(reason, retry_after=None) from None
            after = response.headers.get("Retry-After", "")  # seconds, or a date: not read
            raise RequestFailed(reason, float(after) if after.isdecimal() else 0.0) from None
        except (OSError, HTTPError) as error:
            cause: BaseException = error
            while cause.__context__:  # the client wraps what the system reports
                cause = cause.__context__
            reason = " ".join(f"{type(cause).__name__}: {cause}".split())
            broken_off = isinstance(cause, (ConnectionResetError, BrokenPipeError, TimeoutError))
            if self.reached or broken_off or not isinstance(cause, OSError):
                raise RequestFailed(reason) from None
            raise UserError(f"cannot reach {self.endpoint} ({reason}); check the URL") from None
        except json.JSONDecodeError:
            if self.reached:  # a proxy's page, once among answers
                raise RequestFailed("an answer that is not JSON") from None
            raise UserError(f"{self.endpoint} does not answer in JSON; check the URL") from None
        except (ValueError, LookupError, TypeError, AttributeError):
            raise RequestFailed("an answer without a message") from None
        self.reached = True
        if not isinstance(content, str):
            raise RequestFailed("an answer that is not text", retry_after=None)
        return Answer(content, str(choice.finish_reason), _token_counts(answer))


def _token_counts(answer: Any) -> tuple[int, int] | None:
    """The tokens of the prompt and of the answer; None where the server does not count them."""
    usage = getattr(answer, "usage", None)
    asked, answered = (getattr(usage, f"{kind}_tokens", None) for kind in ("prompt", "completion"))
    return (asked, answered) if isinstance(asked, int) and isinstance(answered, int) else None
