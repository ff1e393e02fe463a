"""The rules without a broker: who may say what, whether a device may join, what a certificate is worth, how a file is edited."""

import tomllib
from datetime import UTC, datetime, timedelta
from typing import NamedTuple

import pytest
from cryptography import x509
from hypothesis import given
from hypothesis import strategies as st
from msgspec.structs import replace

from outrider_cloud.access import dynsec, pki
from outrider_cloud.access.limiter import Limiter
from outrider_cloud.access.roster import Roster
from outrider_cloud.access.rules import Asked, Identity, Invitation, State, judge, secret_digest
from outrider_cloud.hub import subscriptions
from outrider_edge.joining import https
from outrider_edge.joining.identity import Lifetime
from outrider_edge.joining.renewing import due, pause_s
from outrider_wire.access import allows, cloud_grants, device_grants, digest
from outrider_wire.errors import CallerInputError, OperatorConfigError, RuleRefusalError
from outrider_wire.joining import JoinLine, check_device_name, parse_join_line
from outrider_wire.names import NAME_PATTERN
from outrider_wire.toml_edit import with_settings
from outrider_wire.topics import TABLE, Topics

TOPICS = Topics()
NAMES = st.from_regex(NAME_PATTERN, fullmatch=True)
NOW = datetime(2030, 1, 1, tzinfo=UTC)


# --- who may say what


@given(NAMES, NAMES, NAMES)
def test_every_row_is_said_by_its_sender_and_heard_by_the_other_side_alone(device: str, other: str, name: str) -> None:
    mine, cloud = device_grants(TOPICS, device), cloud_grants(TOPICS)
    for row in TABLE:
        topic = TOPICS.of(row.kind, device, task=name, worker=name, transfer=name)
        assert allows(mine, "say", topic) is (row.sender == "device")
        assert allows(cloud, "say", topic) is (row.sender == "cloud" or row.retained), "and it clears what is retained"
        assert allows(mine, "hear", topic) is (row.sender == "cloud")
        assert allows(cloud, "hear", topic) is (row.sender == "device")
        foreign = TOPICS.of(row.kind, other, task=name, worker=name, transfer=name)
        if other != device and "{device}" in row.pattern:  # what is said to all is nobody's own
            assert not any(allows(mine, action, foreign) for action in ("say", "hear", "subscribe"))


def test_the_cloud_may_subscribe_to_all_that_its_hub_does() -> None:
    wanted = subscriptions(TOPICS, worker="one", group="workers")
    assert wanted
    assert [each for each in wanted if not allows(cloud_grants(TOPICS, "workers"), "subscribe", each)] == []
    assert not allows(cloud_grants(TOPICS, "others"), "subscribe", wanted[0])
    assert not any(allows(device_grants(TOPICS, "one"), "subscribe", each) for each in wanted)


def test_a_wildcard_is_covered_by_no_single_level() -> None:
    grants = cloud_grants(TOPICS)
    assert allows(grants, "subscribe", "outrider/1/+/up/presence")
    assert not allows(grants, "subscribe", "outrider/1/#")
    assert not allows(grants, "subscribe", "outrider/1/#/up/presence")


def test_the_digest_tells_sets_of_grants_apart_and_knows_no_order() -> None:
    one, two = device_grants(TOPICS, "a"), device_grants(TOPICS, "b")
    assert digest(one) == digest(reversed(one)) != digest(two)


def test_the_first_rules_let_in_the_cloud_and_nobody_else() -> None:
    rules = dynsec.first_rules(TOPICS, group="workers", workers=["one"])
    assert not any(rules["defaultACLAccess"].values())
    assert [client["username"] for client in rules["clients"]] == ["outrider-control", "outrider-cloud-one"]
    cloud = next(role for role in rules["roles"] if role["rolename"] == "cloud")
    shared = [acl for acl in cloud["acls"] if acl["topic"].startswith("$share/")]
    assert {acl["acltype"] for acl in shared} == {"subscribeLiteral"} and len(shared) == 2
    assert not any("$CONTROL" in acl["topic"] for acl in cloud["acls"]), "a worker cannot change rules"


