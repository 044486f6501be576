import pickle
import shutil
import threading
import time
from itertools import pairwise

import numpy as np
import pytest
from recording_toys import graph

from engines.images.yuv import YuvImage
from pipeline.errors import ConfigError
from pipeline.make_run import make_run
from pipeline.packet import Instances, Packet
from tests.support.models.toy_models import contract, save
from tools.profiling.recording import event_log
from tools.profiling.recording.recorded import read_recorded
from tools.profiling.recording.recorder import Recorder, payload_bytes

PICTURE = 40 * 30 * 3


def record(folder, checked, sources, *, processes=1, **options):
    run = make_run(checked, sources, tracer=Recorder(folder, **options), processes=processes)
    run.start()
    stats = run.finish()
    return read_recorded(folder), stats


@pytest.fixture
def model(tmp_path):
    return str(save(contract("simcc"), tmp_path / "toy.onnx"))


@pytest.mark.parametrize("processes", [1, 2])
def test_engine_calls_by_stage_and_model(tmp_path, model, processes):
    twice = graph(first={"op": "infer", "file": model, "batch": {"max": 4, "wait_ms": 100}},
                  second={"op": "infer", "file": model, "batch": {"max": 1}})  # fmt: skip
    found, stats = record(tmp_path / "rec", twice, {"a": "20", "b": "20"}, processes=processes)
    assert {key[:4] for key in found.engines} == {
        (stage, "toy", "toy.onnx", "onnxruntime") for stage in ("first", "second")
    }
    calls = {key.stage: calls for key, calls in found.engines.items()}
    for stage in stats.stages[1:]:
        batches = sum(stage.batches.values())
        # The call of each operator while it is opened does not count as work of the stage.
        assert (calls[stage.name].calls, calls[stage.name].items) == (batches, 40)
    assert calls["first"].calls < calls["second"].calls == 40
    assert calls["second"].bytes_in == 40 * 3 * 48 * 64 * 4
    assert calls["second"].ms > 0
    assert (calls["second"].device_ms, calls["second"].copied) == (None, None)


def test_calls_of_a_window(tmp_path, model):
    recorded, _ = record(
        tmp_path / "rec", graph("pictures", infer={"op": "infer", "file": model}), {"a": "50"}
    )
    everything = 0, time.monotonic_ns()
    starts = sorted(
        row[3] for row in event_log.event_logs(recorded.folder)[0].rows() if row[0] == event_log.Kind.ENGINE
    )
    parts = [recorded.between(everything[0], starts[20]), recorded.between(starts[20], everything[1])]
    assert [sum(c.calls for c in part.engines.values()) for part in parts] == [20, 30]
    assert sum(part.payload["infer"] for part in parts) == recorded.payload["infer"] == 50 * PICTURE
    assert not recorded.between(everything[1], everything[1] + 1).engines


def test_bytes_that_are_handed_to_each_stage(tmp_path):
    two = graph("pictures", boxes={"op": "two_boxes"}, left={"op": "same", "after": "boxes"},
                right={"op": "same", "after": "boxes"}, both={"op": "same", "after": ["left", "right"]})  # fmt: skip
    found, _ = record(tmp_path, two, {"a": "10"})
    rows = 2 * 4 * 4
    assert {stage: nbytes / 10 for stage, nbytes in found.payload.items()} == {
        "pictures": PICTURE,  # for a source, what it gives
        "boxes": PICTURE,
        "left": PICTURE + rows,
        "right": PICTURE + rows,
        "both": PICTURE + rows,  # both paths bring the same picture and rows, which count once
    }


@pytest.mark.parametrize(
    ("fields", "nbytes"),
    [
        ({}, 0),
        ({"picture": np.zeros((4, 6, 3), np.uint8)}, 72),
        ({"picture": YuvImage(*(np.zeros(size, np.uint8) for size in ((4, 6), (2, 3), (2, 3))),
                              np.eye(3, 4), lambda: None)}, 36),
        ({"instances": Instances(boxes=np.zeros((3, 4), np.float32), scores=np.zeros(3, np.float32))}, 60),
    ],
)  # fmt: skip
def test_bytes_of_a_packet(fields, nbytes):
    assert payload_bytes(Packet("a", 0, 0, 0, (6, 4), **fields)) == nbytes


