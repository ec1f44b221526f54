"""The two checkouts beside this file as a pair: stdc-align all --pair examples/pair.py."""

from stdc_parity.align.pair import LossPart, Pair, PlainData, PlainMetric, PlainOptimizer, Recipe


def both(where: str) -> dict[str, str]:
    """The same place in both checkouts, each of which has a package `models`."""
    return {"torch": where, "paddle": where}


PAIR = Pair(
    name="classifier",
    builders=both("models.net:Net"),
    arguments={"classes": 5, "width": 8},
    inputs="4x3x32x48",
    outputs=("logits",),
    paths={"torch": "torch_checkout", "paddle": "paddle_checkout"},
    recipe=Recipe(
        loss=LossPart(both("models.train:loss")),
        optimizer=PlainOptimizer(both("models.train:optimizer"), iterations=50),
        metric=PlainMetric(both("models.train:accuracy")),
        data=PlainData(both("models.train:loader")),
        target="4:int64:0..4",
    ),
)
