"""Reason codes that the cloud alone says. Rows only; see `outrider_wire.reasons`."""

from outrider_wire.reason_row import Acts, By, Reason

_BY: tuple[By, ...] = ("cloud",)
_APP: Acts = "application"
_DEVICE: Acts = "operator of the device"
_OPERATOR: Acts = "operator of the cloud"
_NOBODY: Acts = "nobody"
_WRITER = "written by hand or by another client: correct it"
_SAME_TASK = "give device and cloud the same task file"
_MODEL = "see the large model's log; what waits is asked again until its time is over"
_WAITS = "nothing: it comes again"

CLOUD_ROWS: tuple[Reason, ...] = (
    # blob
    Reason(
        "disk",
        "blob",
        _BY,
        _OPERATOR,
        "a pulled part cannot be written",
        "free the disk: the device is told `busy` (`store`) meanwhile",
    ),
    Reason("invalid_range", "blob", _BY, _APP, "`Range` is not one range within the file", _WRITER),
    Reason("no_length", "blob", _BY, _APP, "a PUT without `Content-Length`", _WRITER),
    Reason(
        "quota_exceeded",
        "blob",
        _BY,
        _NOBODY,
        "a device has put more than `[devices] upload_bytes` that no question has taken",
        "nothing: it is swept after an hour, and the broker brings parts meanwhile",
    ),
    Reason("unknown_blob", "blob", _BY, _NOBODY, "no file of a release assigned to that device", "nothing"),
    # letter
    Reason("bad_request", "letter", _BY, _APP, "HTTP: a request that is none of this API", "see /openapi.json"),
    Reason("correlation_too_long", "letter", _BY, _APP, "correlation data of more than 256 bytes", _WRITER),
    Reason(
        "device_revoked",
        "letter",
        _BY,
        _DEVICE,
        "the device was revoked; its messages are counted and not read",
        "`outrider cloud invite` it again, if it should be let in",
    ),
    Reason("facts_mismatch", "letter", _BY, _DEVICE, "a fact is of no sub-task of the task", _SAME_TASK),
    Reason("internal", "letter", _BY, _OPERATOR, "HTTP: the cloud failed on a request", "see its log, and report it"),
    Reason("invalid_device", "letter", _BY, _APP, "HTTP: the device in the path is no name", _WRITER),
    Reason("invalid_digest", "letter", _BY, _APP, "HTTP: the digest in the path is no SHA-256", _WRITER),
    Reason("invalid_id", "letter", _BY, _APP, "HTTP: the id in the path is none", _WRITER),
    Reason("invalid_query", "letter", _BY, _APP, "HTTP: `wait_ms` is no number", _WRITER),
    Reason("invalid_task", "letter", _BY, _APP, "HTTP: the task in the path is no name", _WRITER),
    Reason("labels_mismatch", "letter", _BY, _DEVICE, "label or distribution not over the task's labels", _SAME_TASK),
    Reason("no_content_type", "letter", _BY, _APP, "no content type, as MQTT 3.1.1 has none", "speak MQTT 5"),
    Reason("no_such_route", "letter", _BY, _APP, "HTTP: there is no such path", "see /openapi.json"),
    Reason(
        "not_whole",
        "letter",
        _BY,
        _NOBODY,
        "a dead letter of more than 256 KiB was not kept whole",
        "it can be looked at, not taken in again: have the input submitted again",
    ),
    Reason(
        "part_damaged",
        "letter",
        _BY,
        _DEVICE,
        "a part is not what its size and digest say",
        "check the device's memory and disk",
    ),
    Reason("part_too_large", "letter", _BY, _DEVICE, "a part exceeds the task's `max_bytes`", _SAME_TASK),
    Reason("task_mismatch", "letter", _BY, _APP, "topic and message name different tasks", _WRITER),
    Reason("too_many_tasks", "letter", _BY, _DEVICE, "telemetry of more than 64 tasks", "serve fewer on one device"),
    Reason("unauthorised", "letter", _BY, _OPERATOR, "HTTP: no right token or certificate", "give --token-file"),
    Reason("unknown_letter", "letter", _BY, _OPERATOR, "no dead letter of that number", "see `dead-letters ls`"),
    Reason("wrong_device", "letter", _BY, _DEVICE, "a device speaks for another one", "see who may publish"),
    Reason("wrong_message", "letter", _BY, _APP, "a message of another kind than its topic carries", _WRITER),
    Reason("wrong_modality", "letter", _BY, _DEVICE, "a part is of another kind than the task's", _SAME_TASK),
    Reason("wrong_qos", "letter", _BY, _APP, "sent at QoS 0", "publish at QoS 1"),
    # busy
    Reason(
        "bytes_full",
        "busy",
        _BY,
        _OPERATOR,
        "the parts of what waits are too large together",
        "if it lasts: raise `[batch] queue_max_bytes` and `[limits] bytes_max`, or the large model's speed",
    ),
    Reason(
        "device_rate",
        "busy",
        _BY,
        _NOBODY,
        "one device offers more than `[limits] device_per_s`",
        "nothing; if it should: raise `device_per_s`, `device_burst`",
    ),
    Reason("draining", "busy", _BY, _NOBODY, "the cloud's process is about to end", _WAITS),
    Reason(
        "over_share",
        "busy",
        _BY,
        _NOBODY,
        "half the room is taken, and this device holds more than its share",
        _WAITS,
    ),
    Reason(
        "queue_full",
        "busy",
        _BY,
        _OPERATOR,
        "as many wait as may",
        "if it lasts: a faster large model, another worker, or `[batch] queue_max` and `[limits] inputs_max`",
    ),
    Reason(
        "store", "busy", _BY, _OPERATOR, "the cloud's disk cannot be written", "free or repair it; it goes on by itself"
    ),
    Reason(
        "task_rate",
        "busy",
        _BY,
        _NOBODY,
        "one task is offered more than `[limits] task_per_s`",
        "nothing; if it should: raise `task_per_s`, `task_burst`",
    ),
    # later
    Reason(
        "busy",
        "later",
        _BY,
        _NOBODY,
        "there is no room, or too much at once: the detail says which",
        "nothing: the device comes again after the time it is told",
    ),
    Reason("large_model_denied", "later", _BY, _OPERATOR, "the server says 401 to 404", "mend key, bill or model name"),
    Reason("large_model_down", "later", _BY, _OPERATOR, "the server failed often and is left alone", _MODEL),
    Reason("large_model_unreachable", "later", _BY, _OPERATOR, "the server does not answer, or is limited", _MODEL),
    Reason("no_logprobs", "later", _BY, _OPERATOR, "the server gives no log-probabilities", "use one that does"),
    Reason(
        "part_not_here",
        "later",
        _BY,
        _APP,
        "HTTP: a part that the question names was not put",
        "PUT it, then send the question again",
    ),
    Reason("unparsable_reply", "later", _BY, _OPERATOR, "the server's reply is no completion", _MODEL),
    # ended
    Reason(
        "expired",
        "ended",
        _BY,
        _OPERATOR,
        "its time (`keep_for_s`) ran out before the large model had answered",
        "raise `keep_for_s`, or see what kept the large model",
    ),
    Reason("forgotten", "ended", _BY, _NOBODY, "an operator had it forgotten", "nothing"),
    Reason(
        "gave_up",
        "ended",
        _BY,
        _OPERATOR,
        "workers ended five times while they held it",
        "see why they died; do not send that input again",
    ),
    Reason("large_model_failed", "ended", _BY, _OPERATOR, "the large model failed on it, alone, three times", _MODEL),
    Reason(
        "mass_too_low",
        "ended",
        _BY,
        _OPERATOR,
        "too little of the large model's mass is on the labels",
        "word the prompt so that it answers with a code, or use `shunt`: [large-models.md](large-models.md)",
    ),
    Reason(
        "payload_lost",
        "ended",
        _BY,
        _OPERATOR,
        "a part that was stored is gone from the cloud's disk",
        "check who deletes files below `data_dir`",
    ),
    Reason(
        "payload_unavailable",
        "ended",
        _BY,
        _DEVICE,
        "the device has a part no more, or sends another",
        "check its disk; submit the input again",
    ),
    Reason(
        "prompt_too_long", "ended", _BY, _OPERATOR, "more tokens than the model reads", "lower the part's `max_bytes`"
    ),
    Reason("server_refused", "ended", _BY, _OPERATOR, "the server refuses this very request", "see what it logs"),
    Reason("stored_unreadable", "ended", _BY, _OPERATOR, "its row cannot be read any more", "check the cloud's disk"),
    Reason("text_too_long", "ended", _BY, _OPERATOR, "more text than a model is asked about", "lower `max_bytes`"),
    Reason("too_many_labels", "ended", _BY, _OPERATOR, "more labels than letters", "use `transformers:` or `onnx:`"),
)
