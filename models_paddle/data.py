"""Datasets and the loader: Cityscapes, PaddleSeg's list files (upstream: cityscapes.py), Pascal Context.

Samples are numpy arrays, which either loader makes tensors of: (image float32 (3, h, w), label int64 (1, h,
w) of train ids, 255 ignored). The order of a loader and the random choices in a sample follow from a seed by
code that needs no framework, so both sides of a twin agree.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path
from random import Random

import numpy as np
from paddle.io import BatchSampler, DataLoader, Dataset
from PIL import Image

from stdc_parity.models_paddle.transforms import Sample, Step, choices, to_array

#: Train ids 0..18 in order: their label ids (cityscapesScripts' labels.py). Other ids are ignored.
TRAINED_IDS = (7, 8, 11, 12, 13, 17, 19, 20, 21, 22, 23, 24, 25, 26, 27, 28, 31, 32, 33)
#: Label ids 0..33 exist; 255 in a file stays 255.
NUM_IDS = 34
IGNORED = 255
#: Pascal Context's label files: 0 is background, 1..59 are the classes (PaddleSeg's tools/data/convert_voc2010.py,
#: after Zhang Hang's PyTorch-Encoding).
CONTEXT_CLASSES = 59
#: Where the list and the labels of a split are: PaddleSeg's way, then mmsegmentation's.
CONTEXT_PLACES = (
    ("ImageSets/Segmentation/{split}_context.txt", "Context"),
    ("ImageSets/SegmentationContext/{split}.txt", "SegmentationClassContext"),
)


def label_table() -> np.ndarray:
    """Train id of each label id 0..255, 255 where ignored, -1 where there is no such label: int64 (256,)."""
    table = np.full(256, -1, dtype=np.int64)
    table[:NUM_IDS] = IGNORED
    table[IGNORED] = IGNORED
    table[list(TRAINED_IDS)] = np.arange(len(TRAINED_IDS))
    return table


def train_ids(label_ids: np.ndarray) -> np.ndarray:
    """Label ids uint8 (h, w) as train ids int64 (h, w).

    Raises ValueError for an id that Cityscapes does not have (upstream passes it on to the loss).
    """
    converted = label_table()[label_ids]
    if (converted < 0).any():
        wrong = np.unique(label_ids[converted < 0])
        raise ValueError(f"label ids {wrong.tolist()} do not exist, Cityscapes has 0..{NUM_IDS - 1}")
    return converted


def context_ids(labels: np.ndarray, num_classes: int) -> np.ndarray:
    """Pascal Context's labels uint8 (h, w) as train ids int64 (h, w), 255 ignored.

    With 60 classes the background is class 0 (PaddleSeg); with 59 it is ignored, and class 1 of the files is 0
    (FastFCN, mmsegmentation). Raises ValueError for another number, or for a label that there is not.
    """
    if num_classes not in (CONTEXT_CLASSES, CONTEXT_CLASSES + 1):
        raise ValueError(f"num_classes is {num_classes}, Pascal Context has 59, or 60 with the background")
    wrong = np.unique(labels[(labels > CONTEXT_CLASSES) & (labels != IGNORED)])
    if wrong.size:
        raise ValueError(f"labels {wrong.tolist()} do not exist, Pascal Context has 0..{CONTEXT_CLASSES}")
    ids = labels.astype(np.int64)
    if num_classes > CONTEXT_CLASSES:
        return ids
    return np.where((ids == 0) | (ids == IGNORED), IGNORED, ids - 1)


class SegmentationData(Dataset):
    """Pairs of image and label files, the transforms named in `steps`, and the conversion to arrays.

    `seed`, `epoch` (an attribute that the training loop or `loader` sets) and the index decide all choices.
    `label_ids` says that the label files hold label ids, to be converted, and not train ids.
    """

    def __init__(
        self, pairs: Sequence[tuple[Path, Path]], label_ids: bool, steps: Sequence[Step] = (), seed: int = 0
    ) -> None:
        super().__init__()
        self.pairs = list(pairs)
        self.label_ids = label_ids
        self.steps = tuple(steps)
        self.seed = seed
        self.epoch = 0

    def __len__(self) -> int:
        """How many pairs there are."""
        return len(self.pairs)

    def open(self, index: int) -> Sample:
        """The pair as it is on disk; raises ValueError if the sizes differ or the label is not 8-bit."""
        image_path, label_path = self.pairs[index]
        sample = Sample(Image.open(image_path).convert("RGB"), Image.open(label_path))
        if sample.image.size != sample.label.size:
            raise ValueError(f"{image_path} is {sample.image.size}, {label_path} is {sample.label.size}")
        if sample.label.mode not in ("L", "P"):
            raise ValueError(
                f"{label_path} has mode {sample.label.mode}, labels are 8-bit grey or palette images"
            )
        return sample

    def stages(self, index: int) -> Iterator[tuple[str, Sample]]:
        """The sample after opening ("open") and after each step, by name."""
        sample = self.open(index)
        yield "open", sample
        random = choices(self.seed, self.epoch, index)
        for name, step in self.steps:
            sample = step(sample, random)
            yield name, sample

    def to_train_ids(self, label: np.ndarray) -> np.ndarray:
        """A label file's pixels uint8 (h, w) as train ids int64 (h, w); raises ValueError for one there is not."""
        return train_ids(label) if self.label_ids else label.astype(np.int64)

    def to_arrays(self, sample: Sample, index: int) -> tuple[np.ndarray, np.ndarray]:
        """Image float32 (3, h, w) and label int64 (1, h, w)."""
        label = np.array(sample.label)
        try:
            label = self.to_train_ids(label)
        except ValueError as error:
            raise ValueError(f"{self.pairs[index][1]}: {error}") from None
        return to_array(sample.image), label[np.newaxis]

    def __getitem__(self, index: int) -> tuple[np.ndarray, np.ndarray]:
        """The sample that training or evaluation sees."""
        *_, (_, sample) = self.stages(index)
        return self.to_arrays(sample, index)

    def trace(self, index: int) -> dict[str, np.ndarray]:
        """The sample after each transform, for comparing two sides: "open.image", "open.label", and so on.

        Images uint8 (h, w, 3) and labels uint8 (h, w), and last "final.image" and "final.label".
        """
        arrays = {}
        for name, sample in self.stages(index):
            arrays[f"{name}.image"] = np.array(sample.image)
            arrays[f"{name}.label"] = np.array(sample.label)
        image, label = self.to_arrays(sample, index)
        arrays["final.image"], arrays["final.label"] = image, label
        return arrays


