"""The vision tower: SigLIP's encoder up to the layer whose output is used, a bounded number of tiles at a time.

NVILA takes hidden_states[-2], all positions (SigLIP has no class token). The layers behind it and the final norm are
kept, so that checkpoints keep their names and shapes, but never run.

Letters: N tiles, P patches of a tile (row-major), C the tower's width.
"""

from __future__ import annotations

import torch
from torch import nn
from transformers import SiglipVisionConfig, SiglipVisionModel

DEFAULT_MEMORY_BUDGET = 1 << 30


class NVILAVisionModel(SiglipVisionModel):
    """transformers' SigLIP vision model, under the names of released checkpoints (`vision_tower.vision_model.*`)."""

    def features(self, pixel_values: torch.Tensor, select_layer: int) -> torch.Tensor:
        """hidden_states[select_layer] of `pixel_values` (N, 3, S, S) float: (N, P, C).

        Position embeddings are interpolated (bicubic) when S is not the size that the tower was built for.
        """
        interpolate = pixel_values.shape[-1] != self.config.image_size
        x_NPC = self.embeddings(pixel_values, interpolate_pos_encoding=interpolate)
        num_layers = len(self.encoder.layers)
        last = select_layer if select_layer >= 0 else num_layers + 1 + select_layer
        for layer in self.encoder.layers[:last]:
            x_NPC = layer(x_NPC, None)
        return x_NPC


class VisionTower(nn.Module):
    """Holds the vision model under its released name and runs it within a memory budget."""

    def __init__(self, config: SiglipVisionConfig) -> None:
        super().__init__()
        self.vision_model = NVILAVisionModel._from_config(config)

    def forward(self, pixel_values: torch.Tensor, *, select_layer: int, memory_budget: int) -> torch.Tensor:
        """Features (N, P, C) of tiles (N, 3, S, S); at most `memory_budget` bytes of activations at a time.

        With gradients on, every activation is kept for the backward pass anyway, so the tiles go in one batch.
        """
        weight = self.vision_model.embeddings.patch_embedding.weight
        pixel_values = pixel_values.to(weight.dtype)
        num_tiles, _, side, _ = pixel_values.shape
        chunk = tiles_within(memory_budget, self.vision_model.config, side, weight.element_size())
        if torch.is_grad_enabled() or num_tiles <= chunk:
            return self.vision_model.features(pixel_values, select_layer)
        patches = (side // self.vision_model.config.patch_size) ** 2
        features_NPC = pixel_values.new_empty(num_tiles, patches, self.vision_model.config.hidden_size)
        for start in range(0, num_tiles, chunk):
            features_NPC[start : start + chunk] = self.vision_model.features(
                pixel_values[start : start + chunk], select_layer
            )
        return features_NPC


def tiles_within(memory_budget: int, config: SiglipVisionConfig, side: int, bytes_per_value: int) -> int:
    """How many tiles of `side` pixels may run at once in `memory_budget` bytes of activations; at least 1.

    Counts what lives at the same time inside one layer: the residual stream, its norm, q, k, v and the attention's
    output, or the residual, its norm and two copies of the widened activations; and the attention scores where the
    attention writes them out.
    """
    patches = (side // config.patch_size) ** 2
    per_patch = 2 * config.hidden_size + max(4 * config.hidden_size, 2 * config.intermediate_size)
    scores = 2 * config.num_attention_heads * patches**2 if config._attn_implementation == "eager" else 0
    return max(1, memory_budget // ((patches * per_patch + scores) * bytes_per_value))
