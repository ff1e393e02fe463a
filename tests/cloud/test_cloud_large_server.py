"""The large model behind a server that is asked for one token: what it says becomes a distribution, and how it fails is told apart."""

import asyncio
import base64
import math
import os
import time
from collections.abc import Sequence
from typing import Any

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st
from large_server import (
    MODEL,
    TASK,
    ChatServer,
    Manner,
    completion,
    flood,
    half,
    prose,
    raw,
    says,
    silence,
    status,
    tokens,
)

from factory import sure
from outrider_cloud.config import AskingSettings, TaskSettings
from outrider_cloud.large.base import LargeRefusal, LargeReply, LargeRequest
from outrider_cloud.large.compatible import CompatibleServer
from outrider_cloud.large.completions import read_completion, read_models
from outrider_cloud.large.patience import Breaker, backoff_s, retry_after_s
from outrider_cloud.large.prompts import CODES, choice_prompt, codes_of, label_prompt
from outrider_cloud.large.table import load_large
from outrider_wire.errors import OperatorConfigError, PeerMessageError, UnreachableError
from outrider_wire.messages import Fact
from outrider_wire.task import AnswerSpace, InputPart, Subtask, Task

QUICK = AskingSettings(timeout_s=0.5, retries=1, price_in=2.0, price_out=10.0)


def request(text: bytes = b"a goal in the last minute", **fields: Any) -> LargeRequest:
    return LargeRequest(parts={"text": text}, labels=TASK.labels, small=[0.7, 0.2, 0.1], **fields)


def client_of(
    server: ChatServer, *, key: str = "", asking: AskingSettings = QUICK, task: Task = TASK
) -> CompatibleServer:
    return CompatibleServer(url=server.url, model=MODEL, key=key, task=task, asking=asking)


async def asked(manners: list[Manner], *, requests: Sequence[LargeRequest] = (), **options: Any) -> list[Any]:
    """What a client of such a server replies."""
    async with ChatServer(manners) as server:
        client = client_of(server, **options)
        try:
            return list(await client.answer(requests or [request()]))
        finally:
            await client.close()


async def test_the_masses_of_the_codes_become_a_distribution_with_its_cost() -> None:
    [reply] = await asked([says(A=0.6, **{" A": 0.1, "B": 0.2, "C": 0.08, "The": 0.02})])
    assert isinstance(reply, LargeReply)
    assert reply.probabilities == pytest.approx([0.7 / 0.98, 0.2 / 0.98, 0.08 / 0.98])
    assert reply.captured == pytest.approx(0.98)
    assert (reply.cost.tokens, reply.cost.scores) == (41, 3)
    assert reply.cost.money == pytest.approx((40 * 2.0 + 10.0) / 1e6)


async def test_one_token_is_asked_for_with_its_alternatives_and_every_label_has_its_letter() -> None:
    async with ChatServer([says(A=1.0)]) as server:
        client = client_of(server)
        await client.answer([request()])
        await client.close()
    [body] = server.bodies
    assert (body["model"], body["max_tokens"], body["logprobs"], body["top_logprobs"]) == (MODEL, 1, True, 20)
    told = body["messages"][0]["content"]
    assert "A: sport\nB: science\nC: politics" in told and "text: a goal in the last minute" in told
    assert "0.70" not in told, "the small model is not told of unless the strategy says so"


async def test_only_the_candidates_are_listed_and_keep_their_letters() -> None:
    async with ChatServer([says(C=0.9, A=0.05)]) as server:
        client = client_of(server)
        [reply] = await client.answer([request(candidates=[2, 0])])
        await client.close()
    assert "B:" not in server.bodies[0]["messages"][0]["content"]
    assert isinstance(reply, LargeReply)
    assert reply.probabilities == pytest.approx([0.05 / 0.95, 0.0, 0.9 / 0.95])
    assert reply.cost.scores == 2


async def test_an_image_travels_as_a_data_url() -> None:
    task = Task(name="t", inputs=[InputPart(name="image", modality="image")], answer=AnswerSpace(labels=["a", "b"]))
    picture = sure()
    async with ChatServer([says(A=0.99)]) as server:
        client = client_of(server, task=task)
        await client.answer([LargeRequest(parts={"image": picture}, labels=["a", "b"], small=[0.5, 0.5])])
        await client.close()
    [text, image] = server.bodies[0]["messages"][0]["content"]
    assert text["type"] == "text" and "B: b" in text["text"]
    kind, _, data = image["image_url"]["url"].partition(",")
    assert kind == "data:image/png;base64" and base64.b64decode(data) == picture


