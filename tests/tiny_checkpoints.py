"""Tiny, randomly initialised transformers checkpoints on disk, with tokenizers of their own: real code paths, no download."""

from collections.abc import Sequence
from pathlib import Path

import torch
from tokenizers import Tokenizer, models, pre_tokenizers
from transformers import (
    ASTConfig,
    ASTFeatureExtractor,
    ASTForAudioClassification,
    BertConfig,
    BertForSequenceClassification,
    BertModel,
    LlamaConfig,
    LlamaForCausalLM,
    PreTrainedTokenizerFast,
    ViTConfig,
    ViTForImageClassification,
    ViTImageProcessor,
    Wav2Vec2Config,
    Wav2Vec2FeatureExtractor,
    Wav2Vec2ForSequenceClassification,
)

_SENTENCES = (
    "sport science politics space flight a goal in the last minute atoms votes",
    "what is this text about answer with one of these labels and nothing else already known",
    "small model says that it probability language confidence n de en",
    ": , . ( ) - / 0 1 2 3 4 5 6 7 8 9",
)
WORDS = tuple(word for sentence in _SENTENCES for word in sentence.split())


def _tokenizer(folder: Path) -> int:
    known = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", *WORDS]
    vocabulary = {word: place for place, word in enumerate(dict.fromkeys(known))}
    tokenizer = Tokenizer(models.WordLevel(vocabulary, unk_token="[UNK]"))
    tokenizer.pre_tokenizer = pre_tokenizers.BertPreTokenizer()
    PreTrainedTokenizerFast(
        tokenizer_object=tokenizer,
        unk_token="[UNK]",
        pad_token="[PAD]",
        cls_token="[CLS]",
        sep_token="[SEP]",
        model_max_length=64,
    ).save_pretrained(folder)
    return len(vocabulary)


def _names(labels: Sequence[str]) -> dict[str, dict[object, object]]:
    return {"id2label": dict(enumerate(labels)), "label2id": {label: k for k, label in enumerate(labels)}}


def text_classifier(folder: Path, labels: Sequence[str], *, seed: int = 0) -> Path:
    """A BERT of two layers, 16 wide."""
    size = _tokenizer(folder)
    torch.manual_seed(seed)
    config = BertConfig(
        vocab_size=size,
        hidden_size=16,
        num_hidden_layers=2,
        num_attention_heads=2,
        intermediate_size=32,
        max_position_embeddings=64,
        initializer_range=0.5,
        **_names(labels),
    )
    BertForSequenceClassification(config).save_pretrained(folder)
    return folder


def image_classifier(folder: Path, labels: Sequence[str]) -> Path:
    """A ViT of one layer on 16 × 16 pixels."""
    torch.manual_seed(0)
    config = ViTConfig(
        image_size=16,
        patch_size=8,
        hidden_size=16,
        num_hidden_layers=1,
        num_attention_heads=2,
        intermediate_size=32,
        initializer_range=0.5,
        **_names(labels),
    )
    ViTForImageClassification(config).save_pretrained(folder)
    ViTImageProcessor(size={"height": 16, "width": 16}).save_pretrained(folder)
    return folder


def causal_model(folder: Path, *, seed: int = 0, longest: int = 128) -> Path:
    """A Llama of two layers, 16 wide."""
    size = _tokenizer(folder)
    torch.manual_seed(seed)
    config = LlamaConfig(
        vocab_size=size,
        hidden_size=16,
        num_hidden_layers=2,
        num_attention_heads=2,
        num_key_value_heads=1,
        intermediate_size=32,
        max_position_embeddings=longest,
        initializer_range=0.5,
        bos_token_id=2,
        eos_token_id=3,
    )
    LlamaForCausalLM(config).save_pretrained(folder)
    return folder


def text_encoder(folder: Path) -> Path:
    """The BERT of `text_classifier` without a head."""
    size = _tokenizer(folder)
    torch.manual_seed(0)
    config = BertConfig(
        vocab_size=size,
        hidden_size=64,
        num_hidden_layers=1,
        num_attention_heads=2,
        intermediate_size=32,
        max_position_embeddings=64,
        initializer_range=0.5,
    )
    BertModel(config, add_pooling_layer=False).save_pretrained(folder)
    return folder


def audio_classifier(folder: Path, labels: Sequence[str], *, frames: int = 48, mels: int = 32) -> Path:
    """An Audio Spectrogram Transformer of one layer on half a second."""
    torch.manual_seed(0)
    config = ASTConfig(
        hidden_size=16,
        num_hidden_layers=1,
        num_attention_heads=2,
        intermediate_size=32,
        max_length=frames,
        num_mel_bins=mels,
        initializer_range=0.3,
        **_names(labels),
    )
    ASTForAudioClassification(config).save_pretrained(folder)
    ASTFeatureExtractor(num_mel_bins=mels, max_length=frames).save_pretrained(folder)
    return folder


def wave_classifier(folder: Path, labels: Sequence[str], *, masked: bool = False) -> Path:
    """A wav2vec 2.0 of one layer on raw samples; ``masked``: one that is told where the sound ends."""
    torch.manual_seed(0)
    config = Wav2Vec2Config(
        hidden_size=16,
        num_hidden_layers=1,
        num_attention_heads=2,
        intermediate_size=32,
        conv_dim=(16, 16),
        conv_kernel=(10, 3),
        conv_stride=(5, 2),
        num_feat_extract_layers=2,
        num_conv_pos_embeddings=16,
        num_conv_pos_embedding_groups=2,
        classifier_proj_size=8,
        feat_extract_norm="layer" if masked else "group",
        **_names(labels),
    )
    Wav2Vec2ForSequenceClassification(config).save_pretrained(folder)
    Wav2Vec2FeatureExtractor(return_attention_mask=masked).save_pretrained(folder)
    return folder
