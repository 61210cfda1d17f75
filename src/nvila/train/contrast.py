"""SigLIP's sigmoid image-text loss, and the head that gives it an embedding of every picture and of every caption.

Every picture is compared with every caption of the batch, and each comparison is a yes-or-no question of its own
(Zhai et al., arXiv 2303.15343, section 3.2): no softmax runs over the batch, so ranks need no common normaliser. The
trade taken here: the ranks' captions are gathered at once (W * B embeddings), where the paper passes them round in
chunks; that is 9 MB at batch 2048 and width 1152, for one exchange instead of W. Captions that are equal are never
each other's negatives. Pictures that are equal under different captions are not known to be, and stay negatives.

Leaves out where captions come from (`nvila.data.text_pairs`). The head is thrown away after stage 0.

Letters: B pairs of this rank, A pairs of all ranks, W ranks, D width of an embedding, N tiles, P patches of a tile,
C the tower's width, L tokens of a caption.
"""

from __future__ import annotations

import math
from typing import Any, NamedTuple

import torch
import torch.distributed as dist
from torch import nn
from torch.nn import functional as F
from transformers import SiglipTextConfig, SiglipTextModel, SiglipVisionConfig
from transformers.models.siglip.modeling_siglip import SiglipMultiheadAttentionPoolingHead

from nvila.errors import DataError

START_LOG_SCALE = math.log(10.0)
START_BIAS = -10.0
"""Nearly every pair is a negative; from here the first steps need not learn that (section 3.2)."""
_HASH_FACTOR = 6364136223846793005


class Scores(NamedTuple):
    """This rank's pictures against the captions of all ranks, each (B, A).

    logits: float32, t * cosine + b. own: whether the caption is the picture's. same: whether it reads as the picture's
    own, which is among them. num_ranks: W.
    """

    logits_BA: torch.Tensor
    own_BA: torch.Tensor
    same_BA: torch.Tensor
    num_ranks: int


def sigmoid_loss(
    images_BD: torch.Tensor,
    texts_BD: torch.Tensor,
    *,
    log_scale: torch.Tensor,
    bias: torch.Tensor,
    text_ids_B: torch.Tensor | None = None,
    group: dist.ProcessGroup | None = None,
) -> torch.Tensor:
    """The loss (): -1/B sum_ij log sigmoid(z_ij (t x_i . y_j + b)), z = 1 on pairs and -1 elsewhere.

    x and y are the embeddings, L2-normalised here, in float32 whatever autocast says; t = exp(log_scale), which has one
    element as has the bias b. Captions with equal `text_ids_B` (long) are left out as negatives of each other; None
    takes all as different. `group` holds the ranks that share a batch, all of which must call, with any B that is not 0
    for all; None is this process alone. The mean over ranks of the loss, and of its gradients, is that of one process
    with the joined batch.
    """
    return loss_of(score_pairs(images_BD, texts_BD, log_scale, bias, text_ids_B, group))


def score_pairs(
    images_BD: torch.Tensor,
    texts_BD: torch.Tensor,
    log_scale: torch.Tensor,
    bias: torch.Tensor,
    text_ids_B: torch.Tensor | None = None,
    group: dist.ProcessGroup | None = None,
) -> Scores:
    """What the loss and the accuracy are made of; arguments as in `sigmoid_loss`."""
    with torch.autocast(images_BD.device.type, enabled=False):
        images_BD, texts_AD = F.normalize(images_BD.float(), dim=1), F.normalize(texts_BD.float(), dim=1)
        text_ids_A, first, num_ranks = text_ids_B, 0, 1
        if group is not None:
            sizes = _sizes_of_ranks(images_BD, group)
            first, num_ranks = sum(sizes[: dist.get_rank(group)]), len(sizes)
            texts_AD = _rows_of_ranks(texts_AD, sizes, group)
            text_ids_A = None if text_ids_B is None else _rows_of_ranks(text_ids_B, sizes, group)
        logits_BA = log_scale.float().exp() * (images_BD @ texts_AD.T) + bias.float()
    places_A = torch.arange(len(texts_AD), device=logits_BA.device)
    own_BA = places_A[first : first + len(images_BD), None] == places_A
    same_BA = own_BA
    if text_ids_B is not None and text_ids_A is not None:
        same_BA = text_ids_B[:, None] == text_ids_A
    return Scores(logits_BA, own_BA, same_BA, num_ranks)


