"""Options, model look-up and image access for all operators that run models."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Literal

from pydantic import Field

from engines.assets.model_files import find_model
from engines.contracts.contract import Contract, available_models, load_contract
from engines.device.image import DeviceImage, Image
from engines.device.names import DeviceOption
from engines.errors import ContractError, EngineError, nearest
from engines.images.yuv import YuvImage
from engines.loading.engine_choice import Backend
from pipeline.errors import OptionError
from pipeline.operator import Operator
from pipeline.packet import Packet

# Options that all of them share.
RunsOn = Annotated[Backend, Field(description="what runs the model; auto: the fastest that is installed")]
Threads = Annotated[int | None, Field(ge=1, description="for one engine; default: by cores and workers")]
Device = Annotated[
    DeviceOption | None,
    Field(description="where the model runs: cpu, cuda, cuda:1; default: the backend chooses"),
]


Task = Literal["detect", "pose", "pose_onestage"]


def model_for(task: Task, model: str, *, option: str = "model") -> tuple[Contract, Path | None]:
    """The contract of a model for `task`.

    Args:
        task: the task that the model must have.
        model: its name, or the path of an ONNX file that carries its contract.
        option: the operator's option, for messages.

    Returns:
        The contract, and the path if one was given.

    Raises:
        OptionError: there is no such model, its contract is invalid, or it has another task.
    """
    try:
        contract, path = find_model(model)
        if contract.task == task:
            return contract, path
        suited = [name for name in available_models() if load_contract(name).task == task]
    except (ContractError, EngineError) as error:
        raise OptionError(option, str(error)) from None
    raise OptionError(
        option, f"{model} is a {contract.task} model, expected one for {task}; {nearest(model, suited)}"
    )


def contract_for(task: Task, model: str, *, option: str = "model") -> Contract:
    """The contract alone, see `model_for`."""
    return model_for(task, model, option=option)[0]


def as_image(packet: Packet) -> Image:
    """The packet's picture as models take it: YUV planes and GPU images unchanged, others as RGB.

    Raises:
        ValueError: the packet has no picture; the check of the graph's fields normally prevents this.
    """
    if isinstance(packet.picture, YuvImage | DeviceImage):
        return packet.picture
    image = packet.image
    if image is None:
        raise ValueError(f"{packet.stream} frame {packet.seq} has no image")
    return image


def count_halved(operator: Operator, halved: int) -> None:
    """Set the counter `halved_batches` to the number of times the engines have halved a batch so far."""
    if new := halved - operator.counters["halved_batches"]:
        operator.count("halved_batches", new)
