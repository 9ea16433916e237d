"""The container of all files that jaxem writes: named arrays and one JSON header, without pickle.

The format is safetensors where that is installed, else ``.npz``; the reader tells them by their first bytes. A checksum
covers the header and every array, so that a file that was cut short, changed or made by another program is refused.
Nothing in a file is run, and nothing is imported by a name that it contains.
"""

import hashlib
import io
import json
import os
from pathlib import Path
from typing import Any

import ml_dtypes
import numpy as np

_HEADER, _CHECKSUM = "jaxem header", "jaxem checksum"
_ZIP = b"PK\x03\x04"


def check_path(title: str, path: Any) -> Path:
    """``path`` as a ``Path``; ``ValueError`` where it is no path, is a folder, or lies in one that does not exist."""
    if not isinstance(path, str | os.PathLike) or not str(path):
        raise ValueError(f"{title} must be the path of a file; it is {path!r}")
    found = Path(path)
    if found.is_dir() or not found.absolute().parent.is_dir():
        what = "is a folder" if found.is_dir() else "lies in a folder that does not exist"
        raise ValueError(f"{title} must be the path of a file; {found} {what}")
    return found


def write(path: Path, header: dict[str, Any], arrays: dict[str, np.ndarray]) -> None:
    """Write a header, which JSON can hold, and arrays. The file appears as ``replace`` describes it."""
    kinds = {name: array.dtype.name for name, array in arrays.items()}
    text = json.dumps({**header, "dtypes": kinds})
    plain = {name: _bits(array) for name, array in arrays.items()}
    replace(path, _encode(text, _checksum(text, plain), plain))


def replace(path: Path, content: bytes) -> None:
    """Write a file. Whenever the process ends, the file is either the old one or the new one, and whole."""
    temporary = path.with_name(f".{path.name}.{os.getpid()}.part")
    try:
        with open(temporary, "wb") as file:
            file.write(content)
            file.flush()
            os.fsync(file.fileno())
        os.replace(temporary, path)
    finally:
        temporary.unlink(missing_ok=True)


def read(path: Path, what: str, remedy: str) -> tuple[dict[str, Any], dict[str, np.ndarray]]:
    """The header and the arrays of a file; ``ValueError`` for any file that ``write`` did not write.

    Arguments:
        path: the file.
        what: what the file should be, such as ``"checkpoint"``, for messages.
        remedy: what to do where the file is damaged, for messages.
    """
    try:
        with open(path, "rb") as file:
            content = file.read()
    except OSError as error:
        raise ValueError(f"{path} cannot be read as a {what}: {error.strerror}") from error
    decode = _decode_npz if content[:4] == _ZIP else _decode_safetensors if content[8:9] == b"{" else None
    if decode is None:
        raise ValueError(f"{path} is not a {what} of jaxem: it is neither a safetensors nor an .npz file")
    try:
        text, checksum, plain = decode(content)
    except ImportError as error:
        raise ValueError(
            f'{path} was written with safetensors, which is not installed: pip install "jaxem[checkpoint]"'
        ) from error
    except KeyError as error:
        raise ValueError(f"{path} is not a {what} of jaxem, or is damaged: it has no header") from error
    except Exception as error:  # a damaged file can make the decoders raise nearly anything
        raise ValueError(f"{path} is damaged and cannot be read: {remedy}") from error
    if checksum != _checksum(text, plain):
        raise ValueError(f"{path} is damaged or was changed (its checksum is wrong): {remedy}")
    header = json.loads(text)
    kinds = header["dtypes"]
    return header, {name: array.view(_dtype(kinds[name])) for name, array in plain.items()}


def _dtype(name: str) -> np.dtype:
    return np.dtype(getattr(ml_dtypes, name, name))


def _bits(array: np.ndarray) -> np.ndarray:
    """The array itself, or its bits where NumPy alone does not know its dtype (bfloat16)."""
    array = np.ascontiguousarray(array).reshape(array.shape)  # the former makes a number an array of one
    return array if array.dtype.kind in "biuf" and array.dtype.isbuiltin else array.view(f"u{array.dtype.itemsize}")


def _checksum(text: str, arrays: dict[str, np.ndarray]) -> str:
    digest = hashlib.blake2b(text.encode(), digest_size=32)
    for name in sorted(arrays):
        array = arrays[name]
        digest.update(f"\0{name}\0{array.dtype.str}{array.shape}\0".encode())
        digest.update(np.ascontiguousarray(array).reshape(-1).view(np.uint8).data)
    return digest.hexdigest()


def _encode(text: str, checksum: str, arrays: dict[str, np.ndarray]) -> bytes:
    try:
        from safetensors.numpy import save
    except ImportError:
        file = io.BytesIO()
        texts = {name: np.frombuffer(value.encode(), np.uint8) for name, value in _texts(text, checksum).items()}
        np.savez(file, allow_pickle=False, **texts, **arrays)
        return file.getvalue()
    return save(arrays, metadata=_texts(text, checksum))


def _texts(text: str, checksum: str) -> dict[str, str]:
    return {_HEADER: text, _CHECKSUM: checksum}


def _decode_npz(content: bytes) -> tuple[str, str, dict[str, np.ndarray]]:
    with np.load(io.BytesIO(content), allow_pickle=False) as file:
        arrays = {name: file[name] for name in file.files}
    text, checksum = (arrays.pop(name).tobytes().decode() for name in (_HEADER, _CHECKSUM))
    return text, checksum, arrays


def _decode_safetensors(content: bytes) -> tuple[str, str, dict[str, np.ndarray]]:
    from safetensors.numpy import load

    arrays = load(content)
    texts = json.loads(content[8 : 8 + int.from_bytes(content[:8], "little")])["__metadata__"]
    return texts[_HEADER], texts[_CHECKSUM], arrays
