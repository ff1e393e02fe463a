"""What a schema cannot say to whoever writes a device in another language: the rules of the wire, in prose. Knows no AsyncAPI.

The numbers are those of the code; where the code is above this floor, a test compares them.
"""

from outrider_wire.limits import BLOB_BYTES, BLOCK_BYTES, INLINE_BYTES, MESSAGE_BYTES, SERVED_VERSIONS, WIRE_VERSION
from outrider_wire.names import NAME_GRAMMAR

RECEIPT_TIMER_S, MAX_TIMER_S, ASK_AGAIN_S = 5.0, 30.0, 60.0
"""What Outrider's own device does (`outrider_edge.uplink.offers`)."""

RULES = f"""\
What a device and the workers of the cloud say to each other, over an MQTT 5 broker. A device in any language can take
part: this document, and the golden vectors beside it (`golden/wire-{WIRE_VERSION}.json`: every message in both
codings, byte for byte), are all it needs.

### Connecting
MQTT 5 only, QoS 1 both ways. The client id is the device's name, which is also the name in its certificate. Clean
start, session expiry 0: nothing rests on what a broker remembers. The last will is `presence` with `online: false`,
retained; after every connection the device publishes `presence` with `online: true`, retained, and `online: false`
before it leaves by itself. It subscribes to its own `down/` topics and to `all/down/`, and checks every reason code of the SUBACK.
Packets above the Maximum Packet Size of the CONNACK are not sent: a part that does not fit is offered by digest.

### Names
`device`, `task`, `worker` and `transfer` match `{NAME_GRAMMAR}`. Everything under `up/` is said by the device,
everything under `down/` by the cloud; what is under `all/down/` is said to every device. The cloud answers on the
`down/answer` of the device whose topic it was asked on, and ignores a Response Topic.

### Coding
The Content Type property is `application/msgpack` (a map of the field names; also where there is none) or
`application/json`. Fields of bytes are MessagePack `bin`, and standard base64 with padding in JSON. `type` names the
message. Unknown fields are ignored, so that a newer peer may add one; integers stay below 2^53; a message has at most
{MESSAGE_BYTES} bytes. Whatever replies comes in the coding of what it replies to, with its Correlation Data; what the
cloud says unasked (`want`, `desired`) is MessagePack, and so is the `block` or `gone` that replies to it. No user
property is needed and unknown ones are ignored; `traceparent` is kept for a W3C trace context.

### Versions
`v` is the wire version of a message; this document is of version {WIRE_VERSION}. A cloud serves its own version and
the one before: here {" and ".join(map(str, SERVED_VERSIONS))}. A device says in `presence.wire` which versions it
speaks. A message in any other version is refused with the reason `unsupported_version`, whose `detail` names those that
are served. `presence` and `refusal` are read whatever their `v`: by them two that share no version find out.

### Escalating
1. Make an `id` (a UUIDv7) and keep the input where it survives a restart. `probabilities` is the device's own
   distribution over the task's labels, in the task's order, `label` its answer, `model` the SHA-256 of what answered.
2. Publish it on `up/escalate/{{task}}`, the id as Correlation Data, the Message Expiry Interval equal to
   `keep_for_s`. A part of up to {INLINE_BYTES} bytes travels `inline`, while all of the message stays within its
   bounds; any other (up to {BLOB_BYTES} bytes) has `size` and `sha256` only, and is pulled.
3. A PUBACK is no answer and no receipt. Reason code 0x10 says that no worker listens, where the broker knows.
4. `receipt`: the cloud has stored it, and the payload may go. A quick answer comes in its place.
5. Without a receipt, an answer or a final refusal, offer it again: the same `id`, `offer` one higher,
   `answer_within_ms` and `keep_for_s` less by what has passed. After {RECEIPT_TIMER_S:g} s, then twice as long each
   time up to {MAX_TIMER_S:g} s; and at once after every connection. With a receipt, ask after the answer in the same
   way every {ASK_AGAIN_S:g} s. A worker that knows the id sends the answer that stands, or another receipt; it never
   asks the large model twice.
6. `answer`: joined by `id`. It may come twice, always the same, and it may come late.
7. `refusal` with `retry_after_s` (`busy`): keep it, and offer it again after that time and up to a quarter more, by
   chance. Without: it ends here, and `reason` says why.
8. When `keep_for_s` is over, it has expired: stop offering it.

### Blobs
Whoever needs bytes pulls them. A worker that needs a part publishes `want` on the device's `down/blob/{{transfer}}`:
`count` blocks of `block` bytes of the blob `sha256`, from `offset`. The device publishes each as a `block` on
`up/blob/{{worker}}/{{transfer}}`, with the `worker` and the `transfer` that the want names: at most {BLOCK_BYTES}
bytes each, the last one short, none beyond the end. A blob that it does not have is `gone`. The want is repeated for
what did not arrive. A device pulls a release in the same way, with its own transfer names: `want` on
`up/blob/releases/{{transfer}}`, `worker: releases`; the blocks come on `down/blob/{{transfer}}`. The digest decides,
not the sender.

### Deltas
A device that holds a file like the one it wants may ask for a delta: `delta_want` on `up/blob/releases/{{transfer}}`, with
the digests of what it holds. The reply on `down/blob/{{transfer}}` is `delta_found`, whose `delta` is pulled as any blob,
or `gone` with the wanted file's digest: `delta_pending` (it is being made: ask again in a few seconds), else there is none.
What a delta makes is verified by the digest that the manifest says; whoever reads no deltas pulls the file.
### Signed metadata
What may be believed of a release is said by metadata of The Update Framework, and a device that was given a root trusts
nothing else. It asks for a file of the repository with `metadata_want` on `up/blob/releases/{{transfer}}`, its `path`
being `metadata/timestamp.json`, `metadata/2.root.json`, `targets/…`; the reply, `metadata_found` on
`down/blob/{{transfer}}`, holds the file (up to {INLINE_BYTES} bytes), or only its digest and size, and then it is
pulled as a blob; with an empty `sha256` there is no such file. What the cloud wants of a device within a signed plan is
the `order` of `desired`: a DSSE envelope (payload type `application/vnd.outrider.order+json`), signed with the keys that the
targets role delegates `control` to. `all/down/stop` is for every device, and carries an envelope of
`application/vnd.outrider.stop+json`: the highest number holds. `all/down/metadata` hints that there is something newer.

### What is retained
`presence`, `reported`, `down/desired` and what is said to all are retained, as a hint: what counts is what is said after
the connection, and of what is signed, the signature.
An empty payload clears one.
"""

