"""The OpenAI-compatible chat API as bytes: a prompt to a request's body, and a reply's body to a distribution. Opens no socket.

https://platform.openai.com/docs/api-reference/chat, as vLLM, SGLang, llama.cpp, Ollama and NIM serve it. One token is asked
for, with the twenty likeliest in its place: the labels' codes are among them or the model does not follow. Text is never read.
"""

import base64
import hashlib
import math
from collections.abc import Mapping
from typing import Annotated, Any

import msgspec
from msgspec import Meta, Struct

from outrider_cloud.large.prompts import Prompt
from outrider_wire.decodable import decodable
from outrider_wire.errors import OperatorConfigError, PeerMessageError

TOP = 20
"""As many alternatives as the API gives."""
BODY_BYTES = 1024 * 1024
"""Largest reply that is read."""

LogProbability = Annotated[float, Meta(le=0.01, ge=-3.5e38)]
"""A bound refuses NaN and infinity; llama.cpp writes the lowest float32 for no probability, and a little above zero is rounding."""
Tokens = Annotated[int, Meta(ge=0, le=10_000_000)]


class _Alternative(Struct):
    token: str
    logprob: LogProbability | None
    """None: no probability, as servers write it whose JSON knows no infinity."""


class _Place(Struct):
    top_logprobs: Annotated[list[_Alternative], Meta(max_length=100)] = []


class _Logprobs(Struct):
    content: Annotated[list[_Place], Meta(max_length=16)] | None = None


class _Choice(Struct):
    logprobs: _Logprobs | None = None


class _Usage(Struct):
    prompt_tokens: Tokens = 0
    completion_tokens: Tokens = 0


class _Completion(Struct):
    choices: Annotated[list[_Choice], Meta(min_length=1)]
    model: str = ""
    system_fingerprint: str | None = None
    usage: _Usage | None = None


class _Models(Struct):
    data: list[dict[str, Any]]


class Choice(Struct, kw_only=True, frozen=True):
    """What one completion says of the codes."""

    masses: Mapping[str, float]
    """Code → probability, before anything is normalised; codes that are not among the alternatives are left out."""
    prompt_tokens: int
    completion_tokens: int
    served: str
    """The model that answered, and its configuration where the server names one."""


def completion_body(model: str, prompt: Prompt) -> dict[str, Any]:
    """One token with its alternatives. At temperature 1, so that a server which scales log-probabilities leaves them alone."""
    content: str | list[dict[str, Any]] = prompt.text
    if prompt.images:
        content = [{"type": "text", "text": prompt.text}]
        for media_type, data in prompt.images:
            url = f"data:{media_type};base64,{base64.b64encode(data).decode('ascii')}"
            content.append({"type": "image_url", "image_url": {"url": url}})
    return {
        "model": model,
        "messages": [{"role": "user", "content": content}],
        "max_tokens": 1,
        "temperature": 1,
        "logprobs": True,
        "top_logprobs": TOP,
    }


def read_completion(body: bytes, codes: frozenset[str]) -> Choice:
    """What a reply says of ``codes``; tokens that differ only in the blanks around them count together.

    Raises:
        PeerMessageError: it is not a completion, or comes without alternatives.
    """
    try:
        completion = msgspec.json.decode(body, type=decodable(_Completion))
    except (msgspec.MsgspecError, RecursionError, ValueError) as error:
        raise PeerMessageError(
            f"the server's reply is no completion: {error}", reason="unparsable_reply", fix="see what the server logs"
        ) from error
    logprobs = completion.choices[0].logprobs
    places = logprobs.content if logprobs is not None else None
    if not places or not places[0].top_logprobs:
        raise PeerMessageError(
            "the server gives no log-probabilities",
            reason="no_logprobs",
            fix="use a server that answers logprobs and top_logprobs of chat completions",
        )
    masses: dict[str, float] = {}
    for each in places[0].top_logprobs:
        if (code := each.token.strip(" \t\n▁Ġ")) in codes:
            mass = 0.0 if each.logprob is None else min(1.0, math.exp(each.logprob))
            masses[code] = masses.get(code, 0.0) + mass
    usage = completion.usage or _Usage()
    return Choice(
        masses=masses,
        prompt_tokens=usage.prompt_tokens,
        completion_tokens=usage.completion_tokens,
        served=f"{completion.model} {completion.system_fingerprint or ''}".strip(),
    )


def read_models(body: bytes, model: str) -> str:
    """Digest of what the server says of ``model``, without what changes from request to request.

    Raises:
        PeerMessageError: it is not a list of models.
        OperatorConfigError: the model is not in it.
    """
    try:
        listed = msgspec.json.decode(body, type=decodable(_Models)).data
    except (msgspec.MsgspecError, RecursionError, ValueError) as error:
        raise PeerMessageError(f"the list of models does not parse: {error}", reason="unparsable_reply") from error
    entry = next((each for each in listed if each.get("id") == model), None)
    if entry is None:
        names = ", ".join(str(each.get("id"))[:80] for each in listed[:8]) or "none"
        raise OperatorConfigError(
            f"the server has no model {model!r}",
            reason="no_such_model",
            fix=f'write large = "openai:URL#MODEL" with one of: {names}',
        )
    kept = {name: value for name, value in entry.items() if name not in ("created", "permission")}
    return digest_of(msgspec.json.encode(kept, order="deterministic").decode())


def digest_of(*said: str) -> str:
    """Twelve hexadecimal digits."""
    return hashlib.sha256("\n".join(said).encode()).hexdigest()[:12]
