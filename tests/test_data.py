"""Datasets and loaders of both twins on generated scenes."""

import numpy as np
import paddle
import pytest
import torch
from PIL import Image

from stdc_parity.fixtures.scenes import CLASSES, write_context_scenes, write_scenes
from stdc_parity.models_paddle import data as paddle_data
from stdc_parity.models_paddle import transforms as paddle_transforms
from stdc_parity.models_torch import data as torch_data
from stdc_parity.models_torch import transforms as torch_transforms

DATA = {"torch": torch_data, "paddle": paddle_data}
STEPS = {"torch": torch_transforms.training_steps, "paddle": paddle_transforms.training_steps}


@pytest.fixture(scope="module")
def scenes(tmp_path_factory):
    root = tmp_path_factory.mktemp("cityscapes")
    write_scenes(root, 5, (48, 96), split="val")
    write_scenes(root, 4, (48, 96), seed=1, split="train", city="bern")
    write_scenes(root, 3, (48, 96), seed=2, split="train", city="aachen")
    return root


def test_label_ids_become_train_ids():
    wanted = {
        7: 0,
        8: 1,
        11: 2,
        12: 3,
        13: 4,
        17: 5,
        19: 6,
        20: 7,
        21: 8,
        22: 9,
        23: 10,
        24: 11,
        25: 12,
        26: 13,
    }
    wanted |= {27: 14, 28: 15, 31: 16, 32: 17, 33: 18}
    for module in DATA.values():
        ids = np.array([[*range(34), 255]], dtype=np.uint8)
        converted = module.train_ids(ids)
        assert converted.dtype == np.int64
        assert converted.tolist() == [[wanted.get(i, 255) for i in ids[0].tolist()]]
        with pytest.raises(ValueError, match=r"label ids \[34, 254\] do not exist"):
            module.train_ids(np.array([[34, 7, 254, 34]], dtype=np.uint8))
        for label, (_, train_id, _) in CLASSES.items():
            assert module.label_table()[label] == train_id


def test_validation_samples(scenes):
    sides = {side: module.Cityscapes(scenes, "val") for side, module in DATA.items()}
    assert isinstance(sides["torch"], torch.utils.data.Dataset)
    assert isinstance(sides["paddle"], paddle.io.Dataset)
    for side, dataset in sides.items():
        assert len(dataset) == 5
        image, label = dataset[2]
        raw_image, raw_label = dataset.pairs[2]
        assert (image.dtype, image.shape) == (np.float32, (3, 48, 96)), side
        assert (label.dtype, label.shape) == (np.int64, (1, 48, 96)), side
        assert np.array_equal(label[0], DATA[side].train_ids(np.array(Image.open(raw_label))))
        pixels = np.array(Image.open(raw_image), dtype=np.float64).transpose(2, 0, 1) / 255
        mean, std = np.array([0.485, 0.456, 0.406]), np.array([0.229, 0.224, 0.225])
        np.testing.assert_allclose(image, (pixels - mean[:, None, None]) / std[:, None, None], atol=1e-6)
    for a, b in zip(sides["torch"], sides["paddle"], strict=False):
        assert all(np.array_equal(x, y) for x, y in zip(a, b, strict=True))


def test_files_are_in_order_of_their_names(scenes):
    for module in DATA.values():
        names = [image.name for image, _ in module.Cityscapes(scenes, "train").pairs]
        assert len(names) == 7
        assert names == sorted(names)
        assert names[0].startswith("aachen_000002_000000_leftImg8bit")
        both = module.Cityscapes(scenes, "trainval")
        assert [image.name for image, _ in both.pairs[:7]] == names
        assert len(both) == 12
        for image, label in both.pairs:
            assert image.name.split("_leftImg8bit")[0] == label.name.split("_gtFine")[0]


def test_traces_agree_after_every_transform(scenes):
    sides = [DATA[side].Cityscapes(scenes, "train", STEPS[side]((40, 24)), seed=3) for side in DATA]
    stages = ["open", "color_jitter", "flip", "scale", "crop", "final"]
    crops = set()
    for index in range(7):
        a, b = (dataset.trace(index) for dataset in sides)
        assert list(a) == list(b) == [f"{stage}.{part}" for stage in stages for part in ("image", "label")]
        assert all(np.array_equal(a[name], b[name]) for name in a)
        assert a["crop.image"].shape == (24, 40, 3)
        assert not np.array_equal(a["open.image"], a["color_jitter.image"])
        for dataset in sides:
            image, label = dataset[index]
            assert np.array_equal(image, a["final.image"])
            assert np.array_equal(label, a["final.label"])
        crops.add(a["final.image"].tobytes())
        sides[0].epoch = 1
        assert not np.array_equal(sides[0].trace(index)["final.image"], a["final.image"])
        sides[0].epoch = 0
    assert len(crops) == 7


