"""What is trained: the model with the dense and the grounding head beside it, one pass for all losses.

The decoder's head runs only where there is something to predict, and an answer's tokens weigh 1 / sqrt(its length), so
that a paragraph does not drown a one-word answer, and each answer of a conversation counts as if it stood alone.

Letters: N tiles, P patches, C the tower's width, B conversations, L tokens, H the decoder's width, A answers.
"""

from __future__ import annotations

from collections.abc import Collection, Sequence
from functools import partial
from typing import Any, Literal

import torch
import torch.distributed as dist
from torch import nn
from torch.utils.checkpoint import checkpoint

from nvila.model import NVILAForConditionalGeneration
from nvila.model.attention import without_unread_mask
from nvila.ops.losses import SoftTargets, TokenLosses, token_losses
from nvila.processing.chat import IGNORED
from nvila.train.contrast import ContrastHead
from nvila.train.dense import DenseHead
from nvila.train.grounding import GroundingHead
from nvila.train.recipe import Part


class Learner(nn.Module):
    """The model under training and its dense head; `forward` takes what `encode.collate` or the
    data layer's `collate_packed` gives."""

    def __init__(
        self,
        model: NVILAForConditionalGeneration,
        dense_head: DenseHead,
        contrast_head: ContrastHead | None = None,
    ) -> None:
        super().__init__()
        self.model = model
        self.dense_head = dense_head
        self.grounding_head = GroundingHead(model.config.text_config.hidden_size)
        self.contrast_head = contrast_head
        self.dense_weight = 1.0
        self.contrast_weight = 0.0
        self.answer_weight = 1.0
        self.grounding_weight = 0.0
        self.loss: Literal["answer", "token"] = "answer"
        self.soft_targets: SoftTargets | None = None
        """Time tokens, whose neighbours are nearly right (temporal localisation)."""
        self.always_sees = False
        """Whether a batch without media runs the tower on an empty picture, which counts for nothing: where ranks share
        parameters, all must run the same modules, and where the decoder is frozen, a text alone has no gradient."""

    def parts(self) -> dict[Part, nn.Module]:
        """What a recipe calls the parts of the model."""
        model = self.model
        return {"vision": model.vision_tower, "projector": model.mm_projector, "llm": model.llm}

    def forward(
        self,
        input_ids: torch.Tensor,
        labels: torch.Tensor,
        pixel_values: torch.Tensor | None = None,
        block_sizes: Sequence[tuple[int, int]] = (),
        pixel_values_videos: torch.Tensor | None = None,
        video_lengths: Sequence[int] = (),
        dense: torch.Tensor | None = None,
        named: torch.Tensor | None = None,
        cells: torch.Tensor | None = None,
        caption_ids: torch.Tensor | None = None,
        caption_mask: torch.Tensor | None = None,
        tile_owner: torch.Tensor | None = None,
        num_items: torch.Tensor | None = None,
        **decoder_inputs: Any,
    ) -> dict[str, torch.Tensor]:
        """`loss` (), and for the log `answer_loss` (), `dense_loss` (), `grounding_loss` (), `accuracy_KIND` (), and
        `correct`, one number a conversation: the share of its answers that were right to the last token, each token
        given the true ones before it (so that greedy decoding would give the same answer).

        `num_items`: learned tokens of the whole step, which the loss of tokens is divided by; None: those given here.
        `decoder_inputs`: position_ids and borders of packed rows, or attention_mask.
        """
        num_tiles = 0 if pixel_values is None else len(pixel_values)
        features_NPC = self._features(pixel_values, pixel_values_videos)
        results: dict[str, torch.Tensor] = {}
        loss = labels.new_zeros((), dtype=torch.float32)
        if dense is not None and self.dense_weight:
            assert features_NPC is not None
            results = self.dense_head(features_NPC[:num_tiles], dense)
            results["dense_loss"] = results.pop("loss")
            loss = loss + self.dense_weight * results["dense_loss"]
        if self.contrast_weight and tile_owner is not None:
            results |= self._contrast(features_NPC, caption_ids, caption_mask, tile_owner)
            loss = loss + self.contrast_weight * results["contrast_loss"]
        if self.answer_weight:
            embeds_BLH = self._embed(input_ids, features_NPC, num_tiles, block_sizes, video_lengths)
            is_grounded = self.grounding_weight > 0 and named is not None and len(named) > 0
            decoder = self.model.language_model
            outputs = decoder(
                inputs_embeds=embeds_BLH,
                use_cache=False,
                output_hidden_states=is_grounded,
                **without_unread_mask(decoder, decoder_inputs),
            )
            if is_grounded:
                results |= self.grounding_head(outputs.hidden_states[-2], named, cells)
                loss = loss + self.grounding_weight * results["grounding_loss"]
            head = self.model.get_output_embeddings()
            if self.loss == "answer":
                owners = conversations(labels, decoder_inputs.get("cu_seq_lens_q"))
                answer_loss, results["correct"] = answer_losses(
                    outputs.last_hidden_state, labels, head, self.soft_targets, owners
                )
            else:
                answer_loss, results["accuracy_tokens"] = step_loss(
                    outputs.last_hidden_state, labels, head, num_items, self.soft_targets
                )
            results["answer_loss"] = answer_loss
            loss = loss + self.answer_weight * answer_loss
        if features_NPC is not None and not loss.requires_grad:  # nothing in this batch that this stage learns from
            loss = loss + 0.0 * features_NPC.float().sum()
        return {"loss": loss, **results}

    def _contrast(
        self, features_NPC: Any, caption_ids: Any, caption_mask: Any, tile_owner: torch.Tensor
    ) -> dict[str, torch.Tensor]:
        """The sigmoid loss of the pictures that have a caption, against all captions of all ranks."""
        assert self.contrast_head is not None
        kept = tile_owner >= 0
        has_others = self.training and dist.is_initialized() and dist.get_world_size() > 1
        result: dict[str, torch.Tensor] = self.contrast_head(
            features_NPC[: len(tile_owner)][kept],
            tile_owner[kept],
            caption_ids,
            caption_mask,
            group=dist.group.WORLD if has_others else None,
        )
        return result

    def _features(
        self, pixel_values: torch.Tensor | None, pixel_values_videos: torch.Tensor | None
    ) -> torch.Tensor | None:
        """Features (N, P, C) of the tiles of pictures, then of the frames of clips; None where there is neither."""
        pixels = all_pixels(pixel_values, pixel_values_videos)
        if pixels is not None:
            return self.model.encode_tiles(pixels)
        if not self.always_sees:
            return None
        side, count = self.model.config.tile_size, self.model.num_image_tiles((1, 1))
        return self.model.encode_tiles(torch.zeros(count, 3, side, side, device=self.model.device))

    def _embed(
        self,
        input_ids: torch.Tensor,
        features_NPC: torch.Tensor | None,
        num_tiles: int,
        block_sizes: Sequence[tuple[int, int]],
        video_lengths: Sequence[int],
    ) -> torch.Tensor:
        """Embeddings (B, L, H) of the text with the media's features in their places."""
        media: dict[str, Any] = {}
        if features_NPC is not None and len(block_sizes):
            media |= {"block_sizes": block_sizes, "tile_features": features_NPC[:num_tiles]}
        if features_NPC is not None and len(video_lengths):
            media |= {"video_lengths": video_lengths, "video_tile_features": features_NPC[num_tiles:]}
        embeds_BLH = self.model.embed_inputs(input_ids, **media)
        if features_NPC is not None and not media:
            unseen = self.model.get_image_features(None, [(1, 1)], features_NPC).pooler_output[0]
            embeds_BLH = embeds_BLH + 0.0 * unseen.sum().to(embeds_BLH.dtype)
        return embeds_BLH


