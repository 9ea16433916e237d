"""Arrow tables, data sets and Parquet files as sources, by pyarrow, which is imported only here and only when used."""

from collections.abc import Iterator
from pathlib import Path
from typing import Any

_ROWS = 2**16  # rows in a batch
_FORMATS = {".parquet": "parquet", ".pq": "parquet", ".arrow": "ipc", ".feather": "ipc"}


def is_arrow(source: Any) -> bool:
    """Whether this is a path to a file that pyarrow reads, or an object of pyarrow that has batches."""
    if isinstance(source, str | Path):
        return Path(source).suffix in _FORMATS
    ours = type(source).__module__.split(".")[0] == "pyarrow"
    return ours and any(hasattr(source, name) for name in ("to_batches", "iter_batches"))


def batches(source: Any) -> Iterator[Any]:
    """The batches of a source, each an arrow table."""
    try:
        import pyarrow as pa
    except ImportError as error:
        raise ValueError('reading this source needs pyarrow: pip install "jaxem[parquet]"') from error
    for batch in _batches(source):
        yield pa.Table.from_batches([batch])


def _batches(source: Any) -> Iterator[Any]:
    if isinstance(source, str | Path):
        return _of_path(Path(source))
    if hasattr(source, "iter_batches"):  # pyarrow.parquet.ParquetFile
        return source.iter_batches(batch_size=_ROWS)
    if hasattr(source, "scanner"):  # pyarrow.dataset.Dataset, which by default reads 16 batches ahead
        return source.to_batches(batch_size=_ROWS, batch_readahead=1, fragment_readahead=1)
    return iter(source.to_batches(max_chunksize=_ROWS))


def _of_path(path: Path) -> Iterator[Any]:
    if path.is_dir() or _FORMATS[path.suffix] != "parquet":
        import pyarrow.dataset as ds

        whole = ds.dataset(str(path), format=_FORMATS[path.suffix])
        yield from whole.to_batches(batch_size=_ROWS, batch_readahead=1, fragment_readahead=1)
        return
    import pyarrow.parquet as pq

    with pq.ParquetFile(path) as file:
        yield from file.iter_batches(batch_size=_ROWS)
