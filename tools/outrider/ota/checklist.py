"""The key ceremony as a list to tick off. `outrider ota keys checklist` prints it."""

CHECKLIST = """\
KEY CEREMONY: root 2 of 3, on three machines that have no network

Before
[ ] Three people, three machines, three safes. Nobody holds two root keys; nobody stores a key and its passphrase together.
[ ] The same release of outrider on every machine, its checksum compared by voice.
[ ] One empty USB stick. Everything that is carried is public; no private key ever leaves its machine.

Each person, on the own machine
[ ] outrider ota keys new root-NAME.pem          (a passphrase of at least five random words)
[ ] Read the key id aloud; the other two write it down.
[ ] Copy root-NAME.pub.json to the stick, and nothing else. Back up root-NAME.pem on paper or a second medium, into the safe.

The release engineer, on the machine of the targets key
[ ] outrider ota init --task TASK --signers 2of3 --root-key a.pub.json --root-key b.pub.json --root-key c.pub.json --dry-run
[ ] The same without --dry-run. outrider ota keys ls: the three key ids are those that were read aloud.
[ ] Copy proposed/root.json to the stick.

Two of the three, on their own machines
[ ] outrider ota keys sign root.json --dry-run --key file:root-NAME.pem      Read aloud what it says: roles, key ids, expiry.
[ ] outrider ota keys sign root.json --key file:root-NAME.pem                Carry the stick on.

The release engineer again
[ ] Copy root.json back into proposed/, then: outrider ota keys publish
[ ] outrider ota keys ls: nothing waits any more, and the root's key ids are the three that were read aloud.
[ ] outrider ota verify: what is there is what a device would believe.
[ ] Bring metadata/, targets/, keys/snapshot.pem, keys/timestamp.pem and keys/control.pem to the cloud ([trust] repository),
    or key services' URIs in their place; remove the three online keys here.
[ ] metadata/1.root.json goes into every device: joining does it, or [updates] root.
[ ] Take the date of the root's expiry into the calendar, sixty days before.

Later
[ ] A root key is lost: outrider ota keys rotate root --old KEYID --key new.pub.json; two of the OLD keys and enough of the new sign.
[ ] A task key is lost or stolen: outrider ota keys rotate TASK --key new.pub.json; targets signs, then the new key signs TASK.
[ ] An online key is stolen: outrider ota keys rotate snapshot|timestamp (root signs) or control (targets signs); change the cloud's.
[ ] Two root keys are lost: no root can be signed any more. Devices need a new root by hand; see the documentation's recovery.
"""