def conversations(labels_BL: torch.Tensor, borders: torch.Tensor | None) -> torch.Tensor:
    """(B, L) the number of the conversation that each token is of: its row, or where `borders` are given, which count
    the tokens of all rows, what lies between two of them."""
    if borders is None:
        return torch.arange(len(labels_BL), device=labels_BL.device)[:, None].expand_as(labels_BL)
    lengths = borders.diff().long()
    return torch.repeat_interleave(torch.arange(len(lengths), device=borders.device), lengths).view_as(labels_BL)


def answer_losses(
    hidden_BLH: torch.Tensor,
    labels_BL: torch.Tensor,
    head: nn.Module,
    soft_targets: SoftTargets | None = None,
    owners_BL: torch.Tensor | None = None,
) -> tuple[torch.Tensor, torch.Tensor]:
    """The weighted mean loss () of the labelled tokens, and the share of each conversation's answers that were
    predicted whole, for all that have answers; an answer is a run of labelled tokens.

    owners_BL: the conversation of each token in ascending order; None: its row.
    """
    targets_BL = labels_BL[:, 1:]
    labelled_BL = targets_BL != IGNORED
    starts_BL = labelled_BL & (labels_BL[:, :-1] == IGNORED)
    found = _labelled_losses(hidden_BLH, labelled_BL, targets_BL, head, soft_targets)
    # One number an answer, in the order of the labelled tokens.
    answers = starts_BL[labelled_BL].cumsum(0) - 1
    lengths_A = torch.bincount(answers)
    weights = lengths_A.float().rsqrt()[answers]
    wrong_A = torch.zeros_like(lengths_A).index_add_(0, answers, (~found.correct).long())
    owners_BL = conversations(labels_BL, None) if owners_BL is None else owners_BL
    _, owners_A, counts = owners_BL[:, 1:][starts_BL].unique_consecutive(return_inverse=True, return_counts=True)
    right = found.losses.new_zeros(len(counts)).index_add_(0, owners_A, (wrong_A == 0).float())
    return (found.losses * weights).sum() / weights.sum(), right / counts