# --- names and lines


@pytest.mark.parametrize(
    "name", ["", "#", "+", "a/b", "a/#", "A", "a b", "-a", "a" * 65, "a\n", "ä", "all", "releases", "outrider-cloud-x"]
)
def test_no_device_is_called(name: str) -> None:
    with pytest.raises(CallerInputError):
        check_device_name(name)


@pytest.mark.parametrize("name", ["a", "cam-7", "a" * 64, "allotment", "outrider", "7"])
def test_a_device_may_be_called(name: str) -> None:
    check_device_name(name)


LINE = JoinLine("https://cloud.example:8780", "0123456789abcdef", "s" * 32, "f" * 64)


def test_a_join_line_is_read_back_and_does_not_show_its_secret() -> None:
    assert parse_join_line(f"  {LINE}\n") == LINE
    assert LINE.secret not in repr(LINE)


@pytest.mark.parametrize(
    "text",
    [
        "",
        "https://cloud.example",
        str(LINE).replace("https", "http"),
        str(LINE)[:-1],
        str(LINE).replace("cloud.example", "user:pw@cloud.example"),
        str(LINE).replace(":8780", ":8780/path"),
        str(LINE).replace(":8780", ":99999"),
        str(LINE) + "x" * 3000,
        "javascript:alert(1)" + str(LINE),
    ],
)
def test_what_is_no_join_line_is_refused_without_being_repeated(text: str) -> None:
    with pytest.raises(CallerInputError) as caught:
        parse_join_line(text)
    assert "ssss" not in str(caught.value)


@given(st.text(max_size=200))
def test_any_text_is_a_join_line_or_refused(text: str) -> None:
    with pytest.raises(CallerInputError):
        parse_join_line(text)


# --- may it join?

INVITATION = Invitation(id="i" * 16, secret_sha256=secret_digest("right"), uses_left=1, expires_ms=1000)
ASKED = Asked(device="cam", invitation="i" * 16, secret_sha256=secret_digest("right"), key_sha256="k1", request="csr")


def known(state: State, *, key: str = "k1", invitation: str = "i" * 16) -> Identity:
    return Identity(
        device="cam", state=state, invitation=invitation, group="", key_sha256=key, request="csr", granted="told"
    )


def replaced(value: Invitation, **changes: object) -> Invitation:
    from msgspec.structs import replace

    return replace(value, **changes)


class Case(NamedTuple):
    """Who asks with what, and what becomes of it."""

    what: str
    expected: str
    invitation: Invitation | None = INVITATION
    before: Identity | None = None
    secret: str = "right"
    now_ms: int = 0


SPENT = replace(INVITATION, uses_left=0)
CASES = (
    Case("a new device", "accepted"),
    Case("a new device, with a person to ask", "waiting", replace(INVITATION, ask=True)),
    Case("no such invitation", "invitation_refused", None),
    Case("a wrong secret", "invitation_refused", secret="wrong"),
    Case("a wrong secret of one that has run out learns no more", "invitation_refused", secret="wrong", now_ms=2000),
    Case("too late", "invitation_expired", now_ms=1000),
    Case("used up", "invitation_used", SPENT),
    Case("the same again, late and used up", "again", SPENT, known("accepted"), now_ms=2000),
    Case("the same again, still waiting", "again", SPENT, known("waiting"), now_ms=2000),
    Case("the same again, revoked", "device_revoked", before=known("revoked")),
    Case("another key under a taken name", "name_taken", before=known("accepted", key="k2")),
    Case("another key under a name that waits", "name_taken", before=known("waiting", key="k2")),
    Case("another key under a revoked name", "device_revoked", before=known("revoked", key="k2")),
    Case("for another device", "wrong_device", replace(INVITATION, device="else")),
    Case("to replace this one", "accepted", replace(INVITATION, device="cam"), known("accepted", key="k2")),
    Case("to let it in again", "accepted", replace(INVITATION, device="cam"), known("revoked", invitation="x")),
)


