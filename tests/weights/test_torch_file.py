"""Files of torch.save and .safetensors, written here byte by byte."""

import io
import json
import pickle
import struct
import zipfile

import numpy as np
import pytest

from byol_tf.errors import UserError
from byol_tf.weights import safetensors_file, torch_file


def text(value: str) -> bytes:
    return b"X" + struct.pack("<I", len(value)) + value.encode()


def number(value: int) -> bytes:
    return b"J" + struct.pack("<i", value)


def numbers(values) -> bytes:
    return b"(" + b"".join(map(number, values)) + b"t"


def tensor(kind, key, count, offset, shape, strides) -> bytes:
    """The opcodes that torch.save writes for a tensor."""
    storage = b"(" + text("storage") + f"ctorch\n{kind}\n".encode() + text(key) + text("cpu")
    parts = [storage + number(count) + b"tQ", number(offset), numbers(shape), numbers(strides)]
    return b"ctorch._utils\n_rebuild_tensor_v2\n(" + b"".join(parts) + b"\x89}tR"


def state_dict(**tensors: bytes) -> bytes:
    return b"\x80\x02}(" + b"".join(text(name) + value for name, value in tensors.items()) + b"u."


def write(path, pickled, storages, compression=zipfile.ZIP_STORED, byteorder=b"little"):
    with zipfile.ZipFile(path, "w", compression) as archive:
        archive.writestr("model/data.pkl", pickled)
        archive.writestr("model/byteorder", byteorder)
        for key, content in storages.items():
            archive.writestr(f"model/data/{key}", content)
    return str(path)


def test_a_tensor_is_where_its_offset_and_strides_say(tmp_path):
    values = np.arange(10, dtype=np.float32)
    column_major = tensor("FloatStorage", "0", 10, 4, (2, 3), (1, 2))
    path = write(tmp_path / "x.pth", state_dict(a=column_major), {"0": values.tobytes()})
    found = torch_file.read(path)["a"]
    assert found.shape == (2, 3)
    np.testing.assert_array_equal(found.read(), [[4, 6, 8], [5, 7, 9]])


@pytest.mark.parametrize("order", ["little", "big"])
@pytest.mark.parametrize(
    "kind, dtype", [("FloatStorage", "f4"), ("HalfStorage", "f2"), ("DoubleStorage", "f8")]
)
def test_each_type_of_either_byte_order_becomes_float32(kind, dtype, order, tmp_path):
    values = np.array([1.5, -2, 0.25]).astype(f"{'>' if order == 'big' else '<'}{dtype}")
    pickled = state_dict(a=tensor(kind, "0", 3, 0, (3,), (1,)))
    path = write(tmp_path / "x.pt", pickled, {"0": values.tobytes()}, byteorder=order.encode())
    found = torch_file.read(path)["a"].read()
    assert found.dtype == np.float32
    np.testing.assert_array_equal(found, [1.5, -2, 0.25])


def test_bfloat16_is_the_upper_half_of_float32(tmp_path):
    values = np.array([1.5, -2.0, 3.0], np.float32)
    halves = values.view(np.uint32) >> 16
    pickled = state_dict(a=tensor("BFloat16Storage", "0", 3, 0, (3,), (1,)))
    path = write(tmp_path / "x.pt", pickled, {"0": halves.astype("<u2").tobytes()})
    np.testing.assert_array_equal(torch_file.read(path)["a"].read(), values)


@pytest.mark.parametrize(
    "shape, strides, offset",
    [((2**20, 2**20), (0, 0), 0), ((4,), (1,), 8), ((3,), (5,), 0), ((100,), (1,), 0)],
)
def test_a_tensor_larger_than_its_storage_is_refused(shape, strides, offset, tmp_path):
    pickled = state_dict(a=tensor("FloatStorage", "0", 10, offset, shape, strides))
    path = write(tmp_path / "x.pth", pickled, {"0": bytes(40)})
    with pytest.raises(UserError, match="larger than its storage"):
        torch_file.read(path)["a"].read()


def test_a_missing_storage_is_named(tmp_path):
    pickled = state_dict(a=tensor("FloatStorage", "7", 1, 0, (1,), (1,)))
    path = write(tmp_path / "x.pth", pickled, {})
    with pytest.raises(UserError, match="is damaged .*model/data/7"):
        torch_file.read(path)["a"].read()


def test_a_compressed_zip_could_unpack_to_anything_and_is_refused(tmp_path):
    pickled = state_dict(a=tensor("FloatStorage", "0", 1, 0, (1,), (1,)))
    path = write(tmp_path / "x.pth", pickled, {"0": bytes(4)}, zipfile.ZIP_DEFLATED)
    with pytest.raises(UserError, match="not one of torch.save"):
        torch_file.read(path)


@pytest.mark.parametrize(
    "content",
    [
        # The magic number with which files before PyTorch 1.6 begin; then no file at all.
        pickle.dumps(0x1950A86A20F9469CFC6C, 2) + pickle.dumps(1001, 2) + bytes(100),
        b"",
    ],
)
def test_the_old_format_is_refused_with_how_to_save_it_again(content, tmp_path):
    path = tmp_path / "x.pth"
    path.write_bytes(content)
    with pytest.raises(UserError, match=r"torch.save\(torch.load\(OLD, weights_only=True\), NEW\)"):
        torch_file.read(str(path))


