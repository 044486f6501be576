from engines.contract import load_contract
from engines.metadata import CONTRACT, has_random_weights, read_contract, read_metadata
from tests.tiny_onnx import shaped

import pytest

onnx = pytest.importorskip("onnx")