def loss_of(scores: Scores) -> torch.Tensor:
    """The sigmoid loss () of these scores: the sum over pairs that count, over the mean number of pairs of a rank."""
    logits_BA, own_BA, same_BA, num_ranks = scores
    losses_BA = -F.logsigmoid(torch.where(own_BA, logits_BA, -logits_BA))
    counted = losses_BA.masked_fill(same_BA & ~own_BA, 0.0).sum()
    return counted * (num_ranks / logits_BA.shape[1])


def accuracy_of(scores: Scores) -> torch.Tensor:
    """The share () of pictures whose best caption is their own or reads like it."""
    best_B1 = scores.logits_BA.detach().argmax(dim=1, keepdim=True)
    return scores.same_BA.gather(1, best_B1).float().mean()


class ContrastHead(nn.Module):
    """Embeds pictures from the tower's features and captions from their tokens, and compares them.

    A picture: SigLIP's attention pooling over the patches of each tile, behind a norm, because the tower's features are
    taken before its own; the tiles of one picture are averaged, so that no tile pays for the tiles of its neighbours.
    A caption: a small SigLIP text tower of the vision tower's width, averaged over its tokens: SigLIP reads the last
    position of a fixed length, which would cost that length for every caption.
    """

    def __init__(
        self, vision: SiglipVisionConfig, *, vocab_size: int, text_layers: int = 4, max_tokens: int = 64
    ) -> None:
        """`max_tokens`: the longest caption that has positions. Sizes of the layers are those of `vision`."""
        super().__init__()
        self.max_tokens = max_tokens
        self.norm = nn.LayerNorm(vision.hidden_size)
        self.pool = SiglipMultiheadAttentionPoolingHead(vision)
        nn.init.xavier_uniform_(self.pool.probe)
        self.text = SiglipTextModel._from_config(_text_config(vision, vocab_size, text_layers, max_tokens))
        # Of one element and not of none, which FSDP cannot shard.
        self.log_scale = nn.Parameter(torch.full((1,), START_LOG_SCALE))
        self.bias = nn.Parameter(torch.full((1,), START_BIAS))

    def forward(
        self,
        features_NPC: torch.Tensor,
        tile_owner_N: torch.Tensor,
        caption_ids_BL: torch.Tensor,
        caption_mask_BL: torch.Tensor,
        *,
        group: dist.ProcessGroup | None = None,
    ) -> dict[str, torch.Tensor]:
        """`contrast_loss` () and `accuracy_contrast` (), the share of this rank's pictures whose best caption of the
        batch is their own or an equal one.

        tile_owner_N: long, the picture 0..B-1 that each tile belongs to; every picture has at least one. Captions are
        long and bool (or 0 and 1), with at least one token each. `group` as in `sigmoid_loss`; `dist.group.WORLD` is
        all ranks, or None where there is one process. Raises DataError for no captions, and for captions over
        `max_tokens` with both numbers.
        """
        scores = score_pairs(
            self.embed_images(features_NPC, tile_owner_N, len(caption_ids_BL)),
            self.embed_captions(caption_ids_BL, caption_mask_BL),
            self.log_scale,
            self.bias,
            caption_hashes(caption_ids_BL, caption_mask_BL),
            group,
        )
        return {"contrast_loss": loss_of(scores), "accuracy_contrast": accuracy_of(scores)}

    def embed_images(self, features_NPC: torch.Tensor, tile_owner_N: torch.Tensor, num_images: int) -> torch.Tensor:
        """(B, C) float32, not normalised, with B = `num_images`."""
        pooled_NC = self.pool(self.norm(features_NPC)).float()
        # The sum points where the mean does, and only the direction counts.
        return pooled_NC.new_zeros(num_images, pooled_NC.shape[1]).index_add(0, tile_owner_N, pooled_NC)

    def embed_captions(self, caption_ids_BL: torch.Tensor, caption_mask_BL: torch.Tensor) -> torch.Tensor:
        """(B, C) float32, not normalised. Padding may stand on the right and changes nothing."""
        count, length = caption_ids_BL.shape
        if not count:
            raise DataError("a batch has 0 pictures with a caption; give each rank at least 1")
        if length > self.max_tokens:
            raise DataError(f"a caption has {length} tokens, over the limit of {self.max_tokens}; cut it, or raise it")
        hidden_BLC = self.text(input_ids=caption_ids_BL, attention_mask=caption_mask_BL.long()).last_hidden_state
        weights_BL1 = caption_mask_BL.unsqueeze(-1).to(hidden_BLC.dtype)
        mean_BC = (hidden_BLC * weights_BL1).sum(dim=1) / weights_BL1.sum(dim=1).clamp(min=1)
        projected: torch.Tensor = self.text.head(mean_BC)
        return projected.float()


