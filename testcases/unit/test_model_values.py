import pytest

from harness.model.deadline import Deadline
from harness.model.memory import GpaRange, coalesce
from harness.model.seed import Seed


def test_sub_seeds_depend_on_seed_and_name_only() -> None:
    assert Seed(7).sub("fault", 1) == Seed(7).sub("fault", 1)
    assert len({Seed(7).sub("fault", 1), Seed(7).sub("fault", 2), Seed(8).sub("fault", 1), Seed(7).sub("load", 1)}) == 4
    assert Seed(7).rng("a").random() == Seed(7).rng("a").random()


def test_a_seed_has_64_bits() -> None:
    with pytest.raises(ValueError, match="64 bits"):
        Seed(1 << 64)


def test_an_inner_deadline_never_outlives_the_outer() -> None:
    outer = Deadline.after(1)
    assert outer.within(100) == outer
    assert outer.within(0).has_passed
    assert Deadline.after(-5).left_s == 0.0


def test_pages_coalesce_into_maximal_ranges() -> None:
    assert coalesce([0x3000, 0x1000, 0x2000, 0x9000, 0x1000]) == (GpaRange(0x1000, 0x4000), GpaRange(0x9000, 0xA000))
    assert coalesce([]) == ()
    assert GpaRange(0x1000, 0x4000).pages == 3
    assert str(GpaRange(0x1000, 0x4000)) == "0x1000-0x3fff"
