"""``export``: a function of a fitted model as a compiled artefact that runs without jaxem."""

import dataclasses
import os
from collections.abc import Sequence
from typing import Any

import jax
from jax import export as jax_export

from jaxem.core import container, trees
from jaxem.core.checks import brief, flag
from jaxem.core.compilation import all_digits, lowerable
from jaxem.core.conversion import as_params, float_dtype
from jaxem.core.data import Data, Dataset, Sharded
from jaxem.core.dataset import as_data, dataset
from jaxem.core.model import Params, check_model, has

_ANSWERS = (
    "predict",
    "predict_proba",
    "log_prob",
    "transform",
    "factors",
    "abilities",
    "filter",
    "smooth",
    "forecast",
)
_OF_SYMBOLS = ("Symbolic dimension", "symbolic dimension", "dimension variable")  # in JAX's messages about them
_KNOWN = ("t >= 2", "n*t >= n")  # what JAX is told of the numbers of sequences and steps
_LATENT = ("factors", "abilities", "smooth")  # whose means are the answer to ``transform``


def export(
    model: Any,
    params: Params,
    what: str = "predict_proba",
    path: str | os.PathLike[str] | None = None,
    *,
    like: Data,
    any_length: bool = False,
    platforms: Sequence[str] | None = None,
    **options: Any,
) -> jax_export.Exported:
    r"""A function of a fitted model as a compiled artefact, which is loaded and called without jaxem.

    The parameters are constants of the artefact; the number of observations N may be any from 1 on. Another process
    needs JAX, the package ``flatbuffers``, and two lines::

        from jax import export
        call = export.deserialize(open("model.bin", "rb").read()).call
        call(x)                              # or call(x, given=u, lengths=lengths)

    The inputs are plain arrays: ``values`` by position, an array (N, ...) or a dict of arrays, and ``given`` and
    ``lengths`` by name where ``like`` has them, in the shapes and dtypes of ``like``. NaN is a missing cell where
    ``like`` has missing cells. The outputs are arrays, or dicts of arrays where the function returns a record. Nothing
    is checked: an observation that cannot be is answered as in a trace (NaN, or the class -1). In 64 bits the other
    process has to enable them too.

    Arguments:
        model: the model.
        params: its parameters, or a ``Fit``.
        what: ``"predict"``, ``"predict_proba"`` (default), ``"log_prob"``, ``"filter"``, ``"smooth"``, ``"forecast"``,
            ``"factors"`` or ``"abilities"``: the function of the model of that name; or ``"transform"``: the posterior
            means of factors, abilities or states.
        path: a file for the artefact, which is written whole or not at all; needs the extra ``export``. Default
            ``None``: none is written; ``serialize()`` of the result returns the same bytes.
        like: data whose shapes, dtypes and parts the inputs have, such as those of the fit; or their shapes, as
            ``jax.ShapeDtypeStruct`` in the place of arrays. The number of observations does not count, nor do weights.
        any_length: whether the number of steps of sequences may vary too, from call to call, from 2 on; default
            False: it is that of ``like``, and shorter sequences are padded and have ``lengths``. ``smooth`` of a
            ``StateSpace`` needs to know it.
        platforms: the platforms that the artefact runs on, such as ``("cpu", "cuda", "tpu")``. Default ``None``: the
            one of this process.
        **options: options of the function, such as ``horizon=12`` of ``forecast``. Its ``given`` (the covariates of
            later steps) is an example too: the artefact has an input ``later`` of that shape.

    Returns:
        A ``jax.export.Exported``, with ``call(...)``, ``serialize()``, ``in_avals`` and ``out_avals``.

    Raises:
        ValueError: the model has no such function, ``like`` does not fit the model, or the function cannot be computed
            for a number of observations or steps that is not known.
        ImportError: ``path`` is given, and flatbuffers is not installed.
    """
    path = None if path is None else container.check_path("export: path", path)
    check_model(model)
    flag("export: any_length", any_length)
    answer = _answer(model, what)
    example = _shapes(like)
    params = as_params(model, params, float_dtype(example))
    if trees.is_traced(model, params):
        raise ValueError("export needs the values of the parameters, so it cannot run inside jit, vmap or grad")
    later = options.pop("given", None)
    missing = "refuse" if example.observed is None else "nan"

    def function(values: Any, given: Any = None, lengths: Any = None, later: Any = None) -> Any:
        data = dataset(_records(example.values, values), given=given, lengths=lengths, missing=missing)
        more = options if later is None else {**options, "given": later}
        return _plain(answer(params, data, **more))

    function.__name__ = what
    parts = {"given": example.given, "lengths": example.lengths, "later": None if later is None else _shapes(later)}
    sizes = jax_export.symbolic_shape("n, t", constraints=_KNOWN) if any_length else jax_export.symbolic_shape("n")
    free = lambda part, steps: jax.tree.map(lambda leaf: _free(leaf, sizes, steps), part)
    inputs = {
        name: free(_values(part), any_length and name == "given") for name, part in parts.items() if part is not None
    }
    try:
        with all_digits(platforms or ()):
            exported = jax_export.export(lowerable(function), platforms=platforms)(
                free(_plain(example.values), any_length), **inputs
            )
    except (ValueError, TypeError, jax.errors.InconclusiveDimensionOperation) as error:
        if not any(part in str(error) for part in _OF_SYMBOLS):
            raise
        raise ValueError(
            f"export: {what} of {type(model).__name__} cannot be computed for a number of observations"
            f"{' and steps' if any_length else ''} that is not known: {str(error).splitlines()[0]}"
        ) from error
    if path is not None:
        container.replace(path, _serialized(exported))
    return exported


