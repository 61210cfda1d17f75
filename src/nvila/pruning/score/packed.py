"""Our own models: many samples a row, none seeing another, through the same encoding and packing as in training.

Letters: B = 1 row, L tokens, A answer tokens, H the decoder's width, S samples of the row.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from typing import Any

import torch

from nvila.data.collate import collate_packed
from nvila.data.encode import Encoded, EncodeOptions, SampleEncoder
from nvila.data.packing import PackingOptions, RowPacker
from nvila.errors import ConfigError, NVILAError
from nvila.model import NVILAForConditionalGeneration
from nvila.model.attention import without_unread_mask
from nvila.ops.losses import token_losses
from nvila.processing import NVILAProcessor
from nvila.processing.chat import IGNORED
from nvila.pruning.score.batches import LogP, Planned, Prepared, Ready, moved
from nvila.pruning.score.data import status_of
from nvila.pruning.score.options import RunOptions
from nvila.pruning.score.spelling import spelling_of
from nvila.types import Sample


class PackedEncoder:
    """Encodes as training does: an answer's tokens are its text's and the <|im_end|> behind it."""

    def __init__(self, processor: NVILAProcessor, options: RunOptions, *, max_positions: int) -> None:
        """`max_positions`: what the decoder was built for, the limit where the options set none."""
        self.max_tokens = min(max_positions, options.max_tokens or max_positions)
        self._encode = SampleEncoder(
            processor, EncodeOptions(max_tiles=options.max_tiles, num_frames=options.num_frames)
        )
        self._pad_id = processor.tokenizer.pad_token_id or 0
        self.spelling = spelling_of(processor)

    def plan(self, key: int, sample: Sample) -> Planned:
        size = self._encode.size(sample)
        return Planned(key, size.num_tokens, size.num_tiles)

    def rows(self, planned: Iterable[Planned], batch_tokens: int) -> Iterator[Sequence[Planned]]:
        """Rows of up to `batch_tokens`; a longer sample has one of its own."""
        packer: RowPacker[Planned] = RowPacker(PackingOptions(max_tokens=batch_tokens))
        for sample in planned:
            if sample.num_tokens > batch_tokens:
                yield [sample]
                continue
            step = packer.add(sample)
            if step is not None:
                yield from step
        for step in packer.flush():
            yield from step

    def prepare(self, samples: Sequence[tuple[int, Sample]]) -> Prepared:
        prepared = Prepared()
        encoded: dict[int, Encoded] = {}
        for key, sample in samples:
            try:
                encoded[key] = self._encode(sample)
            except ConfigError:
                raise
            except NVILAError as error:
                prepared.failed[key] = (status_of(error), str(error))
        if encoded:
            inputs = collate_packed([list(encoded.values())], pad_id=self._pad_id)
            labels = inputs.pop("labels")
            prepared.ready.append(Ready(keys=tuple(encoded), inputs=inputs, answers=labels))
        return prepared


class PackedScorer:
    """An NVILA model that scores packed rows."""

    def __init__(self, model: NVILAForConditionalGeneration, processor: NVILAProcessor, options: RunOptions) -> None:
        self.model = model.eval()
        self.device = model.device
        positions = int(model.config.text_config.max_position_embeddings)
        self.encoder = PackedEncoder(processor, options, max_positions=positions)

    @torch.inference_mode()
    def log_p(self, batch: Ready) -> list[LogP]:
        """Of each sample the sum over its answers' tokens. Nothing of the size of tokens times vocabulary is made."""
        inputs = moved(batch.inputs, self.device, self.model.dtype)
        targets_L, samples_L = batch.answers[0, 1:], (inputs["position_ids"][0] == 0).cumsum(0)[1:] - 1
        answered_L = targets_L != IGNORED  # on the CPU, so that picking by it does not wait for the device
        places_A = answered_L.nonzero()[:, 0].to(self.device)
        head: Any = self.model.get_output_embeddings()
        hidden_AH = self._hidden(inputs)[0, places_A]
        losses_A = token_losses(hidden_AH, head.weight, targets_L[answered_L].to(self.device), bias=head.bias).losses
        owners_A = samples_L[places_A]
        zeros_S = torch.zeros(len(batch.keys), dtype=torch.float64, device=self.device)
        sums_S = zeros_S.index_add(0, owners_A, losses_A.double())
        counts_S = torch.bincount(owners_A, minlength=len(batch.keys))
        # The only wait for the device in a batch.
        return [LogP(-loss, int(count)) for loss, count in zip(sums_S.tolist(), counts_S.tolist(), strict=True)]

    def _hidden(self, inputs: dict[str, Any]) -> torch.Tensor:
        """The decoder's last hidden states (1, L, H)."""
        decoder_inputs = dict(inputs)
        names = ("pixel_values", "block_sizes", "pixel_values_videos", "video_lengths")
        media = {name: decoder_inputs.pop(name, None) for name in names}
        embeds_BLH = self.model.embed_inputs(decoder_inputs.pop("input_ids"), **media)
        decoder = self.model.language_model
        given = without_unread_mask(decoder, {"inputs_embeds": embeds_BLH, "use_cache": False, **decoder_inputs})
        hidden: torch.Tensor = decoder(**given).last_hidden_state
        return hidden
