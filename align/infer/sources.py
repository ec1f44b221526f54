"""What is to be predicted: the files behind the sources that were named, and what each one's results are called."""

from __future__ import annotations

import os
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

from stdc_parity.converters.atomic import check_target
from stdc_parity.converters.errors import UsageError, shown

IMAGES = (
    ".bmp", ".gif", ".jpeg", ".jpg", ".jp2", ".pgm", ".png", ".pnm", ".ppm", ".tif", ".tiff", ".webp",
)  # fmt: skip
VIDEOS = (".avi", ".m4v", ".mkv", ".mov", ".mp4", ".mpeg", ".mpg", ".webm")
"""How the names of files end that a folder is searched for."""


@dataclass(frozen=True)
class Item:
    """A file to predict. `place` is where its results go, without their endings: `OUT/nested/a`."""

    path: Path
    name: str
    place: Path
    is_video: bool

    def target(self, ending: str) -> Path:
        """The result with that ending, such as "overlay.png"."""
        return self.place.with_name(f"{self.place.name}_{ending}")


def find_items(sources: Sequence[Path], out: Path) -> list[Item]:
    """Every file that `sources` name, those in folders in the order of their names, nested ones too.

    Results keep the folders below a source. Two files of one stem in a folder (a.png, a.jpg) keep their endings in
    their results' names. Hidden files, links to folders and `out` itself are not searched. Raises UsageError for a
    source that is not there or holds nothing, and for an `out` that is a file or one of the folders.
    """
    if out.exists() and not out.is_dir():
        raise UsageError(f"-o {shown(out)} is a file", "Results go into a folder.")
    found: dict[tuple[Path, Path], None] = {}  # each file once, and its path in the results
    for source in sources:
        if source.is_dir():
            if out.exists() and out.samefile(source):
                raise UsageError(f"-o {shown(out)} is the folder of the images", "Choose another folder for results.")
            inside = dict.fromkeys((path, path.relative_to(source)) for path in _walk(source, out))
            if not inside:
                raise UsageError(f"{shown(source)} has no images and no videos in it")
            found |= inside
        elif os.path.lexists(source):
            found[source, Path(source.name)] = None
        else:
            raise UsageError(f"{shown(source)} does not exist")
    names = _result_names([relative for _, relative in found])
    return [
        Item(path, str(relative), out / name, path.suffix.lower() in VIDEOS)
        for (path, relative), name in zip(found, names, strict=True)
    ]


def _walk(folder: Path, out: Path) -> Iterator[Path]:
    """The images and videos below a folder."""
    skipped = os.path.realpath(out)
    for place, folders, files in os.walk(folder):
        open_ones = (each for each in folders if not each.startswith("."))
        folders[:] = sorted(each for each in open_ones if os.path.realpath(Path(place, each)) != skipped)
        for file in sorted(files):
            if file.lower().endswith(IMAGES + VIDEOS) and not file.startswith("."):
                yield Path(place, file)


def _result_names(paths: Sequence[Path]) -> list[Path]:
    """A path for each file's results: without its ending, with it where that is no one's alone, or with a number.

    Some file systems take "a" and "A" for one, so that they count as one here.
    """
    stems = Counter(str(path.with_suffix("")).casefold() for path in paths)
    names: list[Path] = []
    taken: set[str] = set()
    for path in paths:
        alone = stems[str(path.with_suffix("")).casefold()] == 1
        name = path.with_suffix("") if alone else path
        number = 2
        while str(name).casefold() in taken:
            name, number = path.with_name(f"{path.name}-{number}"), number + 1
        taken.add(str(name).casefold())
        names.append(name)
    return names


def check_targets(
    items: Sequence[Item], endings: Sequence[str], video_endings: Sequence[str], *, force: bool
) -> None:
    """Raise UsageError if a result may not be written: it exists (without `force`), or is a file to read."""
    files = {os.path.realpath(item.path) for item in items}  # a loop of links is its own
    taken = []
    for item in items:
        for ending in video_endings if item.is_video else endings:
            target = item.target(ending)
            if os.path.realpath(target) in files:
                raise UsageError(f"{shown(target)} is one of the files to read", "Choose another folder for results.")
            check_target(target, force=True)
            if target.exists() and not force:
                taken.append(target)
    if taken:
        more = f" and {len(taken) - 1} more" if len(taken) > 1 else ""
        raise UsageError(
            f"{shown(taken[0])}{more} exist{'' if len(taken) > 1 else 's'} already",
            "Choose another folder, or --force to replace them.",
        )


def make_folder(folder: Path) -> None:
    """Make a folder for results. Raises UsageError if that cannot be."""
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise UsageError(f"{shown(folder)} cannot be made: {shown(error.strerror or error)}") from None
