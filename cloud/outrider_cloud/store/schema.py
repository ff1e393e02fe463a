"""The store's tables. Knows names and types only; `outrider_cloud.store.migrations` makes them, the modules beside this read and write.

Times are UTC milliseconds since 1970 (``…_ms``), but for leases, which are by run time; probabilities are lists in the task's label order.
"""

import sqlalchemy as sa

METADATA = sa.MetaData()

inputs = sa.Table(
    "inputs",
    METADATA,
    sa.Column("device", sa.String(64), primary_key=True),
    sa.Column("id", sa.String(64), primary_key=True),
    sa.Column("task", sa.String(64), nullable=False),
    sa.Column("state", sa.String(16), nullable=False),  # claimed, then once: answered, refused or expired
    sa.Column("worker", sa.String(64), nullable=False),
    sa.Column("claims", sa.Integer, nullable=False),  # how many times a worker took it up
    sa.Column("boot", sa.String(64), nullable=False, server_default=""),  # the lease is of its run time
    sa.Column("lease_until_ms", sa.BigInteger, nullable=False),
    sa.Column("received_ms", sa.BigInteger, nullable=False),
    sa.Column("answer_by_ms", sa.BigInteger, nullable=False),
    sa.Column("keep_until_ms", sa.BigInteger, nullable=False),
    sa.Column("settled_ms", sa.BigInteger),
    sa.Column("content_type", sa.String(64), nullable=False),
    sa.Column("correlation", sa.LargeBinary),
    sa.Column("request", sa.LargeBinary),  # the escalation, while it is claimed
    sa.Column("reply", sa.LargeBinary),  # the answer or refusal, once settled
    sa.Column("sent", sa.Boolean, nullable=False),  # whether the broker is known to have taken the reply
    sa.Index(
        "inputs_claimed",
        "lease_until_ms",
        sqlite_where=sa.text("state = 'claimed'"),
        postgresql_where=sa.text("state = 'claimed'"),
    ),
    sa.Index(
        "inputs_settled",
        "keep_until_ms",
        sqlite_where=sa.text("state <> 'claimed'"),
        postgresql_where=sa.text("state <> 'claimed'"),
    ),
    sa.Index(
        "inputs_unsent",
        "worker",
        sqlite_where=sa.text("state <> 'claimed' AND NOT sent"),
        postgresql_where=sa.text("state <> 'claimed' AND NOT sent"),
    ),
)
"""Every escalation: claimed by a worker, then in exactly one terminal state, set once."""

counts = sa.Table(
    "counts",
    METADATA,
    sa.Column("task", sa.String(64), primary_key=True),
    sa.Column("name", sa.String(64), primary_key=True),
    sa.Column("n", sa.BigInteger, nullable=False),
)
"""The account, moved in the same transactions as the inputs."""

payloads = sa.Table(
    "payloads",
    METADATA,
    sa.Column("sha256", sa.String(64), primary_key=True),
    sa.Column("data", sa.LargeBinary, nullable=False),
)
"""Parts of examples that are small enough to live in the database; larger ones are files of the blob store."""

examples = sa.Table(
    "examples",
    METADATA,
    sa.Column("id", sa.Integer, primary_key=True),
    sa.Column("task", sa.String(64), nullable=False),
    sa.Column("group", sa.String(192), nullable=False),
    sa.Column("role", sa.String(16), nullable=False),  # set once, by keyed hash of the group
    sa.Column("source", sa.String(16), nullable=False),  # escalation, audit, import
    sa.Column("device", sa.String(64)),
    sa.Column("input", sa.String(64)),
    sa.Column("why", sa.String(64), nullable=False),
    sa.Column("parts", sa.JSON, nullable=False),  # part name → SHA-256
    sa.Column("label", sa.String(256)),  # a person's, or the import's
    sa.Column("teacher_label", sa.String(256)),
    sa.Column("teacher_probabilities", sa.JSON),
    sa.Column("teacher_model", sa.String(256)),
    sa.Column("small_label", sa.String(256)),
    sa.Column("small_probabilities", sa.JSON),
    sa.Column("small_model", sa.String(64)),
    sa.Column("audit", sa.Float, nullable=False),  # known sampling probability of an audit, else 0
    sa.Column("created_ms", sa.BigInteger, nullable=False),
    sa.UniqueConstraint("device", "input", name="examples_once"),
    sa.Index("examples_role", "task", "role", "source"),
)
"""What is learnt from."""

