"""The section `between:` of a graph: how packets travel from one fragment to the next."""

from __future__ import annotations

from typing import Any, Literal

from pydantic import BaseModel, ConfigDict, Field, ValidationError

from operators import REGISTRY
from pipeline.definition.options import options_model
from pipeline.errors import ConfigError, nearest
from pipeline.graph import Graph, resolve

Codec = Literal["jpeg", "png", "raw", "none"]
RESERVED = {"topic", "group", "wait", "provides", "image"}  # options that `cut` sets itself


class Between(BaseModel):
    """The section `between:`; every other key is an option of kafka_sink or kafka_source."""

    model_config = ConfigDict(extra="allow")
    image: Codec = Field("jpeg", description="how pictures are sent, to fragments that need them")
    partitions: int = Field(24, ge=1, le=100_000, description="of a topic: the most workers of a fragment")
    replication: int = Field(-1, ge=-1, description="copies of a topic; -1: the broker's default")
    keep_s: int = Field(3600, ge=60, description="how long a topic keeps its messages, read or not")

    @property
    def kafka_options(self) -> dict[str, Any]:
        """The options of sinks and sources."""
        return self.model_extra or {}

    def options_of(self, op: str) -> dict[str, Any]:
        """The options among them that the operator `op` takes."""
        names = _option_names(op)
        return {name: value for name, value in self.kafka_options.items() if name in names}


def between_of(graph: Graph) -> Between:
    """The section `between:` of a graph.

    Raises:
        ConfigError: an option is unknown, or its value has a wrong type.
    """
    try:
        between = Between.model_validate(graph.between)
    except ValidationError as error:
        first = error.errors()[0]
        where = f"{graph.where} between.{first['loc'][0]}"
        raise ConfigError(f"{where}: {first['msg']}, found {first['input']!r}") from None
    known = {*_option_names("kafka_sink"), *_option_names("kafka_source")} - RESERVED
    known |= set(Between.model_fields)
    for name in between.kafka_options:
        if name not in known:
            raise ConfigError(f"{graph.where} between.{name}: unknown option; {nearest(name, sorted(known))}")
    return between


def _option_names(op: str) -> list[str]:
    return list(options_model(resolve(REGISTRY[op])).model_fields)
