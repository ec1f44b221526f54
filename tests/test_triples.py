"""Three port bugs at once: triples whose bugs would hide one another, and the drawing of triples."""

from collections.abc import Iterator, Mapping
from itertools import islice

import pytest
from click.testing import CliRunner

from stdc_parity.align import triples
from stdc_parity.align.sides import SideProcess, open_sides
from stdc_parity.cli import align
from stdc_parity.fixtures.portbugs.catalogue import ENTRIES

TRIPLES = [
    ("one-element-off", "idle-head-left-out", "arm-gate-detached"),  # weights, forward, backward
    ("bgr", "flip-image-only", "mean-std-half"),  # three transforms, one behind the other
    ("jitter-order", "norm-frozen", "epoch-not-set"),  # a transform, statistics, the loader
    ("conv-with-bias", "norm-eps-weak", "norm-momentum-copied"),  # a tensor that only one side has
    ("residual-after-relu", "gate-half-detached", "pyramid-order"),  # two in forward, one in backward
]


@pytest.fixture(scope="module")
def processes() -> Iterator[Mapping[str, SideProcess]]:
    with open_sides(("torch", "paddle"), 1) as opened:
        yield opened


@pytest.mark.parametrize("ids", TRIPLES, ids=lambda ids: " + ".join(ids))
def test_all_three_are_named(ids: tuple[str, ...], processes: Mapping[str, SideProcess]) -> None:
    entries = [ENTRIES[name] for name in ids]
    assert all(triples.independent(a, b) for i, a in enumerate(entries) for b in entries[:i])
    triple = triples.plant_three(processes, entries)  # type: ignore[arg-type]
    assert triple is not None
    assert (triple.named, triple.besides) == ([True] * 3, [])


def test_bugs_that_replace_the_same_thing_are_not_planted_together(
    processes: Mapping[str, SideProcess],
) -> None:
    both = [ENTRIES["mean-std-half"], ENTRIES["std-forgotten"]]
    for _ in range(2):  # no answer is left over for the next job
        assert triples.plant_three(processes, both) is None  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("a", "b", "expected"),
    [
        ("arm-max-for-mean", "norm-eps-wide", False),  # cp.arm16 and a norm within it
        ("arm-max-for-mean", "arm-norm-forgotten", True),
        ("input-bgr", "conv-dilated", False),  # the network and a layer of it
        ("input-bgr", "bgr", True),
        ("stem-bgr", "one-element-off", False),  # both change weights
        ("mean-std-half", "std-forgotten", False),  # the same place
    ],
)
def test_independent(a: str, b: str, expected: bool) -> None:
    assert triples.independent(ENTRIES[a], ENTRIES[b]) is expected
    assert triples.independent(ENTRIES[b], ENTRIES[a]) is expected


def test_draws_are_of_one_subject_and_repeatable() -> None:
    drawn = list(islice(triples.draw(0), 50))
    assert drawn == list(islice(triples.draw(0), 50)) != list(islice(triples.draw(1), 50))
    assert all(len({entry.subject for entry in triple}) == 1 for triple in drawn)
    assert len({entry.stage for triple in drawn for entry in triple}) >= 5


def test_a_tally_that_is_not_good_enough_fails() -> None:
    good = triples.Triple(TRIPLES[0], [True] * 3, [])
    bad = triples.Triple(TRIPLES[0], [True, False, True], ["data: open"])
    assert triples.Tally([good] * 9 + [bad]) and not triples.Tally([good] * 8 + [bad])
    lines = "\n".join(triples.describe(triples.Tally([bad])))
    assert "MISSED  idle-head-left-out" in lines and "data: open" in lines


def test_the_command_plants_triples_or_what_is_named() -> None:
    assert CliRunner().invoke(align, ["selftest", "bgr", "--triples", "1"]).exit_code == 2
    result = CliRunner().invoke(align, ["selftest", "--triples", "1", "--seed", "2"])
    assert result.exit_code == 0 and "1 triples: all three named in 100%" in result.output
