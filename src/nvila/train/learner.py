"""What is trained: the model with the dense and the grounding head beside it, one pass for all losses.

The decoder's head runs only where there is something to predict, and an answer's tokens weigh 1 / sqrt(its length), so
that a paragraph does not drown a one-word answer, and each answer of a conversation counts as if it stood alone.

Letters: N tiles, P patches, C the tower's width, B conversations, L tokens, H the decoder's width, A answers.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import nn
from torch.nn import functional as F

from nvila.model import NVILAForConditionalGeneration
from nvila.model.fusion import embed_text, fuse
from nvila.processing.chat import IGNORED
from nvila.train.dense import DenseHead
from nvila.train.grounding import GroundingHead
from nvila.train.recipe import Part


class Learner(nn.Module):
    """The model under training and its dense head; `forward` takes what `encode.collate` gives."""

    def __init__(self, model: NVILAForConditionalGeneration, dense_head: DenseHead) -> None:
        super().__init__()
        self.model = model
        self.dense_head = dense_head
        self.grounding_head = GroundingHead(model.config.text_config.hidden_size)
        self.dense_weight = 1.0
        self.answer_weight = 1.0
        self.grounding_weight = 0.0

    def parts(self) -> dict[Part, nn.Module]:
        """What a recipe calls the parts of the model."""
        model = self.model
        return {"vision": model.vision_tower, "projector": model.mm_projector, "llm": model.llm}

    def forward(
        self,
        input_ids: torch.Tensor,
        labels: torch.Tensor,
        tiles: torch.Tensor | None,
        dense: torch.Tensor | None,
        block_sizes: list[tuple[int, int]],
        frames: torch.Tensor | None,
        video_lengths: list[int],
        named: torch.Tensor,
        cells: torch.Tensor,
    ) -> dict[str, torch.Tensor]:
        """`loss` (), and for the log `answer_loss` (), `dense_loss` (), `grounding_loss` (), `accuracy_KIND` (), and
        `correct` (B,): the share of a conversation's answers that were right to the last token, each token given the
        true ones before it (so that greedy decoding would give the same answer)."""
        features_NPC = self.model.encode_tiles(normalised(tiles, frames))
        num_tiles = 0 if tiles is None else tiles.shape[0]
        results: dict[str, torch.Tensor] = {}
        loss = features_NPC.new_zeros((), dtype=torch.float32)
        if dense is not None and self.dense_weight:
            results = self.dense_head(features_NPC[:num_tiles], dense)
            results["dense_loss"] = results.pop("loss")
            loss = loss + self.dense_weight * results["dense_loss"]
        if self.answer_weight:
            hidden_BLH, before_BLH = self._decode(input_ids, features_NPC, num_tiles, block_sizes, video_lengths)
            if self.grounding_weight and len(named):
                results |= self.grounding_head(before_BLH, named, cells)
                loss = loss + self.grounding_weight * results["grounding_loss"]
            answer_loss, results["correct"] = answer_losses(hidden_BLH, labels, self.model.get_output_embeddings())
            results["answer_loss"] = answer_loss
            loss = loss + self.answer_weight * answer_loss
        return {"loss": loss, **results}

    def _decode(
        self,
        input_ids: torch.Tensor,
        features_NPC: torch.Tensor,
        num_tiles: int,
        block_sizes: list[tuple[int, int]],
        video_lengths: list[int],
    ) -> tuple[torch.Tensor, torch.Tensor]:
        """The hidden states (B, L, H) behind the last layer of the decoder, and those that go into it."""
        model = self.model
        image_id, video_id = model.config.image_token_id, model.config.video_token_id
        embeds_BLH = embed_text(model.get_input_embeddings(), input_ids, (image_id, video_id))
        if block_sizes:
            images = model.get_image_features(None, block_sizes, features_NPC[:num_tiles]).pooler_output
            embeds_BLH = fuse(embeds_BLH, input_ids, image_id, images, "image")
        if video_lengths:
            clips = model.get_video_features(None, video_lengths, features_NPC[num_tiles:]).pooler_output
            embeds_BLH = fuse(embeds_BLH, input_ids, video_id, clips, "video")
        # Padding is on the right, where a causal decoder never looks, so no mask is needed.
        outputs = model.language_model(inputs_embeds=embeds_BLH, use_cache=False, output_hidden_states=True)
        return outputs.last_hidden_state, outputs.hidden_states[-2]


def answer_losses(
    hidden_BLH: torch.Tensor, labels_BL: torch.Tensor, head: nn.Module
) -> tuple[torch.Tensor, torch.Tensor]:
    """The weighted mean loss () of the labelled tokens, and (B,) the share of each conversation's answers that were
    predicted whole; an answer is a run of labelled tokens."""
    targets_BL = labels_BL[:, 1:]
    labelled_BL = targets_BL != IGNORED
    starts_BL = labelled_BL & (labels_BL[:, :-1] == IGNORED)
    logits = head(hidden_BLH[:, :-1][labelled_BL]).float()
    targets = targets_BL[labelled_BL]
    # One number an answer, in the order of the labelled tokens.
    answers = starts_BL[labelled_BL].cumsum(0) - 1
    lengths_A = torch.bincount(answers)
    weights = lengths_A.float().rsqrt()[answers]
    losses = F.cross_entropy(logits, targets, reduction="none")
    wrong_A = torch.zeros_like(lengths_A).index_add_(0, answers, (logits.detach().argmax(-1) != targets).long())
    right_B = losses.new_zeros(len(labels_BL)).index_add_(0, starts_BL.nonzero()[:, 0], (wrong_A == 0).float())
    return (losses * weights).sum() / weights.sum(), right_B / starts_BL.sum(dim=1).clamp(min=1)


def normalised(tiles: torch.Tensor | None, frames: torch.Tensor | None) -> torch.Tensor:
    """Bytes (N, S, S, 3) of tiles, then frames, to (N, 3, S, S) in -1..1, as the processor normalises."""
    given = [part for part in (tiles, frames) if part is not None]
    return torch.cat(given).permute(0, 3, 1, 2).float().div_(127.5).sub_(1.0).contiguous()


def compile_layers(model: NVILAForConditionalGeneration) -> None:
    """Compiles each layer of the tower and of the decoder in place; equal layers share the compiled code.

    Sizes are left open: batches differ in their tiles and lengths.
    """
    decoder: Any = model.language_model
    for layer in [*model.vision_tower.vision_model.encoder.layers, *decoder.layers]:
        layer.compile(dynamic=True)
