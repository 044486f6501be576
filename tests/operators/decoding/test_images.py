"""Image files and folders of images."""

import cv2
import numpy as np
import pytest

from operators.decode import Decode
from operators.decoding.media_files import first_frame_size, read_header
from tests.support.videos.grey_videos import CORNERS, HEIGHT, WIDTH, grey, number_of, numbers, write_image


def test_folder_in_natural_order(tmp_path):
    for i in (10, 2, 1):
        write_image(tmp_path / f"img{i}.png", cv2.cvtColor(grey(i), cv2.COLOR_RGB2BGR))
    write_image(tmp_path / "IMG3.bmp", grey(3))
    (tmp_path / "notes.txt").write_text("not an image")
    (tmp_path / "._img1.png").write_bytes(b"left by a file manager")
    assert numbers(tmp_path) == [1, 2, 3, 10]
    packets = list(Decode(fps=10).read("cam", str(tmp_path)))
    assert [p.pts_ns for p in packets] == [0, 10**8, 2 * 10**8, 3 * 10**8]
    assert numbers(tmp_path, stride=3) == [1, 10]
    assert numbers(tmp_path, start_s=0.1, fps=10, loop=2) == [2, 3, 10] * 2
    assert Decode(start_s=0.1, fps=10, loop=2).frames_expected(str(tmp_path)) == 6
    assert first_frame_size(str(tmp_path)) == (WIDTH, HEIGHT)
    assert read_header(str(tmp_path)) == (30.0, 4, "png", 4 / 30)


@pytest.mark.parametrize(
    ("name", "pixel", "want"),
    [
        ("bgr.png", np.uint8([10, 20, 200]), [200, 20, 10]),
        ("alpha.png", np.uint8([10, 20, 200, 128]), [200, 20, 10]),
        ("grey.png", np.uint8([77]), [77, 77, 77]),
        ("deep.png", np.uint16([10 * 257, 20 * 257, 200 * 257]), [200, 20, 10]),
        ("deep.tif", np.uint16([10 * 257, 20 * 257, 200 * 257]), [200, 20, 10]),
        ("ümlaut:1.bmp", np.uint8([10, 20, 200]), [200, 20, 10]),
    ],
)
def test_single_images_become_8_bit_rgb(tmp_path, name, pixel, want):
    _, encoded = cv2.imencode(name[-4:], np.tile(pixel, (48, 64, 1)))
    (tmp_path / name).write_bytes(encoded.tobytes())
    (packet,) = Decode().read("cam", str(tmp_path / name))
    assert (packet.image.shape, packet.image.dtype, packet.pts_ns) == ((48, 64, 3), np.uint8, 0)
    assert np.abs(packet.image.astype(int) - want).max() <= 1


def test_exif_orientation(tmp_path):
    upright = np.kron(CORNERS, np.ones((32, 48, 1), np.uint8))
    stored = np.ascontiguousarray(np.rot90(upright, 1))  # orientation 6: rotate clockwise to display
    _, encoded = cv2.imencode(".jpg", cv2.cvtColor(stored, cv2.COLOR_RGB2BGR))
    exif = b"Exif\0\0MM\0*\0\0\0\x08\0\x01\x01\x12\0\x03\0\0\0\x01\0\x06\0\0\0\0\0\0"
    segment = b"\xff\xe1" + (len(exif) + 2).to_bytes(2, "big") + exif
    data = encoded.tobytes()
    (tmp_path / "phone.jpg").write_bytes(data[:2] + segment + data[2:])
    (packet,) = Decode().read("cam", str(tmp_path / "phone.jpg"))
    assert packet.size == (96, 64)
    np.testing.assert_allclose(packet.image[16::32, 24::48].astype(int), CORNERS, atol=12)


def test_a_broken_image_in_a_folder_is_counted(tmp_path):
    for i in range(3):
        write_image(tmp_path / f"{i}.png", grey(i))
    (tmp_path / "1.png").write_bytes(b"\x89PNG\r\n\x1a\nrubbish")
    decode = Decode()
    packets = list(decode.read("cam", str(tmp_path)))
    assert [(p.seq, number_of(p.image), p.pts_ns) for p in packets] == [(0, 0, 0), (1, 2, 66666667)]
    assert decode.counters["broken_frames"] == 1
    assert first_frame_size(str(tmp_path)) == (WIDTH, HEIGHT)
