"""The NVILA model. Its forward reads as the paper's Figure 3: tiles -> vision tower -> (S2 merge) -> projector ->
(temporal averaging) -> fusion with the text -> decoder.

`NVILAModel` ends at the decoder's hidden states, `NVILAForConditionalGeneration` adds the language head and generates.
Both hold their parts under the released names: `vision_tower`, `mm_projector`, `llm`. How pixels are cut into tiles and
text into placeholders is the processor's business (`nvila.processing`).

Letters: N tiles, P patches of a tile, C the tower's width, T tokens of a tile, B conversations, L tokens, H the
decoder's width.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, ClassVar

import torch
from torch import nn
from transformers import AutoModel, AutoModelForCausalLM, GenerationMixin
from transformers.modeling_outputs import BaseModelOutputWithPast, ModelOutput

from nvila.model.base import NVILAPreTrainedModel
from nvila.model.config import NVILAConfig, NVILALiteConfig
from nvila.model.expand import expand_media

MEDIA_INPUTS = ("pixel_values", "pixel_values_videos", "tile_features", "video_tile_features")


@dataclass
class NVILACausalLMOutputWithPast(ModelOutput):
    """Loss (), logits (B, L, vocabulary), and what the decoder returned besides."""

    loss: torch.Tensor | None = None
    logits: torch.Tensor | None = None
    past_key_values: Any = None
    hidden_states: tuple[torch.Tensor, ...] | None = None
    attentions: tuple[torch.Tensor, ...] | None = None


class NVILAModel(NVILAPreTrainedModel):
    """NVILA without its language head: token ids and media to the decoder's last hidden states."""

    _keys_to_ignore_on_load_unexpected: ClassVar = [r"llm\.lm_head\..*"]

    def __init__(self, config: NVILAConfig) -> None:
        super().__init__(config)
        self.llm = nn.Module()
        self.llm.model = AutoModel.from_config(config.text_config)
        self.post_init()

    def forward(
        self,
        input_ids: torch.Tensor | None = None,
        pixel_values: torch.Tensor | None = None,
        pixel_values_videos: torch.Tensor | None = None,
        attention_mask: torch.Tensor | None = None,
        position_ids: torch.Tensor | None = None,
        past_key_values: Any = None,
        inputs_embeds: torch.Tensor | None = None,
        block_sizes: Any = None,
        video_lengths: Any = None,
        tile_features: torch.Tensor | None = None,
        video_tile_features: torch.Tensor | None = None,
        **kwargs: Any,
    ) -> BaseModelOutputWithPast:
        """See `NVILAForConditionalGeneration.forward`; returns the decoder's output, last_hidden_state (B, L, H)."""
        media = {
            "pixel_values": pixel_values,
            "block_sizes": block_sizes,
            "tile_features": tile_features,
            "pixel_values_videos": pixel_values_videos,
            "video_lengths": video_lengths,
            "video_tile_features": video_tile_features,
        }
        decoder_inputs = {
            "attention_mask": attention_mask,
            "position_ids": position_ids,
            "past_key_values": past_key_values,
            **_without(kwargs, "return_dict", "mm_token_type_ids"),
        }
        return self._decode(input_ids, inputs_embeds, media, decoder_inputs)


