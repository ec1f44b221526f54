"""stdc-infer: what is read and refused, what is written, and predictions held against the evaluation of the twins."""

import os
import struct
import zlib
from contextlib import contextmanager
from fractions import Fraction

import av
import numpy as np
import onnx
import pytest
import torch
from click.testing import CliRunner
from onnx import TensorProto, helper, numpy_helper
from PIL import Image

from stdc_parity.align.infer import palette, pictures, resample, run, runtimes, sources
from stdc_parity.align.infer.video import open_video
from stdc_parity.align.result import Failure
from stdc_parity.cli import infer
from stdc_parity.converters import stdc
from stdc_parity.converters.errors import MissingFramework, UsageError
from stdc_parity.fixtures import scenes
from stdc_parity.fixtures.images import normalised
from stdc_parity.fixtures.samples import write_sample
from stdc_parity.models_torch import metrics

RGB = scenes.scene(0, 0, (64, 96))[0]


# Resampling

SIZES = [((5, 7), (11, 13)), ((11, 13), (5, 7)), ((1, 9), (4, 3)), ((6, 1), (1, 5)), ((2, 2), (1, 1))]


@pytest.mark.parametrize(("size", "to"), SIZES)
def test_resampling_is_bilinear_between_aligned_corners(size, to):
    values = np.random.default_rng(0).standard_normal((3, *size), np.float32)
    expected = torch.nn.functional.interpolate(
        torch.from_numpy(values)[np.newaxis], to, mode="bilinear", align_corners=True
    )
    np.testing.assert_allclose(resample.resize(values, *to), expected[0].numpy(), atol=1e-6)


def test_classes_are_the_same_however_few_rows_are_made_at_once(monkeypatch):
    scores = np.random.default_rng(0).standard_normal((5, 9, 14), np.float32)
    whole = resample.resize(scores, 33, 41).argmax(0)
    monkeypatch.setattr(resample, "PIECE", 5 * 41 * 4)
    assert len(list(resample.pieces(scores, 33, 41))) == 9
    assert np.array_equal(resample.classes_of(scores, 33, 41), whole)
    assert np.array_equal(resample.classes_of(scores, 9, 14), scores.argmax(0))


def test_the_lead_is_that_of_the_winner_where_it_is_asked():
    scores = np.zeros((3, 1, 4), np.float32)
    scores[:, 0] = [[8, 1, 0, 5], [0, 4, 0, 5], [0, 2, 0, -8]]
    assert resample.lead_where(scores, np.array([[False, True, True, True]])) == 2 / 8
    assert resample.lead_where(scores, np.array([[True, False, False, False]])) == 1.0


# Colours and numbers


def test_cityscapes_numbers_are_those_of_the_scenes_labels():
    ids = {train_id: label for label, (_, train_id, _) in scenes.CLASSES.items() if train_id != 255}
    names = {train_id: name for name, train_id, _ in scenes.CLASSES.values()}
    assert [ids[i] for i in range(19)] == palette.LABEL_IDS.tolist()
    assert [names[i] for i in range(19)] == [palette.name_of(i, 19) for i in range(19)]
    assert palette.label_ids(np.array([[0, 18]], np.uint8)).tolist() == [[7, 33]]


@pytest.mark.parametrize("classes", [2, 4, 19, 60, 255])
def test_every_class_has_a_colour_of_its_own(classes):
    found = palette.colours(classes)
    assert len(np.unique(found, axis=0)) == classes
    assert found.any(axis=1).all()
    table = np.frombuffer(palette.palette(classes, labels=False), np.uint8).reshape(256, 3)
    assert np.array_equal(table[:classes], found)


# Reading


def save(path, image, **options):
    image.save(path, **options)
    return path


def chunk(kind, data):
    return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))


def png_that_claims(width, height):
    header = struct.pack(">IIBBBBB", width, height, 8, 0, 0, 0, 0)
    parts = chunk(b"IHDR", header), chunk(b"IDAT", zlib.compress(b"\0" * 9)), chunk(b"IEND", b"")
    return b"\x89PNG\r\n\x1a\n" + b"".join(parts)


