"""Models whose densities are kept from growing without bound by a floor, and the same models without it."""

import dataclasses
from typing import Any


def without_floors(model: Any) -> Any:
    """The model with ``floor=None`` in each of its parts, so that its densities integrate to one.

    A floor is a factor below one of each density, which makes the objective of a fit something else than the
    log-likelihood. The parameters are those of the model, which is itself returned where it has no floor.
    """
    if isinstance(model, dict):
        parts = {name: without_floors(part) for name, part in model.items()}
        return parts if any(parts[name] is not model[name] for name in parts) else model
    if not dataclasses.is_dataclass(model) or isinstance(model, type):
        return model
    parts = {field.name: getattr(model, field.name) for field in dataclasses.fields(model)}
    plain = {name: None if name == "floor" else without_floors(part) for name, part in parts.items()}
    changed = {name: part for name, part in plain.items() if part is not parts[name]}
    return dataclasses.replace(model, **changed) if changed else model
