"""`posestream engine quantise`: from images to a file, and what is refused."""

import re

import cv2
import pytest

from engines.comparison.example_inputs import drawn_picture
from engines.errors import AssetError
from pipeline.errors import SourceError
from tests.tools.engine.test_commands import engine

pytest.importorskip("onnx")


def test_a_missing_detector_is_named_with_the_command(small_home, tmp_path):
    cv2.imwrite(str(tmp_path / "a.png"), drawn_picture())
    with pytest.raises(AssetError, match="posestream models pull rtmdet-nano"):
        engine("quantise", "small-rtmpose", "--calibration", tmp_path)


def test_a_missing_folder_is_refused(small_home, tmp_path):
    with pytest.raises(SourceError, match=re.escape(str(tmp_path / "none"))):
        engine("quantise", small_home.exported.path, "-c", tmp_path / "none")