def caption_hashes(caption_ids_BL: torch.Tensor, caption_mask_BL: torch.Tensor) -> torch.Tensor:
    """(B,) long: 64 bits that are equal for equal captions, however much they are padded on the right.

    A polynomial in the token ids modulo 2^64: products wrap round, which is meant.
    """
    factors_L = torch.full((caption_ids_BL.shape[1],), _HASH_FACTOR, device=caption_ids_BL.device).cumprod(0)
    return ((caption_ids_BL + 1) * caption_mask_BL.long() * factors_L).sum(dim=1)


def _text_config(vision: SiglipVisionConfig, vocab_size: int, num_layers: int, max_tokens: int) -> SiglipTextConfig:
    return SiglipTextConfig(
        vocab_size=vocab_size,
        hidden_size=vision.hidden_size,
        intermediate_size=vision.intermediate_size,
        num_hidden_layers=num_layers,
        num_attention_heads=vision.num_attention_heads,
        max_position_embeddings=max_tokens,
        pad_token_id=None,
        bos_token_id=None,
        eos_token_id=None,
    )


class _AllGather(torch.autograd.Function):
    """(M, ...) of each rank to (W, M, ...); the gradient of a rank's rows is the sum of those that all ranks have."""

    @staticmethod
    def forward(ctx: Any, x_MD: torch.Tensor, group: dist.ProcessGroup) -> torch.Tensor:
        ctx.group = group
        parts = [torch.empty_like(x_MD) for _ in range(dist.get_world_size(group))]
        dist.all_gather(parts, x_MD.contiguous(), group=group)
        return torch.stack(parts)

    @staticmethod
    def backward(ctx: Any, *grad_outputs: torch.Tensor) -> tuple[torch.Tensor, None]:
        grads_WMD = grad_outputs[0].clone(memory_format=torch.contiguous_format)
        dist.all_reduce(grads_WMD, group=ctx.group)
        return grads_WMD[dist.get_rank(ctx.group)], None


def _sizes_of_ranks(x_BD: torch.Tensor, group: dist.ProcessGroup) -> list[int]:
    """How many pairs each rank has. Reading them is the loss's only synchronisation with the device."""
    own = torch.tensor([len(x_BD)], device=x_BD.device)
    sizes: list[int] = _AllGather.apply(own, group).flatten().tolist()
    return sizes


def _rows_of_ranks(x_BD: torch.Tensor, sizes: list[int], group: dist.ProcessGroup) -> torch.Tensor:
    """The rows (A, ...) of all ranks in the order of ranks; ranks with fewer are padded for the exchange only."""
    missing = max(sizes) - len(x_BD)
    padded_MD = torch.cat([x_BD, x_BD.new_zeros(missing, *x_BD.shape[1:])])
    gathered_WMD = _AllGather.apply(padded_MD, group)
    return torch.cat([rows[:size] for rows, size in zip(gathered_WMD, sizes, strict=True)])
