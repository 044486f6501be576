"""An operator's options, read off the typed arguments of its constructor."""

from __future__ import annotations

import inspect
import typing
from typing import Any

from pydantic import BaseModel, ConfigDict, create_model

from pipeline.operator import Operator


def options_model(operator: type[Operator]) -> type[BaseModel]:
    """A pydantic model of the constructor's arguments: names, types, bounds, defaults, descriptions."""
    if operator.__init__ is object.__init__:
        return create_model(operator.__name__, __config__=ConfigDict(extra="forbid"))
    hints = typing.get_type_hints(operator.__init__, include_extras=True)
    fields: dict[str, Any] = {}
    for name, argument in list(inspect.signature(operator.__init__).parameters.items())[1:]:
        default = ... if argument.default is inspect.Parameter.empty else argument.default
        fields[name] = (hints.get(name, Any), default)
    # Pydantic reserves names such as `model_…`; for us they are options like any other.
    config = ConfigDict(extra="forbid", protected_namespaces=(), arbitrary_types_allowed=True)
    return create_model(operator.__name__, __config__=config, **fields)


def check_options(operator: type[Operator], options: dict[str, Any]) -> dict[str, Any]:
    """Convert the options to their types; the constructor adds the defaults.

    Raises:
        pydantic.ValidationError: unknown, missing or ill-typed options.
    """
    checked = options_model(operator).model_validate(options)
    return {name: getattr(checked, name) for name in checked.model_fields_set}
