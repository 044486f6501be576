"""Read heatmap models: the peak of each keypoint's map, refined to a fraction of a cell.

The numbers are those of MMPose's codecs `MSRAHeatmap` and `UDPHeatmap` and of its `refinement.py`.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Literal, Self

import numpy as np
from pydantic import Field

from engines.codecs.base import ExpectedOutput, ModelSizes, Shape, TopDownCodec
from engines.codecs.detections import Reduced
from engines.codecs.heatmap_refinement import DARK, DARK_UDP, QUARTER, Window, refinement
from engines.device.arrays import Outputs, indices, is_tensor, namespace, single


class HeatmapCodec(TopDownCodec):
    """One heatmap a keypoint."""

    kind: Literal["heatmap"]
    size: tuple[int, int] = Field(description="width, height in cells")
    sigma: float = Field(gt=0, description="of the Gaussians it was trained with, in cells")
    refine: Literal["none", "quarter", "dark"] = Field(
        description="quarter: towards the higher neighbour; dark: by the log's curvature (arXiv:1910.06278)"
    )
    udp: bool = Field(
        description="whether corners of px grids coincide, in crop and map (UDP, arXiv:1911.07524)"
    )

    @property
    def aligns_corner_pixels(self) -> bool:
        """As UDP says."""
        return self.udp

    def expected_outputs(self, model: ModelSizes) -> dict[str, ExpectedOutput]:
        """One map a keypoint."""
        width, height = self.size
        reason = f"heatmaps of {width}x{height} and {model.keypoints} keypoints of {model.skeleton}"
        return {"heatmaps": ExpectedOutput((-1, model.keypoints, height, width), reason)}

    def contradiction(self, model: ModelSizes) -> str | None:
        """A cell must be the same whole number of px along x and y."""
        strides = [side / cells for side, cells in zip(model.input_size, self.size, strict=True)]
        if strides[0] == strides[1] and strides[0].is_integer():
            return None
        return (
            f"heatmaps of {self.size[0]}x{self.size[1]} on an input of {model.input_size[0]}x"
            f"{model.input_size[1]} have strides of {strides[0]:g} and {strides[1]:g} px, expected the same "
            "whole number; correct codec.size or input.size"
        )

    def with_graph_shapes(self, shapes: Mapping[str, Shape]) -> Self:
        """This codec with `size` read from the graph's heatmaps; unchanged if the graph leaves it open."""
        height, width = shapes["heatmaps"][-2:]
        return self if -1 in (height, width) else self.model_copy(update={"size": (width, height)})

    def reduce(self, outputs: Outputs) -> Reduced:
        """The highest `cells` x, y (N, K, 2), their heights `scores` (N, K) float32, and cells `near` them.

        `near` is (N, K, s, s) float32, s as the refinement needs; beyond an edge, the cell at the edge is
        repeated. The cells come from the map, or from the blurred map where DARK takes its logarithm. Without
        refinement there is no `near`.

        Args:
            outputs: heatmaps (N, K, h, w).
        """
        maps, window = single(outputs["heatmaps"]), self._window
        count, keypoints, height, width = maps.shape
        maps = maps.reshape(count * keypoints, height, width)
        if is_tensor(maps):
            from engines.codecs import device_peaks

            reduced: Reduced = device_peaks.find_peaks(maps, window)
        else:
            from engines.codecs import host_peaks

            reduced = host_peaks.find_peaks(maps, window)
        return {name: array.reshape(count, keypoints, *array.shape[1:]) for name, array in reduced.items()}

    def finish(
        self, reduced: Mapping[str, np.ndarray], input_size: tuple[int, int]
    ) -> tuple[np.ndarray, np.ndarray]:
        """See `TopDownCodec.finish`. A score is the map's maximum."""
        scores, points = reduced["scores"], reduced["cells"].astype(np.float32)  # (N, K), (N, K, 2)
        found = scores > 0
        window = self._window
        if window is not None:
            points[found] += refinement(window, reduced["cells"][found], reduced["near"][found], self.size)
        points *= np.array(self._px_per_cell(input_size), np.float32)
        points[~found] = np.nan
        return points, scores

    def mirror_back(self, outputs: Outputs, mirror: np.ndarray) -> Outputs:
        """See `TopDownCodec.mirror_back`; as MMPose's `flip_heatmaps`.

        Without UDP, a mirrored map lies about one cell too far left and is shifted (MMPose's
        `shift_heatmap`).
        """
        heatmaps = outputs["heatmaps"]
        xp = namespace(heatmaps)
        heatmaps = xp.flip(heatmaps[:, indices(mirror, heatmaps)], (-1,))
        if not self.udp:
            heatmaps = xp.concatenate([heatmaps[..., :1], heatmaps[..., :-1]], -1)
        return {"heatmaps": heatmaps}

    @property
    def _window(self) -> Window | None:
        if self.refine == "quarter":
            return QUARTER
        if self.refine == "dark":
            return DARK_UDP if self.udp else DARK
        return None

    def _px_per_cell(self, input_size: tuple[int, int]) -> list[float]:
        """With UDP the first and last cells lie on the first and last px; without, cell 0 lies on px 0."""
        less = 1 if self.udp else 0
        return [(px - less) / (cells - less) for px, cells in zip(input_size, self.size, strict=True)]
