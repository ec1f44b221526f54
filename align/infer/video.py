"""Videos in and out, with PyAV (FFmpeg's libraries); only the files that were named are read."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import dataclass
from fractions import Fraction
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np

from stdc_parity.align.infer.palette import Bytes
from stdc_parity.align.infer.pictures import BadInput
from stdc_parity.converters.errors import MissingFramework, shown

CODECS = ("libx264", "h264", "mpeg4")
"""What to write with, in the order of preference; not every build of FFmpeg has the first."""

ALONE = {"protocol_whitelist": "none"}
"""Playlists name other files, and addresses: FFmpeg may open none of them."""


@dataclass(frozen=True)
class Frame:
    """A frame as people see it, RGB uint8 (h, w, 3), and when it is shown: `time` in units of `base` seconds."""

    rgb: Bytes
    time: int
    base: Fraction


@dataclass(frozen=True)
class Video:
    """A video that is open: how many frames it says it has (0 if it does not), and a second's."""

    frames: Iterator[Frame]
    count: int
    rate: Fraction


def import_av() -> Any:
    """PyAV. Raises MissingFramework."""
    try:
        import av
    except ImportError:
        raise MissingFramework(
            "videos are read with PyAV, which is not installed", "pip install 'stdc-parity[video]', or pip install av"
        ) from None
    return av


@contextmanager
def open_video(path: Path) -> Iterator[Video]:
    """The first video stream of a file. Raises BadInput, also from its frames, for what is none or is damaged."""
    av = import_av()
    with ExitStack() as opened:
        with _bad_inputs():
            file = opened.enter_context(path.open("rb"))
            container = opened.enter_context(av.open(file, "r", options=ALONE))
        if not container.streams.video:
            raise BadInput("there is no video in it")
        stream = container.streams.video[0]
        stream.thread_type = "AUTO"
        rate = Fraction(stream.average_rate or stream.guessed_rate or 25)
        yield Video(_frames(container, stream, rate), int(stream.frames), rate)


def _frames(container: Any, stream: Any, rate: Fraction) -> Iterator[Frame]:
    with _bad_inputs():
        for number, frame in enumerate(container.decode(stream)):
            rgb = np.rot90(frame.to_ndarray(format="rgb24"), round(getattr(frame, "rotation", 0) / 90))
            if frame.pts is None or frame.time_base is None:
                yield Frame(np.ascontiguousarray(rgb), number, 1 / rate)
            else:
                yield Frame(np.ascontiguousarray(rgb), frame.pts, Fraction(frame.time_base))


@contextmanager
def _bad_inputs() -> Iterator[None]:
    """Raise BadInput for what PyAV raises, which are OSErrors and ValueErrors."""
    try:
        yield
    except (OSError, ValueError) as error:
        raise BadInput(f"FFmpeg cannot read it: {shown(getattr(error, 'strerror', None) or error, 200)}") from None


class Writer:
    """An MP4 that is written frame by frame; it begins with the first frame, whose size all others must have."""

    def __init__(self, file: BinaryIO, rate: Fraction) -> None:
        """Write to `file`, `rate` frames a second by its own account; each has its own time."""
        self._av = import_av()
        self._container = self._av.open(file, "w", format="mp4")
        self._rate = rate
        self._stream: Any = None
        self._size: tuple[int, ...] = ()

    def add(self, rgb: Bytes, time: int, base: Fraction) -> None:
        """Add a frame; an odd side gets one more line of pixels, as videos have even ones. Raises BadInput."""
        if self._stream is None:
            self._size = rgb.shape
            self._stream = self._start(base)
        if rgb.shape != self._size:
            (height, width, _), (first_height, first_width, _) = rgb.shape, self._size
            raise BadInput(f"a frame is {height}x{width}, the first one was {first_height}x{first_width}")
        even = np.pad(rgb, ((0, rgb.shape[0] % 2), (0, rgb.shape[1] % 2), (0, 0)), mode="edge")
        frame = self._av.VideoFrame.from_ndarray(np.ascontiguousarray(even), format="rgb24")
        frame.pts, frame.time_base = time, base
        self._container.mux(self._stream.encode(frame))

    def _start(self, base: Fraction) -> Any:
        codec = next(name for name in CODECS if name in self._av.codecs_available)
        height, width = (side + side % 2 for side in self._size[:2])
        stream = self._container.add_stream(codec, rate=self._rate)
        stream.width, stream.height, stream.pix_fmt = width, height, "yuv420p"
        stream.codec_context.time_base = base
        stream.options = {"crf": "18"} if codec == "libx264" else {}
        if codec != "libx264":
            stream.bit_rate = height * width * 8
        return stream

    def __enter__(self) -> Writer:
        return self

    def __exit__(self, kind: type[BaseException] | None, *rest: object) -> None:
        """Write what is left; after an error only let go of the file."""
        if kind is None and self._stream is not None:
            self._container.mux(self._stream.encode())
        with suppress(*((Exception,) if kind is not None or self._stream is None else ())):
            self._container.close()
