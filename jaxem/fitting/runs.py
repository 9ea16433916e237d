"""What a checkpoint says of its run: by which model, data, algorithm and options it can go on, and no others."""

import sys
from pathlib import Path
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from jaxem.core import trees
from jaxem.core.conversion import float_dtype
from jaxem.core.data import Data, Sharded, plain
from jaxem.fitting import checkpoint, packing, recipes
from jaxem.fitting.fingerprint import fingerprint

How = tuple[Any, Any, Any]  # algorithm, stopping rule, tolerance


class Seen(NamedTuple):
    """By what data are recognised."""

    shapes: list[str]
    digest: str
    dtype: str  # of computations


def seen(data: Data) -> Seen:
    """By what these data, converted, are recognised."""
    return Seen(_shapes(data), fingerprint(plain(data)), float_dtype(data).name)


def describe(kind: str, model: Any, params: Any, data: Seen, how: How, max_steps: int, key: Any) -> dict[str, Any]:
    """The header of a run: everything by which it can be recognised and go on.

    Arguments:
        kind: the public function that began the run.
        params: the starts, converted; only their structure, shapes and dtype count.
        data: by what the data are recognised.
    """
    leaves = jax.tree.leaves(params)
    return {
        "kind": kind,
        "x64": jax.config.jax_enable_x64,  # pyright: ignore[reportAttributeAccessIssue]
        "jaxem": _version(),
        "model": [type(model).__qualname__, fingerprint(model)],
        "data": [data.shapes, data.digest],
        "params": packing.structure_of(params) | {"shapes": [leaf.shape for leaf in leaves]},
        "dtype": trees.float_dtype(params).name,
        "tol": float(how[2]),
        "key": _key_kind(key),
        **options(how, max_steps),
    }


def options(how: How, max_steps: int) -> dict[str, Any]:
    """The part of the header that may differ when a run goes on."""
    return {"algorithm": recipes.describe(how[0]), "stop": recipes.describe(how[1]), "max_steps": max_steps}


class Saved(NamedTuple):
    """A checkpoint that was read."""

    path: Path
    header: dict[str, Any]
    arrays: dict[str, np.ndarray]

    @property
    def facts(self) -> dict[str, Any]:
        """What the engine saved beside its arrays."""
        return self.header["facts"]

    def check(self, model: Any, data: Seen) -> None:
        """Raise ``ValueError`` where the run cannot go on with this model, data or setting, and say what differs."""
        header = self.header
        x64 = jax.config.jax_enable_x64  # pyright: ignore[reportAttributeAccessIssue]
        if header["jaxem"] != _version():
            self._refuse(f"was written by jaxem {header['jaxem']}, and this is {_version()}; go on with that version")
        if header["x64"] != x64:
            was, now = ("on", "off") if header["x64"] else ("off", "on")
            self._refuse(f"was written with jax_enable_x64 {was}, and it is {now} here")
        if header["dtype"] != data.dtype:
            self._refuse(f"is of a run in {header['dtype']}, and these data are {data.dtype}")
        kind, digest = header["model"]
        if kind != type(model).__qualname__:
            self._refuse(f"is of a run with the model {kind}, and this one is {type(model).__qualname__}")
        if digest != fingerprint(model):
            self._refuse(
                f"is of a run with another {kind}: a field, an array or the code of a function differs (the code also "
                "where the version of Python does)"
            )
        shapes, digest = header["data"]
        if shapes != data.shapes:
            self._refuse(f"is of a run on data {', '.join(shapes)}, and these are {', '.join(data.shapes)}")
        if digest != data.digest:
            self._refuse("is of a run on other data: the shapes are equal, but not the values")

    def _refuse(self, why: str) -> None:
        raise ValueError(f"{self.path} {why}")

    def tree(self, template: Any) -> Any:
        """The arrays that the engine saved, as a tree like ``template``."""
        try:
            return packing.unpack(template, self.arrays)
        except ValueError as error:
            raise ValueError(f"{self.path} does not fit this model and algorithm: {error}") from error

    def how(self, algorithm: Any, stop: Any) -> How:
        """Algorithm, rule and tolerance: what was passed again, else what the file says."""
        algorithm = self._option("algorithm", algorithm)
        return algorithm, self._option("stop", stop), self.header["tol"]

    def _option(self, name: str, value: Any) -> Any:
        recipe = self.header[name]
        if value is None:
            if "made" not in recipe:
                self._refuse(
                    f"is of a run with {name}={recipe['type']}, which holds a function or is a class of your own, and "
                    f"a file cannot make it: pass it again, {name}=..."
                )
            try:
                return recipes.rebuild(recipe)
            except (KeyError, TypeError, ValueError):
                self._refuse(f"is of a run with an option {name} that this version of jaxem cannot make")
        if name == "algorithm" and recipes.kind_of(value) != recipe["type"]:
            self._refuse(f"is of a run with {name}={recipe['type']}, and this one is {recipes.kind_of(value)}")
        return value

    def params(self, model: Any, example: Any) -> Any:
        """The shapes and dtypes of the parameters that the run began with."""
        found = self.header["params"]
        tree = packing.like(found, model, example)
        dtype = jnp.dtype(self.header["dtype"])
        leaves = [jax.ShapeDtypeStruct(tuple(shape), dtype) for shape in found["shapes"]]
        return jax.tree.unflatten(jax.tree.structure(tree), leaves)

    def key(self) -> Any:
        """A key like that of the run; its value has gone into the state."""
        kind = self.header["key"]
        if kind is None:
            return None
        return jax.random.PRNGKey(0) if kind == "raw" else jax.random.key(0, impl=kind)


def read(path: Any) -> Saved:
    """The checkpoint at ``path``; ``ValueError`` for any other file."""
    path = checkpoint.check_path("resume", path)
    return Saved(path, *checkpoint.read(path))


def _version() -> str:
    return sys.modules["jaxem"].__version__  # not imported: the package imports this file


def _shapes(data: Data) -> list[str]:
    data = data.data if isinstance(data, Sharded) else data
    return [f"{leaf.dtype}{list(leaf.shape)}" for leaf in map(jnp.asarray, jax.tree.leaves(plain(data)))]


def _key_kind(key: Any) -> str | None:
    if key is None:
        return None
    return str(jax.random.key_impl(key)) if jnp.issubdtype(key.dtype, jax.dtypes.prng_key) else "raw"
