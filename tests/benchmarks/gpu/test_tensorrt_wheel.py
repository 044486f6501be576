"""The wheel of the libraries in a jar: its members, its RECORD, and the errors for other jars."""

import base64
import hashlib
import zipfile

import pytest
from packing import tensorrt_wheel
from packing.tensorrt_wheel import FOLDER, LIBRARIES, RESOURCE, TensorrtWheelError, make


@pytest.fixture
def jar(tmp_path):
    """A function that makes a jar with members of these names."""

    def make_jar(*names):
        path = tmp_path / "tensorrt.jar"
        with zipfile.ZipFile(path, "w") as written:
            for name in names:
                written.writestr(FOLDER + name, f"content of {name}")
        return path

    return make_jar


RESOURCES = [f"{RESOURCE}{kind}.so.10.15.1" for kind in ("sm80", "sm90", "ptx")]


@pytest.mark.parametrize(("arch", "resource"), [("sm_90", RESOURCES[1]), ("sm_120", RESOURCES[2])])
def test_the_wheel_has_the_files_for_one_architecture(jar, tmp_path, arch, resource):
    made = make(jar(*LIBRARIES, *RESOURCES, "libnvinfer_vc_plugin.so.10"), tmp_path, arch)
    assert [*made.libraries] == [*LIBRARIES, resource]
    with zipfile.ZipFile(made.path) as wheel:
        record = [line for line in wheel.namelist() if line.endswith("RECORD")]
        lines = wheel.read(record[0]).decode().splitlines()
        assert sorted(line.split(",")[0] for line in lines) == sorted(wheel.namelist())
        for line in lines[:-1]:
            name, checksum, size = line.split(",")
            content = wheel.read(name)
            digest = base64.urlsafe_b64encode(hashlib.sha256(content).digest()).rstrip(b"=").decode()
            assert (checksum, int(size)) == (f"sha256={digest}", len(content))
        assert f"tensorrt_libs/{resource}" in wheel.namelist()
        for module in ("tensorrt", "tensorrt_libs"):
            compile(wheel.read(f"{module}/__init__.py"), module, "exec")


@pytest.mark.parametrize(
    ("names", "message"),
    [
        (LIBRARIES[1:], r"no libnvinfer\.so\.10 in"),
        ((*LIBRARIES, RESOURCES[0]), r"no builder resource for sm_90 or ptx; it has sm80"),
    ],
)
def test_another_jar_is_refused(jar, tmp_path, names, message):
    with pytest.raises(TensorrtWheelError, match=message):
        make(jar(*names), tmp_path, "sm_90")
    assert tensorrt_wheel.BINDINGS.endswith(tensorrt_wheel.VERSION)
