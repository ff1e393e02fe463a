"""A causal language model, in process, that scores labels: a distribution by log-likelihood, and no text to parse.

A label's score is the sum of its tokens' log-probabilities after the prompt, less what the model gives it without the input
(contextual calibration, arXiv 2102.09690) or gave it on average over the last inputs (batch calibration, arXiv 2309.17249):
raw scores follow how frequent a label's words are.
"""

import inspect
import time
from collections import deque
from collections.abc import Sequence
from typing import Any, Literal

import numpy as np
import torch
from msgspec.structs import replace
from numpy.typing import NDArray
from transformers import AutoModelForCausalLM, AutoTokenizer

from outrider_cloud.large.base import Cost, LargeRefusal, LargeReply, LargeRequest
from outrider_cloud.large.checkpoints import Checkpoint
from outrider_cloud.large.in_process import InProcess, loaded
from outrider_cloud.large.prompts import Prompt, check_modalities, label_prompt, without_input
from outrider_wire.calibration import softmax
from outrider_wire.errors import CallerInputError, OperatorConfigError
from outrider_wire.task import Task

Prior = Literal["content-free", "batch-mean", "none"]
Scores = NDArray[np.float64]

_LAST = 256
"""Inputs that the mean is taken over."""
_ENOUGH = 16
"""With fewer inputs seen the mean is noise, and the content-free prior is used."""
_ANSWER = "\nAnswer:"
"""What a model without a chat template is led on by."""