@pytest.mark.parametrize(
    ("manner", "reason"),
    [
        (says(The=0.9, A_goal=0.1), "mass_too_low"),
        (status(400), "server_refused"),
        (status(413), "server_refused"),
        (status(422), "server_refused"),
    ],
)
async def test_what_is_said_of_the_input_itself_refuses_it_for_good(manner: Manner, reason: str) -> None:
    [reply] = await asked([manner])
    assert isinstance(reply, LargeRefusal)
    assert (reply.reason, reply.retry_after_s) == (reason, None)


UNREADABLE = [
    (raw(b'{"choices": [{"message": {"content": "B"}}]}'), "no_logprobs"),
    (raw(msgspec.json.encode(completion([]))), "no_logprobs"),
    (raw(b"<html>bad gateway</html>"), "unparsable_reply"),
    (raw(b'{"error": {"message": "overloaded"}}'), "unparsable_reply"),
    (raw(b"```json\n{}\n```"), "unparsable_reply"),
    (raw(b'{"choices": []}'), "unparsable_reply"),
    (raw(msgspec.json.encode(completion(tokens(A=0.9)))[:-40]), "unparsable_reply"),
    (raw(msgspec.json.encode(completion([{"token": "A", "logprob": 3.0}]))), "unparsable_reply"),
    (
        raw(b'{"choices":[{"logprobs":{"content":[{"top_logprobs":[{"token":"A","logprob":NaN}]}]}}]}'),
        "unparsable_reply",
    ),
    (raw(b"[" * 100_000), "unparsable_reply"),
]


@pytest.mark.parametrize(("manner", "reason"), UNREADABLE)
async def test_a_reply_that_holds_no_distribution_puts_the_input_off(manner: Manner, reason: str) -> None:
    [reply] = await asked([manner])
    assert isinstance(reply, LargeRefusal)
    assert reply.reason == reason and reply.retry_after_s


@pytest.mark.parametrize("manner", [raw(b"<html>"), status(402), status(302)], ids=["html", "402", "302"])
async def test_a_server_that_answers_nonsense_is_left_alone_like_one_that_is_down(manner: Manner) -> None:
    async with ChatServer([manner]) as server:
        client = client_of(server, asking=AskingSettings(retries=0))
        for _ in range(4):
            [reply] = await client.answer([request()])
        await client.close()
    assert len(server.bodies) == 3
    assert isinstance(reply, LargeRefusal) and reply.reason == "large_model_down" and reply.retry_after_s


async def test_prose_shows_as_mass_that_was_not_captured_and_is_never_parsed() -> None:
    [reply] = await asked([prose])
    assert isinstance(reply, LargeReply)
    assert reply.captured == pytest.approx(0.05)
    assert reply.probabilities == pytest.approx([0.0, 0.8, 0.2])


@pytest.mark.parametrize(
    "manner",
    [status(500), status(503), status(429), status(302), status(408), status(425), half, silence, flood],
    ids=["500", "503", "429", "302", "408", "425", "half", "silence", "flood"],
)
async def test_a_server_that_fails_puts_the_input_off_and_refuses_nothing(manner: Manner) -> None:
    [reply] = await asked([manner])
    assert isinstance(reply, LargeRefusal)
    assert reply.reason == "large_model_unreachable" and reply.retry_after_s is not None and reply.retry_after_s > 0


@pytest.mark.parametrize("manner", [status(500), status(429), half, silence], ids=["500", "429", "half", "silence"])
async def test_a_server_that_fails_once_is_asked_again_at_once(manner: Manner) -> None:
    [reply] = await asked([manner, says(B=0.99)])
    assert isinstance(reply, LargeReply)
    assert reply.probabilities[1] == pytest.approx(1.0)


async def test_retry_after_is_honoured() -> None:
    started = time.monotonic()
    [reply] = await asked([status(429, **{"Retry-After": "1"}), says(B=0.99)])
    assert isinstance(reply, LargeReply) and time.monotonic() - started >= 1.0
    [reply] = await asked([status(429, **{"Retry-After": "90"}), says(B=0.99)])
    assert isinstance(reply, LargeRefusal) and reply.retry_after_s is not None and reply.retry_after_s >= 90


@pytest.mark.parametrize("code", [401, 402, 403, 404])
async def test_what_the_operator_must_mend_puts_inputs_off(code: int) -> None:
    [reply] = await asked([status(code)])
    assert isinstance(reply, LargeRefusal) and reply.reason == "large_model_denied" and reply.retry_after_s


async def test_one_input_that_cannot_be_asked_about_does_not_touch_the_others() -> None:
    replies = await asked([says(A=0.99)], requests=[request(), request(b"\xff\xfe"), request()])
    assert [getattr(reply, "reason", "") for reply in replies] == ["", "not_utf8", ""]


