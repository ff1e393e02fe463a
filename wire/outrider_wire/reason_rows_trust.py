"""Reason codes of signed metadata: why a device believes nothing new, and a cloud takes nothing. See `outrider_wire.reasons`."""

from outrider_wire.reason_row import Acts, By, Reason

_DEVICE: tuple[By, ...] = ("device",)
_CLOUD: tuple[By, ...] = ("cloud",)
_BOTH: tuple[By, ...] = ("device", "cloud")
_OWNER: Acts = "operator of the device"
_SIGNER: Acts = "operator of the cloud"
_NOBODY: Acts = "nobody"

TRUST_ROWS: tuple[Reason, ...] = (
    Reason(
        "clock_behind",
        "trust",
        _DEVICE,
        _OWNER,
        "the device's clock stands more than an hour before what signed metadata, or the broker, has proved",
        "set the clock; what runs goes on",
    ),
    Reason(
        "control_not_delegated",
        "trust",
        _CLOUD,
        _SIGNER,
        "no device would obey an order by this cloud's control key",
        "set `trust.control_key`, or `outrider ota keys rotate control`",
    ),
    Reason(
        "envelope_invalid",
        "trust",
        _DEVICE,
        _SIGNER,
        "an order or a stop does not parse, or is of another kind",
        "look who sends it",
    ),
    Reason(
        "envelope_unsigned",
        "trust",
        _DEVICE,
        _SIGNER,
        "an order or a stop is not signed with the control keys that the targets role names",
        "look who sends it; after a rotation let the device fetch metadata first",
    ),
    Reason("key_library", "trust", _BOTH, _SIGNER, "a key needs a library that is not installed", "install it"),
    Reason("key_service", "trust", _BOTH, _SIGNER, "a key service or token does not answer", "see why; try again"),
    Reason(
        "metadata_damaged",
        "trust",
        _DEVICE,
        _OWNER,
        "what the device keeps of metadata is not what it wrote: it refuses rather than forget what it had seen",
        "`outrider ota mend` on the device; look after the disk",
    ),
    Reason(
        "metadata_expired",
        "trust",
        _BOTH,
        _SIGNER,
        "signed metadata has expired: nothing new is taken, and what runs goes on",
        "timestamp and snapshot: see why the cloud does not sign; others: `outrider ota keys renew`",
    ),
    Reason(
        "metadata_invalid", "trust", _BOTH, _SIGNER, "a file is no metadata, or of another role", "look who serves it"
    ),
    Reason(
        "metadata_lost",
        "trust",
        _DEVICE,
        _OWNER,
        "both the metadata and the versions that were seen are damaged",
        "remove the folder by hand if the device may begin again from its shipped root",
    ),
    Reason(
        "metadata_missing",
        "trust",
        _BOTH,
        _SIGNER,
        "a file that is needed is not there",
        "publish it again; refresh first",
    ),
    Reason(
        "metadata_mixed",
        "trust",
        _DEVICE,
        _NOBODY,
        "files of two states were served together",
        "nothing, if it passes",
    ),
    Reason(
        "metadata_path", "trust", _BOTH, _SIGNER, "a path that could lead out of the repository", "look who signed it"
    ),
    Reason(
        "metadata_rolled_back",
        "trust",
        _BOTH,
        _SIGNER,
        "a version is older than one that was seen, or not the next one",
        "after a restore from a backup: sign newer versions than devices have seen",
    ),
    Reason(
        "metadata_timed_out",
        "trust",
        _DEVICE,
        _NOBODY,
        "the cloud did not send a file in time",
        "nothing: it is asked again",
    ),
    Reason(
        "metadata_too_large",
        "trust",
        _BOTH,
        _SIGNER,
        "a file is longer than a role's may be",
        "look who serves it; `outrider ota gc`",
    ),
    Reason(
        "metadata_unsigned",
        "trust",
        _BOTH,
        _SIGNER,
        "a file is not signed by enough of the keys that the role has",
        "`outrider ota keys ls`, then `outrider ota keys sign`",
    ),
    Reason(
        "order_expired", "trust", _DEVICE, _NOBODY, "an order came after its time", "nothing: the cloud gives another"
    ),
    Reason(
        "order_ahead",
        "trust",
        _DEVICE,
        _SIGNER,
        "an order's number is more than a day ahead of the device's clock: after it no other could follow",
        "set the device's clock; if it is right, look who has the control key, and rotate it",
    ),
    Reason(
        "report_unsigned",
        "trust",
        ("cloud",),
        _SIGNER,
        "a device that signs its reports has sent one without a signature: it counts for nothing",
        "look what that device is; on a full disk it cannot number its reports, and does not sign them",
    ),
    Reason(
        "report_key",
        "trust",
        ("cloud",),
        _SIGNER,
        "what a report is signed with is no key over P-256, or no key was ever told",
        "look what that device is, and update its agent",
    ),
    Reason(
        "report_other_key",
        "trust",
        ("cloud",),
        _SIGNER,
        "a device's report is signed with another key than those before: it was set up anew without joining, or another speaks for it",
        "if it was set up anew: `outrider cloud forget --device ID`, then restart its agent; if not, look who speaks for it",
    ),
    Reason(
        "report_other_device",
        "trust",
        ("cloud",),
        _SIGNER,
        "a device has told, under its signature, in another device's name",
        "look what that device is",
    ),
    Reason("order_other_device", "trust", _DEVICE, _SIGNER, "an order to another device", "look who sends it"),
    Reason(
        "plan_beyond_canary",
        "trust",
        _BOTH,
        _SIGNER,
        "an automatic plan names more than the canary group that its role was given",
        "sign it with the task's key, or look who has the automatic one",
    ),
    Reason(
        "plan_contradicted",
        "trust",
        _DEVICE,
        _SIGNER,
        "a plan's releases are not signed as it says",
        "sign release and plan again",
    ),
    Reason("plan_invalid", "trust", _DEVICE, _SIGNER, "a plan does not parse, or is another's", "sign it again"),
    Reason(
        "proposal_waits",
        "trust",
        _CLOUD,
        _SIGNER,
        "the cloud signs nothing by itself with an automatic role of which a proposed version waits",
        "`outrider ota keys sign` or `outrider ota keys discard` that role",
    ),
    Reason(
        "release_invalid", "trust", _DEVICE, _SIGNER, "what is signed of a release contradicts itself", "sign it again"
    ),
    Reason("source_gone", "trust", _DEVICE, _OWNER, "the folder or stick with metadata is not there", "mount it"),
    Reason(
        "source_unreachable", "trust", _DEVICE, _NOBODY, "metadata cannot be fetched now", "nothing: it is tried again"
    ),
    Reason(
        "source_unreadable", "trust", _DEVICE, _OWNER, "a file on the stick cannot be read", "write the stick again"
    ),
    Reason(
        "target_missing",
        "trust",
        _CLOUD,
        _SIGNER,
        "signed metadata names a file that was not put here",
        "put it first",
    ),
    Reason(
        "trust_in_use",
        "trust",
        _DEVICE,
        _OWNER,
        "another process works on the device's metadata",
        "wait until it has ended",
    ),
    Reason(
        "trust_off",
        "trust",
        _CLOUD,
        _SIGNER,
        "this cloud keeps no signed metadata",
        "`outrider ota init`, and `[trust] repository`",
    ),
)
