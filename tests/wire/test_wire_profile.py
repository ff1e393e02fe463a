"""A device profile: bounded, typed, and strict about what it does not know."""

import jsonschema
import msgspec
import pytest

from outrider_wire.errors import OperatorConfigError
from outrider_wire.profile import Profile, parse_profile

SMALL = 'name = "board"\n[hardware]\narch = "aarch64"\n'


def test_a_name_and_an_architecture_are_enough() -> None:
    profile = parse_profile(SMALL, "board.toml")
    assert profile.runtime.providers == ["CPUExecutionProvider"]
    assert not profile.thermal.enabled


@pytest.mark.parametrize(
    ("text", "says"),
    [
        (SMALL + "[runtime]\nthreds = 2\n", "did you mean 'threads'"),
        (SMALL + "[runtime]\nthreads = 0\n", "board.toml:5"),
        (SMALL + '[runtime]\nproviders = ["CUDA"]\n', "providers"),
        (SMALL + "[runtime]\nproviders = []\n", "providers"),
        (SMALL + '[runtime]\nrequired = ["CUDAExecutionProvider"]\n', "runtime.required names CUDAExecutionProvider"),
        (SMALL + '[runtime]\nprecisions = ["int8", "int8"]\n', "names one twice"),
        (SMALL + '[runtime]\nprecisions = ["int3"]\n', "precisions"),
        (SMALL + '[storage]\ndata_dir = "var/lib"\n', "data_dir"),
        (SMALL + '[storage]\ndata_dir = "/var/../etc/$x"\n', "data_dir"),
        (SMALL + "[thermal]\nthrottle_c = 800.0\n", "throttle_c"),
        (SMALL + "[thermal]\nleast_duty = 0.0\n", "least_duty"),
        ('name = "Board 1"\n[hardware]\narch = "aarch64"\n', "name"),
        ('name = "board"\n[hardware]\narch = "riscv"\n', "arch"),
        ('name = "board"\n', "hardware"),
    ],
)
def test_a_mistake_is_told_with_the_way_out(text: str, says: str) -> None:
    with pytest.raises(OperatorConfigError) as caught:
        parse_profile(text, "board.toml")
    assert says in str(caught.value)


def test_the_published_schema_takes_what_the_parser_takes_and_refuses_unknown_keys() -> None:
    schema = msgspec.json.schema(Profile)
    jsonschema.Draft202012Validator.check_schema(schema)
    good = msgspec.to_builtins(parse_profile(SMALL, "board.toml"))
    jsonschema.validate(good, schema)
    with pytest.raises(jsonschema.ValidationError):
        jsonschema.validate(good | {"colour": "red"}, schema)