devices = sa.Table(
    "devices",
    METADATA,
    sa.Column("device", sa.String(64), primary_key=True),
    sa.Column("online", sa.Boolean, nullable=False),
    sa.Column("boot_id", sa.String(64), nullable=False),
    sa.Column("agent", sa.String(64), nullable=False),
    sa.Column("wire", sa.JSON, nullable=False),
    sa.Column("capabilities", sa.JSON, nullable=False),
    sa.Column("slots", sa.JSON, nullable=False),  # task → what its slots hold, as reported
    sa.Column("report", sa.JSON, nullable=False, server_default="{}"),  # the rest of that report
    sa.Column("telemetry", sa.JSON, nullable=False),  # task → the last telemetry
    sa.Column("first_seen_ms", sa.BigInteger, nullable=False),
    sa.Column("seen_ms", sa.BigInteger, nullable=False),
)
"""The fleet as the devices describe themselves."""

releases = sa.Table(
    "releases",
    METADATA,
    sa.Column("digest", sa.String(64), primary_key=True),  # SHA-256 of the manifest
    sa.Column("task", sa.String(64), nullable=False),
    sa.Column("version", sa.String(128), nullable=False),
    sa.Column("size", sa.BigInteger, nullable=False),  # of the manifest, in bytes
    sa.Column("parent", sa.String(64)),
    sa.Column("certificate", sa.String(64), nullable=False),
    sa.Column("created_ms", sa.BigInteger, nullable=False),
)

release_files = sa.Table(
    "release_files",
    METADATA,
    sa.Column("release", sa.String(64), sa.ForeignKey("releases.digest"), primary_key=True),
    sa.Column("sha256", sa.String(64), primary_key=True),
    sa.Column("size", sa.BigInteger, nullable=False),
    sa.Index("release_files_by_digest", "sha256"),
)
"""The blobs that devices may pull: every file of a release, its manifest included."""

assignments = sa.Table(
    "assignments",
    METADATA,
    sa.Column("device", sa.String(64), primary_key=True),
    sa.Column("task", sa.String(64), primary_key=True),
    sa.Column("release", sa.String(64), sa.ForeignKey("releases.digest"), nullable=False),
    sa.Column("counter", sa.BigInteger, nullable=False),  # grows with every assignment
    sa.Column("assigned_ms", sa.BigInteger, nullable=False),
)

dead_letters = sa.Table(
    "dead_letters",
    METADATA,
    sa.Column("id", sa.Integer, primary_key=True),
    sa.Column("received_ms", sa.BigInteger, nullable=False),
    sa.Column("topic", sa.String(256), nullable=False),
    sa.Column("device", sa.String(64), nullable=False),
    sa.Column("input", sa.String(64), nullable=False),
    sa.Column("reason", sa.String(64), nullable=False),
    sa.Column("detail", sa.String(512), nullable=False),
    sa.Column("size", sa.BigInteger, nullable=False),
    sa.Column("payload", sa.LargeBinary, nullable=False),  # its first bytes, where it was longer than is kept
    sa.Column("content_type", sa.String(64), nullable=False, server_default=""),
    sa.Column("correlation", sa.LargeBinary),
)
"""Messages that could not be taken; never retried, unless a person asks for it."""

certifications = sa.Table(
    "certifications",
    METADATA,
    sa.Column("id", sa.Integer, primary_key=True),
    sa.Column("task", sa.String(64), nullable=False),
    sa.Column("data_digest", sa.String(64), nullable=False),
    sa.Column("use", sa.Integer, nullable=False),  # k: the k-th time these rows certify
    sa.Column("delta", sa.Float, nullable=False),  # what this use paid
    sa.Column("risk", sa.Float, nullable=False),
    sa.Column("n", sa.Integer, nullable=False),
    sa.Column("bundle", sa.String(64), nullable=False),
    sa.Column("created_ms", sa.BigInteger, nullable=False),
    sa.UniqueConstraint("task", "data_digest", "use", name="certifications_use"),
)
"""The certification ledger: the k-th use of the same rows pays δ·6/(π²k²)."""

certified_groups = sa.Table(
    "certified_groups",
    METADATA,
    sa.Column("certification", sa.Integer, sa.ForeignKey("certifications.id"), primary_key=True),
    sa.Column("group", sa.String(192), primary_key=True),
    sa.Index("certified_groups_by_group", "group"),
)
"""Which groups each certification used, one row of each."""

rounds = sa.Table(
    "rounds",
    METADATA,
    sa.Column("id", sa.Integer, primary_key=True),
    sa.Column("task", sa.String(64), nullable=False),
    sa.Column("state", sa.String(16), nullable=False),  # running, then: promoted, refused or failed
    sa.Column("deployed", sa.String(64), nullable=False),
    sa.Column("candidate", sa.String(64)),
    sa.Column("report", sa.JSON),
    sa.Column("started_ms", sa.BigInteger, nullable=False),
    sa.Column("finished_ms", sa.BigInteger),
)
"""Learning rounds and their verdicts."""