class CausalModel(InProcess):
    """One request at a time: its prompt is read once, and every label from there."""

    def __init__(
        self,
        *,
        checkpoint: Checkpoint,
        task: Task,
        prior: Prior = "content-free",
        threads: int = 1,
        price_in: float = 0.0,
    ) -> None:
        check_modalities(task, ("text",), "transformers")
        super().__init__(folder=checkpoint.folder, threads=threads)
        self._tokenizer: Any = loaded(AutoTokenizer, checkpoint.folder, weights=False, gguf=checkpoint.gguf)
        self._model: Any = loaded(AutoModelForCausalLM, checkpoint.folder, gguf=checkpoint.gguf)
        self._task = task
        self._prior: Prior = prior
        self._price_in = price_in
        self._most = int(getattr(self._model.config, "max_position_embeddings", 0) or 2048)
        self._chat = bool(getattr(self._tokenizer, "chat_template", None))
        self._labels = [self._tokens(label if self._chat else f" {label}") for label in task.labels]
        self._check_labels()
        able = "logits_to_keep" in inspect.signature(self._model.forward).parameters
        self._last_only = (
            {"logits_to_keep": 1} if able else {}
        )  # a vocabulary of logits at every place is most of the work
        self._free: dict[tuple[int, ...], Scores] = {}
        self._seen: deque[Scores] = deque(maxlen=_LAST)

    def replies(self, batch: Sequence[LargeRequest]) -> list[LargeReply | LargeRefusal]:
        """The batch is scored first, so that its mean is of it as well."""
        scored = [self._scored(request) for request in batch]
        self._seen.extend(each[0] for each in scored if not isinstance(each, LargeRefusal))
        return [
            each if isinstance(each, LargeRefusal) else self._reply(request, each[0], each[1])
            for request, each in zip(batch, scored, strict=True)
        ]

    def _scored(self, request: LargeRequest) -> tuple[Scores, Cost] | LargeRefusal:
        started = time.perf_counter()
        try:
            scores, tokens = self._score(label_prompt(self._task, request), request.asked)
        except CallerInputError as error:
            return LargeRefusal(reason=error.reason, detail=str(error)[:512])
        ms = (time.perf_counter() - started) * 1000
        return scores, Cost(tokens=tokens, ms=ms, scores=len(request.asked))

    def _reply(self, request: LargeRequest, scores: Scores, cost: Cost) -> LargeReply:
        asked = request.asked
        expected, read = self._expected(request)
        probabilities = np.zeros(len(request.labels))
        probabilities[asked] = softmax((scores - expected)[asked])
        tokens = cost.tokens + read
        cost = replace(cost, tokens=tokens, money=tokens * self._price_in / 1e6)
        return LargeReply(probabilities=[float(p) for p in probabilities], cost=cost)

    def _expected(self, request: LargeRequest) -> tuple[Scores, int]:
        """(labels,) what each label gets whatever the input is, and how many tokens were read to know it."""
        if self._prior == "none":
            return np.zeros(len(request.labels)), 0
        asked = request.asked
        if self._prior == "batch-mean":
            seen = np.stack([*self._seen])
            counts = np.isfinite(seen[:, asked]).sum(axis=0)
            if counts.min(initial=_ENOUGH) >= _ENOUGH:
                mean = np.zeros(len(request.labels))
                mean[asked] = np.nanmean(seen[:, asked], axis=0)
                return mean, 0
        key = tuple(asked)
        if (known := self._free.get(key)) is not None:
            return known, 0
        if len(self._free) >= _LAST:
            self._free.clear()
        prompt = label_prompt(self._task, without_input(self._task, request))
        self._free[key], tokens = self._score(prompt, asked)
        return self._free[key], tokens

    def _score(self, prompt: Prompt, asked: Sequence[int]) -> tuple[Scores, int]:
        """(labels,) log-likelihoods, NaN where not asked, and how many tokens were read.

        Raises:
            CallerInputError: the prompt is longer than the model reads.
        """
        ids = self._prompt_tokens(prompt)
        longest = max(len(self._labels[k]) for k in asked)
        if len(ids) + longest > self._most:
            raise CallerInputError(
                f"the prompt has {len(ids)} tokens, and the model reads {self._most}",
                reason="prompt_too_long",
                fix="lower max_bytes of the task's text parts, or use a model that reads more",
            )
        scores = np.full(len(self._labels), np.nan)
        with torch.inference_mode():
            read = self._model(input_ids=torch.tensor([ids]), use_cache=True, **self._last_only)
            first = torch.log_softmax(read.logits[0, -1].double(), dim=-1)
            for k in asked:
                scores[k] = float(first[self._labels[k][0]])
            longer = [k for k in asked if len(self._labels[k]) > 1]
            if longer:
                scores[longer] += self._rest(read.past_key_values, longer)
        return scores, len(ids) + sum(len(self._labels[k]) for k in asked)

    def _rest(self, cache: Any, asked: Sequence[int]) -> Scores:
        """Log-likelihoods of the labels' tokens after their first, all labels in one pass behind the prompt's cache."""
        width = max(len(self._labels[k]) for k in asked) - 1
        rows = torch.zeros((len(asked), width), dtype=torch.long)
        for row, k in enumerate(asked):
            fed = self._labels[k][:-1]
            rows[row, : len(fed)] = torch.tensor(fed)
        cache.batch_repeat_interleave(len(asked))
        logits = self._model(input_ids=rows, past_key_values=cache, use_cache=True).logits.double()
        told = torch.log_softmax(logits, dim=-1)
        return np.asarray(
            [
                sum(float(told[row, place, token]) for place, token in enumerate(self._labels[k][1:]))
                for row, k in enumerate(asked)
            ]
        )

    def _prompt_tokens(self, prompt: Prompt) -> list[int]:
        if not self._chat:
            return self._tokens(prompt.text + _ANSWER, special=True)
        said = [{"role": "user", "content": prompt.text}]
        text = self._tokenizer.apply_chat_template(said, tokenize=False, add_generation_prompt=True)
        return self._tokens(text)

    def _tokens(self, text: str, *, special: bool = False) -> list[int]:
        ids: list[int] = self._tokenizer(text, add_special_tokens=special)["input_ids"]
        return ids

    def _check_labels(self) -> None:
        unknown = getattr(self._tokenizer, "unk_token_id", None)
        for label, tokens in zip(self._task.labels, self._labels, strict=True):
            if not tokens or unknown in tokens:
                raise OperatorConfigError(
                    f"the tokenizer of {self.name} cannot write label {label!r}",
                    reason="label_not_written",
                    fix="choose other labels, or another model",
                )
        if len({tuple(tokens) for tokens in self._labels}) < len(self._labels):
            raise OperatorConfigError(
                f"the tokenizer of {self.name} writes two labels alike",
                reason="labels_alike",
                fix="choose other labels, or another model",
            )
