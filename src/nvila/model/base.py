"""What the model with and without its language head share: loading, the vision side, fusion.

Media become features here, and features take the placeholders' places; the decoder is the children's business.

Letters: N tiles, P patches of a tile, C the tower's width, T tokens of a tile, B conversations, L tokens, H the
decoder's width.
"""

from __future__ import annotations

import os
from collections.abc import Iterator, Sequence
from typing import Any, ClassVar

import torch
from torch import nn
from transformers import PreTrainedModel
from transformers.modeling_outputs import BaseModelOutputWithPast, BaseModelOutputWithPooling

from nvila.errors import ConfigError, FusionError
from nvila.model import s2, temporal
from nvila.model.attention import without_unread_mask
from nvila.model.checkpoint import load
from nvila.model.config import NVILAConfig
from nvila.model.fusion import embed_text, fuse
from nvila.model.projector import Projector
from nvila.model.vision import DEFAULT_MEMORY_BUDGET, VisionTower, tiles_within


class NVILAPreTrainedModel(PreTrainedModel):
    """Base of the NVILA models: builds and runs the vision tower and the projector, loads checkpoints."""

    config_class = NVILAConfig
    base_model_prefix = ""
    input_modalities = ("image", "video", "text")
    supports_gradient_checkpointing = True
    _no_split_modules: ClassVar = ["SiglipEncoderLayer", "Qwen2DecoderLayer", "LlamaDecoderLayer"]
    _skip_keys_device_placement: ClassVar = ["past_key_values"]
    _supports_flash_attn = True
    _supports_sdpa = True
    _supports_flex_attn = True
    _supports_attention_backend = True

    def __init__(self, config: NVILAConfig) -> None:
        super().__init__(config)
        visual = config.visual
        self.visual = visual
        self.vision_memory_budget = DEFAULT_MEMORY_BUDGET
        """Bytes of vision activations at a time, when no gradients are taken."""
        self.vision_tower = VisionTower(config.vision_config)
        self.mm_projector = Projector(
            visual.projector_type, config.mm_hidden_size, config.text_config.hidden_size, visual.tokens_per_tile
        )

    @classmethod
    def from_pretrained(
        cls, pretrained_model_name_or_path: str | os.PathLike[str], *model_args: Any, **kwargs: Any
    ) -> Any:
        """Load `nvila-mini`, a folder in any of the three layouts, or a hub id.

        Takes the keywords of transformers' `from_pretrained` (dtype, device_map, attn_implementation ...). Only
        safetensors are read. Raises CheckpointError or ConfigError for whatever is wrong with the checkpoint.
        """

        def build(config: NVILAConfig, weights: dict[str, torch.Tensor], build_kwargs: dict[str, Any]) -> Any:
            parent: Any = super(NVILAPreTrainedModel, cls)
            return parent.from_pretrained(None, *model_args, config=config, state_dict=weights, **build_kwargs)

        return load(cls, pretrained_model_name_or_path, build, **kwargs)

    @property
    def language_model(self) -> Any:
        """The decoder without its head, a transformers model."""
        return self.llm.model

    def get_input_embeddings(self) -> nn.Embedding:
        return self.language_model.get_input_embeddings()

    def set_input_embeddings(self, value: nn.Module) -> None:
        self.language_model.set_input_embeddings(value)

    def get_encoder(self, modality: str | None = None) -> Any:
        """The vision tower, for images and videos."""
        return self.vision_tower if modality in ("image", "video") else super().get_encoder(modality)

    def encode_tiles(self, pixel_values: torch.Tensor) -> torch.Tensor:
        """Features (N, P, C) of tiles (N, 3, S, S), before the S2 merge and the projector."""
        features: torch.Tensor = self.vision_tower(
            pixel_values, select_layer=self.config.vision_select_layer, memory_budget=self.vision_memory_budget
        )
        return features

    def get_image_features(
        self,
        pixel_values: torch.Tensor | None = None,
        block_sizes: Any = None,
        tile_features: torch.Tensor | None = None,
        return_dict: bool = True,
        **_: Any,
    ) -> BaseModelOutputWithPooling:
        """Decoder-space features of images, in `.pooler_output`: a list with one (n_i, H) tensor an image.

        pixel_values: (N, 3, S, S), the tiles of all images in order. block_sizes: (rows, cols) an image, (1, 1) where
        it is not tiled; None means that every tile is an image. tile_features: (N, P, C) where the tower has already
        been run. Raises FusionError when tiles and block sizes disagree in number.
        """
        tiles = pixel_values if tile_features is None else tile_features
        assert tiles is not None
        grids = self._grids(block_sizes, tiles.shape[0])
        features: list[torch.Tensor] = []
        for group, group_grids in self._groups(tiles, grids):
            x_NPC = group if tile_features is not None else self.encode_tiles(group)
            features.extend(self._project(x_NPC, group_grids))
        return BaseModelOutputWithPooling(pooler_output=features)

    def get_video_features(
        self,
        pixel_values_videos: torch.Tensor | None = None,
        video_lengths: Any = None,
        video_tile_features: torch.Tensor | None = None,
        return_dict: bool = True,
        **_: Any,
    ) -> BaseModelOutputWithPooling:
        """Decoder-space features of clips, in `.pooler_output`: a list with one (groups * T, H) tensor a clip.

        pixel_values_videos: (sum of frames, 3, S, S); a frame is one tile. video_lengths: frames of each clip, None
        for a single clip. video_tile_features: (frames, P, C) where the tower has already been run.
        """
        frames = self.get_image_features(pixel_values_videos, None, video_tile_features).pooler_output
        lengths = [len(frames)] if video_lengths is None else [int(length) for length in _flat(video_lengths)]
        if sum(lengths) != len(frames):
            raise FusionError(f"video_lengths {lengths} sum up to {sum(lengths)}, but there are {len(frames)} frames")
        features, start = [], 0
        for length in lengths:
            clip_FTH = torch.stack(list(frames[start : start + length]))
            features.append(temporal.average_groups(clip_FTH, self.visual.temporal_pool).flatten(0, 1))
            start += length
        return BaseModelOutputWithPooling(pooler_output=features)

    def num_image_tiles(self, grid: s2.Grid) -> int:
        """How many rows of pixel_values an image with this grid has."""
        if self.visual.image_mode == "dynamic_s2":
            return s2.num_tiles(self.visual.s2_scales, grid)
        tiles = grid[0] * grid[1]
        return tiles + 1 if tiles > 1 else 1

    def _grids(self, block_sizes: Any, num_tiles: int) -> list[s2.Grid]:
        if block_sizes is None:
            return [(1, 1)] * num_tiles
        flat = [int(side) for side in _flat(block_sizes)]
        grids = list(zip(flat[::2], flat[1::2], strict=True))
        expected = sum(self.num_image_tiles(grid) for grid in grids)
        if expected != num_tiles:
            raise FusionError(
                f"block_sizes {grids} stand for {expected} tiles, but pixel_values holds {num_tiles}; "
                "pass both as the processor returned them"
            )
        return grids

    def _groups(self, tiles: torch.Tensor, grids: list[s2.Grid]) -> Iterator[tuple[torch.Tensor, list[s2.Grid]]]:
        """Whole images at a time, within the memory budget, so that only their tokens pile up."""
        bytes_per_value = self.dtype.itemsize
        limit = tiles_within(
            self.vision_memory_budget, self.config.vision_config, self.visual.tile_size, bytes_per_value
        )
        if torch.is_grad_enabled():
            limit = tiles.shape[0]
        start, size = 0, 0
        members: list[s2.Grid] = []
        for grid in grids:
            count = self.num_image_tiles(grid)
            if members and size + count > limit:
                yield tiles[start : start + size], members
                start, size, members = start + size, 0, []
            members.append(grid)
            size += count
        if members:
            yield tiles[start : start + size], members

    def _project(self, x_NPC: torch.Tensor, grids: list[s2.Grid]) -> list[torch.Tensor]:
        """Tower features of whole images to a list of (n_i, H), one an image, in the order the decoder reads them."""
        per_image = x_NPC.split([self.num_image_tiles(grid) for grid in grids])
        if not self.visual.s2_scales:
            projected = self.mm_projector(x_NPC).split([tiles.shape[0] for tiles in per_image])
            return [tokens.flatten(0, 1) for tokens in projected]
        output_scale = self.visual.s2_resize_output_to_scale_idx
        merged = [
            s2.merge_scales(tiles, self.visual.s2_scales, grid, output_scale)
            for tiles, grid in zip(per_image, grids, strict=True)
        ]
        projected = self.mm_projector(torch.cat([tiles for tiles, _ in merged])).split(
            [tiles.shape[0] for tiles, _ in merged]
        )
        return [s2.to_row_major(tokens, grid) for tokens, (_, grid) in zip(projected, merged, strict=True)]

    def embed_inputs(
        self,
        input_ids: torch.Tensor,
        pixel_values: torch.Tensor | None = None,
        block_sizes: Any = None,
        tile_features: torch.Tensor | None = None,
        pixel_values_videos: torch.Tensor | None = None,
        video_lengths: Any = None,
        video_tile_features: torch.Tensor | None = None,
    ) -> torch.Tensor:
        """The decoder's input (B, L, H): text embeddings with the media's features in the placeholders' places.

        The arguments are those of `get_image_features` and `get_video_features`. Raises FusionError where features and
        placeholders disagree in number.
        """
        image_id, video_id = self.config.image_token_id, self.config.video_token_id
        embeds = embed_text(self.get_input_embeddings(), input_ids, (image_id, video_id))
        if pixel_values is not None or tile_features is not None:
            images = self.get_image_features(pixel_values, block_sizes, tile_features)
            embeds = fuse(embeds, input_ids, image_id, images.pooler_output, "image")
        if pixel_values_videos is not None or video_tile_features is not None:
            videos = self.get_video_features(pixel_values_videos, video_lengths, video_tile_features)
            embeds = fuse(embeds, input_ids, video_id, videos.pooler_output, "video")
        return embeds

    def _decode(
        self,
        input_ids: torch.Tensor | None,
        inputs_embeds: torch.Tensor | None,
        media: dict[str, Any],
        decoder_inputs: dict[str, Any],
    ) -> BaseModelOutputWithPast:
        """Fuse, then run the decoder on the result."""
        if (input_ids is None) == (inputs_embeds is None):
            raise ValueError("give exactly one of input_ids and inputs_embeds")
        if inputs_embeds is None:
            assert input_ids is not None
            inputs_embeds = self.embed_inputs(input_ids, **media)
        decoder_inputs = without_unread_mask(self.language_model, _without_cache_where_packed(decoder_inputs))
        outputs: BaseModelOutputWithPast = self.language_model(
            inputs_embeds=inputs_embeds, return_dict=True, **decoder_inputs
        )
        return outputs


def _without_cache_where_packed(decoder_inputs: dict[str, Any]) -> dict[str, Any]:
    """The inputs with the KV cache off where positions may restart, as in rows of packed samples.

    transformers sees the borders of samples only where there is neither a cache nor an attention mask, and attends
    across them without a word otherwise. Raises ConfigError for rows that say they are packed (`cu_seq_lens_q`) with
    one of these.
    """
    given = {name for name, value in decoder_inputs.items() if value is not None and value is not False}
    hiding = given & {"attention_mask", "past_key_values", "use_cache"}
    if hiding and "cu_seq_lens_q" in given:
        raise ConfigError(f"packed rows were given with {' and '.join(sorted(hiding))}; leave it out, or do not pack")
    if hiding or "position_ids" not in given:
        return decoder_inputs
    return {**decoder_inputs, "use_cache": False}


def _flat(values: Any) -> Iterator[Any]:
    """The numbers in nested lists, tuples or tensors, which is how different engines hand integers over."""
    if isinstance(values, torch.Tensor):
        values = values.tolist()
    if isinstance(values, Sequence):
        for value in values:
            yield from _flat(value)
    else:
        yield values
