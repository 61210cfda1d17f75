"""Fusion: placeholders in the token sequence are overwritten by the media's features, in order.

Nothing is inserted or moved, so positions, labels and masks made for the ids stay right.

Letters: B conversations, L tokens, H the decoder's width.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch

from nvila.errors import FusionError


def embed_text(embedding: torch.nn.Embedding, input_ids_BL: torch.Tensor, placeholders: Sequence[int]) -> torch.Tensor:
    """Embeddings (B, L, H) of the ids; a placeholder, which may lie beyond the stored table, gets row 0 for now."""
    mask = torch.zeros_like(input_ids_BL, dtype=torch.bool)
    for placeholder in placeholders:
        mask |= input_ids_BL == placeholder
    embedded: torch.Tensor = embedding(input_ids_BL.masked_fill(mask, 0))
    return embedded


def fuse(
    embeds_BLH: torch.Tensor, input_ids_BL: torch.Tensor, placeholder: int, features: Sequence[torch.Tensor], kind: str
) -> torch.Tensor:
    """`embeds_BLH` with the rows of `placeholder` overwritten by `features`, a tensor (n_i, H) per image or clip.

    Raises FusionError with both counts when they disagree.
    """
    rows_NH = torch.cat(list(features)).to(embeds_BLH.device, embeds_BLH.dtype)
    mask_BL = input_ids_BL == placeholder
    # One host synchronisation a prefill: a mismatch written silently would ruin the answer.
    num_placeholders = int(mask_BL.sum())
    if num_placeholders != rows_NH.shape[0]:
        raise FusionError(
            f"the text holds {num_placeholders} {kind} placeholders, but {len(features)} {kind}(s) give "
            f"{rows_NH.shape[0]} features; build the text and the media with the same processor and settings"
        )
    return embeds_BLH.masked_scatter(mask_BL.unsqueeze(-1), rows_NH)
