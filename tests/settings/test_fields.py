"""Settings as fields: their limits, and what a command line makes of them."""

import math
from dataclasses import dataclass
from typing import Any, Literal

import pytest

from settings.fields import check, documented, neutral_values, setting, settings_in


@documented
@dataclass
class Sawing:
    """How planks are sawn."""

    teeth: int = setting(40, "of the blade", least=2)
    speed: float = setting(1.0, "of the blade, of its greatest", above=0, most=1, neutral=1.0, swept=True)
    grain: Literal["along", "across"] | None = setting(None, "the direction; any where left out")

    def __post_init__(self) -> None:
        check(self)


@dataclass
class Mitring(Sawing):
    angle: float = 45.0


@pytest.mark.parametrize(
    ("given", "says"),
    [
        ({"teeth": 1}, "teeth must be at least 2, not 1"),
        ({"speed": 0.0}, "speed must be above 0, not 0.0"),
        ({"speed": 1.5}, "speed must be at most 1, not 1.5"),
        ({"speed": math.nan}, "speed must be a finite number, not nan"),
        ({"grain": "askew"}, "grain must be along or across, not 'askew'"),
        ({"angle": math.inf}, "angle must be a finite number, not inf"),
    ],
)
def test_a_value_beyond_its_limits_is_named(given: dict[str, Any], says: str) -> None:
    with pytest.raises(ValueError, match=f"^{says}$"):
        Mitring(**given)


def test_values_at_their_limits_pass() -> None:
    assert vars(Sawing(2, 1.0, "along")) == {"teeth": 2, "speed": 1.0, "grain": "along"}


def test_a_command_line_reads_who_declares_a_field_and_of_which_kind_it_is() -> None:
    found = [(each.owner, each.name, each.kind, each.choices, each.swept) for each in settings_in(Mitring)]
    assert found == [
        (Sawing, "teeth", int, None, False),
        (Sawing, "speed", float, None, True),
        (Sawing, "grain", str, ("along", "across"), False),
        (Mitring, "angle", float, None, False),
    ]
    assert neutral_values([Mitring]) == {"speed": 1.0}


def test_a_field_that_no_flag_can_give_is_named() -> None:
    @dataclass
    class Gluing:
        joints: list[int] | None = None

    with pytest.raises(TypeError, match=r"Gluing.joints: a setting is a bool, int, float, str or Literal"):
        settings_in(Gluing)


def test_help_is_read_from_the_docstring() -> None:
    assert Sawing.__doc__ is not None
    assert "\n\nArgs:\n    teeth: of the blade\n    speed: of the blade, of its greatest\n" in Sawing.__doc__
