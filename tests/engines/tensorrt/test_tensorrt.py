import signal
import threading
from importlib.util import find_spec

import numpy as np
import pytest

from engines.backends.base import TensorSpec
from engines.contracts.contract import Output, load_contract
from engines.device.cuda_bindings import call
from engines.device.gpus import Gpu, this_gpu
from engines.errors import ContractError, EngineError
from engines.tensorrt.engine import check_arrays
from engines.tensorrt.flavours import TensorRT, flavour
from engines.tensorrt.network import Batch, Network

pytestmark = pytest.mark.slow

IMAGE = {"image": TensorSpec((-1, 3, 4, 5), np.dtype(np.float32))}


@pytest.mark.parametrize(
    ("arrays", "message"),
    [
        ({}, r"got inputs \[\], the plan has \['image'\]"),
        (
            {"image": np.zeros((2, 3, 5, 4), np.float32)},
            r"\(2, 3, 5, 4\) float32, .*\('B', 3, 4, 5\) float32",
        ),
        ({"image": np.zeros((2, 3, 4, 5))}, r"\(2, 3, 4, 5\) float64, .* float32"),
    ],
)
def test_arrays_that_do_not_fit_are_refused(arrays, message):
    with pytest.raises(EngineError, match=message):
        check_arrays(arrays, IMAGE)


def test_arrays_that_fit_are_counted():
    assert check_arrays({"image": np.zeros((7, 3, 4, 5), np.float32)}, IMAGE) == 7


def test_an_error_of_cuda_is_raised_with_its_reason():
    if not find_spec("cuda") or this_gpu():
        pytest.skip("there is a GPU, or no CUDA runtime")
    with pytest.raises(EngineError, match=r"^cudaMalloc: .* \(CUDA error \d+\)$"):
        call("runtime", "cudaMalloc", 4)


@pytest.fixture
def rtx():
    """TensorRT for RTX: its builder needs no GPU."""
    pytest.importorskip("tensorrt_rtx")
    pytest.importorskip("onnx")
    return flavour("tensorrt-rtx")


@pytest.fixture
def landmarks(rtx, tmp_path):
    """A contract and its graph."""
    from tests.support.models import compilable

    return compilable.landmarks(), compilable.landmarks_onnx(tmp_path)


def compiled(network, tmp_path, progress=lambda phase, share: None):
    return network.compile(Batch(1, 2, 4), "8.9", tmp_path / "timings.cache", progress)


def test_a_graph_is_compiled_for_a_gpu_of_another_machine(rtx, landmarks, tmp_path):
    contract, onnx = landmarks
    reported = []
    network = Network(rtx, onnx, contract, "fp32")
    plan = compiled(network, tmp_path, lambda phase, share: reported.append((phase, share)))
    assert len(plan) > 10_000
    shares = [share for _, share in reported]
    assert shares == sorted(shares)
    assert (shares[0], shares[-1]) == (0, 1)
    assert len({phase for phase, _ in reported}) > 3


def test_unsupported_gpus_are_refused(rtx):
    rtx.check_target("12.0", gpu=None)
    with pytest.raises(EngineError, match=r"cannot build for compute capability 1\.0; it can for 7\.5"):
        rtx.check_target("1.0", gpu=None)
    with pytest.raises(EngineError, match=r"no CUDA device found, .* build there, or ahead of time"):
        TensorRT.check_target(rtx, "8.9", gpu=None)
    with pytest.raises(EngineError, match=r"cannot build for compute capability 8\.9 on H100 with 9\.0"):
        TensorRT.check_target(rtx, "8.9", gpu=Gpu("H100", "9.0", "580"))


def test_a_build_for_an_unsupported_gpu_says_for_which_it_can(rtx, landmarks, tmp_path):
    contract, onnx = landmarks
    network = Network(rtx, onnx, contract, "fp32")
    with pytest.raises(
        EngineError, match=r"compute capability 1\.0; it can for 7\.5, .* take --backend tensorrt"
    ):
        network.compile(Batch(1, 1, 1), "1.0", tmp_path / "timings.cache", lambda phase, share: None)


def test_ctrl_c_ends_a_build(rtx, landmarks, tmp_path):
    contract, onnx = landmarks
    reported = []

    def interrupt(phase, share):
        if not reported:
            signal.pthread_kill(threading.main_thread().ident, signal.SIGINT)
        reported.append(share)

    with pytest.raises(KeyboardInterrupt):
        compiled(Network(rtx, onnx, contract, "fp32"), tmp_path, interrupt)
    assert reported
    assert reported[-1] < 1


