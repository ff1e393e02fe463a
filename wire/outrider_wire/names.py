"""The grammar of every name that becomes part of a topic, a path or a metric label."""

from typing import Annotated

from msgspec import Meta

END = r"$(?!\n)"
"""The end of the text: a plain ``$`` lets one newline pass."""
NAME_GRAMMAR = r"[a-z0-9][a-z0-9-]{0,63}"
NAME_PATTERN = rf"^{NAME_GRAMMAR}{END}"
DIGEST_PATTERN = rf"^[0-9a-f]{{64}}{END}"
ID_PATTERN = rf"^[0-9a-f-]{{16,64}}{END}"

Name = Annotated[str, Meta(pattern=NAME_PATTERN)]
"""Device, task, worker and transfer names: 1 to 64 of ``a-z0-9-``, not starting with a dash."""

Digest = Annotated[str, Meta(pattern=DIGEST_PATTERN)]
"""SHA-256, lower-case hexadecimal."""

Identifier = Annotated[str, Meta(pattern=ID_PATTERN)]
"""An input's id: a UUIDv7 in its usual text form."""

Label = Annotated[str, Meta(min_length=1, max_length=256)]
Reason = Annotated[str, Meta(pattern=rf"^[a-z0-9_]{{1,64}}{END}")]
