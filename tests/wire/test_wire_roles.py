"""A group has one role for good; shares come out as asked; audits are as frequent as promised."""

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from outrider_wire.roles import ROLES, Shares, fraction_of, is_audited, role_of

GROUPS = [f"clip-{number}" for number in range(20_000)]


def test_a_role_is_fixed_by_group_and_key() -> None:
    """Golden: a change of the hash would move every device's groups to other roles."""
    roles = [role_of(f"clip-{number}", key="secret") for number in range(6)]
    assert roles == ["train", "test", "train", "tuning", "certification", "train"]
    assert fraction_of("clip-0", "secret") == 0.04910543294018155


def test_another_key_gives_other_roles() -> None:
    same = sum(role_of(group, key="a") == role_of(group, key="b") for group in GROUPS[:2000])
    assert same < 1000


def test_shares_come_out_as_asked() -> None:
    shares = Shares(train=0.4, tuning=0.15, gate=0.05, certification=0.3, test=0.1)
    roles = [role_of(group, key="k", shares=shares) for group in GROUPS]
    for role in ROLES:
        assert roles.count(role) / len(GROUPS) == pytest.approx(getattr(shares, role), abs=0.012)


def test_a_role_without_a_share_is_never_given() -> None:
    shares = Shares(train=0.0, tuning=0.5, gate=0.0, certification=0.5, test=0.0)
    assert {role_of(group, key="k", shares=shares) for group in GROUPS[:500]} == {"tuning", "certification"}


def test_shares_that_do_not_sum_to_one_are_refused() -> None:
    with pytest.raises(ValueError, match=r"sum to 1\.1, not to 1"):
        Shares(train=0.6)
    with pytest.raises(msgspec.ValidationError, match="sum to"):
        msgspec.convert({"train": 0.6}, Shares)


@given(st.text(max_size=30), st.text(max_size=30), st.text(max_size=10))
def test_a_fraction_is_below_one_and_repeats(group: str, key: str, salt: str) -> None:
    fraction = fraction_of(group, key, salt)
    assert 0.0 <= fraction < 1.0
    assert fraction == fraction_of(group, key, salt)


def test_salts_are_independent() -> None:
    low = [group for group in GROUPS if fraction_of(group, "k", "role") < 0.1]
    assert sum(fraction_of(group, "k", "audit") < 0.5 for group in low) / len(low) == pytest.approx(0.5, abs=0.05)


def test_audits_are_as_frequent_as_promised_and_never_at_zero() -> None:
    assert sum(is_audited(group, key="k", rate=0.02) for group in GROUPS) / len(GROUPS) == pytest.approx(
        0.02, abs=0.003
    )
    assert not any(is_audited(group, key="k", rate=0.0) for group in GROUPS[:1000])
    assert all(is_audited(group, key="k", rate=1.0) for group in GROUPS[:1000])


def test_a_higher_rate_keeps_the_audits_of_a_lower_one() -> None:
    low = {group for group in GROUPS if is_audited(group, key="k", rate=0.01)}
    assert low <= {group for group in GROUPS if is_audited(group, key="k", rate=0.05)}
