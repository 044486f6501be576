"""Writes the reference data of HRNet, ViTPose and Sapiens. Run by hand where mmpose is installed.

    python heatmap_reference.py hrnet MMPOSE     # a checkout of open-mmlab/mmpose 1.3, installed with mmpretrain 1.2
    python heatmap_reference.py vitpose MMPOSE
    python heatmap_reference.py sapiens SAPIENS  # facebookresearch/sapiens, with its pose/ and pretrain/ on the path

FAMILY.jsonl: a row for each model, with a digest of its state dict's names and shapes, and for some a sample of
the output of a tiny, seeded network. FAMILY.names.gz: all names and shapes of the first model, so that a failing
test can say what differs.
"""

import copy
import gzip
import json
import sys
from pathlib import Path

import mmpretrain.models  # noqa: F401  # registers the VisionTransformer
import torch
from mmengine.config import Config
from mmengine.registry import init_default_scope
from mmpose.models import build_pose_estimator
from reference_rows import GAIN, REFERENCE, TINY_VIT, digest, names_and_shapes, sample
from seeded import fill, image

COCO = "configs/body_2d_keypoint/topdown_heatmap/coco/td-hm_{}-256x192.py"
WHOLEBODY = "configs/wholebody_2d_keypoint/topdown_heatmap/coco-wholebody/td-hm_{}.py"
FACE = "configs/face_2d_keypoint/topdown_heatmap/wflw/td-hm_{}.py"
SAPIENS = "pose/configs/sapiens_pose/{0}/sapiens_{1}-210e_{0}-1024x768.py"
VIT_SIZES = {"s": "small", "b": "base", "l": "large", "h": "huge"}

# variant, keypoints, config: the official files of these models were trained with these configurations
MODELS = {
    "hrnet": [
        ("w32", 17, COCO.format("hrnet-w32_8xb64-210e_coco")),
        ("w32", 133, WHOLEBODY.format("hrnet-w32_8xb64-210e_coco-wholebody-256x192")),
        ("w48", 17, COCO.format("hrnet-w48_8xb32-210e_coco")),
        ("v2-w18", 17, FACE.format("hrnetv2-w18_8xb64-60e_wflw-256x256")),  # 98 keypoints there
        ("w18", 17, COCO.format("hrnet-w32_8xb64-210e_coco")),  # none published: w32's with 18 channels
    ],
    "vitpose": [
        (f"{name}{head}", 17, COCO.format(f"ViTPose-{size}{head}_8xb64-210e_coco"))
        for name, size in VIT_SIZES.items()
        for head in ("", "-simple")
    ],
    "sapiens": [
        ("0.3b", 17, SAPIENS.format("coco", "0.3b")),
        ("0.3b", 133, SAPIENS.format("coco_wholebody", "0.3b")),
        ("0.6b", 17, SAPIENS.format("coco", "0.6b")),
        ("1b", 17, SAPIENS.format("coco", "1b")),
        ("2b", 17, SAPIENS.format("coco", "2b")),
    ],
}
# Models for the outputs, small enough for a test; width and depth of the transformers: TINY_VIT.
TINY = {"hrnet": ("w18", "v2-w18", "w32"), "vitpose": ("s", "s-simple"), "sapiens": ("0.3b",)}


def main(family: str, checkout: Path) -> None:
    init_default_scope("mmpose")
    target = REFERENCE / f"{family}.jsonl"
    rows = []
    for variant, keypoints, path in MODELS[family]:
        model = configuration(checkout / path, variant, keypoints)
        with torch.device("meta"):
            network = build_pose_estimator(copy.deepcopy(model))
        names = names_and_shapes(network.state_dict())
        row = {"variant": variant, "keypoints": keypoints, "config": path, "digest": digest(names)}
        heads = [layer.num_heads for layer in network.modules() if hasattr(layer, "num_heads")]
        if heads:
            row["heads"] = heads[0]
        if not rows:
            target.with_suffix(".names.gz").write_bytes(gzip.compress("\n".join(names).encode(), mtime=0))
        if variant in TINY[family] and keypoints == 17:
            row["tiny"] = tiny(family, model)
        rows.append(json.dumps(row) + "\n")
    target.write_text("".join(rows))


def configuration(path: Path, variant: str, keypoints: int) -> dict:
    model = Config.fromfile(str(path)).model
    model.backbone.init_cfg = None
    model.head.out_channels = keypoints
    model.head.decoder = None
    if variant == "w18":
        for stage in ("stage2", "stage3", "stage4"):
            channels = model.backbone.extra[stage].num_channels
            model.backbone.extra[stage].num_channels = [width * 18 // 32 for width in channels]
        model.head.in_channels = 18
    return model


def tiny(family: str, model: dict) -> dict:
    width, height = 64, 96
    if family != "hrnet":
        model.backbone.img_size = (height, width)
        model.backbone.arch = TINY_VIT
        model.head.in_channels = TINY_VIT["embed_dims"]
    network = fill(build_pose_estimator(model), GAIN[family]).eval()
    with torch.no_grad():
        heatmaps = network(image(2, 3, height, width), None, mode="tensor")
    return {"size": [width, height], "heatmaps": sample(heatmaps)}


if __name__ == "__main__":
    main(sys.argv[1], Path(sys.argv[2]))
