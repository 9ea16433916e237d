"""``save`` and ``load``: a model and its fit in one file."""

import dataclasses
import os
import sys
import warnings
from pathlib import Path
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import Mesh

from jaxem.core import constraints, container, trees
from jaxem.core.arrays import X64
from jaxem.core.checks import brief, instance
from jaxem.core.conversion import as_params, of_fit
from jaxem.core.data import Data
from jaxem.core.model import Params, check_model, spaces_of
from jaxem.files import code, formats, spread
from jaxem.files.card import Card, Names, card_of, from_json
from jaxem.files.encoding import Arrays, Recipe, Unreadable, Unwritable, decode, encode
from jaxem.fitting.result import Fit


class Saved(NamedTuple):
    """What ``load`` returns."""

    model: Any  # equal to the model that was saved
    fit: Fit  # equal to the fit that was saved
    card: Card  # what was fitted, how, on which data, and when

    @property
    def names(self) -> Names | None:
        """The columns and levels of the data of the fit, as in ``Dataset.names``; ``None`` where they had none."""
        return None if self.card.data is None else self.card.data.names


def save(
    path: str | os.PathLike[str],
    model: Any,
    fit: Fit,
    data: Data | None = None,
    *,
    algorithm: Any = None,
    notes: str = "",
) -> None:
    """A model and its fit as one file, which ``jaxem.load`` reads.

    The file holds no pickle and no code: it is a safetensors file where that is installed (extra ``checkpoint``), else
    an ``.npz`` file, with a header in JSON. All of jaxem's own models, families, gates and priors can be in it. A model
    with functions or classes of your own (``jaxem.Model``, ``from_log_joint``, ``with_prior``) is left out: pass it to
    ``load`` again, which recognises its code by fingerprints. Whenever the process ends, the file is either the old one
    or the new one, and whole.

    Of several processes (``jax.distributed.initialize``) all call it, and the first one writes. Where parameters are
    spread over processes, ``path`` becomes a folder, into which each process writes its parts (extra ``orbax``).

    Arguments:
        path: the file; one that is there is replaced.
        model: the model that was fitted.
        fit: its ``Fit``, or that of many lanes (of many starts, their ``.best``).
        data: the data of the fit, of which the card keeps shapes, a fingerprint, and the names of columns and levels,
            but no values. Default ``None``: the card says nothing of the data.
        algorithm: the algorithm of the fit, for the card. Default ``None``: not recorded.
        notes: a text for the card. Default: none.

    Raises:
        ValueError: ``fit`` is not a ``Fit``, its parameters are not those of the model, values are traced, or ``path``
            is not the path of a file.
        ImportError: arrays are spread over processes, and orbax is not installed.
    """
    parts = any(map(spread.is_spread, jax.tree.leaves((model, fit))))
    path = Path(path) if parts and Path(path).is_dir() else container.check_path("save: path", path)
    check_model(model)
    of_fit(fit)  # names what to pass of many starts
    instance("save: fit", fit, "a Fit, as jaxem.fit returns it", "params", "status", "objective", "steps")
    if not isinstance(notes, str):
        raise ValueError(f"save: notes must be a text; got {brief(notes)}")
    if trees.is_traced(fit):
        raise ValueError("save writes values, so it cannot run inside jit, vmap or grad")
    arrays: Arrays = {}
    recipe, parts = _of_model(model, arrays)
    described, leaves = _of_fit(fit, arrays)
    card = card_of(model, fit, data, algorithm, notes, recipe is not None)
    header = {"card": dataclasses.asdict(card), "model": recipe, "parts": parts, "fit": described, "leaves": leaves}
    formats.write(path, header, arrays)


def _of_model(model: Any, arrays: Arrays) -> tuple[Recipe, code.Parts | None]:
    """The recipe of a model, or the fingerprints of its parts where it has none."""
    found: Arrays = {}
    try:
        recipe = encode(model, "model", found)
    except Unwritable:
        return None, code.parts_of(model)
    arrays.update(found)
    return recipe, None