class NVILAForConditionalGeneration(NVILAPreTrainedModel, GenerationMixin):
    """NVILA with its language head: answers questions about images and videos with `generate`."""

    def __init__(self, config: NVILAConfig) -> None:
        super().__init__(config)
        self.llm = AutoModelForCausalLM.from_config(config.text_config)
        self.post_init()

    def get_output_embeddings(self) -> nn.Module:
        return self.llm.get_output_embeddings()

    def set_output_embeddings(self, new_embeddings: nn.Module) -> None:
        self.llm.set_output_embeddings(new_embeddings)

    def forward(
        self,
        input_ids: torch.Tensor | None = None,
        pixel_values: torch.Tensor | None = None,
        pixel_values_videos: torch.Tensor | None = None,
        attention_mask: torch.Tensor | None = None,
        position_ids: torch.Tensor | None = None,
        past_key_values: Any = None,
        inputs_embeds: torch.Tensor | None = None,
        labels: torch.Tensor | None = None,
        logits_to_keep: int | torch.Tensor = 0,
        block_sizes: Any = None,
        video_lengths: Any = None,
        tile_features: torch.Tensor | None = None,
        video_tile_features: torch.Tensor | None = None,
        **kwargs: Any,
    ) -> NVILACausalLMOutputWithPast:
        """Logits of the next token at every position, and the loss when `labels` are given.

        input_ids: (B, L) with placeholders expanded by the processor; padding on either side, with attention_mask.
        pixel_values: (N, 3, S, S) tiles of all images, block_sizes: a (rows, cols) an image.
        pixel_values_videos: (frames, 3, S, S), video_lengths: the frames of each clip.
        tile_features, video_tile_features: (N, P, C) from `encode_tiles`, in place of the pixels.
        labels: (B, L), -100 where no loss is taken. logits_to_keep: how many last positions get logits, 0 for all.
        """
        media = {
            "pixel_values": pixel_values,
            "block_sizes": block_sizes,
            "tile_features": tile_features,
            "pixel_values_videos": pixel_values_videos,
            "video_lengths": video_lengths,
            "video_tile_features": video_tile_features,
        }
        loss_inputs = {key: kwargs.pop(key) for key in ("num_items_in_batch",) if key in kwargs}
        decoder_inputs = {
            "attention_mask": attention_mask,
            "position_ids": position_ids,
            "past_key_values": past_key_values,
            **_without(kwargs, "return_dict", "mm_token_type_ids"),
        }
        outputs = self._decode(input_ids, inputs_embeds, media, decoder_inputs)
        kept = slice(-logits_to_keep, None) if isinstance(logits_to_keep, int) else logits_to_keep
        logits = self.llm.lm_head(outputs.last_hidden_state[:, kept, :])
        loss = None
        if labels is not None:
            loss = self.loss_function(logits=logits, labels=labels, vocab_size=logits.shape[-1], **loss_inputs)
        return NVILACausalLMOutputWithPast(
            loss=loss,
            logits=logits,
            past_key_values=outputs.past_key_values,
            hidden_states=outputs.hidden_states,
            attentions=outputs.attentions,
        )

    def prepare_inputs_for_generation(self, input_ids: torch.Tensor, **kwargs: Any) -> dict[str, Any]:
        """Media go into the prefill alone; later steps find them in the KV cache."""
        inputs: dict[str, Any] = super().prepare_inputs_for_generation(input_ids, **kwargs)
        if not kwargs.get("is_first_iteration", False) and kwargs.get("use_cache", True):
            inputs = _without(inputs, *MEDIA_INPUTS)
        return inputs

    def _expand_inputs_for_generation(
        self,
        expand_size: int = 1,
        is_encoder_decoder: bool = False,
        input_ids: torch.Tensor | None = None,
        **kwargs: Any,
    ) -> tuple[torch.Tensor | None, dict[str, Any]]:
        """Repeat conversations for beams and several answers; media are repeated conversation by conversation."""
        names = (*MEDIA_INPUTS, "block_sizes", "video_lengths")
        media = {key: kwargs.pop(key) for key in names if kwargs.get(key) is not None}
        if media and expand_size > 1:
            assert input_ids is not None
            media = expand_media(self, input_ids, media, expand_size)
        input_ids, kwargs = super()._expand_inputs_for_generation(expand_size, is_encoder_decoder, input_ids, **kwargs)
        return input_ids, {**kwargs, **media}


class NVILALiteModel(NVILAModel):
    """`NVILAModel` of the type "nvila_lite"."""

    config_class = NVILALiteConfig


class NVILALiteForConditionalGeneration(NVILAForConditionalGeneration):
    """`NVILAForConditionalGeneration` of the type "nvila_lite"."""

    config_class = NVILALiteConfig


def _without(values: dict[str, Any], *names: str) -> dict[str, Any]:
    return {key: value for key, value in values.items() if key not in names}
