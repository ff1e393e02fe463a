"""What a checkpoint's feature extractor does to a sound, as declared steps. Knows transformers' extractors by name; runs none."""

from collections.abc import Mapping
from typing import Any

from outrider_wire.errors import OperatorConfigError
from outrider_wire.manifest import ModelInput, Step

Settings = Mapping[str, Any]
SECONDS = 5.0
"""What a model of raw samples hears, unless it is said: its own configuration names no length."""
EXTRACTORS = ("ASTFeatureExtractor", "Wav2Vec2FeatureExtractor", "WhisperFeatureExtractor")


def sound_inputs(
    extractor: Settings, *, part: str, tensors: Mapping[str, tuple[int | None, ...]], seconds: float | None = None
) -> list[ModelInput]:
    """The tensors that the extractor whose settings (`to_dict`) these are would make.

    Args:
        extractor: its settings.
        part: of the task.
        tensors: what the model reads, with what is known of the shape of one example.
        seconds: what a model of raw samples hears; None: `SECONDS`.

    Raises:
        OperatorConfigError: an extractor, or a setting of it, that has no declared steps; it is named.
    """
    name = str(extractor.get("feature_extractor_type", ""))
    rate = int(extractor.get("sampling_rate", 16_000))
    heard = [Step(op="decode_audio"), Step(op="resample", args={"rate": rate})]
    match name:
        case "Wav2Vec2FeatureExtractor":
            return _samples(extractor, heard, part, tensors, round(rate * (seconds or SECONDS)))
        case "ASTFeatureExtractor":
            steps, shape = _kaldi(extractor, rate), [int(extractor["max_length"]), int(extractor["num_mel_bins"])]
        case "WhisperFeatureExtractor":
            steps, shape = _whisper(extractor, rate), [int(extractor["feature_size"]), _whisper_frames(extractor)]
        case _:
            raise OperatorConfigError(
                f"the feature extractor {name!r} has no declared steps",
                reason="unmapped_processor",
                fix=f"known are {', '.join(EXTRACTORS)}; or export to ONNX and state the steps in an Architecture",
            )
    return [ModelInput(part=part, tensor=next(iter(tensors)), steps=[*heard, *steps], shape=shape)]


def _samples(
    extractor: Settings,
    heard: list[Step],
    part: str,
    tensors: Mapping[str, tuple[int | None, ...]],
    length: int,
) -> list[ModelInput]:
    """Raw samples of one length. An extractor that gives a mask standardises what it does not cover, before padding; one that
    gives none standardises the padded whole: so transformers does it, and so its models were trained."""
    cut = Step(op="trim", args={"length": length})
    alike = [Step(op="standardize", args={"floor": 1e-7})] if extractor.get("do_normalize", True) else []
    pad = Step(op="fit", args={"length": length, "value": float(extractor.get("padding_value", 0.0))})
    masked = bool(extractor.get("return_attention_mask"))
    made = {
        "input_values": [cut, *alike, pad] if masked else [pad, *alike],
        "attention_mask": [cut, Step(op="sample_mask", args={"length": length})],
    }
    return [
        ModelInput(part=part, tensor=tensor, steps=[*heard, *made[tensor]], shape=[length])
        for tensor in tensors
        if tensor in made
    ]


def _kaldi(extractor: Settings, rate: int) -> list[Step]:
    """The Audio Spectrogram Transformer's: Kaldi's filter banks, padded with zeros, then normalised."""
    log_mel = {
        "mels": int(extractor["num_mel_bins"]),
        "window": 400,
        "hop": 160,
        "transform": 512,
        "low_hz": 20.0,
        "high_hz": float(rate // 2),
        "periodic": False,
        "emphasis": 0.97,
        "without_offset": True,
        "scale": "kaldi",
        "in_mel": True,
        "floor": 1.192092955078125e-07,
    }
    steps = [Step(op="log_mel", args=log_mel), Step(op="fit", args={"length": int(extractor["max_length"])})]
    if extractor.get("do_normalize", True):
        spread = {"mean": [float(extractor["mean"])], "std": [2 * float(extractor["std"])]}
        steps.append(Step(op="normalize", args=spread))
    return steps


def _whisper(extractor: Settings, rate: int) -> list[Step]:
    if extractor.get("dither"):
        raise OperatorConfigError(
            "the feature extractor adds noise (dither), which is not declared",
            reason="unmapped_processor",
            fix="set it to 0",
        )
    length = int(extractor["n_fft"])
    log_mel = {
        "mels": int(extractor["feature_size"]),
        "window": length,
        "hop": int(extractor["hop_length"]),
        "transform": length,
        "low_hz": 0.0,
        "high_hz": 8000.0,
        "centred": True,
        "scale": "slaney",
        "equal_area": True,
        "log": "log10",
    }
    return [
        Step(op="fit", args={"length": int(extractor["chunk_length"]) * rate}),
        Step(op="log_mel", args=log_mel),
        Step(op="fit", args={"length": _whisper_frames(extractor)}),
        Step(op="clamp_below_peak", args={"below": 8.0}),
        Step(op="normalize", args={"mean": [-4.0], "std": [4.0]}),
        Step(op="transpose"),
    ]


def _whisper_frames(extractor: Settings) -> int:
    return int(extractor["chunk_length"]) * int(extractor.get("sampling_rate", 16_000)) // int(extractor["hop_length"])