NAMES = {
    "device": "The device's name, bound to its certificate.",
    "task": "The task that the input is of.",
    "worker": "The worker that pulls, or `releases` for what the device pulls.",
    "transfer": "One pull, named by whoever pulls.",
}

FIELDS = {
    ("Part", "media_type"): "MIME type of the bytes.",
    ("Part", "size"): "Bytes of the whole part, inline or not.",
    ("Part", "sha256"): "SHA-256 of the whole part.",
    ("Part", "inline"): "The bytes; absent or null: they are pulled.",
    ("Escalation", "why"): "`low_confidence`, `unsupported`, `audit`, `requested`, `no_certificate` or `alarm`.",
    ("Escalation", "model"): "SHA-256 of the bundle (or whatever answers) on the device.",
    ("Escalation", "label"): "The device's own answer: one of the task's labels.",
    ("Escalation", "probabilities"): "Over the task's labels, in the task's order; 1 in sum.",
    ("Escalation", "audit"): "Sampling probability where this is an audit, else 0.",
    ("Escalation", "answer_within_ms"): "What is left of the application's waiting time.",
    ("Escalation", "keep_for_s"): "How long the answer is still worth having; also the Message Expiry Interval.",
    ("Escalation", "group"): "What this input is correlated with: one data role a group. Empty: nothing.",
    ("Escalation", "offer"): "1 for the first offer of this id, then one more each time.",
    ("Refusal", "reason"): "A code, such as `busy`, `unparsable`, `unknown_task`, `payload_unavailable`.",
    ("Refusal", "retry_after_s"): "Offer it again after so many seconds; absent or null: it ends here.",
    ("BlobWant", "worker"): "Names the topic that the blocks go to.",
    ("DeltaWant", "bases"): "SHA-256 of files that the device holds, the likeliest first.",
    ("DeltaFound", "delta"): "SHA-256 of the delta itself: what is pulled.",
    ("MetadataFound", "sha256"): "SHA-256 of the file; empty: there is no such file.",
    ("MetadataFound", "data"): "All of the file, or empty: it is pulled as a blob.",
    ("Desired", "order"): "A DSSE envelope with the cloud's order; empty: there is none.",
    ("Presence", "boot_id"): "Another one after every start of the device.",
    ("Presence", "wire"): "The wire versions that the device speaks.",
}
"""What single fields mean, where their name does not say it."""