def test_a_zip_of_something_else_is_refused(tmp_path):
    with zipfile.ZipFile(tmp_path / "x.pth", "w") as archive:
        archive.writestr("hello.txt", "hello")
    with pytest.raises(UserError, match="not one of torch.save"):
        torch_file.read(str(tmp_path / "x.pth"))


def test_a_storage_or_shape_that_is_none_is_refused(tmp_path):
    for pickled in (b"\x80\x02K\x01Q.", state_dict(a=tensor("FloatStorage", "0", 1, -1, (1,), ()))):
        path = write(tmp_path / "x.pth", pickled, {})
        with pytest.raises(UserError, match="pickle cannot be read"):
            torch_file.read(path)


def safetensors(path, header, content=b""):
    encoded = header if isinstance(header, bytes) else json.dumps(header).encode()
    path.write_bytes(struct.pack("<Q", len(encoded)) + encoded + content)
    return str(path)


def test_safetensors_are_read_by_their_header(tmp_path):
    values = np.arange(6, dtype=np.float32).reshape(2, 3)
    halves = np.array([1.5, -3], np.float32).view(np.uint32) >> 16
    header = {
        "__metadata__": {"format": "pt"},
        "a": {"dtype": "F32", "shape": [2, 3], "data_offsets": [0, 24]},
        "b": {"dtype": "BF16", "shape": [2], "data_offsets": [24, 28]},
        "flags": {"dtype": "BOOL", "shape": [0], "data_offsets": [28, 28]},
    }
    content = values.tobytes() + halves.astype("<u2").tobytes()
    found = safetensors_file.read(safetensors(tmp_path / "x.safetensors", header, content))
    assert list(found) == ["a", "b"] and found["a"].shape == (2, 3)
    np.testing.assert_array_equal(found["a"].read(), values)
    np.testing.assert_array_equal(found["b"].read(), [1.5, -3])


@pytest.mark.parametrize(
    "header",
    [
        {"a": {"dtype": "F32", "shape": [2**40], "data_offsets": [0, 2**42]}},
        {"a": {"dtype": "F32", "shape": [2], "data_offsets": [0, 4]}},
        {"a": {"dtype": "F32", "shape": [1], "data_offsets": [-4, 0]}},
        {"a": {"dtype": "F32", "shape": [-1, -1], "data_offsets": [0, 4]}},
        {"a": {"dtype": "F32", "shape": [1]}},
        {"a": 3},
        [],
        b"[" * 100_000,
        b"no json",
    ],
)
def test_a_header_that_does_not_fit_its_file_is_refused(header, tmp_path):
    path = safetensors(tmp_path / "x.safetensors", header, bytes(4))
    with pytest.raises(UserError, match="not a whole .safetensors file"):
        safetensors_file.read(path)


def test_a_header_longer_than_its_file_is_not_read(tmp_path):
    path = tmp_path / "x.safetensors"
    for content in (struct.pack("<Q", 2**60) + bytes(8), b"", b"ab"):
        path.write_bytes(content)
        with pytest.raises(UserError, match="not a whole .safetensors file"):
            safetensors_file.read(str(path))


def test_the_formats_own_libraries_agree(tmp_path):
    torch = pytest.importorskip("torch", reason="PyTorch is in the extra weights-test")
    library = pytest.importorskip("safetensors.torch", reason="in the extra weights-test")
    state = {
        "a": torch.randn(3, 4).T.contiguous(),
        "half": torch.randn(5).half(),
        "brain": torch.randn(5).bfloat16(),
        "count": torch.tensor(3),
    }
    torch.save({"state_dict": {**state, "view": torch.randn(4, 6)[1:3, ::2]}}, tmp_path / "x.pth")
    library.save_file(state, tmp_path / "x.safetensors")
    saved = torch.load(tmp_path / "x.pth", weights_only=True)["state_dict"]
    found = torch_file.read(str(tmp_path / "x.pth"))
    assert found.keys() == {f"state_dict.{name}" for name in saved}
    for name, value in saved.items():
        np.testing.assert_array_equal(found[f"state_dict.{name}"].read(), value.float().numpy())
    in_library = library.load_file(tmp_path / "x.safetensors")
    for name, part in safetensors_file.read(str(tmp_path / "x.safetensors")).items():
        np.testing.assert_array_equal(part.read(), in_library[name].float().numpy())
    torch.save(state, tmp_path / "old.pth", _use_new_zipfile_serialization=False)
    with pytest.raises(UserError, match="is not a zip"):
        torch_file.read(str(tmp_path / "old.pth"))


def test_a_zip_that_ends_too_soon_is_refused(tmp_path):
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w") as archive:
        archive.writestr("model/data.pkl", state_dict())
    (tmp_path / "x.pth").write_bytes(buffer.getvalue()[:-30])
    with pytest.raises(UserError, match="is not a zip"):
        torch_file.read(str(tmp_path / "x.pth"))