async def test_no_more_are_under_way_than_was_asked_for() -> None:
    async def slow(server: ChatServer, _request: Any, _body: Any) -> Any:
        await asyncio.sleep(0.02)
        return says(A=0.99)(server, _request, _body)

    async with ChatServer([slow]) as server:
        client = client_of(server, asking=AskingSettings(at_once=3))
        replies = await client.answer([request()] * 12)
        await client.close()
    assert all(isinstance(reply, LargeReply) for reply in replies)
    assert server.most_at_once == 3


async def test_a_server_that_is_down_is_left_alone_after_three_failures() -> None:
    async with ChatServer([status(500)]) as server:
        client = client_of(server, asking=AskingSettings(retries=0))
        for _ in range(6):
            [reply] = await client.answer([request()])
        await client.close()
    assert len(server.bodies) == 3
    assert (
        isinstance(reply, LargeRefusal) and reply.reason == "large_model_down" and 0 < (reply.retry_after_s or 0) <= 10
    )


async def test_a_batch_does_not_wait_for_a_silent_server_once_for_each_of_its_inputs() -> None:
    async with ChatServer([silence]) as server:
        client = client_of(server, asking=AskingSettings(retries=0, timeout_s=0.3, at_once=2))
        replies = await client.answer([request()] * 40)
        await client.close()
    assert len(server.bodies) <= 4
    assert {reply.reason for reply in replies if isinstance(reply, LargeRefusal)} == {
        "large_model_unreachable",
        "large_model_down",
    }
    assert len(server.bodies) <= 4


async def test_the_key_is_sent_and_stands_in_no_reply() -> None:
    async with ChatServer([says(A=0.99)], key="s3cret") as server:
        with_key, without = client_of(server, key="s3cret"), client_of(server)
        [reply] = await with_key.answer([request()])
        assert isinstance(reply, LargeReply)
        [reply] = await without.answer([request()])
        assert isinstance(reply, LargeRefusal) and "s3cret" not in reply.detail
        with pytest.raises(OperatorConfigError, match="api_key_env") as caught:
            await without.look()
        assert caught.value.reason == "key_refused"
        await with_key.close()
        await without.close()


async def test_the_name_carries_a_digest_that_changes_with_the_model_behind_it() -> None:
    async with ChatServer([says(A=0.99)]) as server:
        client = client_of(server)
        await client.answer([request()])
        before = client.name
        server.models["data"][0]["created"] = 99
        await client.look()
        assert client.name == before, "a time is no revision"
        server.manners = [lambda *_: _reconfigured()]
        await client.answer([request()])
        reconfigured = client.name
        server.models["data"][0]["root"] = "/models/other"
        await client.look()
        await client.close()
    assert before.startswith(f"{MODEL}@") and len({before, reconfigured, client.name}) == 3


def _reconfigured() -> Any:
    from aiohttp import web

    return web.json_response(completion(tokens(A=0.99), system_fingerprint="fp_2"))


def settings(url: str, **fields: Any) -> TaskSettings:
    return TaskSettings(**{"file": "", "large": f"openai:{url}#{MODEL}", "strategy": "shunt"} | fields)


async def test_a_configuration_names_server_and_model(monkeypatch: pytest.MonkeyPatch) -> None:
    async with ChatServer([says(C=0.97)], key="s3cret") as server:
        monkeypatch.setenv("TINY_KEY", "s3cret")
        asking = AskingSettings(api_key_env="TINY_KEY")
        large = await asyncio.to_thread(load_large, settings(server.url, asking=asking), TASK)
        [reply] = await large.answer([request()])
        await large.close()
    assert isinstance(reply, LargeReply) and reply.probabilities[2] == pytest.approx(1.0)


async def test_what_cannot_work_is_said_before_anything_starts() -> None:
    async with ChatServer([says(A=1.0)], models={"data": [{"id": "other"}]}) as server:
        with pytest.raises(OperatorConfigError, match="other") as caught:
            await asyncio.to_thread(load_large, settings(server.url), TASK)
        assert caught.value.reason == "no_such_model"
    os.environ.pop("NO_SUCH_KEY", None)
    with pytest.raises(OperatorConfigError, match="NO_SUCH_KEY"):
        load_large(settings("http://127.0.0.1:9/v1", asking=AskingSettings(api_key_env="NO_SUCH_KEY")), TASK)
    many = Task(name="t", inputs=TASK.inputs, answer=AnswerSpace(labels=[f"l{k}" for k in range(27)]))
    for strategy in ("shunt", "hard-prune"):  # audits of either are asked about every label
        with pytest.raises(OperatorConfigError, match="27 labels"):
            load_large(settings("http://127.0.0.1:9/v1", strategy=strategy, keep=0.1), many)
    audio = Task(name="t", inputs=[InputPart(name="clip", modality="audio")], answer=TASK.answer)
    with pytest.raises(OperatorConfigError, match="audio"):
        load_large(settings("http://127.0.0.1:9/v1"), audio)