def _of_fit(fit: Fit, arrays: Arrays) -> tuple[Recipe, list[str] | None]:
    """The recipe of a fit, and the names of its parameters where they are records of a user's class."""
    found: Arrays = {}
    try:
        recipe = encode(fit, "fit", found)
    except Unwritable:
        names = trees.leaf_names(fit.params)
        recipe = encode(dataclasses.replace(fit, params=jax.tree.leaves(fit.params)), "fit", arrays)
        return recipe, names
    arrays.update(found)
    return recipe, None


def load(
    path: str | os.PathLike[str],
    model: Any = None,
    *,
    params: Params = None,
    dtype: Any = None,
    check: bool = True,
    mesh: Mesh | None = None,
) -> Saved:
    """The model and the fit that ``jaxem.save`` wrote, equal to those that were saved, to the bit.

    ``saved.fit`` can be used wherever the fit could: in ``predict`` and ``summary``, and as the start of another
    ``jaxem.fit``. Nothing in the file is run, and nothing is imported by a name that it contains.

    Arguments:
        path: the file.
        model: the model, where the file does not hold it because it has functions or classes of your own. Its code must
            be that of the model that was saved. Default ``None``: the model in the file.
        params: any parameters with the structure of those that were saved; needed where these are records of your own
            (a named tuple) and the constraints of the model do not show it. Values do not count. Default ``None``.
        dtype: the floating dtype to which parameters, fit and the arrays of the model are converted. Default ``None``:
            they stay as they are. Needed for a file in float64 where JAX computes with 32 bits.
        check: whether a ``model`` that differs from the one that was saved is refused; default True.
        mesh: the devices over which arrays are spread that were spread over processes; its axes have the names of
            those of then. Default ``None``: every device gets them whole.

    Returns:
        A ``Saved``: ``model``, ``fit``, and ``card``, which tells what was fitted, how, on which data, and when.

    Raises:
        ValueError: the file is not a saved model, is damaged, or was written by a later version of jaxem; it is in
            float64, JAX computes with 32 bits, and no ``dtype`` is given; ``model`` or ``params`` are needed and not
            given; ``model`` is not the one that was saved; or numbers do not fit into ``dtype``.
    """
    if not isinstance(path, str | os.PathLike):
        raise ValueError(f"load: path must be the path of a file; it is {brief(path)}")
    path = Path(path)
    header, arrays = formats.read(path)
    described = header["spread"] or {}
    wanted = None if dtype is None else _floating(dtype)
    place = _Placing(path, wanted)
    if described and wanted is not None:
        raise ValueError(f"load: dtype is not for arrays that are spread over processes, as in {path}")
    for name, (_, of, _) in described.items():
        place(np.zeros(0, of), name)  # refuses a dtype that JAX has not here
    arrays |= spread.read(path, described, mesh) if described else {}
    try:
        card = from_json(path, header["card"])
        model = _model(path, model, header, arrays, place, check)
        found = decode(header["fit"], arrays, place if wanted is None else lambda array, name: array)
    except Unreadable as error:
        raise ValueError(f"{path} is not a saved model that this version of jaxem knows: {error}") from error
    if not isinstance(found, Fit) or arrays:
        raise ValueError(f"{path} is not a saved model that this version of jaxem knows: it holds more than a fit")
    if header["leaves"] is not None:
        found = dataclasses.replace(found, params=_structured(path, header["leaves"], found.params, model, params))
    return Saved(model, found if wanted is None else _converted(found, model, wanted, place), card)


def _floating(dtype: Any) -> np.dtype:
    found = jnp.dtype(dtype)
    if not jnp.issubdtype(found, jnp.floating):
        raise ValueError(f"load: dtype must be a floating dtype, such as 'float32'; got {found}")
    if found.itemsize > 4 and not _has_64_bits():
        raise ValueError(f"load: dtype={found.name} needs 64 bits, and JAX computes with 32: {X64}")
    return found


