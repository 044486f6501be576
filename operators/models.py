"""What the operators that run models have in common."""

from __future__ import annotations

from typing import Literal

import numpy as np

from engines.configs import nearest
from engines.contract import Contract, available_models, load_contract
from engines.errors import ContractError
from engines.yuv import YuvImage
from pipeline.errors import OptionError
from pipeline.packet import Packet


def contract_for(task: Literal["detect", "pose"], model: str) -> Contract:
    """The contract of a model that does `task`.

    Raises:
        OptionError: there is no such model, its contract is invalid, or it does something else.
    """
    try:
        contract = load_contract(model)
        suited = [name for name in available_models() if load_contract(name).task == task]
    except ContractError as error:
        raise OptionError("model", str(error)) from None
    if contract.task != task:
        raise OptionError(
            "model", f"{model} is a {contract.task} model, expected one for {task}; {nearest(model, suited)}"
        )
    return contract


def as_image(packet: Packet) -> np.ndarray | YuvImage:
    """The packet's picture as models take it: planes of YUV as they are, everything else as RGB.

    Raises:
        ValueError: the packet has none; a graph whose source gives images does not let it come to this.
    """
    if isinstance(packet.picture, YuvImage):
        return packet.picture
    image = packet.image
    if image is None:
        raise ValueError(f"{packet.stream} frame {packet.seq} has no image")
    return image
