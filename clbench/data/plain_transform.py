"""Make the test transform a module of plain tensor operations, for a graph that leaves clbench behind."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from clbench.backbones.backbone import Preprocessing
from clbench.data.batches import scale_and_shift
from clbench.data.exact_resize import WholeWeights, resize_exactly, whole_weights
from clbench.data.transforms import centre_box, resample_weights


class PlainTransform(nn.Module):
    """Stored pixels (B, H, W, 3) uint8 to images (B, 3, S, S), as ``Batcher.plain`` makes them on a CPU."""

    scale: Tensor
    shift: Tensor
    columns: Tensor
    rows: Tensor

    def __init__(self, preprocessing: Preprocessing, height: int, width: int) -> None:
        """Work out the weights for pictures of one size."""
        super().__init__()
        size, interpolation = preprocessing.image_size, preprocessing.interpolation
        box = centre_box(height, width, preprocessing.crop)
        sides = box.sides()
        # as in ``resample``: a box that begins inside a pixel is resampled without rounding
        self.is_whole = torch.equal(sides, sides.round())
        self.top, self.left, cut_height, cut_width = sides[0].int().tolist()
        self.bottom, self.right = self.top + cut_height, self.left + cut_width
        self.is_resized = not self.is_whole or (cut_height, cut_width) != (size, size)
        self.units = (1.0, 1.0)
        if self.is_whole:
            columns, rows = (whole_weights(side, size, interpolation) for side in (cut_width, cut_height))
            self.units = (columns.unit, rows.unit)
            weights = columns.values, rows.values
        else:
            weights = (
                resample_weights(box.left, box.width, width, size, interpolation)[0],
                resample_weights(box.top, box.height, height, size, interpolation)[0],
            )
        scale, shift = scale_and_shift(preprocessing, torch.device("cpu"))
        tensors = {"columns": weights[0], "rows": weights[1], "scale": scale, "shift": shift}
        for name, tensor in tensors.items():
            self.register_buffer(name, tensor)

    def forward(self, pixels: Tensor) -> Tensor:
        """Return the images."""
        return self._levels(pixels.permute(0, 3, 1, 2)) * self.scale - self.shift

    def _levels(self, stored: Tensor) -> Tensor:
        """Return the grey levels (B, 3, S, S) of stored images (B, 3, H, W), in float32."""
        if not self.is_whole:
            return (self.rows @ stored.float() @ self.columns.T).clamp(0, 255)
        cut = stored[:, :, self.top : self.bottom, self.left : self.right]
        if not self.is_resized:
            return cut.float()
        columns, rows = (
            WholeWeights(values, unit)
            for values, unit in zip((self.columns, self.rows), self.units, strict=True)
        )
        return resize_exactly(cut, columns, rows).float()