def test_list_files_are_the_same_samples(scenes, tmp_path):
    spaced = tmp_path / "spaced.txt"
    spaced.write_text("\n" + (scenes / "val.list").read_text().replace(",", "  "))
    for module in DATA.values():
        wanted = [module.Cityscapes(scenes, "val")[i] for i in range(5)]
        for list_file in (scenes / "val.list", spaced):
            dataset = module.ListFile(scenes, list_file)
            assert len(dataset) == 5
            for i in range(5):
                assert all(np.array_equal(x, y) for x, y in zip(dataset[i], wanted[i], strict=True))
        ids = tmp_path / "ids.txt"
        ids.write_text((scenes / "val.list").read_text().replace("labelTrainIds", "labelIds"))
        assert np.array_equal(module.ListFile(scenes, ids, label_ids=True)[1][1], wanted[1][1])
        assert not np.array_equal(module.ListFile(scenes, ids)[1][1], wanted[1][1])


@pytest.mark.parametrize("side", DATA)
def test_clear_errors(side, tmp_path):
    module = DATA[side]
    with pytest.raises(FileNotFoundError, match=r"leftImg8bit.val is no directory"):
        module.Cityscapes(tmp_path, "val")
    with pytest.raises(ValueError, match="split is 'validation'"):
        module.Cityscapes(tmp_path, "validation")
    names = write_scenes(tmp_path, 3, (32, 64))
    image = next(tmp_path.glob(f"leftImg8bit/*/*/{names[0]}*"))
    label = next(tmp_path.glob(f"gtFine/*/*/{names[1]}*labelIds.png"))
    kept = label.read_bytes()
    label.unlink()
    with pytest.raises(FileNotFoundError, match=rf"without label: .*{names[1]}_leftImg8bit.png"):
        module.Cityscapes(tmp_path)
    Image.new("L", (64, 32), 99).save(label)
    with pytest.raises(ValueError, match=rf"{names[1]}_gtFine_labelIds.png: label ids \[99\] do not exist"):
        module.Cityscapes(tmp_path)[1]
    Image.new("L", (32, 32)).save(label)
    with pytest.raises(ValueError, match=r"is \(64, 32\), .* is \(32, 32\)"):
        module.Cityscapes(tmp_path)[1]
    Image.new("RGB", (64, 32)).save(label)
    with pytest.raises(ValueError, match="has mode RGB"):
        module.Cityscapes(tmp_path)[1]
    label.write_bytes(kept)
    image.unlink()
    with pytest.raises(FileNotFoundError, match=f"{names[0]}_gtFine_labelIds.png"):
        module.Cityscapes(tmp_path)
    with pytest.raises(FileNotFoundError, match=rf"names missing files: .*{names[0]}_leftImg8bit.png"):
        module.ListFile(tmp_path, tmp_path / "val.list")
    (tmp_path / "bad.list").write_text("a.png,b.png,c.png\n")
    with pytest.raises(ValueError, match=r"line 1: 'a.png,b.png,c.png' is not an image and a label"):
        module.ListFile(tmp_path, tmp_path / "bad.list")


@pytest.mark.parametrize("workers", [0, 1])
def test_loaders_give_the_same_batches(scenes, workers):
    sides = {side: DATA[side].Cityscapes(scenes, "train", STEPS[side]((40, 24))) for side in DATA}
    for epoch, drop_last in ((0, True), (1, False)):
        made = {}
        for side, dataset in sides.items():
            loader = DATA[side].loader(
                dataset, 3, 9, epoch, shuffle=True, drop_last=drop_last, num_workers=workers
            )
            made[side] = [(images.numpy(), labels.numpy()) for images, labels in loader]
            assert len(made[side]) == len(loader) == (2 if drop_last else 3)
        for a, b in zip(made["torch"], made["paddle"], strict=True):
            assert all(np.array_equal(x, y) and x.dtype == y.dtype for x, y in zip(a, b, strict=True))
        order = torch_data.batches(7, 3, 9, epoch, shuffle=True)
        images, labels = made["torch"][0]
        assert images.shape == (3, 3, 24, 40)
        assert labels.shape == (3, 1, 24, 40)
        assert np.array_equal(images[1], sides["torch"][order[0][1]][0])


