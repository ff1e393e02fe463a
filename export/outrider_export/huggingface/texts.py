"""What a checkpoint's tokenizer does, as declared steps and one file that cuts and pads to one length. Knows no model."""

import importlib
import json
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any, NamedTuple

from outrider_export.huggingface.folder import read_json
from outrider_export.students import TOKENIZER_FILE
from outrider_wire.errors import OperatorConfigError
from outrider_wire.manifest import ModelInput, Step

TOKENS = 128
"""Length of a text in tokens, unless it is said or the model takes less."""
_GIVES = {"input_ids": "ids", "attention_mask": "mask", "token_type_ids": "types"}
_SILENT = 256


class Reading(NamedTuple):
    """How a text becomes a model's tensors."""

    inputs: list[ModelInput]
    files: Mapping[str, bytes]


def text_inputs(
    root: Path, config: Mapping[str, Any], *, part: str, tensors: Iterable[str], tokens: int | None = None
) -> Reading:
    """The tensors that the checkpoint's own tokenizer would make, cut and padded to one length.

    Args:
        root: the checkpoint.
        config: of its model.
        part: of the task.
        tensors: what the model reads.
        tokens: the length; None: `TOKENS`, or what the model takes at most.

    Raises:
        OperatorConfigError: there is no ``tokenizer.json``, it does not load, has no padding, or the model reads another tensor.
    """
    tokenizer = _opened(root / TOKENIZER_FILE)
    settings = read_json(root / "tokenizer_config.json") if (root / "tokenizer_config.json").is_file() else {}
    length = _length(config, settings, tokens)
    pad = _pad_token(settings, config, tokenizer)
    tokenizer.enable_truncation(max_length=length, direction=str(settings.get("truncation_side", "right")))
    tokenizer.enable_padding(
        length=length,
        direction=str(settings.get("padding_side", "right")),
        pad_id=pad[1],
        pad_token=pad[0],
        pad_type_id=int(settings.get("pad_token_type_id", 0)),
    )
    silent = _silent(tokenizer, pad[1])
    inputs = []
    for tensor in tensors:
        if tensor not in _GIVES:
            raise OperatorConfigError(
                f"the model reads {tensor!r}, which no tokenizer gives",
                reason="unmapped_processor",
                fix="name a classifier of plain texts",
            )
        args: dict[str, Any] = {"file": TOKENIZER_FILE, "length": length, "gives": _GIVES[tensor]}
        if settings.get("truncation_side") == "left":
            args["keeps"] = "end"
        if tensor == "input_ids":
            args["silent"] = silent
        inputs.append(ModelInput(part=part, tensor=tensor, steps=[Step(op="tokenize", args=args)], shape=[length]))
    return Reading(inputs, {TOKENIZER_FILE: tokenizer.to_str().encode("utf-8")})


def _opened(file: Path) -> Any:
    if not file.is_file():
        raise OperatorConfigError(
            f"{file.parent} has no {TOKENIZER_FILE}",
            reason="no_processor",
            fix='write one: python -c "from transformers import AutoTokenizer as T; '
            f"T.from_pretrained('{file.parent}').save_pretrained('{file.parent}')\"",
        )
    try:
        return importlib.import_module("tokenizers").Tokenizer.from_str(file.read_text("utf-8"))
    except Exception as error:
        raise OperatorConfigError(
            f"{file} is no tokenizer: {str(error)[:300]}", reason="no_processor", fix="save the tokenizer again"
        ) from error


def _length(config: Mapping[str, Any], settings: Mapping[str, Any], tokens: int | None) -> int:
    """Positions begin behind the padding token in RoBERTa's family, so that two fewer fit."""
    most = [
        int(config.get("max_position_embeddings") or 1 << 20),
        int(float(settings.get("model_max_length") or 1 << 20)),
    ]
    if config.get("model_type") in ("roberta", "xlm-roberta", "camembert", "mpnet", "longformer", "xlm-roberta-xl"):
        most[0] -= int(config.get("pad_token_id") or 1) + 1
    if tokens is not None and tokens > min(most):
        raise OperatorConfigError(
            f"the model reads at most {min(most)} tokens", reason="too_many_tokens", fix=f"say #tokens={min(most)}"
        )
    return tokens or min(TOKENS, *most)


def _pad_token(settings: Mapping[str, Any], config: Mapping[str, Any], tokenizer: Any) -> tuple[str, int]:
    """The padding token and its number; a model that pads with another number than its tokenizer has been trained otherwise."""
    said = settings.get("pad_token") or (tokenizer.padding or {}).get("pad_token")
    name = str(said["content"]) if isinstance(said, Mapping) else str(said or "")
    number = tokenizer.token_to_id(name) if name else None
    if number is None and (known := config.get("pad_token_id")) is not None:
        number, name = int(known), str(tokenizer.id_to_token(int(known)) or "")
    if number is None or not name:
        raise OperatorConfigError(
            "the tokenizer has no padding token, and a bundle's model reads texts of one length",
            reason="no_padding",
            fix="set pad_token in tokenizer_config.json as the model was trained",
        )
    return name, int(number)


def _silent(tokenizer: Any, pad: int) -> list[int]:
    """Tokens that say nothing of a text: padding, special ones, and what stands for unknown words."""
    made = json.loads(tokenizer.to_str())
    special = {int(token["id"]) for token in made.get("added_tokens", []) if token.get("special")}
    unknown = (made.get("model") or {}).get("unk_token")
    if isinstance(unknown, str) and (number := tokenizer.token_to_id(unknown)) is not None:
        special.add(int(number))
    return sorted(special | {pad})[:_SILENT]