def _has_64_bits() -> bool:
    return bool(jax.config.jax_enable_x64)  # pyright: ignore[reportAttributeAccessIssue]


class _Placing:
    """Arrays of a file as arrays of JAX, in the dtype that is wanted; no number is changed without being asked for."""

    def __init__(self, path: Path, dtype: np.dtype | None) -> None:
        self._path, self._dtype = path, dtype

    def __call__(self, array: np.ndarray, name: str = "") -> jax.Array:
        floating = jnp.issubdtype(array.dtype, jnp.floating)
        dtype = self._dtype if floating and self._dtype is not None else array.dtype
        if dtype.itemsize > 4 and not _has_64_bits():
            if floating:
                raise ValueError(
                    f"{self._path} is in {array.dtype} ({name}), and JAX computes with 32 bits here: {X64}, or convert "
                    "the numbers by jaxem.load(path, dtype='float32')"
                )
            dtype = np.dtype(f"{array.dtype.kind}4")
        with np.errstate(over="ignore"):
            moved = array.astype(dtype)
        lost = np.isfinite(array) & ~np.isfinite(moved) if floating else moved != array
        if lost.any():
            raise ValueError(f"{self._path}: {name} has values that {dtype} cannot hold")
        return jax.device_put(moved)  # jnp.asarray compiles a program for each shape


def _model(path: Path, model: Any, header: formats.Header, arrays: Arrays, place: Any, check: bool) -> Any:
    """The model of the file, or the one that was passed, where it is the same."""
    held = None if header["model"] is None else decode(header["model"], arrays, place)
    if model is None:
        if held is None:
            names = ", ".join(name for name, (kind, _) in header["parts"].items() if kind == "code")
            raise ValueError(
                f"{path} does not hold its model, which has functions or classes of yours ({names}): pass the model, "
                "jaxem.load(path, model)"
            )
        return held
    check_model(model)
    if check:
        was = header["parts"] if held is None else code.parts_of(held)
        _check_same(path, was, code.parts_of(model), header["card"]["versions"]["python"])
    return model


def _check_same(path: Path, was: code.Parts, now: code.Parts, python: str) -> None:
    odd, only_code = code.differences(was, now)
    if not odd:
        return
    here = ".".join(map(str, sys.version_info[:2]))
    there = ".".join(python.split(".")[:2])
    if only_code and here != there:
        warnings.warn(
            f"{path} was written by Python {there}, and this is {here}, so the code of {', '.join(odd)} cannot be "
            "compared",
            stacklevel=4,
        )
        return
    raise ValueError(
        f"{path} was saved with another model: {', '.join(odd)} differ{'s' * (len(odd) == 1)}. If the model means the "
        "same nevertheless: jaxem.load(path, model, check=False)"
    )


def _structured(path: Path, names: list[str], leaves: list[Any], model: Any, example: Any) -> Any:
    """The parameters as records of a user's class, like ``example`` or the constraints of the model."""
    spaces = spaces_of(model)
    for tree in (example, jax.tree.map(lambda _: 0.0, spaces, is_leaf=constraints.is_space)):
        if tree is not None and trees.leaf_names(tree) == names:
            return jax.tree.unflatten(jax.tree.structure(tree), leaves)
    what = "params have other names than" if example is not None else "pass any parameters, params=..., that have"
    raise ValueError(
        f"{path}: the parameters are records of a class of yours, which a file cannot make; {what} {', '.join(names)}"
    )


def _converted(fit: Fit, model: Any, dtype: np.dtype, place: _Placing) -> Fit:
    """The fit in another dtype, with parameters that lie in their spaces to its precision."""
    params = as_params(model, fit.params, dtype)
    rest = jax.tree.map(lambda leaf: place(np.asarray(leaf)), dataclasses.replace(fit, params=None))
    return dataclasses.replace(rest, params=params)