def test_batches():
    for module in DATA.values():
        assert module.batches(5, 2) == [[0, 1], [2, 3], [4]]
        assert module.batches(5, 2, drop_last=True) == [[0, 1], [2, 3]]
        assert module.batches(4, 2, drop_last=True) == [[0, 1], [2, 3]]
        assert module.batches(0, 2, drop_last=True) == []
        first, second = (
            [i for batch in module.batches(20, 3, 1, epoch, shuffle=True) for i in batch] for epoch in (0, 1)
        )
        assert first != second
        assert sorted(first) == sorted(second) == list(range(20))
        assert module.batches(20, 3, 1, 0, shuffle=True) == torch_data.batches(20, 3, 1, 0, shuffle=True)


# --- Pascal Context ---------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def context(tmp_path_factory):
    root = tmp_path_factory.mktemp("context")
    write_context_scenes(root, 3, (48, 96), split="val")
    write_context_scenes(root, 2, (48, 96), seed=1, split="train")
    return root


def test_contexts_labels_become_train_ids():
    labels = np.array([[0, 1, 2, 58, 59, 255]], dtype=np.uint8)
    for module in DATA.values():
        assert module.context_ids(labels, 60).tolist() == [[0, 1, 2, 58, 59, 255]]
        assert module.context_ids(labels, 59).tolist() == [[255, 0, 1, 57, 58, 255]]
        assert module.context_ids(labels, 59).dtype == np.int64
        with pytest.raises(ValueError, match=r"labels \[60, 254\] do not exist, Pascal Context has 0\.\.59"):
            module.context_ids(np.array([[60, 3, 254]], dtype=np.uint8), 59)
        with pytest.raises(ValueError, match="num_classes is 19, Pascal Context has 59, or 60"):
            module.context_ids(labels, 19)


@pytest.mark.parametrize("classes", [59, 60])
def test_context_samples(context, classes):
    sides = [module.PascalContext(context, "val", classes) for module in DATA.values()]
    seen = set()
    for ours, theirs in zip(*(map(side.__getitem__, range(3)) for side in sides), strict=True):
        assert all(np.array_equal(a, b) and a.dtype == b.dtype for a, b in zip(ours, theirs, strict=True))
        assert ours[0].shape == (3, 48, 96) and ours[1].shape == (1, 48, 96)
        seen |= set(np.unique(ours[1]).tolist())
    assert 255 in seen and max(seen - {255}) == classes - 1 and (0 in seen) == (classes == 60)
    with Image.open(sides[0].pairs[0][1]) as file:
        assert ((np.array(file) == 0) == (sides[0][0][1][0] == (255 if classes == 59 else 0))).mean() > 0.9


def test_context_training_samples_agree(context):
    ours, theirs = (
        module.PascalContext(context, "train", 59, STEPS[side]((32, 32)), seed=4) for side, module in DATA.items()
    )
    assert len(ours) == 2
    for index in range(2):
        one, other = ours.trace(index), theirs.trace(index)
        assert one.keys() == other.keys() and all(np.array_equal(one[name], other[name]) for name in one)


def test_contexts_other_layout_is_found_too(context, tmp_path):
    (tmp_path / "ImageSets/SegmentationContext").mkdir(parents=True)
    (tmp_path / "ImageSets/SegmentationContext/val.txt").write_text("\n\nval_000000_000001\n")
    (tmp_path / "JPEGImages").symlink_to(context / "JPEGImages")
    (tmp_path / "SegmentationClassContext").symlink_to(context / "Context")
    for module in DATA.values():
        (image, label), = [module.PascalContext(tmp_path, "val")[0]]  # fmt: skip
        assert np.array_equal(label, module.PascalContext(context, "val")[1][1]) and image.dtype == np.float32


def test_contexts_lists_are_checked(context, tmp_path):
    lists = tmp_path / "ImageSets/Segmentation"
    lists.mkdir(parents=True)
    for module in DATA.values():
        with pytest.raises(FileNotFoundError, match=r"neither .*test_context\.txt nor .*test\.txt is there"):
            module.PascalContext(context, "test")
        (lists / "val_context.txt").write_text("one\ntwo\n")
        with pytest.raises(FileNotFoundError, match=r"val_context\.txt names missing files: .*one\.jpg"):
            module.PascalContext(tmp_path, "val")
        (lists / "val_context.txt").write_text("../one\n")
        with pytest.raises(ValueError, match=r"val_context\.txt: '\.\./one' is not the name of an image"):
            module.PascalContext(tmp_path, "val")
