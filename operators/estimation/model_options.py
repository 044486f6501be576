"""What the operators that run models have in common."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Literal

from pydantic import Field

from engines.assets.model_files import find_model
from engines.contracts.config_files import nearest
from engines.contracts.contract import Contract, available_models, load_contract
from engines.device.image import DeviceImage, Image
from engines.device.names import DeviceOption
from engines.errors import ContractError, EngineError
from engines.images.yuv import YuvImage
from engines.loading.engine_choice import Backend
from pipeline.errors import OptionError
from pipeline.operator import Operator
from pipeline.packet import Packet

# Options that they share.
RunsOn = Annotated[Backend, Field(description="what runs the model; auto takes the fastest that is here")]
Threads = Annotated[int | None, Field(ge=1, description="for one engine; by the cores and workers")]
Device = Annotated[
    DeviceOption | None,
    Field(description="where the model runs: cpu, cuda, cuda:1; its backend's"),
]


Task = Literal["detect", "pose", "pose_onestage"]


def model_for(task: Task, model: str, *, option: str = "model") -> tuple[Contract, Path | None]:
    """A model that does `task`, by its name or by the path of an ONNX file that carries its contract.

    Returns:
        The contract; and the file, if that was given.

    Raises:
        OptionError: of `option`: there is no such model, its contract is invalid, or it does something else.
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
    """The contract of `model_for`."""
    return model_for(task, model, option=option)[0]


def as_image(packet: Packet) -> Image:
    """The packet's picture as models take it: planes of YUV and images on a GPU as they are, others as RGB.

    Raises:
        ValueError: the packet has none; a graph whose source gives images does not let it come to this.
    """
    if isinstance(packet.picture, YuvImage | DeviceImage):
        return packet.picture
    image = packet.image
    if image is None:
        raise ValueError(f"{packet.stream} frame {packet.seq} has no image")
    return image


def count_halved(operator: Operator, halved: int) -> None:
    """Count, as `halved_batches`, how often its engines have so far halved their batches to fit in memory."""
    if new := halved - operator.counters["halved_batches"]:
        operator.count("halved_batches", new)
