"""A plane of a device image as other CUDA libraries take it: CUDA array interface and DLPack, not copied."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np

if TYPE_CHECKING:
    import torch

    from engines.device.streams import Stream

CPU, CUDA = 1, 2  # DLPack's numbers of devices (dlpack.h, DLDeviceType)
NO_ORDER = -1  # the consumer's stream, if the consumer sees to the order itself


class ExportedPlane:
    """A plane, uint8, that CuPy, pycuda, Numba and others can read in place; `DeviceImage.export` makes it.

    It follows the CUDA array interface, version 3, and DLPack:
    https://numba.readthedocs.io/en/stable/cuda/cuda_array_interface.html
    https://dmlc.github.io/dlpack/latest/python_spec.html

    The plane keeps its image alive, and every view that another library makes of it keeps the plane alive. So
    the memory is not used for another frame while a view exists. Other stages read the same memory: nobody
    may write into it. Only DLPack's views are not marked as read-only, as its older versions cannot say it.

    Args:
        owner: what keeps the memory from being used again: the image.
        tensor: the plane, of any strides.
        stream: the stream on which the plane may be read.
    """

    def __init__(self, owner: object, tensor: torch.Tensor, stream: Stream):
        self._owner, self._tensor, self._stream = owner, tensor, stream

    @property
    def shape(self) -> tuple[int, ...]:
        """The plane's shape: (H, W), (H, W, 2) or (H, W, 3)."""
        return tuple(self._tensor.shape)

    @property
    def strides(self) -> tuple[int, ...]:
        """Bytes from one element to the next, for each axis."""
        return tuple(self._tensor.stride())  # an element is one byte

    @property
    def __cuda_array_interface__(self) -> dict[str, Any]:
        """See the class. `stream` is the stream that has waited for the frame.

        Libraries that find it there may make the host wait for that stream (CuPy, Numba); DLPack does not.

        Raises:
            AttributeError: the plane lies in the host's memory.
        """
        if not self._stream.handle:
            raise AttributeError("this plane is not in a GPU's memory; use numpy.asarray")
        return {**self._interface(read_only=True), "stream": self._stream.handle}

    @property
    def __array_interface__(self) -> dict[str, Any]:
        """The same for NumPy.

        Raises:
            AttributeError: the plane lies in a GPU's memory.
        """
        if self._tensor.is_cuda:
            raise AttributeError("this plane is in a GPU's memory; use cupy.from_dlpack or torch.from_dlpack")
        return self._interface(read_only=True)

    def __dlpack_device__(self) -> tuple[int, int]:
        """DLPack's number of the kind of device, and the number of the device."""
        return (CUDA, self._tensor.device.index) if self._tensor.is_cuda else (CPU, 0)

    def __dlpack__(
        self,
        *,
        stream: int | None = None,
        max_version: tuple[int, int] | None = None,
        dl_device: tuple[int, int] | None = None,
        copy: bool | None = None,
    ) -> Any:
        """A capsule for `from_dlpack`; the host waits for nothing.

        Args:
            stream: the handle of the stream on which the consumer will read; -1 if it sees to the order.
            max_version: ignored; the capsule is of DLPack's first version, which every consumer takes.
            dl_device: the device on which the consumer wants the plane.
            copy: whether the consumer wants a copy.

        Raises:
            BufferError: the consumer reads on another stream, where nothing orders its work, or it wants a
                copy or another device.
        """
        if copy or dl_device not in (None, self.__dlpack_device__()):
            raise BufferError("a plane is not copied for other libraries; copy it after from_dlpack")
        expected = self._stream.handle
        if self._tensor.is_cuda and stream not in (NO_ORDER, expected):
            raise BufferError(
                f"this plane may be read on the stream {expected:#x}, but the current stream of the library "
                f"that asks for it is {stream}; make {expected:#x} current there, for CuPy by "
                "`with cupy.cuda.ExternalStream(stream.handle):`"
            )
        from torch.utils.dlpack import to_dlpack

        return to_dlpack(self._owning_tensor())

    def _owning_tensor(self) -> torch.Tensor:
        """The plane as a tensor that keeps this object alive; `_tensor` does not know the image."""
        import torch

        if self._tensor.is_cuda:
            return torch.as_tensor(_Writable(self), device=self._tensor.device)
        return torch.from_numpy(np.asarray(_Writable(self)))

    def _interface(self, *, read_only: bool) -> dict[str, Any]:
        data = (self._tensor.data_ptr(), read_only)
        return {"shape": self.shape, "typestr": "|u1", "data": data, "strides": self.strides, "version": 3}


class _Writable:
    """The plane without its mark as read-only, because PyTorch has no read-only tensors."""

    def __init__(self, plane: ExportedPlane):
        self._plane = plane  # kept alive by the tensor that is made of this object
        self.__array_interface__ = self.__cuda_array_interface__ = plane._interface(read_only=False)