invitations = sa.Table(
    "invitations",
    METADATA,
    sa.Column("id", sa.String(32), primary_key=True),
    sa.Column("secret_sha256", sa.String(64), nullable=False),
    sa.Column("device", sa.String(64), nullable=False),  # the only one it lets in; empty: any new one
    sa.Column("group", sa.String(64), nullable=False),
    sa.Column("ask", sa.Boolean, nullable=False),  # whether a person accepts each device
    sa.Column("uses_left", sa.Integer, nullable=False),
    sa.Column("expires_ms", sa.BigInteger, nullable=False),
    sa.Column("created_ms", sa.BigInteger, nullable=False),
)
"""By what devices join; of its secret only the hash."""

identities = sa.Table(
    "identities",
    METADATA,
    sa.Column("device", sa.String(64), primary_key=True),
    sa.Column("state", sa.String(16), nullable=False),  # waiting, accepted or revoked
    sa.Column("invitation", sa.String(32), nullable=False),
    sa.Column("group", sa.String(64), nullable=False),
    sa.Column("key_sha256", sa.String(64), nullable=False),  # of its public key: who asks again is known by it
    sa.Column("request", sa.Text, nullable=False),
    sa.Column("certificate", sa.Text, nullable=False),  # empty until it is signed
    sa.Column("serial", sa.String(64), nullable=False),
    sa.Column("not_after_ms", sa.BigInteger, nullable=False),
    sa.Column("asked_ms", sa.BigInteger, nullable=False),
    sa.Column("changed_ms", sa.BigInteger, nullable=False),
    sa.Column("granted", sa.String(64), nullable=False),  # digest of what the broker was last told; empty: nothing
)
"""Every device that asked to be let in."""

certificates = sa.Table(
    "certificates",
    METADATA,
    sa.Column("serial", sa.String(64), primary_key=True),
    sa.Column("device", sa.String(64), nullable=False),
    sa.Column("not_after_ms", sa.BigInteger, nullable=False),
    sa.Column("issued_ms", sa.BigInteger, nullable=False),
    sa.Column("revoked_ms", sa.BigInteger),
    sa.Index("certificates_by_device", "device"),
)
"""Every certificate that was signed for a device."""

rollouts = sa.Table(
    "rollouts",
    METADATA,
    sa.Column("rollout", sa.String(64), primary_key=True),
    sa.Column("plan", sa.JSON, nullable=False),  # as it was signed
    sa.Column("asks", sa.JSON, nullable=False),  # what its releases ask of a device
    sa.Column("tasks", sa.JSON, nullable=False),
    sa.Column("automatic", sa.Boolean, nullable=False),  # made by the learning loop's own role
    sa.Column("state", sa.String(32), nullable=False),
    sa.Column("progress", sa.JSON, nullable=False),
    sa.Column("version", sa.Integer, nullable=False),  # grows with every change: of two controllers one gives way
    sa.Column("created_ms", sa.BigInteger, nullable=False),
    sa.Column("changed_ms", sa.BigInteger, nullable=False),
)

rollout_members = sa.Table(
    "rollout_members",
    METADATA,
    sa.Column("rollout", sa.String(64), sa.ForeignKey("rollouts.rollout"), primary_key=True),
    sa.Column("device", sa.String(64), primary_key=True),
    sa.Column("state", sa.String(16), nullable=False),
    sa.Column("member", sa.JSON, nullable=False),
    sa.Index("rollout_members_by_device", "device"),
)

orders = sa.Table(
    "orders",
    METADATA,
    sa.Column("device", sa.String(64), primary_key=True),
    sa.Column("number", sa.BigInteger, nullable=False),  # grows with every order to it
    sa.Column("rollout", sa.String(64), nullable=False),
    sa.Column("envelope", sa.LargeBinary, nullable=False),  # signed; empty: it was taken back
    sa.Column("issued_ms", sa.BigInteger, nullable=False),
    sa.Column("sent", sa.Boolean, nullable=False),  # whether the broker is known to have taken it
    sa.Index("orders_unsent", "device", sqlite_where=sa.text("NOT sent"), postgresql_where=sa.text("NOT sent")),
)
"""The newest order to each device."""

stops = sa.Table(
    "stops",
    METADATA,
    sa.Column("number", sa.BigInteger, primary_key=True, autoincrement=False),
    sa.Column("stop", sa.JSON, nullable=False),
    sa.Column("envelope", sa.LargeBinary, nullable=False),
    sa.Column("sent", sa.Boolean, nullable=False),
)
"""Every emergency stop; the one with the highest number holds."""

forgotten = sa.Table(
    "forgotten",
    METADATA,
    sa.Column("number", sa.BigInteger, primary_key=True, autoincrement=False),
    sa.Column("salt", sa.String(32), nullable=False),  # of a device's name; empty: the hash is of an input
    sa.Column("hash", sa.String(64), nullable=False),
    sa.Column("at_ms", sa.BigInteger, nullable=False),
    sa.Index("forgotten_by_hash", "hash"),
)
"""Marks of what was forgotten, without names: see `outrider_cloud.store.forgotten`."""