def test_tensors_have_the_types_of_the_graph(rtx, landmarks, tmp_path):
    contract, onnx = landmarks
    types = []
    for precision in ("fp32", "fp16"):
        network = Network(rtx, onnx, contract, precision)._network
        layers = [network.get_layer(i) for i in range(network.num_layers)]
        convolution = next(layer for layer in layers if layer.type == rtx.trt.LayerType.CONVOLUTION)
        ends = network.get_input(0), convolution.get_output(0), network.get_output(0)
        types.append([tensor.dtype for tensor in ends])
    float32, float16 = rtx.trt.DataType.FLOAT, rtx.trt.DataType.HALF
    assert types == [[float32] * 3, [float32, float16, float32]]


def test_int8_needs_a_quantised_graph(rtx, landmarks, tmp_path):
    from onnxruntime import quantization

    contract, onnx = landmarks
    with pytest.raises(EngineError, match="is not quantised"):
        Network(rtx, onnx, contract, "int8")

    class Images(quantization.CalibrationDataReader):
        def __init__(self):
            self.left = [{"input": np.full((1, 3, 64, 64), level, np.float32)} for level in (-1, 0, 1)]

        def get_next(self):
            return self.left.pop() if self.left else None

    quantised = tmp_path / "quantised.onnx"
    quantization.quantize_static(
        onnx, quantised, Images(), extra_options={"ActivationSymmetric": True, "WeightSymmetric": True}
    )
    assert compiled(Network(rtx, quantised, contract, "int8"), tmp_path)
    with pytest.raises(EngineError, match="is quantised; compile it with --precision int8"):
        Network(rtx, quantised, contract, "fp16")


def changed(path, change):
    import onnx

    model = onnx.load(path)
    change(model.graph)
    onnx.save(model, path)
    return path


def test_only_outputs_of_the_contract_are_computed(rtx, landmarks):
    import onnx

    contract, path = landmarks
    value = onnx.helper.make_tensor_value_info("other", onnx.TensorProto.FLOAT, None)

    def add_output(graph):
        graph.node.append(onnx.helper.make_node("Relu", ["heatmaps"], ["other"]))
        graph.output.append(value)

    network = Network(rtx, changed(path, add_output), contract, "fp32")._network
    assert [network.get_output(i).name for i in range(network.num_outputs)] == ["heatmaps"]


@pytest.mark.parametrize(
    ("part", "value", "message"),
    [
        ("input", {"name": "image"}, r"the contract's input is 'image', landmarks.onnx has \['input'\]"),
        ("input", {"size": (96, 64)}, r"the contract's input is \(-1, 3, 64, 96\), .* has \(-1, 3, 64, 64\)"),
        ("outputs", {"heatmaps": Output(name="maps", shape=(-1,))}, r"\['maps'\], .* has \['heatmaps'\]"),
    ],
)
def test_a_graph_of_another_model_is_refused(rtx, landmarks, part, value, message):
    contract, onnx = landmarks
    if part == "input":
        value = contract.input.model_copy(update=value)
    with pytest.raises(ContractError, match=message):
        Network(rtx, onnx, contract.model_copy(update={part: value}), "fp32")


def test_an_unknown_operator_is_named(rtx, landmarks):
    contract, onnx = landmarks

    def rename(graph):
        graph.node[0].op_type, graph.node[0].name = "Convolve", "first"

    with pytest.raises(EngineError, match=r"landmarks\.onnx: tensorrt-rtx cannot read it: Convolve 'first'"):
        Network(rtx, changed(onnx, rename), contract, "fp32")


def test_a_graph_fixed_to_a_batch_of_one_is_detected(rtx, landmarks):
    contract, onnx = landmarks

    def fix(graph):
        graph.input[0].type.tensor_type.shape.dim[0].dim_value = 1

    assert not Network(rtx, onnx, contract, "fp32").fixed
    assert Network(rtx, changed(onnx, fix), contract, "fp32").fixed


def test_rtmpose_is_compiled(rtx, tmp_path):
    pytest.importorskip("torch")
    from engines.conversion.export import random_network, to_onnx
    from engines.conversion.onnx_files import save

    contract, onnx = load_contract("rtmpose-t-body8"), tmp_path / "rtmpose.onnx"
    save(to_onnx(contract, random_network(contract, seed=0)), onnx)
    assert compiled(Network(rtx, onnx, contract, "fp16"), tmp_path)