@pytest.mark.parametrize("case", CASES, ids=[case.what for case in CASES])
def test_may_it_join(case: Case) -> None:
    asked = replace(ASKED, secret_sha256=secret_digest(case.secret))
    try:
        verdict = judge(asked, case.invitation, case.before, now_ms=case.now_ms)
    except RuleRefusalError as error:
        assert error.reason == case.expected
        return
    assert ("again" if verdict is case.before else verdict.state) == case.expected
    if verdict is not case.before:
        assert verdict.certificate == "" and verdict.granted == (case.before.granted if case.before else "")


# --- limits and lists


def test_tries_come_back_with_time_and_each_name_has_its_own() -> None:
    limiter = Limiter(burst=2, per_s=0.5)
    assert [limiter.allows("a", 0.0) for _ in range(3)] == [True, True, False]
    assert limiter.allows("b", 0.0)
    assert [limiter.allows("a", 2.0) for _ in range(2)] == [True, False]
    assert [limiter.allows("a", 1000.0) for _ in range(3)] == [True, True, False]


def test_a_flood_of_names_costs_no_memory() -> None:
    limiter = Limiter(burst=1, per_s=0)
    for number in range(10_000):
        limiter.allows(str(number), 0.0)
    assert len(limiter._left) <= 4096


def test_the_roster_refuses_names_and_serials_until_it_is_replaced() -> None:
    roster = Roster()
    roster.replace(devices=["cam"], serials=["0A"])
    assert roster.refuses("cam") and roster.refuses("other", "0A") and not roster.refuses("other", "0B")
    roster.replace(devices=[], serials=[])
    assert not roster.refuses("cam", "0A")


# --- certificates


@pytest.fixture(scope="module")
def authority() -> pki.Authority:
    return pki.new_authority("test", now=NOW)


def request_for(name: str) -> str:
    from cryptography.hazmat.primitives import hashes, serialization

    subject = x509.Name([x509.NameAttribute(x509.NameOID.COMMON_NAME, name)])
    csr = x509.CertificateSigningRequestBuilder().subject_name(subject).sign(pki.new_key(), hashes.SHA256())
    return csr.public_bytes(serialization.Encoding.PEM).decode()


def test_a_devices_certificate_is_for_a_client_of_that_name_and_for_its_time(authority: pki.Authority) -> None:
    issued = pki.issue_device(authority, "cam", request_for("cam"), now=NOW, days=90)
    made = x509.load_pem_x509_certificate(issued.pem.encode())
    made.verify_directly_issued_by(authority.certificate)
    assert made.subject.rfc4514_string() == "CN=cam"
    assert not made.extensions.get_extension_for_class(x509.BasicConstraints).value.ca
    usage = made.extensions.get_extension_for_class(x509.ExtendedKeyUsage).value
    assert list(usage) == [x509.ExtendedKeyUsageOID.CLIENT_AUTH]
    assert made.not_valid_after_utc == NOW + timedelta(days=90) == issued.not_after


def test_nothing_outlives_its_authority(authority: pki.Authority) -> None:
    issued = pki.issue_device(authority, "cam", request_for("cam"), now=NOW, days=100_000)
    assert issued.not_after == authority.certificate.not_valid_after_utc


@pytest.mark.parametrize("request_text", ["", "nonsense", "-----BEGIN CERTIFICATE REQUEST-----\nAAAA\n", "x" * 20_000])
def test_what_is_no_request_is_refused(request_text: str, authority: pki.Authority) -> None:
    with pytest.raises(CallerInputError) as caught:
        pki.issue_device(authority, "cam", request_text, now=NOW)
    assert caught.value.reason == "invalid_request"


def test_a_request_whose_sender_does_not_hold_the_key_is_refused(authority: pki.Authority) -> None:
    import base64

    lines = request_for("cam").strip().splitlines()
    der = bytearray(base64.b64decode("".join(lines[1:-1])))
    der[-1] ^= 1  # within the signature
    text = "\n".join([lines[0], base64.b64encode(bytes(der)).decode(), lines[-1]])
    with pytest.raises(CallerInputError):
        pki.issue_device(authority, "cam", text, now=NOW)


