"""What the operators that run models make of a packet's picture."""

from __future__ import annotations

import numpy as np

from engines.yuv import YuvImage
from pipeline.packet import Packet


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
