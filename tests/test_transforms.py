"""Training transforms: they agree on both sides to the bit, and do what upstream's do."""

from random import Random

import numpy as np
import pytest
from PIL import Image

from stdc_parity.models_paddle import transforms as paddle_transforms
from stdc_parity.models_torch import transforms as torch_transforms

SIDES = {"torch": torch_transforms, "paddle": paddle_transforms}


def sample(module, width=60, height=40):
    rng = np.random.default_rng(0)
    image = Image.fromarray(rng.integers(0, 256, (height, width, 3), dtype=np.uint8))
    label = np.arange(height * width).reshape(height, width) % 250 + 1
    return module.Sample(image, Image.fromarray(label.astype(np.uint8)))


class Fixed:
    """A stream whose draws are given."""

    def __init__(self, *draws):
        self.draws = list(draws)

    def random(self):
        return self.draws.pop(0)

    def uniform(self, low, high):
        assert (low, high) == (0.5, 1.5)
        return self.draws.pop(0)

    def choice(self, values):
        return values[self.draws.pop(0)]


def test_the_stream_is_pinned():
    """Python documents random() of a str seed as stable; a record of one side is read with another Python."""
    for module in SIDES.values():
        assert module.choices(3, 1, 4).random() == Random("3/1/4").random()
        assert module.choices(0, 0, 0).random() == 0.5013997148167615
        draws = {module.choices(*key).random() for key in ((0, 0, 0), (0, 0, 1), (0, 1, 0), (1, 0, 0))}
        assert len(draws) == 4


@pytest.mark.parametrize("side", SIDES)
def test_color_jitter(side):
    """Brightness scales, contrast pulls to the mean grey, saturation to each pixel's grey, in this order."""
    module = SIDES[side]
    given = sample(module)
    done = module.ColorJitter()(given, Fixed(0.5, 1.5, 0.75))
    assert done.label is given.label
    pixels = np.array(given.image, dtype=np.float64) * 0.5
    grey = pixels @ [0.299, 0.587, 0.114]
    pixels = np.clip(grey.mean() + 1.5 * (pixels - grey.mean()), 0, 255)
    grey = pixels @ [0.299, 0.587, 0.114]
    pixels = grey[..., None] + 0.75 * (pixels - grey[..., None])
    assert np.abs(np.array(done.image) - pixels).max() < 3
    same = module.ColorJitter()(given, Fixed(1.0, 1.0, 1.0))
    assert np.array_equal(same.image, given.image)


@pytest.mark.parametrize("side", SIDES)
@pytest.mark.parametrize(("draw", "mirrored"), [(0.49, True), (0.5, True), (0.51, False)])
def test_flip(side, draw, mirrored):
    module = SIDES[side]
    given = sample(module)
    done = module.HorizontalFlip()(given, Fixed(draw))
    for before, after in zip(given, done, strict=True):
        wanted = np.array(before)[:, ::-1] if mirrored else np.array(before)
        assert np.array_equal(after, wanted)


@pytest.mark.parametrize("side", SIDES)
def test_scale_is_pil_and_labels_stay_labels(side):
    module = SIDES[side]
    given = sample(module, 61, 41)
    done = module.RandomScale((0.375,))(given, Fixed(0))
    assert done.image.size == done.label.size == (22, 15)
    rows = [int((i + 0.5) * 41 / 15) for i in range(15)]
    columns = [int((j + 0.5) * 61 / 22) for j in range(22)]
    assert np.array_equal(done.label, np.array(given.label)[rows][:, columns])
    assert np.array_equal(done.image, given.image.resize((22, 15), Image.Resampling.BILINEAR))


@pytest.mark.parametrize("side", SIDES)
@pytest.mark.parametrize(
    ("size", "crop", "enlarged", "place"),
    [
        ((60, 40), (60, 40), None, None),  # nothing is drawn
        ((60, 40), (30, 20), None, (15, 16)),
        ((60, 40), (64, 50), (76, 51), (6, 0)),  # wide: the height decides
        ((40, 60), (50, 64), (51, 76), (0, 9)),  # tall: the width decides
        ((60, 40), (90, 32), (49, 33), (-20, 0)),  # it even shrinks, and the crop reaches outside
    ],
)
def test_crop(side, size, crop, enlarged, place):
    module = SIDES[side]
    given = sample(module, *size)
    stream = Fixed() if place is None else Fixed(0.5, 0.8)
    done = module.RandomCrop(crop)(given, stream)
    assert stream.draws == []
    assert done.image.size == done.label.size == crop
    left, top = place or (0, 0)
    for before, after, mode in zip(given, done, ("BILINEAR", "NEAREST"), strict=True):
        source = before.resize(enlarged, Image.Resampling[mode]) if enlarged else before
        wanted = np.zeros_like(np.array(after))
        inside = np.array(source)[top : top + crop[1], max(left, 0) : left + crop[0]]
        wanted[: inside.shape[0], max(-left, 0) : max(-left, 0) + inside.shape[1]] = inside
        assert np.array_equal(after, wanted)


def test_normalisation_has_torchvisions_bits():
    """uint8 to float32, / 255, - mean, / deviation in torch: every value in every channel."""
    torch = pytest.importorskip("torch")
    values = np.arange(256, dtype=np.uint8).reshape(1, 256, 1).repeat(3, axis=2)
    tensor = torch.from_numpy(values.copy()).permute(2, 0, 1).contiguous().to(torch.float32).div(255)
    mean, std = (torch.tensor(x)[:, None, None] for x in ((0.485, 0.456, 0.406), (0.229, 0.224, 0.225)))
    wanted = tensor.sub_(mean).div_(std).numpy()
    for module in SIDES.values():
        found = module.to_array(Image.fromarray(values))
        assert (found.dtype, found.shape, found.flags.c_contiguous) == (np.float32, (3, 1, 256), True)
        assert np.array_equal(found, wanted)


def test_the_recipe():
    for module in SIDES.values():
        assert module.CROP == (1024, 512)
        assert tuple(i / 8 for i in range(1, 13)) == module.SCALES
        assert [name for name, _ in module.training_steps()] == ["color_jitter", "flip", "scale", "crop"]
