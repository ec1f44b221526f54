"""What container a file is, told by its first bytes; what is no checkpoint is named, with what to do about it."""

from __future__ import annotations

from stdc_parity.converters.errors import CheckpointError, shown

TORCH_ZIP = "torch zip"
TORCH_LEGACY = "torch legacy"
TORCH_TAR = "torch tar"
PADDLE_PICKLE = "paddle pickle"
SAFETENSORS = "safetensors"
SHARDS = "safetensors shards"
NPZ = "npz"
ONNX = "onnx"
MXNET = "mxnet params"

_OTHERS = (
    (b"\x1f\x8b", "the file in the archive is compressed with gzip itself", "Unpack it first: gunzip FILE."),
    (b"BZh", "the file is compressed with bzip2", "Unpack it first: tar xjf FILE, or bunzip2 FILE."),
    (b"\xfd7zXZ", "the file is compressed with xz", "Unpack it first: tar xJf FILE, or unxz FILE."),
    (b"\x28\xb5\x2f\xfd", "the file is compressed with zstd", "Unpack it first: zstd -d FILE."),
    (b"7z\xbc\xaf", "this is a 7-Zip archive", "Unpack it first and convert the file inside."),
    (b"Rar!", "this is a RAR archive", "Unpack it first and convert the file inside."),
    (b"\x89HDF", "this is an HDF5 file (of Keras?), which is not read", None),
    (b"\x93NUMPY", "this is a single numpy array (.npy), not a checkpoint", None),
    (
        b"version https://git-lfs",
        "this is a git-lfs pointer: the few lines that stand for the file, not the file",
        "Fetch the file: git lfs pull.",
    ),
)


_TRAINED = "Convert the .pdparams that was saved in training: paddle.save(net.state_dict(), path)."
_FIRST_BLOCK = b"\x08\0\x10" + b"\xff" * 9 + b"\1"
"""A program's first block in framework.proto: index 0, parent -1."""


def is_gzip(data: memoryview) -> bool:
    """Whether these are the bytes of a gzip file."""
    return bytes(data[:2]) == b"\x1f\x8b"


def is_tar(data: memoryview) -> bool:
    """Whether these are the bytes of a tar."""
    return bytes(data[257:262]) == b"ustar"


def sniff_bytes(data: memoryview) -> str:
    """The container of a file with these bytes; raises CheckpointError if it is none that is read."""
    from stdc_parity.converters.torch_legacy import is_legacy

    head = bytes(data[:4096])
    if head.startswith((b"PK\3\4", b"PK\5\6", b"PK\7\x08")):
        name = data[30 : 30 + int.from_bytes(head[26:28], "little")]
        return NPZ if bytes(name).endswith(b".npy") else TORCH_ZIP
    if is_legacy(head):
        return TORCH_LEGACY
    if is_tar(data):
        return TORCH_TAR  # other tars are opened before
    if head[:1] == b"\x80" and head[1:2] and head[1] <= 5:
        return PADDLE_PICKLE
    text = head.lstrip(b"\xef\xbb\xbf \t\r\n").lower()
    if text.startswith((b"<!doctype", b"<html", b"<?xml", b"<head")):
        raise CheckpointError(
            "this is a web page, not a checkpoint: the server sent a page instead of the file",
            "Open the link in a browser, pass its warning or log-in, and download the file itself.",
        )
    if is_safetensors(head):
        return SAFETENSORS
    if text.startswith(b"{"):
        return _sniff_json(data)
    if is_mxnet(head):
        return MXNET
    if head[:1] == b"\x08" and b"\0" < head[1:2] < b"\x80":  # ir_version, the first field of a model
        return ONNX
    if head.startswith(bytes(16)):
        _refuse_inference_parameters(data)
    if _FIRST_BLOCK in head[:32]:
        raise CheckpointError("this is a Paddle program (.pdmodel), which holds no weights", _TRAINED)
    for magic, fact, note in _OTHERS:
        if head.startswith(magic):
            raise CheckpointError(fact, note)
    raise CheckpointError(
        f"this is no checkpoint that is known here: it starts with {shown(repr(head[:16])[2:-1])}",
        "Known are files of torch.save (zip and legacy) and paddle.save, safetensors, npz, ONNX and MXNet's .params.",
    )


def is_safetensors(head: bytes) -> bool:
    """Whether a file that starts with ``head`` (9 bytes do) is in that container."""
    return head[8:9] == b"{" and int.from_bytes(head[:8], "little") < 1 << 32


def is_mxnet(head: bytes) -> bool:
    """Whether a file that starts with ``head`` is a list of MXNet's arrays: kMXAPINDArrayListMagic in 8 bytes."""
    return head[:8] == (0x112).to_bytes(8, "little")


def _refuse_inference_parameters(data: memoryview) -> None:
    from stdc_parity.converters.paddle_inference import describe

    described = describe(data)
    if described is not None:
        raise CheckpointError(
            f"these are Paddle inference parameters (.pdiparams): {described}, in the order of a program and "
            "without names",
            _TRAINED,
        )


def _sniff_json(data: memoryview) -> str:
    head = bytes(data[: 1 << 20])
    if head.find(b'"weight_map"') >= 0:
        return SHARDS
    if head.startswith(b'{"base_code"'):
        raise CheckpointError("this is a Paddle program (.json), which holds no weights", _TRAINED)
    raise CheckpointError("this is JSON, not a checkpoint", "Name the file with the weights beside it.")