async def test_a_server_that_is_not_up_yet_is_no_reason_not_to_start() -> None:
    large = await asyncio.to_thread(load_large, settings("http://127.0.0.1:9/v1", asking=QUICK), TASK)
    assert large.name == f"{MODEL}@unknown"
    [reply] = await large.answer([request()])
    assert isinstance(reply, LargeRefusal) and reply.retry_after_s
    with pytest.raises(UnreachableError):
        await large.look()  # type: ignore[attr-defined]  # this kind can
    await large.close()


# --- the rules


@given(st.binary(max_size=200))
def test_any_bytes_are_a_completion_or_a_peer_error(body: bytes) -> None:
    with pytest.raises(PeerMessageError):
        read_completion(body, frozenset("AB"))
    with pytest.raises(PeerMessageError):
        read_models(b"\x00" + body, MODEL)


def test_pauses_double_are_spread_and_end() -> None:
    assert [backoff_s(attempt, 0.5) for attempt in (1, 2, 3)] == [0.5, 1.0, 2.0]
    assert backoff_s(1, 0.0) == 0.25 and backoff_s(1, 0.999) < 0.75
    assert backoff_s(50, 0.5) == 30.0
    assert backoff_s(1, 0.5, asked_s=7.0) == pytest.approx(7.05)


@pytest.mark.parametrize(
    ("header", "seconds"),
    [(None, None), ("", None), ("3", 3.0), ("0.5", 0.5), ("-1", None), ("nan", None), ("Wed, 21 Oct", None)],
)
def test_retry_after_is_a_number_of_seconds_or_nothing(header: str | None, seconds: float | None) -> None:
    assert retry_after_s(header) == seconds


def test_a_breaker_opens_lets_one_through_after_its_pause_and_closes_on_success() -> None:
    breaker = Breaker(limit=2, pause_s=10.0)
    breaker.failed(0.0)
    assert breaker.left_s(0.0) == 0.0
    breaker.failed(1.0)
    assert breaker.left_s(4.0) == 7.0
    assert breaker.left_s(11.0) == 0.0, "one is let through"
    assert breaker.left_s(11.5) == 9.5, "and no second one"
    breaker.succeeded()
    assert breaker.left_s(11.5) == 0.0


def test_facts_and_the_small_models_distribution_are_worded_where_the_strategy_tells_them() -> None:
    task = Task(
        name="t", inputs=TASK.inputs, answer=TASK.answer, subtasks=[Subtask(name="language", labels=["en", "de"])]
    )
    told = request(facts=[Fact(name="language", label="de", confidence=0.93)], tell_small=True)
    text = choice_prompt(task, told, codes_of(told)).text
    assert "- language: de (confidence 0.93)" in text
    assert "- a sport with probability 0.70" in text and "- a politics with probability 0.10" in text
    assert "probability" not in choice_prompt(task, request(), codes_of(request())).text


def test_more_labels_than_letters_are_coded_by_their_place_among_the_candidates() -> None:
    labels = [f"label {k}" for k in range(40)]
    few = LargeRequest(parts={}, labels=labels, small=[1 / 40] * 40, candidates=[39, 5])
    assert codes_of(few) == {5: "A", 39: "B"}
    assert len(CODES) == 26


def test_every_backend_words_the_same_input_alike() -> None:
    one, other = choice_prompt(TASK, request(), codes_of(request())).text, label_prompt(TASK, request()).text
    shared = "What is this text about?\n\ntext: a goal in the last minute\n\n"
    assert one.startswith(shared) and other.startswith(shared)
    assert other.endswith("sport, science, politics.")


def test_a_probability_is_never_above_one_for_rounding() -> None:
    body = msgspec.json.encode(completion([{"token": "A", "logprob": 0.005}]))
    assert math.isclose(read_completion(body, frozenset("A")).masses["A"], 1.0)


@pytest.mark.parametrize("nothing", [-3.4028234663852886e38, None])
def test_a_token_without_probability_has_no_mass_however_the_server_writes_it(nothing: float | None) -> None:
    body = msgspec.json.encode(completion([*tokens(A=0.9), {"token": "B", "logprob": nothing}]))
    assert read_completion(body, frozenset("AB")).masses == pytest.approx({"A": 0.9, "B": 0.0})
