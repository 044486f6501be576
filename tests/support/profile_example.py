"""Profiles written by hand: a stable with a fork, a join, two sinks, drops and a GPU; and a sweep."""

from __future__ import annotations

import math

from tools.profiling.document import (
    Alone,
    Bound,
    Edge,
    Engine,
    Flow,
    GpuUse,
    Machine,
    Moment,
    Place,
    Profile,
    Stage,
    Stream,
    Use,
    Verdict,
)

SECONDS = 30.0
ODD_NAME = 'box <7> & "gate"'
STREAMS = ("yard", "barn-north", "barn-south", ODD_NAME)


def stage(name: str, op: str = "", **figures: object) -> Stage:
    """A stage that is mostly idle; `figures` replace its fields."""
    plain: dict[str, object] = {
        "workers": 1, "packets_in": 3600, "packets_out": 3600, "packets_per_s": 120.0, "busy": 0.1,
        "computing": 0.08, "blocked": 0.0, "cores": 0.08, "engine": 0.0, "batches": {1: 3600},
        "mean_batch": 1.0, "wait_p50_ms": 0.2, "wait_p95_ms": 0.9, "wait_p99_ms": 2.1, "latency_p50_ms": 1.1,
        "latency_p95_ms": 2.4, "latency_p99_ms": 4.9, "memory_mb": 1.0, "mb_per_s": 330.0,
    }  # fmt: skip
    plain.update(figures)
    plain.setdefault("idle", 1 - plain["busy"] - plain["blocked"])  # type: ignore[operator]
    return Stage(name=name, op=op or name, **plain)  # type: ignore[arg-type]


def edge(producer: str, consumer: str, received: int = 3600, **dropped: int) -> Edge:
    lost = sum(dropped.values())
    return Edge(
        producer=producer, consumer=consumer, received=received, delivered=received - lost, in_flight_before=2,
        in_flight=2, dropped=dropped,
    )  # fmt: skip


def flame() -> dict[str, float]:
    """Stacks in the form in which they are sampled: the stage, then the calls; ms."""
    loop = "work (pipeline/stages/stage.py:212);"
    return {
        f"decode;{loop}read (operators/decode.py:88);frames (operators/decode.py:131);decode (av/container.py:77)": 5210.0,
        f"decode;{loop}read (operators/decode.py:88);to_rgb (operators/decode.py:164);reformat (av/frame.py:51)": 2100.0,
        f"decode;{loop}put (pipeline/edges/edge.py:64)": 180.0,
        f"detect;{loop}process (operators/detect.py:92);letterbox (engines/images/yuv.py:40);resize (cv2)": 1720.0,
        f"detect;{loop}process (operators/detect.py:92);run (engines/backends/onnxruntime.py:120)": 9400.0,
        f"detect;{loop}process (operators/detect.py:101);nms (engines/images/boxes.py:30)": 640.0,
        f"track;{loop}process (operators/track.py:70);assign (operators/track.py:140);linear_sum_assignment (scipy/optimize/_lsap.py:10)": 310.0,
        f"track;{loop}process (operators/track.py:70);predict (operators/track.py:111)": 220.0,
        f"pose;{loop}process (operators/pose.py:81);crops (engines/estimators/topdown.py:55);warpAffine (cv2)": 4100.0,
        f"pose;{loop}process (operators/pose.py:81);run (engines/backends/onnxruntime.py:120)": 30300.0,
        f"pose;{loop}process (operators/pose.py:81);decode (engines/codecs/simcc.py:44)": 1300.0,
        f"kafka;{loop}process (operators/kafka_sink.py:66);record (operators/records.py:20)": 260.0,
        f"kafka;{loop}process (operators/kafka_sink.py:66);<lambda> (msgpack/__init__.py:35)": 190.0,
        f"video;{loop}process (operators/video_sink.py:90);encode (av/stream.py:12)": 6700.0,
        f"video;{loop}get (pipeline/edges/edge.py:101)": 2.0,
    }


