"""What a checkpoint's image processor does, as declared steps. Knows transformers' processors by name; runs none."""

from collections.abc import Callable, Mapping, Sequence
from typing import Any

from PIL.Image import Resampling

from outrider_wire.errors import OperatorConfigError
from outrider_wire.manifest import ModelInput, Step

Settings = Mapping[str, Any]
_METHODS = {int(each): each.name.lower() for each in Resampling}


def image_inputs(processor: Settings, *, part: str, tensor: str) -> list[ModelInput]:
    """One tensor (3, height, width) made as the processor whose settings (`to_dict`) these are would make it.

    Raises:
        OperatorConfigError: a processor, or a setting of it, that has no declared steps; it is named.
    """
    name = str(processor.get("image_processor_type", "")).removesuffix("Fast")
    sizing = _SIZINGS.get(name)
    if sizing is None:
        raise OperatorConfigError(
            f"the image processor {name!r} has no declared steps",
            reason="unmapped_processor",
            fix=f"known are {', '.join(sorted(_SIZINGS))}; or export to ONNX and state the steps in an Architecture",
        )
    steps = [Step(op="decode_image", args={"mode": "RGB"}), *sizing(processor), *_cropped(processor)]
    steps += _values(name, processor)
    height, width = _final(steps, name)
    return [ModelInput(part=part, tensor=tensor, steps=[*steps, Step(op="channels_first")], shape=[3, height, width])]


def _plain(processor: Settings) -> list[Step]:
    """To height × width, or the shortest side to one length."""
    size = _size(processor, "size")
    if not processor.get("do_resize", True):
        return []
    if set(size) == {"height", "width"}:
        return [_resize(size["height"], size["width"], processor)]
    return [_shortest(size["shortest_edge"], processor)]


def _levit(processor: Settings) -> list[Step]:
    size = _size(processor, "size")
    if "shortest_edge" not in size:
        return _plain(processor)
    return [_shortest(int((256 / 224) * size["shortest_edge"]), processor)]


def _cut_out(processor: Settings) -> list[Step]:
    """PoolFormer: enlarged so that the crop takes ``crop_pct`` of it."""
    size, share = _size(processor, "size"), processor.get("crop_pct")
    if share is None:
        return _plain(processor)
    if "shortest_edge" in size:
        return [_shortest(int(size["shortest_edge"] / share), processor)]
    if size["height"] == size["width"]:
        return [_shortest(int(size["height"] / share), processor)]
    return [_resize(int(size["height"] / share), int(size["width"] / share), processor)]


def _convnext(processor: Settings) -> list[Step]:
    """Below 384 the middle of a larger picture, from there on the whole one, warped."""
    side = _size(processor, "size")["shortest_edge"]
    if side >= 384:
        return [_resize(side, side, processor)]
    crop = Step(op="center_crop", args={"height": side, "width": side})
    return [_shortest(int(side / processor.get("crop_pct", 224 / 256)), processor), crop]


_SIZINGS: dict[str, Callable[[Settings], list[Step]]] = {
    "BeitImageProcessor": _plain,
    "BitImageProcessor": _plain,
    "CLIPImageProcessor": _plain,
    "ConvNextImageProcessor": _convnext,
    "DeiTImageProcessor": _plain,
    "EfficientNetImageProcessor": _plain,
    "LevitImageProcessor": _levit,
    "MobileNetV1ImageProcessor": _plain,
    "MobileNetV2ImageProcessor": _plain,
    "MobileViTImageProcessor": _plain,
    "PoolFormerImageProcessor": _cut_out,
    "PvtImageProcessor": _plain,
    "SegformerImageProcessor": _plain,
    "SiglipImageProcessor": _plain,
    "ViTImageProcessor": _plain,
}
"""Processor → how it comes to the size that the model sees, before any crop."""
PROCESSORS = tuple(_SIZINGS)


def _cropped(processor: Settings) -> list[Step]:
    if not processor.get("do_center_crop", False):
        return []
    size = _size(processor, "crop_size")
    if "shortest_edge" in size:
        size = {"height": size["shortest_edge"], "width": size["shortest_edge"]}
    return [Step(op="center_crop", args={"height": size["height"], "width": size["width"]})]


def _values(name: str, processor: Settings) -> list[Step]:
    steps = []
    if processor.get("do_rescale", True):
        steps.append(Step(op="scale", args={"by": float(processor["rescale_factor"])}))
        if processor.get("rescale_offset"):
            steps.append(_normalize([1.0], [1.0]))
    if processor.get("do_flip_channel_order") and name == "MobileViTImageProcessor":
        steps.append(Step(op="flip_channels"))
    if processor.get("do_normalize", False):
        steps.append(_normalize(processor["image_mean"], processor["image_std"]))
        if name == "EfficientNetImageProcessor" and processor.get("include_top"):
            steps.append(_normalize([0.0], processor["image_std"]))
    elif name == "EfficientNetImageProcessor" and processor.get("include_top"):
        steps.append(_normalize([0.0], processor["image_std"]))
    return steps


def _normalize(mean: float | Sequence[float], std: float | Sequence[float]) -> Step:
    lists = {
        key: [float(each) for each in (values if isinstance(values, Sequence) else [values])]
        for key, values in (("mean", mean), ("std", std))
    }
    return Step(op="normalize", args=lists)


def _size(processor: Settings, key: str) -> dict[str, int]:
    found = processor.get(key)
    if isinstance(found, int):
        return {"shortest_edge": found}
    named = {str(side): int(value) for side, value in dict(found or {}).items() if value is not None}
    if set(named) not in ({"height", "width"}, {"shortest_edge"}):
        raise OperatorConfigError(
            f"the image processor's {key} {found} has no declared steps",
            reason="unmapped_processor",
            fix='known are {"height", "width"} and {"shortest_edge"}',
        )
    return named


def _resize(height: int, width: int, processor: Settings) -> Step:
    return Step(op="resize", args={"height": height, "width": width, "method": _method(processor)})


def _shortest(side: int, processor: Settings) -> Step:
    return Step(op="resize_shortest", args={"side": side, "method": _method(processor)})


def _method(processor: Settings) -> str:
    return _METHODS[int(processor.get("resample", Resampling.BILINEAR))]


def _final(steps: Sequence[Step], name: str) -> tuple[int, int]:
    """The size that the last step which fixes one makes."""
    for step in reversed(steps):
        if step.op in ("resize", "center_crop"):
            return int(step.args["height"]), int(step.args["width"])
        if step.op == "resize_shortest":
            break
    raise OperatorConfigError(
        f"the image processor {name!r} gives pictures of different sizes, and a bundle's model sees one",
        reason="unmapped_processor",
        fix="set do_center_crop and crop_size in preprocessor_config.json as the model was trained",
    )
