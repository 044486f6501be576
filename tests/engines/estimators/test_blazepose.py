import numpy as np
import pytest

from engines.contracts.contract import load_contract
from engines.estimators.blazepose import BlazePoseEstimator
from engines.loading.load import load_engine


@pytest.fixture(scope="module")
def estimator(weights):
    contract = load_contract("blazepose-full")
    return BlazePoseEstimator(contract, load_engine(contract, path=weights("blazepose-full")))


@pytest.mark.models
def test_a_batch_is_the_same_as_one_by_one(estimator):
    random = np.random.default_rng(0)
    images = [random.integers(0, 256, (h, w, 3), np.uint8) for h, w in [(120, 160), (300, 200)]]
    index = np.array([1, 0, 1])
    rois = np.array([(100, 150, 200, 200, 0.3), (80, 60, 100, 100, -1), (0, 0, 90, 90, 3)], np.float32)
    together = estimator(images, index, rois)
    for n, (i, roi) in enumerate(zip(index, rois, strict=True)):
        alone = estimator([images[i]], np.zeros(1, int), roi[None])
        for batch, single in zip(together, alone, strict=True):
            np.testing.assert_array_equal(batch[n], single[0])


@pytest.mark.models
def test_no_regions(estimator):
    poses = estimator([np.zeros((40, 30, 3), np.uint8)], np.zeros(0, int), np.zeros((0, 5), np.float32))
    shapes = [field.shape for field in poses]
    assert shapes == [(0, 33, 2), (0, 33), (0, 33, 3), (0,), (0, 2, 2)]
    assert {field.dtype for field in poses} == {np.dtype(np.float32)}


@pytest.mark.models
def test_a_turned_frame_gives_turned_poses(estimator):
    """A quarter turn of frame and region turns the keypoints, in px and in metres."""
    image = np.random.default_rng(1).integers(0, 256, (200, 160, 3), np.uint8)
    rois = np.array([(80, 90, 120, 120, 0), (199 - 90, 80, 120, 120, np.pi / 2)], np.float32)
    poses = estimator([image, np.rot90(image, -1)], np.array([0, 1]), rois)
    x, y = poses.keypoints[0].T
    np.testing.assert_allclose(poses.keypoints[1], np.stack([199 - y, x], axis=1), atol=0.5)
    x, y, z = poses.keypoints_3d[0].T
    np.testing.assert_allclose(poses.keypoints_3d[1], np.stack([-y, x, z], axis=1), atol=0.01)
