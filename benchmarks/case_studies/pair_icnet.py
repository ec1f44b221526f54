"""pooruss/ICNet-paddle against liminn/ICNet-pytorch, as a pair file of stdc-align."""

from drawn import images, labelled

from stdc_parity.align.pair import LossPart, OptimizerPart, Pair, PlainMetric, Recipe

OUTPUTS = ("logits", "logits4", "logits8", "logits16")
STAGES = ("conv_sub1", "pretrained.conv1", "pretrained.bn1", "pretrained.layer1", "pretrained.layer2",
          "pretrained.layer3", "pretrained.layer4", "ppm", "head.cff_24", "head.cff_12", "head.conv_cls")  # fmt: skip

PAIR = Pair(
    name="icnet",
    builders={"torch": "icnet_torch:build", "paddle": "icnet_paddle:build"},
    outputs=OUTPUTS,
    stages=STAGES,
    inputs=images,
    recipe=Recipe(
        loss=LossPart({"torch": "icnet_torch:Loss", "paddle": "icnet_paddle:Loss"}),
        optimizer=OptimizerPart(
            {"torch": "icnet_torch:build_optimizer", "paddle": "icnet_paddle:build_optimizer"},
            iterations=85_000,
            short=lambda lr, warmup, iterations: {"lr": lr, "iterations": iterations},
        ),
        metric=PlainMetric({"torch": "icnet_torch:metric", "paddle": "icnet_paddle:metric"}),
        case=labelled(-1),
        num_classes=19,
        ignored=-1,
    ),
)