def files_below(folder: Path, suffix: str) -> dict[str, Path]:
    """The files `folder`/*/*`suffix` by what precedes the suffix (city_sequence_frame)."""
    if not folder.is_dir():
        raise FileNotFoundError(
            f"{folder} is no directory; Cityscapes has leftImg8bit/SPLIT and gtFine/SPLIT"
        )
    return {path.name.removesuffix(suffix): path for path in folder.glob(f"*/*{suffix}")}


def cityscapes_pairs(root: Path, split: str) -> list[tuple[Path, Path]]:
    """Image and labelIds file of each sample of a split, sorted by name (upstream: as the disk lists them).

    Raises FileNotFoundError naming the images without a label and the labels without an image.
    """
    images = files_below(root / "leftImg8bit" / split, "_leftImg8bit.png")
    labels = files_below(root / "gtFine" / split, "_gtFine_labelIds.png")
    lonely = [str(images.get(name) or labels[name]) for name in sorted(images.keys() ^ labels.keys())]
    if lonely:
        more = f" and {len(lonely) - 5} more" if len(lonely) > 5 else ""
        raise FileNotFoundError(f"without image or without label: {', '.join(lonely[:5])}{more}")
    return [(images[name], labels[name]) for name in sorted(images)]


class Cityscapes(SegmentationData):
    """Cityscapes below `root`: split "train", "val", "test", or "trainval" for train, then val.

    `steps` are `training_steps()` for training and () for evaluation.
    """

    def __init__(
        self, root: str | Path, split: str = "val", steps: Sequence[Step] = (), seed: int = 0
    ) -> None:
        if split not in ("train", "val", "test", "trainval"):
            raise ValueError(f'split is {split!r}, Cityscapes has "train", "val", "test" and "trainval"')
        splits = ("train", "val") if split == "trainval" else (split,)
        pairs = [pair for part in splits for pair in cityscapes_pairs(Path(root), part)]
        super().__init__(pairs, label_ids=True, steps=steps, seed=seed)