def _serialized(exported: jax_export.Exported) -> bytes:
    try:
        return bytes(exported.serialize())
    except ImportError as error:
        raise ImportError('the file of an exported function needs flatbuffers: pip install "jaxem[export]"') from error


def _answer(model: Any, what: str) -> Any:
    """The function (params, data, **options) of the model."""
    known = [name for name in _ANSWERS if has(model, name)]
    latent = [name for name in _LATENT if name in known]
    known += ["transform"] * bool(latent)
    if what not in known:
        raise ValueError(
            f"export: {type(model).__name__} has {', '.join(known) or 'nothing to export'}; got {brief(what)}"
        )
    if what == "transform":
        return lambda params, data: getattr(model, latent[0])(params, data).means
    return getattr(model, what)


def _shapes(like: Data) -> Dataset:
    """The shapes and dtypes of the arrays of a data set."""
    if isinstance(like, Sharded):
        like = like.data
    if not any(isinstance(leaf, jax.ShapeDtypeStruct) for leaf in jax.tree.leaves(like)):
        like = as_data(like)
    found = like if isinstance(like, Dataset) else Dataset(like)
    found = dataclasses.replace(found, weights=None, patterns=None, names=None)
    return jax.tree.map(lambda leaf: jax.ShapeDtypeStruct(leaf.shape, leaf.dtype), found)


def _values(part: Any) -> Any:
    return part.values if isinstance(part, Dataset) else part


def _free(leaf: Any, sizes: Sequence[Any], steps: bool) -> jax.ShapeDtypeStruct:
    """The shape with symbols for the number of observations and, with ``steps``, for that of steps."""
    if steps and len(leaf.shape) < 2:
        raise ValueError("export: any_length is for sequences (N, T, ...), and like has an array of one axis")
    return jax.ShapeDtypeStruct((*sizes[: 1 + steps], *leaf.shape[1 + steps :]), leaf.dtype)


def _plain(tree: Any) -> Any:
    """Records as dicts, without parts that are ``None``, so that whoever calls the artefact needs no class of jaxem."""
    if hasattr(tree, "_fields"):
        return {name: _plain(part) for name, part in tree._asdict().items() if part is not None}
    if isinstance(tree, tuple | list):
        return type(tree)(map(_plain, tree))
    return {name: _plain(part) for name, part in tree.items()} if isinstance(tree, dict) else tree


def _records(like: Any, tree: Any) -> Any:
    """What ``_plain`` makes a dict of as records again."""
    if hasattr(like, "_fields"):
        return type(like)(**{name: part and _records(part, tree[name]) for name, part in like._asdict().items()})
    if isinstance(like, tuple | list):
        return type(like)(map(_records, like, tree))
    return {name: _records(part, tree[name]) for name, part in like.items()} if isinstance(like, dict) else tree