GREY = np.arange(0, 250, 10, dtype=np.uint8).reshape(5, 5)
DEEP = Image.fromarray(GREY.astype(np.uint16) * 257)
MODES = [
    ("grey.png", Image.fromarray(GREY)),
    ("sixteen.png", DEEP),
    ("sixteen.tif", DEEP),
    ("float.tif", Image.fromarray(GREY.astype(np.float32) / 255)),
    ("float255.tif", Image.fromarray(GREY.astype(np.float32))),
    ("palette.png", Image.fromarray(GREY).convert("P")),
    ("la.png", Image.fromarray(GREY).convert("LA")),
    ("rgba.png", Image.fromarray(GREY).convert("RGBA")),
    ("cmyk.tif", Image.fromarray(GREY).convert("RGB").convert("CMYK")),
]


@pytest.mark.parametrize(("name", "image"), MODES, ids=[name for name, _ in MODES])
def test_images_of_any_mode_are_read_as_rgb(name, image, tmp_path):
    found = pictures.read_image(save(tmp_path / name, image))
    assert (found.shape, found.dtype) == ((5, 5, 3), np.uint8)
    assert abs(found.astype(int) - GREY[..., np.newaxis]).max() <= 1


def test_transparent_pixels_are_white_and_exif_turns_the_image(tmp_path):
    image = Image.fromarray(RGB).convert("RGBA")
    image.putpixel((1, 0), (9, 9, 9, 0))
    assert pictures.read_image(save(tmp_path / "a.png", image))[0, :2].tolist() == [RGB[0, 0].tolist(), [255] * 3]
    exif = Image.Exif()
    exif[0x0112] = 6  # to be turned clockwise
    turned = save(tmp_path / "t.png", Image.fromarray(RGB), exif=exif)
    assert np.array_equal(pictures.read_image(turned), np.rot90(RGB, -1))


