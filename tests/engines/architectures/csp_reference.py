"""Writes the reference data of RTMPose, RTMDet and YOLOX. Run by hand where these are installed.

    python csp_reference.py rtmpose MMPOSE  # a checkout of open-mmlab/mmpose 1.3, installed with mmdet 3.3
    python csp_reference.py rtmdet MMPOSE   # the configurations of mmdet come with its package
    python csp_reference.py yolox YOLOX     # a checkout of Megvii-BaseDetection/YOLOX, on the path

FAMILY.jsonl: a row for each model, with a digest of its state dict's names and shapes, and for some a sample of
the output of a seeded network on a tiny input. FAMILY.names.gz: all names and shapes of the first model, so that
a failing test can say what differs.
"""

import gzip
import json
import sys
from pathlib import Path

import torch
from reference_rows import REFERENCE, digest, names_and_shapes, sample
from seeded import fill, image

BODY = "configs/body_2d_keypoint/rtmpose/body8/rtmpose-{}.py"
WHOLEBODY = "configs/wholebody_2d_keypoint/rtmpose/{}.py"
PERSON = "projects/rtmpose/rtmdet/person/rtmdet_{}.py"
COCO = "mmdet::rtmdet/rtmdet_{}_8xb32-300e_coco.py"

# Name of the row, variant, configuration: the official files of these models were trained with these.
MODELS = {
    "rtmpose": [
        ("m-body8", "m", BODY.format("m_8xb256-420e_body8-256x192")),
        ("t-body8", "t", BODY.format("t_8xb256-420e_body8-256x192")),
        ("s-body8", "s", BODY.format("s_8xb256-420e_body8-256x192")),
        ("l-body8-384", "l", BODY.format("l_8xb256-420e_body8-384x288")),
        ("x-halpe26-384", "x", BODY.format("x_8xb256-700e_body8-halpe26-384x288")),
        (
            "l-wholebody-384",
            "l",
            WHOLEBODY.format("coco-wholebody/rtmpose-l_8xb32-270e_coco-wholebody-384x288"),
        ),
        ("dwpose-m", "m", WHOLEBODY.format("ubody/rtmpose-m_8xb64-270e_coco-ubody-wholebody-256x192")),
        ("m-ap10k", "m", "configs/animal_2d_keypoint/rtmpose/ap10k/rtmpose-m_8xb64-210e_ap10k-256x256.py"),
    ],
    "rtmdet": [
        ("m-person", "m", PERSON.format("m_640-8xb32_coco-person")),
        ("nano-person", "nano", PERSON.format("nano_320-8xb32_coco-person")),
        *((f"{size}-coco", size, COCO.format(size)) for size in ("tiny", "s", "m", "l", "x")),
    ],
    "yolox": [(f"{size}-coco", size, f"yolox-{size}") for size in ("m", "nano", "tiny", "s", "l", "x")],
}
# Models for the outputs, and the gain of their weights, with which their deviations are some tenths or more.
TINY = {
    "rtmpose": {"t-body8": 1.2},
    "rtmdet": {"nano-person": 1.2, "tiny-coco": 1.1, "m-coco": 1.1},
    "yolox": {"nano-coco": 1.35, "tiny-coco": 1.28},
}
SIZE = (64, 288)  # width, height in px; 9 cells of 32 px, beyond the reach of the narrower poolings


def main(family: str, checkout: Path) -> None:
    target = REFERENCE / f"{family}.jsonl"
    build, outputs = {"rtmpose": (rtmpose, rtmpose_outputs), "rtmdet": (rtmdet, rtmdet_outputs)}.get(
        family, (yolox, yolox_outputs)
    )
    rows = []
    for name, variant, path in MODELS[family]:
        names = names_and_shapes(build(path, checkout).state_dict())
        row = {"name": name, "variant": variant, "config": path, "digest": digest(names)}
        if not rows:
            target.with_suffix(".names.gz").write_bytes(gzip.compress("\n".join(names).encode(), mtime=0))
        if gain := TINY[family].get(name):
            network = fill(build(path, checkout, SIZE), gain).eval()
            with torch.no_grad():
                found = outputs(network, image(2, 3, SIZE[1], SIZE[0]))
            row["tiny"] = {"gain": gain, "outputs": {role: sample(it) for role, it in found.items()}}
        rows.append(json.dumps(row) + "\n")
    target.write_text("".join(rows))


def rtmpose(path, checkout, size=None):
    from mmengine.config import Config
    from mmengine.registry import init_default_scope
    from mmpose.models import build_pose_estimator

    init_default_scope("mmpose")
    model = alone(Config.fromfile(str(checkout / path)).model)
    if size:
        model.head.update(input_size=size, in_featuremap_size=tuple(side // 32 for side in size))
        model.head.decoder.input_size = size
    return build_pose_estimator(model)


def rtmpose_outputs(network, images):
    x, y = network(images, None, mode="tensor")
    return {"simcc_x": x, "simcc_y": y}


def rtmdet(path, checkout, size=None):
    from mmdet.registry import MODELS as DETECTORS
    from mmengine.config import Config
    from mmengine.hub import get_config
    from mmengine.registry import init_default_scope

    init_default_scope("mmdet")
    config = get_config(path) if path.startswith("mmdet::") else Config.fromfile(str(checkout / path))
    return DETECTORS.build(alone(config.model))


def rtmdet_outputs(network, images):
    """As RTMDetHead decodes them (predict_by_feat), before it drops any."""
    head = network.bbox_head
    logits, distances = network(images, None, mode="tensor")
    priors = torch.cat(head.prior_generator.grid_priors([it.shape[-2:] for it in logits], device="cpu"))
    logits, distances = (torch.cat([it.flatten(2) for it in maps], dim=2).mT for maps in (logits, distances))
    boxes = head.bbox_coder.decode(priors.expand(len(images), -1, -1), distances)
    scores, labels = logits.sigmoid().max(dim=2)
    return {"boxes": torch.cat([boxes, scores.unsqueeze(2)], dim=2), "labels": labels}


def yolox(name, checkout, size=None):
    from yolox.exp import get_exp

    network = get_exp(exp_name=name).get_model()
    network.head.decode_in_inference = False
    return network


def yolox_outputs(network, images):
    return {"predictions": network(images)}


def alone(config):
    """A configuration without pretrained weights, and with normalisation that runs in one process."""
    if isinstance(config, dict):
        config.pop("init_cfg", None)
        if config.get("type") == "SyncBN":
            config["type"] = "BN"
        for value in config.values():
            alone(value)
    return config


if __name__ == "__main__":
    main(sys.argv[1], Path(sys.argv[2]))