def profile(**changes: object) -> Profile:
    """The stable; `changes` replace fields of the document."""
    streams = [
        Stream(name=name, read=900, finished=867 - 5 * n, dropped=33 + 5 * n, instances=2200 - 310 * n,
               fps=(867 - 5 * n) / SECONDS, age_p50_ms=78.0 + 9 * n, age_p95_ms=131.0 + 22 * n,
               age_p99_ms=176.0 + 60 * n)
        for n, name in enumerate(STREAMS)
    ]  # fmt: skip
    finished, late = sum(s.finished for s in streams), sum(s.dropped for s in streams)
    packets = finished
    stages = [
        stage("decode", packets_in=0, workers=4, busy=0.074, computing=0.066, blocked=0.0, cores=0.27, wait_p50_ms=0.0,
              wait_p95_ms=0.0, wait_p99_ms=0.0, latency_p50_ms=2.2, latency_p95_ms=4.6, latency_p99_ms=7.9,
              memory_mb=64.0, mb_per_s=0.0, counters={"reconnected": 1}),
        stage("detect", packets_in=packets, packets_out=packets, packets_per_s=packets / SECONDS, busy=0.61, computing=0.39,
              blocked=0.13, cores=0.39, engine=0.46, gpu_ms=1.9, batches={1: 12, 2: 160, 3: 310, 4: 546}, mean_batch=3.35,
              wait_p50_ms=4.1, wait_p95_ms=17.0, wait_p99_ms=31.0, latency_p50_ms=24.0, latency_p95_ms=41.0,
              latency_p99_ms=58.0, memory_mb=212.0, mb_per_s=715.0, copied_mb_per_s=138.0),
        stage("track", packets_in=packets, packets_out=packets, busy=0.018, computing=0.018, cores=0.018, mb_per_s=715.0),
        stage("pose", op="pose", workers=2, packets_in=packets, packets_out=packets, packets_per_s=packets / SECONDS, busy=0.97,
              computing=0.64, blocked=0.0, cores=1.28, engine=0.88, gpu_ms=4.4,
              batches={1: 20, 2: 31, 4: 44, 6: 80, 7: 122, 8: 391, 16: 8}, mean_batch=7.1, wait_p50_ms=33.0,
              wait_p95_ms=61.0, wait_p99_ms=92.0, latency_p50_ms=57.0, latency_p95_ms=96.0, latency_p99_ms=141.0,
              memory_mb=486.0, mb_per_s=716.0, copied_mb_per_s=61.0, dropped={"too old": 18}, counters={"crops": 7400}),
        stage("identify", op="reid", packets_in=packets, packets_out=packets, busy=0.22, computing=0.19, cores=0.19, engine=0.14,
              batches={1: 300, 2: 1500}, mean_batch=1.8, memory_mb=48.0, mb_per_s=716.0),
        stage("merge", packets_in=2 * packets, packets_out=packets, busy=0.004, computing=0.004, cores=0.004, latency_p50_ms=38.0,
              latency_p95_ms=70.0, latency_p99_ms=101.0, mb_per_s=0.9),
        stage("kafka", op="kafka_sink", packets_in=packets, packets_out=packets, busy=0.05, computing=0.015, cores=0.015,
              memory_mb=9.0, mb_per_s=0.6),
        stage("video", op="video_sink", packets_in=1900, packets_out=1900, packets_per_s=1900 / SECONDS, busy=0.96, computing=0.31,
              cores=0.31, wait_p50_ms=15.0, wait_p95_ms=16.5, wait_p99_ms=19.0, latency_p50_ms=31.0, latency_p95_ms=36.0,
              latency_p99_ms=44.0, memory_mb=37.0, mb_per_s=410.0),
    ]  # fmt: skip
    edges = [
        edge("decode", "detect", 3600, drop_oldest=late - 18),
        edge("detect", "track", packets + 18),
        edge("track", "pose", packets + 18),
        edge("track", "identify", packets),
        edge("pose", "merge", packets),
        edge("identify", "merge", packets),
        edge("merge", "kafka", packets),
        edge("merge", "video", packets, drop_oldest=packets - 1900),
    ]
    engines = [
        Engine(stage="detect", model="rtmdet-nano", file="rtmdet-nano-320x320.onnx", backend="onnxruntime-cuda", threads=2,
               calls=1028, items=packets, items_per_frame=1.0, call_p50_ms=12.6, call_p95_ms=17.1, ms_per_item=4.01,
               gpu_ms_per_item=1.9),
        Engine(stage="pose", model="rtmpose-m-ap10k", file="rtmpose-m-ap10k-256x256.onnx", backend="onnxruntime-cuda", threads=2,
               calls=696, items=7400, items_per_frame=2.15, call_p50_ms=66.0, call_p95_ms=88.0, ms_per_item=7.13,
               gpu_ms_per_item=2.05),
        Engine(stage="identify", model="reid-horse-s", file="reid-horse-s.tflite", backend="litert", threads=1, calls=1800,
               items=3400, items_per_frame=0.98, call_p50_ms=2.2, call_p95_ms=3.8, ms_per_item=1.24),
    ]  # fmt: skip
    moments = [
        Moment(at_s=t / 2, cores=3.4 + 0.3 * math.sin(t / 3) - (0.9 if t in (30, 31) else 0), cores_all=3.7 + 0.3 * math.sin(t / 3),
               memory_mb=1180 + 60 * (1 - math.exp(-t / 8)), fps=114.7 + 6 * math.sin(t / 2) - (38 if t in (30, 31) else 0))
        for t in range(1, 61)
    ]  # fmt: skip
    document: dict[str, object] = {
        "command": f"posestream profile animals yard=rtsp://10.0.0.4/1 '{ODD_NAME}=rtsp://10.0.0.7/1' … --seconds 30 --html stable.html",
        "at": "2026-01-14T09:31:07+00:00",
        "graph": "animals",
        "streams_wanted": 4,
        "live": True,
        "processes": 1,
        "warmup_s": 5.0,
        "seconds": SECONDS,
        "frames": finished,
        "fps": finished / SECONDS,
        "flow": Flow(read=4212, finished=4212 - late - 41 - 6, dropped={"drop_oldest": late + 23, "too old": 18}, in_flight=6,
                     closed=True),
        "verdict": Verdict(
            kind="stage",
            stage="pose",
            said="pose limits the run: its 2 workers are at work 97 % of the time, 88 % of it in the engine, and its queue is never empty.",
            advice=[
                "Give pose a larger batch: 8 is full in 56 % of the calls (--set pose.batch='{max: 16, wait_ms: 4}').",
                "Or a smaller model: rtmpose-s-ap10k takes about half the time.",
            ],
            places=[Place(stage="pose", where="operators/pose.py:81 in process", line="out = self._engine.run(crops)", share=0.33)],
        ),
        "bound": Bound(
            parts=[Alone(name="decode", ms=2.1, per_frame=1.0), Alone(name="detect: rtmdet-nano", ms=3.6, per_frame=1.0),
                   Alone(name="pose: rtmpose-m-ap10k", ms=5.9, per_frame=2.15), Alone(name="identify: reid-horse-s", ms=1.1, per_frame=0.98)],
            cores=4, fps=131.5, limits={"processors": 205.1, "GPU": 131.5, "sources": 160.0},
            share=finished / SECONDS / 131.5,
        ),
        "use": Use(cores=3.4, cores_all=3.72, memory_mb=1239.0, memory_before_mb=112.0, lock_wait_ms=0.31, moments=moments, gpus=[
            GpuUse(name="NVIDIA RTX A2000", busy=0.71, decoder=0.22, memory_mb=2210.0, power_w=54.0, clock_mhz=1410.0,
                   throttling={"power cap": 0.18}, joules=1620.0, joules_per_1000_frames=471.0)]),
        "machine": Machine(processor="AMD Ryzen 5 3600", cores=4, memory_mb=16011.0, system="Linux 6.1", python="3.12.4",
                           gpus=["NVIDIA RTX A2000"], driver="570.86", versions={"posestream": "0.1.0", "onnxruntime": "1.23.2", "av": "18.1.0"},
                           commit="73220e9"),
        "stages": stages, "engines": engines, "edges": edges, "streams": streams, "stacks": flame(),
    }  # fmt: skip
    return Profile(**{**document, **changes})  # type: ignore[arg-type]


def swept() -> list[Profile]:
    """A sweep over 1, 2, 4 and 8 streams with batches of 1 and 8."""
    points = []
    for batch, factor in ((1, 1.0), (8, 1.3)):
        for streams in (1, 2, 4, 8):
            fps = min(30.0 * streams, factor * 88.0)
            plain = profile()
            assert plain.bound
            points.append(
                profile(
                    settings={"streams": str(streams), "batch": str(batch)},
                    fps=fps,
                    streams_wanted=streams,
                    bound=plain.bound.model_copy(update={"share": fps / plain.bound.fps}),
                    use=plain.use.model_copy(update={"cores": 0.2 + fps / 34}),
                )
            )
    return points