def cut(data):
    return data[: len(data) // 2]


def saved_bytes(suffix, tmp_path):
    return save(tmp_path / f"whole{suffix}", Image.fromarray(RGB)).read_bytes()


BAD = [
    ("empty.jpg", lambda folder: b"", "is empty"),
    ("text.png", lambda folder: b"a street", "no image"),
    ("cut.png", lambda folder: cut(saved_bytes(".png", folder)), "truncated"),
    ("cut.jpg", lambda folder: cut(saved_bytes(".jpg", folder)), "truncated"),
    ("bomb.png", lambda folder: png_that_claims(60_000, 60_000), "pixels"),
    ("small-bomb.png", lambda folder: png_that_claims(12_000, 10_000), "pixels"),
    ("flat.png", lambda folder: png_that_claims(0, 0), "no image"),
]


@pytest.mark.parametrize(("name", "data", "said"), BAD, ids=[name for name, *_ in BAD])
def test_bad_images_are_told(name, data, said, tmp_path):
    (tmp_path / name).write_bytes(data(tmp_path))
    with pytest.raises(pictures.BadInput, match=said):
        pictures.read_image(tmp_path / name)


# Which files, and what their results are called


def test_results_keep_folders_and_never_share_a_name(tmp_path):
    names = ["a.png", "a.jpg", "A.JPEG", "a.png.png", "b.png", "n/a.png", "n/film.mp4", ".hidden.png", "notes.txt"]
    for name in [*names, "out/old.png", ".git/x.png"]:
        (tmp_path / "in" / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / "in" / name).touch()
    (tmp_path / "in" / "up").symlink_to("..")
    out = tmp_path / "in" / "out"
    items = sources.find_items([tmp_path / "in"], out)
    found = [item.name for item in items]
    assert found == ["A.JPEG", "a.jpg", "a.png", "a.png.png", "b.png", "n/a.png", "n/film.mp4"]
    places = [str(item.place.relative_to(out)) for item in items]
    assert places == ["A.JPEG", "a.jpg", "a.png", "a.png.png-2", "b", "n/a", "n/film"]
    assert [item.is_video for item in items] == [False] * 6 + [True]
    assert items[4].target("overlay.png") == out / "b_overlay.png"


def test_sources_that_cannot_be_are_refused(tmp_path):
    (tmp_path / "empty").mkdir()
    (tmp_path / "a.png").touch()
    for given, out, said in [
        ("gone.png", "out", "does not exist"),
        ("empty", "out", "no images"),
        (".", ".", "folder of the images"),
        ("a.png", "a.png", "is a file"),
    ]:
        with pytest.raises(UsageError, match=said):
            sources.find_items([tmp_path / given], tmp_path / out)


def test_results_are_not_written_over_anything(tmp_path):
    for name in ("x.png", "x_overlay.png"):
        save(tmp_path / name, Image.fromarray(RGB))
    (alone,) = sources.find_items([tmp_path / "x.png"], tmp_path)
    with pytest.raises(UsageError, match=r"x_overlay.png exists already"):
        run.check([alone], ("torch",), run.Options())
    run.check([alone], ("torch",), run.Options(force=True))
    both = sources.find_items([tmp_path / "x.png", tmp_path / "x_overlay.png"], tmp_path)
    with pytest.raises(UsageError, match="one of the files to read"):
        run.check(both, ("torch",), run.Options(force=True))


# Predicting


@pytest.fixture
def checkpoint(tmp_path):
    write_sample(tmp_path / "net.pth", stdc.architecture("stdc1-seg", base=8))
    return tmp_path / "net.pth"


def choose(sides, **options):
    defaults = {"weights": None, "key": None, "pair": None, "graph": None, "seeded": False, "base": 8}
    return runtimes.choose(sides, **{**defaults, **options})


def opened(sides, chosen, workers, folder, **more):
    job = {"do": "predict", "spec": chosen.spec and chosen.spec.to_json(), "image": str(folder / "image.npy"), **more}
    return runtimes.Runtimes(sides, workers, 1, folder, job)


@pytest.mark.parametrize("scale", [0.5, 0.75, 1.0])
def test_predictions_are_those_of_upstreams_evaluation(scale, checkpoint, workers, tmp_path):
    chosen = choose(("torch", "paddle"), weights=checkpoint)
    assert chosen.spec.pair == "stdc1-seg-infer"
    rgb = RGB[:, :91]
    found = run.predict(rgb, opened(("torch", "paddle"), chosen, workers, tmp_path), scale)
    network = workers["torch"].session.network(chosen.spec)
    images = torch.from_numpy(normalised(rgb)[np.newaxis])
    with torch.no_grad():
        logits = metrics.single_scale_logits(lambda x: (network(x),), images, 64, 91, scale)
    wrong = found.maps["torch"] != logits.argmax(1)[0].numpy()
    assert wrong.mean() < 1e-3  # ties, as resampling rounds otherwise
    assert found.different <= 2
    assert found.classes == 19


class Fake:
    """Runtimes that give what they are told."""

    size = (None, None)

    def __init__(self, **scores):
        self.sides, self.given, self.seconds = tuple(scores), scores, {}

    def scores(self, image):
        self.image = image
        return self.given


def one_hot(labels, classes):
    return (np.asarray(labels) == np.arange(classes)[:, np.newaxis, np.newaxis]).astype(np.float32)


class Said(run.Watch):
    def __init__(self):
        self.lines, self.bad = [], []

    def say(self, line):
        self.lines.append(line)

    def warn(self, line):
        self.bad.append(line)


def test_a_folder_with_bad_files_is_done_all_the_same(tmp_path):
    folder, out = tmp_path / "in", tmp_path / "out"
    folder.mkdir()
    save(folder / "good.png", Image.fromarray(RGB))
    (folder / "bad.png").write_bytes(b"no image")
    os.mkfifo(folder / "pipe.png")
    (folder / "gone.png").symlink_to("nowhere")
    labels = np.arange(64 * 96).reshape(64, 96) // 64 % 19
    fake, said = Fake(torch=one_hot(labels, 19)), Said()
    items = sources.find_items([folder], out)
    outcome = run.predict_all(items, fake, run.Options(scale=1.0, ids="both", opacity=0.25), said)
    assert (outcome.done, outcome.bad, outcome.exit_code) == (1, ["bad.png", "gone.png", "pipe.png"], 3)
    assert [line.partition(":")[0] for line in said.bad] == outcome.bad
    assert np.array_equal(fake.image, normalised(RGB))
    written = sorted(path.name for path in out.iterdir())
    assert written == ["good_labelIds.png", "good_labelTrainIds.png", "good_overlay.png"]
    train = Image.open(out / "good_labelTrainIds.png")
    assert np.array_equal(np.asarray(train), labels)
    assert np.array_equal(np.asarray(train.convert("RGB")), palette.colours(19)[labels])
    ids = Image.open(out / "good_labelIds.png")
    assert np.array_equal(np.asarray(ids), palette.LABEL_IDS[labels])
    assert np.array_equal(np.asarray(ids.convert("RGB")), palette.colours(19)[labels])
    mixed = 0.75 * RGB + 0.25 * palette.colours(19)[labels]
    assert abs(np.asarray(Image.open(out / "good_overlay.png")) - mixed).max() <= 0.51


def test_two_runtimes_are_shown_side_by_side_and_counted(tmp_path):
    a = np.zeros((64, 96), int)
    b = a.copy()
    b[10, 20:23] = 1
    fake, said = Fake(torch=one_hot(a, 2), paddle=one_hot(b, 2)), Said()
    items = sources.find_items([save(tmp_path / "s.png", Image.fromarray(RGB))], tmp_path / "out")
    assert run.predict_all(items, fake, run.Options(scale=1.0, most=3 / (64 * 96)), said).exit_code == 0
    again = run.predict_all(items, fake, run.Options(scale=1.0, most=2 / (64 * 96), force=True), said)
    assert (again.exit_code, again.differ) == (1, ["s.png"])
    assert "3 of 6,144 pixels differ (0.049 %), won by a lead of at most 1.0e+00 of scale · over" in said.lines[1]
    different = np.asarray(Image.open(tmp_path / "out" / "s_different.png"))
    assert np.array_equal(different == 255, a != b)
    shown = np.asarray(Image.open(tmp_path / "out" / "s_compare.png"))
    assert shown.shape == (64 + 12 + 8, 3 * 96 + 16, 3)
    red = (shown[20:, 2 * 104 :] == pictures.MARK).all(axis=2)
    assert 3 <= red.sum() <= 15 and red[10, 20:23].all()
    maps = [np.asarray(Image.open(tmp_path / "out" / f"s_{side}_labelTrainIds.png")) for side in ("torch", "paddle")]
    assert np.array_equal(maps[0], a) and np.array_equal(maps[1], b)


def test_label_ids_are_for_cityscapes_classes_alone(tmp_path):
    items = sources.find_items([save(tmp_path / "s.png", Image.fromarray(RGB))], tmp_path / "out")
    with pytest.raises(UsageError, match="4 classes"):
        run.predict_all(items, Fake(torch=one_hot(np.zeros((64, 96)), 4)), run.Options(ids="label"), Said())
    assert not (tmp_path / "out").exists()


class Dying:
    """A side's process that ends at its first job, or answers with the scores it is given."""

    def __init__(self, side, threads, scores=None):
        self.side, self.scores, self.is_alive = side, scores, True

    def ask(self, job):
        self.job = job
        self.is_alive = self.scores is not None

    def answer(self):
        if not self.is_alive:
            return Failure(self.side, "its process was ended by SIGKILL", "")
        np.save(self.job["scores"], self.scores)
        return {"seconds": 1.0}

    def close(self):
        pass


def test_a_runtime_that_dies_costs_one_file_and_starts_again(tmp_path, monkeypatch):
    good = np.ones((1, 19, 8, 8), np.float32)
    monkeypatch.setattr(runtimes, "SideProcess", lambda side, threads: Dying(side, threads, good))
    found = runtimes.Runtimes(("torch",), {"torch": Dying("torch", 1)}, 1, tmp_path, {})
    with pytest.raises(pictures.BadInput, match="torch fails on it: its process was ended by SIGKILL"):
        found.scores(normalised(RGB))
    assert np.array_equal(found.scores(normalised(RGB))["torch"], good[0])
    assert found.seconds == {"torch": 1.0}
    found.processes["torch"].scores = np.full_like(good, np.nan)
    with pytest.raises(pictures.BadInput, match="NaN"):
        found.scores(normalised(RGB))


# ONNX graphs


def graph(path, *nodes, size=(None, None), output=("scores", TensorProto.FLOAT, 4)):
    weight = numpy_helper.from_array(np.eye(3, dtype=np.float32).reshape(3, 3, 1, 1), "w")
    given = helper.make_tensor_value_info("image", TensorProto.FLOAT, [1, 3, size[0] or "h", size[1] or "w"])
    name, kind, rank = output
    made = helper.make_graph(
        [helper.make_node("Conv", ["image", "w"], ["scores"]), *nodes], "g", [given],
        [helper.make_tensor_value_info(name, kind, [None] * rank)], [weight],
    )  # fmt: skip
    onnx.save(helper.make_model(made, opset_imports=[helper.make_opsetid("", 17)], ir_version=8), path)
    return path


def test_a_graph_computes_at_its_own_size_or_at_any(tmp_path, graph_worker):
    any_size, fixed = graph(tmp_path / "any.onnx"), graph(tmp_path / "fixed.onnx", size=(32, 48))
    labels = graph(
        tmp_path / "labels.onnx", helper.make_node("ArgMax", ["scores"], ["labels"], axis=1, keepdims=0),
        output=("labels", TensorProto.INT64, 3),
    )  # fmt: skip
    best = normalised(RGB).argmax(0)
    for file, size in ((any_size, [None, None]), (fixed, [32, 48]), (labels, [None, None])):
        chosen = choose(("onnx",), weights=file)
        assert (chosen.spec, chosen.graph) == (None, file)
        graph_worker.ask({"do": "graph-size", "graph": str(file)})
        assert graph_worker.answer()["size"] == size
        found = opened(("onnx",), chosen, {"onnx": graph_worker}, tmp_path, graph=str(file))
        found.size = tuple(size)
        prediction = run.predict(RGB, found, 1.0)
        assert prediction.classes == (19 if file == labels else 3)
        same = prediction.first == best
        assert same.mean() > 0.6 if file == fixed else same.all()


@pytest.mark.parametrize(
    "output", [np.zeros((1, 1000), np.float32), np.zeros((2, 3, 4, 4), np.float32), np.full((1, 4, 4), 300)]
)
def test_outputs_that_are_no_classes_of_pixels_are_refused(output):
    with pytest.raises(UsageError, match="not classes of pixels"):
        runtimes.as_scores(output)


# Videos


def video(path, frames, codec="libx264", pixels="yuv444p", rate=10):
    with av.open(str(path), "w") as container:
        stream = container.add_stream(codec, rate=rate)
        stream.width, stream.height, stream.pix_fmt = frames[0].shape[1], frames[0].shape[0], pixels
        for number, rgb in enumerate(frames):
            frame = av.VideoFrame.from_ndarray(np.ascontiguousarray(rgb), format="rgb24")
            frame.pts, frame.time_base = number**2, Fraction(1, rate)
            container.mux(stream.encode(frame))
        container.mux(stream.encode())
    return path


def test_a_video_keeps_its_frames_times_and_size(tmp_path):
    frames = [np.roll(RGB[:63, :95], -8 * i, 1) for i in range(5)]
    source = video(tmp_path / "v.mkv", frames, "ffv1", "bgr0")
    fake, said = Fake(torch=one_hot(np.zeros((63, 95)), 19)), Said()
    items = sources.find_items([source], tmp_path / "out")
    assert run.predict_all(items, fake, run.Options(scale=1.0, opacity=0), said).exit_code == 0
    assert said.lines == ["v.mkv: 5 frames of 63x95"]
    with open_video(tmp_path / "out" / "v_overlay.mp4") as written:
        found = list(written.frames)
    assert [frame.time * frame.base for frame in found] == [Fraction(i * i, 10) for i in range(5)]
    for frame, rgb in zip(found, frames, strict=True):
        assert frame.rgb.shape == (64, 96, 3)  # even, as videos are
        assert abs(frame.rgb[:63, :95].astype(int) - rgb).mean() < 12


def test_bad_videos_leave_nothing(tmp_path):
    whole = video(tmp_path / "whole.avi", [np.roll(RGB, i, 1) for i in range(8)], "mpeg4", "yuv420p").read_bytes()
    folder = tmp_path / "in"
    folder.mkdir()
    (folder / "cut.avi").write_bytes(whole[: len(whole) // 2])
    (folder / "text.mp4").write_bytes(b"a film")
    (folder / "list.mp4").write_text(f"ffconcat version 1.0\nfile '{tmp_path / 'whole.avi'}'\n")
    said = Said()
    items = sources.find_items([folder], tmp_path / "out")
    outcome = run.predict_all(items, Fake(torch=one_hot(np.zeros((64, 96)), 19)), run.Options(scale=1.0), said)
    assert (outcome.done, outcome.exit_code, len(said.bad)) == (0, 3, 3)
    assert not list((tmp_path / "out").rglob("*.*"))


# The command


def invoke(*arguments):
    done = CliRunner().invoke(infer, [str(argument) for argument in arguments])
    assert done.exception is None or isinstance(done.exception, SystemExit), done.exception
    return done.exit_code, done.output


def test_the_command_predicts_and_compares(checkpoint, workers, tmp_path, monkeypatch):
    @contextmanager
    def here(sides, threads):
        yield {side: workers[side] for side in sides}

    monkeypatch.setattr(runtimes, "open_sides", here)
    street, out = save(tmp_path / "street.png", Image.fromarray(RGB)), tmp_path / "out"
    code, output = invoke(street, "-o", out, "--weights", checkpoint)
    assert code == 0, output
    first, line, last = output.splitlines()
    assert first.endswith("stdc1-seg-infer (19 classes, base 8, cat blocks) · torch · scale 0.5")
    assert line.startswith("street.png: 64x96 · ") and last.startswith("1 done · torch ")
    code, output = invoke(street, "-o", out, "--weights", checkpoint)
    assert (code, "--force" in output) == (2, True)
    code, output = invoke(street, "-o", out, "--weights", checkpoint, "--compare", "torch,paddle", "-q")
    assert (code, output) == (0, "")
    assert len(list(out.iterdir())) == 2 + 4


def test_mistakes_have_one_message_and_an_exit_code(tmp_path, monkeypatch):
    street = save(tmp_path / "s.png", Image.fromarray(RGB))
    write_sample(tmp_path / "backbone.tar", stdc.architecture("stdcnet813", base=8))
    (tmp_path / "text.pth").write_text("no checkpoint")
    monkeypatch.setattr("stdc_parity.align.sides.is_installed", lambda side: side != "paddle")
    for arguments, code, said in [
        ("s.png", 2, "--weights FILE, or --seeded"),
        ("gone.png --seeded", 2, "does not exist"),
        ("s.png --seeded --runtime tensorrt", 4, "there is no runtime tensorrt"),
        ("s.png --seeded --base 8 --runtime paddle", 4, "paddlepaddle, which cannot be imported"),
        ("s.png --seeded --compare torch", 2, "two different runtimes"),
        ("s.png --seeded --compare torch,torch", 2, "two different runtimes"),
        ("s.png --seeded --weights text.pth", 2, "say one of them"),
        ("s.png --weights text.pth", 3, "text.pth"),
        ("s.png --weights gone.pth", 3, "gone.pth"),
        ("s.png --weights backbone.tar --pair stdc1-seg", 2, "lacks"),
        ("s.png --onnx gone.onnx --runtime onnx", 2, "is no file"),
        ("s.png --onnx gone.onnx", 2, "the others need --weights"),
    ]:
        with monkeypatch.context() as here:
            here.chdir(tmp_path)
            found, output = invoke(*arguments.split(), "-o", "out")
        assert (found, said in output) == (code, True), (arguments, found, output)
        assert output.count("Error") == 1
    assert sorted(path.name for path in tmp_path.iterdir()) == ["backbone.tar", "s.png", "text.pth"]
    assert street.exists()


def test_what_is_not_installed_is_named(monkeypatch):
    for module, said in (("PIL", "pip install pillow"), ("av", r"stdc-parity\[video\]")):
        with monkeypatch.context() as here:
            here.setitem(__import__("sys").modules, module, None)
            with pytest.raises(MissingFramework, match=said):
                pictures.import_pillow() if module == "PIL" else run.import_av()