class ListFile(SegmentationData):
    """PaddleSeg's list file: an image and a label on each line, below `root`, in the order of the file.

    They are separated by a comma (as PaddleSeg's Cityscapes lists are) or white space. The label files hold
    train ids unless `label_ids`. Raises ValueError for a line that is no pair, FileNotFoundError for missing
    files.
    """

    def __init__(
        self,
        root: str | Path,
        list_file: str | Path,
        label_ids: bool = False,
        steps: Sequence[Step] = (),
        seed: int = 0,
    ) -> None:
        pairs = []
        for number, line in enumerate(Path(list_file).read_text(encoding="utf-8").splitlines(), 1):
            if not line.strip():
                continue
            names = [name.strip() for name in (line.split(",") if "," in line else line.split())]
            if len(names) != 2:
                raise ValueError(f"{list_file}, line {number}: {line!r} is not an image and a label")
            pairs.append((Path(root) / names[0], Path(root) / names[1]))
        check_files(pairs, list_file)
        super().__init__(pairs, label_ids, steps, seed)


def check_files(pairs: Sequence[tuple[Path, Path]], list_file: str | Path) -> None:
    """Raise FileNotFoundError if a list names files that are not there."""
    missing = [str(path) for pair in pairs for path in pair if not path.is_file()]
    if missing:
        more = f" and {len(missing) - 5} more" if len(missing) > 5 else ""
        raise FileNotFoundError(f"{list_file} names missing files: {', '.join(missing[:5])}{more}")


class PascalContext(SegmentationData):
    """Pascal Context below `root` (VOC2010): split "train", "val", or "trainval" if there is a list of it.

    The images are JPEGImages/NAME.jpg of the names in the split's list, a name a line; where that is and where the
    labels are, `CONTEXT_PLACES` says. `num_classes` is 59, or 60 with the background (`context_ids`). Raises
    FileNotFoundError for a list or files that are not there, ValueError for a line that is no name.
    """

    def __init__(
        self,
        root: str | Path,
        split: str = "val",
        num_classes: int = CONTEXT_CLASSES,
        steps: Sequence[Step] = (),
        seed: int = 0,
    ) -> None:
        context_ids(np.zeros((0, 0), np.uint8), num_classes)
        places = [(Path(root) / name.format(split=split), labels) for name, labels in CONTEXT_PLACES]
        found = [place for place in places if place[0].is_file()]
        if not found:
            raise FileNotFoundError(f"neither {' nor '.join(str(path) for path, _ in places)} is there")
        list_file, labels = found[0]
        names = [line.strip() for line in list_file.read_text(encoding="utf-8").splitlines() if line.strip()]
        wrong = [name for name in names if len(name.split()) != 1 or Path(name).name != name]
        if wrong:
            raise ValueError(f"{list_file}: {wrong[0]!r} is not the name of an image")
        images = Path(root) / "JPEGImages"
        pairs = [(images / f"{name}.jpg", Path(root) / labels / f"{name}.png") for name in names]
        check_files(pairs, list_file)
        super().__init__(pairs, label_ids=False, steps=steps, seed=seed)
        self.num_classes = num_classes

    def to_train_ids(self, label: np.ndarray) -> np.ndarray:
        """A label file's pixels uint8 (h, w) as train ids int64 (h, w); raises ValueError for one there is not."""
        return context_ids(label, self.num_classes)


def batches(
    length: int,
    batch_size: int,
    seed: int = 0,
    epoch: int = 0,
    shuffle: bool = False,
    drop_last: bool = False,
) -> list[list[int]]:
    """The indices of each batch of an epoch."""
    order = list(range(length))
    if shuffle:
        Random(f"order/{seed}/{epoch}").shuffle(order)
    cut = [order[start : start + batch_size] for start in range(0, length, batch_size)]
    return cut[:-1] if drop_last and cut and len(cut[-1]) < batch_size else cut


class Batches(BatchSampler):
    """A batch sampler that yields given batches."""

    def __init__(self, given: list[list[int]]) -> None:
        self.given = given

    def __iter__(self) -> Iterator[list[int]]:
        """The batches in their order."""
        return iter(self.given)

    def __len__(self) -> int:
        """How many batches there are."""
        return len(self.given)


def loader(
    dataset: SegmentationData,
    batch_size: int,
    seed: int = 0,
    epoch: int = 0,
    shuffle: bool = False,
    drop_last: bool = False,
    num_workers: int = 0,
) -> DataLoader:
    """The framework's own loader over one epoch of `dataset`, in the order of `batches`.

    Sets `dataset.epoch`. Batches are tensors (images float32 (n, 3, h, w), labels int64 (n, 1, h, w)).
    """
    dataset.epoch = epoch
    sampler = Batches(batches(len(dataset), batch_size, seed, epoch, shuffle, drop_last))
    return DataLoader(dataset, batch_sampler=sampler, num_workers=num_workers)
