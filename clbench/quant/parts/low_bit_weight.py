"""Hold a matrix in few bits a value, as planes of one bit, with a scale and a zero point a group.

The portable form of T-MAC (J. Wei et al., EuroSys 2025, arXiv 2407.00088): with codes q in 0..2^b - 1 and
groups of G neighbours in a row,

    w = s (q - z),    plane p = bit p of each code, eight codes a byte, the first in the least bit.

Bits a value: b + 2 e / G with e bits for s and for z each. With a table of ``levels`` (2^b values), w = s
(levels[q] - z): codes whose values are not evenly spaced.

Shape letters: P planes, M rows, K columns, G groups a row.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from clbench.quant.kernels.kernel_layer import KernelLayer
from clbench.quant.kernels.library import is_portable, kernels_for

IN_A_BYTE = 8


class LowBitWeight(nn.Module):
    """A matrix (M, K) of 1 to 8 bits a value; it does not learn."""

    planes: Tensor
    scale: Tensor
    zero: Tensor
    levels: Tensor | None

    def __init__(
        self, planes: Tensor, scale: Tensor, zero: Tensor, columns: int, levels: Tensor | None = None
    ) -> None:
        """Take planes (P, M, ceil(K / 8)), scales and zero points (M, G), and levels (2^P,) if any."""
        super().__init__()
        self.columns, self.bits, self.rows = columns, *planes.shape[:2]
        self._in_order: KernelLayer | None = None
        self.register_buffer("planes", planes)
        self.register_buffer("scale", scale)
        self.register_buffer("zero", zero)
        self.register_buffer("levels", levels)

    @classmethod
    def of(
        cls, codes: Tensor, scale: Tensor, zero: Tensor, bits: int, levels: Tensor | None = None
    ) -> LowBitWeight:
        """Pack codes (M, K), integers in 0..2^bits - 1."""
        return cls(to_planes(codes, bits), scale, zero, codes.shape[1], levels)

    def check(self, *, rows: int) -> None:
        """Raise ValueError unless the tensors are those of a matrix of so many rows."""
        planes, groups = self.planes, self.scale.shape[-1] if self.scale.ndim else 0
        fits = (
            planes.dtype == torch.uint8
            and planes.ndim == 3
            and 1 <= len(planes) <= IN_A_BYTE
            and planes.shape[1:] == (rows, -(-self.columns // IN_A_BYTE))
            and self.scale.shape == self.zero.shape == (rows, groups)
            and 0 < groups <= self.columns
            and (self.levels is None or self.levels.shape == (2 ** len(planes),))
        )
        if not fits:
            raise ValueError(f"these are no weights of {rows} x {self.columns}")

    @property
    def num_values(self) -> int:
        """Number of values: M K."""
        return self.rows * self.columns

    @property
    def num_bytes(self) -> int:
        """Bytes that planes, scales, zero points and levels take."""
        held = [self.scale, self.zero, *([] if self.levels is None else [self.levels])]
        of_planes = self.bits * self.rows * -(-self.columns // IN_A_BYTE)
        return of_planes + sum(tensor.numel() * tensor.element_size() for tensor in held)

    def codes(self) -> Tensor:
        """Return the codes (M, K), uint8."""
        return self._joined().to(torch.uint8)

    def in_order(self) -> KernelLayer | None:
        """Return the matrix in the order in which kernels read it, if they are to multiply by it.

        From then on it is held so, and its planes are made when they are asked for.
        """
        if is_portable.get():
            self._as_planes()
            return None
        if self._in_order is None:
            planes, dtype = self._buffers["planes"], self.scale.dtype
            assert planes is not None
            is_plain = self.levels is None and self.zero.dtype == dtype in (torch.float16, torch.float32)
            kernels = kernels_for(self.bits) if is_plain and planes.device.type == "cpu" else None
            if kernels is not None:
                self._in_order = KernelLayer(kernels, planes, self.scale, self.zero, self.columns)
                del self._buffers["planes"]
        return self._in_order

    def __getattr__(self, name: str) -> Any:
        """Make the planes where they are not held."""
        in_order = self.__dict__.get("_in_order")
        return in_order.planes() if name == "planes" and in_order is not None else super().__getattr__(name)

    def __getstate__(self) -> dict[str, Any]:
        """Return what a copy, or another process, is made from: planes."""
        state = self.__dict__.copy()
        if self._in_order is not None:
            state |= {"_buffers": {**self._buffers, "planes": self.planes}, "_in_order": None}
        return state

    def _apply(self, fn: Callable[[Tensor], Tensor], recurse: bool = True) -> LowBitWeight:
        """Hold planes again, before all tensors go to another device or type."""
        self._as_planes()
        super()._apply(fn, recurse)  # type: ignore[no-untyped-call]  # torch's
        return self

    def _load_from_state_dict(self, *arguments: Any) -> None:
        self._as_planes()
        super()._load_from_state_dict(*arguments)

    def _save_to_state_dict(self, destination: dict[str, Any], prefix: str, keep_vars: bool) -> None:
        super()._save_to_state_dict(destination, prefix, keep_vars)
        destination[f"{prefix}planes"] = self.planes

    def _as_planes(self) -> None:
        if self._in_order is not None:
            self._buffers["planes"], self._in_order = self._in_order.planes(), None

    def expanded(self) -> Tensor:
        """Return the matrix (M, K) in float32."""
        if self._in_order is not None and not torch.compiler.is_compiling():
            return self._in_order.expanded()
        values = self._joined() if self.levels is None else self.levels.float()[self._joined().long()]
        rows, groups = self.scale.shape
        width = -(-self.columns // groups)
        scale, zero = self.scale.float()[..., None], self.zero.float()[..., None]
        if groups * width != self.columns:
            values = F.pad(values, (0, groups * width - self.columns))
        grouped = values.view(rows, groups, width).sub(zero).mul_(scale)
        return grouped.view(rows, groups * width)[:, : self.columns]

    def _joined(self) -> Tensor:
        """Return the codes (M, K) in float32."""
        table = _bits_of_bytes(self.planes.device)
        total: Tensor | None = None
        for place in range(self.bits):
            plane = F.embedding(self.planes[place].int(), table).flatten(1)
            total = plane if total is None else total.add_(plane, alpha=2**place)
        assert total is not None
        return total[:, : self.columns]


# The eight bits of each byte, the least first, (256, 8). Made here, as one that were made while a graph is
# traced would hold no values.
BITS_OF_BYTES = ((torch.arange(256)[:, None] >> torch.arange(IN_A_BYTE)) & 1).float()


def _bits_of_bytes(device: torch.device) -> Tensor:
    """Return the table on a device, where it is kept."""
    kept = BITS_OF_BYTES if device.type == "cpu" else _moved.get(device)
    if kept is None:
        kept = BITS_OF_BYTES.to(device)
        if not torch.compiler.is_compiling():
            _moved[device] = kept
    return kept


_moved: dict[torch.device, Tensor] = {}


def to_planes(codes: Tensor, bits: int) -> Tensor:
    """Return codes (M, K) as bit planes, uint8 (bits, M, ceil(K / 8)); the last byte is filled with 0."""
    padded = F.pad(codes.to(torch.int32), (0, -codes.shape[1] % IN_A_BYTE)).view(len(codes), -1, IN_A_BYTE)
    places = torch.arange(IN_A_BYTE, dtype=torch.int32, device=codes.device)
    planes = [(((padded >> bit) & 1) << places).sum(dim=2) for bit in range(bits)]
    return torch.stack(planes).to(torch.uint8)