def test_a_list_of_revoked_certificates_keeps_what_was_on_it_and_never_runs_out_first(authority: pki.Authority) -> None:
    one = pki.revocations(authority, ["0A"], now=NOW)
    two = pki.revocations(authority, ["FF00"], now=NOW, before=one)
    assert pki.revoked_serials(two) == {"0A", "FF00"}
    assert x509.load_pem_x509_crl(two).next_update_utc == authority.certificate.not_valid_after_utc
    with pytest.raises(OperatorConfigError):
        pki.revoked_serials(b"nonsense")


def test_device_and_cloud_agree_on_the_fingerprint(authority: pki.Authority) -> None:
    above = pki.new_authority("above", now=NOW)
    for chain in (authority.chain, authority.chain + above.chain):
        assert https._fingerprint(https._authorities(chain)) == pki.fingerprint(chain)
    assert pki.fingerprint(authority.chain) != pki.fingerprint(authority.chain + above.chain), "nobody can add one"


def test_files_that_are_no_authority_are_said(authority: pki.Authority) -> None:
    other = pki.new_authority("other", now=NOW)
    with pytest.raises(OperatorConfigError):
        pki.read_authority(authority.chain.encode(), pki.key_pem(other.key))
    key = pki.new_key()
    leaf = pki.issue_service(authority, "x", key, hosts=["x"], now=NOW)
    with pytest.raises(OperatorConfigError):
        pki.read_authority(leaf.pem.encode(), pki.key_pem(key))
    assert pki.read_authority(authority.chain.encode(), pki.key_pem(authority.key)).chain == authority.chain


def test_a_certificate_is_renewed_with_a_third_left_and_a_fleet_does_not_come_at_once() -> None:
    life = Lifetime(NOW, NOW + timedelta(days=90))
    assert due(life, 0.0) == NOW + timedelta(days=60)
    assert NOW + timedelta(days=50) < due(life, 0.999) < NOW + timedelta(days=52)
    assert pause_s(NOW, NOW + timedelta(days=1)) == 3600
    assert pause_s(NOW, NOW - timedelta(days=1)) == 60


# --- files that a person wrote


TOML = """\
# what this file is for

device = "old"   # a name

[broker]         # the broker
url = "mqtt://x"

[[tasks]]
file = "task.toml"
"""


def test_settings_are_put_into_a_file_whose_rest_stays() -> None:
    changed = with_settings(
        TOML, {"": {"device": "new", "n": 3}, "broker": {"url": "y", "root": "z"}, "new": {"a": ["b"]}}, "f"
    )
    assert tomllib.loads(changed) == {
        "device": "new",
        "n": 3,
        "broker": {"url": "y", "root": "z"},
        "tasks": [{"file": "task.toml"}],
        "new": {"a": ["b"]},
    }
    assert changed.startswith("# what this file is for\n") and "[broker]         # the broker" in changed
    assert with_settings(changed, {"": {"device": "new"}}, "f") == changed


@pytest.mark.parametrize(
    "text",
    ['device = """\nlong\n"""\n', "broker = { url = 'x' }\n", 'broker.url = "x"\n', '[broker]\nurl = """a\nb"""\n'],
)
def test_a_file_that_it_cannot_change_is_left_with_what_to_write(text: str) -> None:
    with pytest.raises(OperatorConfigError) as caught:
        with_settings(text, {"": {"device": "new"}, "broker": {"url": "y"}}, "f")
    assert 'url = "y"' in caught.value.fix


@given(st.dictionaries(st.from_regex(r"[a-z]{1,8}", fullmatch=True), st.text(max_size=20), max_size=4))
def test_any_text_is_a_value(values: dict[str, str]) -> None:
    try:
        changed = with_settings(TOML, {"broker": values}, "f")
    except OperatorConfigError:
        return  # TOML has no lone surrogates, nor control characters as JSON writes them
    assert tomllib.loads(changed)["broker"] == {"url": "mqtt://x", **values}