def test_memory_that_each_stage_takes_when_it_is_opened(tmp_path):
    found, _ = record(
        tmp_path, graph(a={"op": "same"}, b={"op": "takes_memory", "mb": 80}, c={"op": "same"}), {"a": "1"}
    )
    assert 75 < found.memory_mb["b"] < 120
    assert found.memory_mb["a"] + found.memory_mb["c"] < 40


def test_a_recorder_pickles_before_a_run(tmp_path):
    copied = pickle.loads(pickle.dumps(Recorder(tmp_path, trace=True, sample_hz=50)))
    assert (copied.folder, copied.trace, copied.sample_hz, copied.active) == (tmp_path, True, 50, True)


def test_recording_is_turned_off_and_on_during_a_run(tmp_path, model):
    recorder = Recorder(tmp_path / "rec", trace=True, sample_hz=200)
    checked = graph(infer={"op": "infer", "file": model}, same={"op": "same"})
    run = make_run(checked, {"a": "1000000@1"}, tracer=recorder)
    run.start()
    moments = [time.monotonic_ns()]
    for active in (True, False, True):
        recorder.active = active
        time.sleep(0.2)  # lets calls end that have begun
        moments.append(time.monotonic_ns())
        time.sleep(0.2)
        moments.append(time.monotonic_ns())
    run.stop()
    run.finish()
    kinds = {
        event_log.Kind.CALL: 2,
        event_log.Kind.ENGINE: 3,
        event_log.Kind.LATE: 1,
        event_log.Kind.FINISHED: 2,
    }
    rows = [row for row in event_log.event_logs(recorder.folder)[0].rows() if row[0] in kinds]
    for kind, place in kinds.items():
        times = [row[place] for row in rows if row[0] == kind]
        seen = [any(a < at < b for at in times) for a, b in pairwise(moments)]
        assert (seen[1], seen[3], seen[5]) == (True, False, True), kind


def test_two_runs_at_once_do_not_mix(tmp_path, model):
    both = {}

    def one(name):
        both[name] = record(tmp_path / name, graph(**{name: {"op": "infer", "file": model}}), {"a": "30@1"})[
            0
        ]

    threads = [threading.Thread(target=one, args=(name,)) for name in ("left", "right")]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    for name, found in both.items():
        assert [(key.stage, calls.calls) for key, calls in found.engines.items()] == [(name, 30)]


def test_rows_beyond_the_limit_are_counted(tmp_path, monkeypatch, caplog):
    monkeypatch.setattr(event_log, "LIMIT_BYTES", 4000)
    found, _ = record(tmp_path, graph(same={"op": "same"}), {"a": "500"})
    kept = sum(
        1 for file in event_log.event_logs(tmp_path) for row in file.rows() if row[0] == event_log.Kind.CALL
    )
    assert 0 < kept < 100
    assert found.missed == 500 + 501 - kept  # the end of a stream is not recorded for the source
    assert "rows were not recorded" in caplog.text


def test_a_disk_that_fails_does_not_end_the_run(tmp_path, caplog):
    folder = tmp_path / "rec"
    run = make_run(graph(same={"op": "same"}), {"a": "200@5"}, tracer=Recorder(folder, trace=True))
    run.start()
    shutil.rmtree(folder)
    assert run.finish().finished == 200
    assert "recording stops, the run goes on" in caplog.text


def test_a_folder_without_records(tmp_path):
    with pytest.raises(ConfigError, match="nothing was recorded in"):
        read_recorded(tmp_path)


def test_ranges_for_nsight(tmp_path, model, monkeypatch):
    nvtx = pytest.importorskip("nvtx")
    ranges = []

    class Domain:
        def get_event_attributes(self, message):
            return message

        def push_range(self, attributes):
            ranges.append((threading.get_ident(), attributes))

        def pop_range(self):
            ranges.append((threading.get_ident(), None))

    monkeypatch.setattr(nvtx, "get_domain", lambda name: Domain())
    record(tmp_path / "rec", graph(infer={"op": "infer", "file": model}), {"a": "3"}, trace=True)
    stage = next(thread for thread, name in ranges if name == "infer")
    assert [name for thread, name in ranges if thread == stage] == [
        *["infer", "toy", None, None] * 3,
        "infer",
        None,
    ]
    ranges.clear()
    record(tmp_path / "rec", graph(infer={"op": "infer", "file": model}), {"a": "3"})
    assert not ranges