def step_loss(
    hidden_BLH: torch.Tensor,
    labels_BL: torch.Tensor,
    head: nn.Module,
    num_items: torch.Tensor | None,
    soft_targets: SoftTargets | None = None,
) -> tuple[torch.Tensor, torch.Tensor]:
    """The sum () of the labelled tokens' losses over `num_items` (None: their number), and the share () predicted.

    Nothing of the size of tokens times vocabulary is ever made (`nvila.ops`).
    """
    targets_BL = labels_BL[:, 1:]
    labelled_BL = targets_BL != IGNORED
    found = _labelled_losses(hidden_BLH, labelled_BL, targets_BL, head, soft_targets)
    return found.losses.sum() / (len(found.losses) if num_items is None else num_items), found.correct.float().mean()


def _labelled_losses(
    hidden_BLH: torch.Tensor,
    labelled_BL: torch.Tensor,
    targets_BL: torch.Tensor,
    head: nn.Module,
    soft_targets: SoftTargets | None = None,
) -> TokenLosses:
    """The losses of the labelled tokens alone, each predicted from the position before it."""
    hidden, targets = hidden_BLH[:, :-1][labelled_BL], targets_BL[labelled_BL]
    return token_losses(hidden, head.weight, targets, bias=head.bias, soft_targets=soft_targets)


def all_pixels(pixel_values: torch.Tensor | None, pixel_values_videos: torch.Tensor | None) -> torch.Tensor | None:
    """The tiles of pictures, then the frames of clips, (N, 3, S, S) normalised; None where there is neither."""
    given = [normalised(pixels) for pixels in (pixel_values, pixel_values_videos) if pixels is not None]
    return torch.cat(given) if given else None


def normalised(pixels: torch.Tensor) -> torch.Tensor:
    """Bytes (N, S, S, 3) to (N, 3, S, S) in -1..1, as the processor normalises; what is no bytes is so already."""
    if pixels.dtype != torch.uint8:
        return pixels
    return pixels.permute(0, 3, 1, 2).float().div_(127.5).sub_(1.0).contiguous()


def compile_layers(model: NVILAForConditionalGeneration) -> None:
    """Compiles each layer of the tower and of the decoder in place; equal layers share the compiled code.

    Sizes are left open: batches differ in their tiles and lengths.
    """
    decoder: Any = model.language_model
    for layer in [*model.vision_tower.vision_model.encoder.layers, *decoder.layers]:
        layer.compile(dynamic=True)


def checkpoint_layers(learner: Learner, parts: Collection[Part]) -> None:
    """Has the layers of `parts` (vision, llm) keep their inputs alone for the backward pass; those of others all."""
    layers: dict[Part, Any] = {
        "vision": learner.model.vision_tower.vision_model.encoder.layers,
        "llm": learner.model.language_model.layers,
    }
    for name, part in layers.items():
        for layer in part:
            layer.gradient_checkpointing = name in parts
            layer._gradient_checkpointing_func = partial(checkpoint, use_reentrant=False)
