"""The projector: a tile's patch features become fewer, wider tokens in the decoder's space (paper, section 2.1.1).

`mlp_downsample` (2x2) and `mlp_downsample_3x3_fix` move a block of patches into channels (spatial-to-channel) and let
an MLP compress them: nothing is thrown away before the weights decide. `token_learner` and `perceiver_resampler` are
the paper's alternatives with the 3x3 projector's token count; each choice of patches is learned, which the paper finds
no better. All are a Sequential called `layers`, under the released names.

Letters: N tiles, P patches of a tile (row-major, a square), C channels, T tokens of a tile, H the decoder's width.
"""

from __future__ import annotations

import torch
from torch import nn
from torch.nn import functional as F

from nvila.layouts import ProjectorType


class SpatialToChannel(nn.Module):
    """Blocks of `side` x `side` patches to channels, row-major in the block; short edges are padded with zeros."""

    def __init__(self, side: int) -> None:
        super().__init__()
        self.side = side

    def forward(self, x_NPC: torch.Tensor) -> torch.Tensor:
        """(N, P, C) to (N, T, side*side*C)."""
        num_tiles, patches, channels = x_NPC.shape
        grid = round(patches**0.5)
        x = x_NPC.reshape(num_tiles, grid, grid, channels)
        missing = -grid % self.side
        x = F.pad(x, (0, 0, 0, missing, 0, missing))
        blocks = (grid + missing) // self.side
        x = x.reshape(num_tiles, blocks, self.side, blocks, self.side, channels).transpose(2, 3)
        return x.reshape(num_tiles, blocks * blocks, self.side * self.side * channels)


class TokenLearner(nn.Module):
    """T learned weightings over the patches, from the patches themselves (Ryoo et al., 2021, the MLP form)."""

    def __init__(self, channels: int, num_tokens: int) -> None:
        super().__init__()
        self.norm = nn.LayerNorm(channels)
        self.weigh = nn.Sequential(nn.Linear(channels, num_tokens), nn.GELU(), nn.Linear(num_tokens, num_tokens))

    def forward(self, x_NPC: torch.Tensor) -> torch.Tensor:
        """(N, P, C) to (N, T, C)."""
        weights_NPT = self.weigh(self.norm(x_NPC)).softmax(dim=1)
        return weights_NPT.transpose(1, 2) @ x_NPC


class PerceiverResampler(nn.Module):
    """T learned queries that read the patches in `depth` rounds of cross-attention (Alayrac et al., 2022)."""

    def __init__(self, channels: int, num_tokens: int, *, depth: int = 2, head_dim: int = 32) -> None:
        super().__init__()
        heads = max(1, channels // head_dim)
        while channels % heads:
            heads -= 1
        self.queries = nn.Parameter(torch.empty(num_tokens, channels))
        self.rounds = nn.ModuleList(_PerceiverRound(channels, heads) for _ in range(depth))
        nn.init.normal_(self.queries, std=0.02)

    def forward(self, x_NPC: torch.Tensor) -> torch.Tensor:
        """(N, P, C) to (N, T, C)."""
        queries_NTC = self.queries.expand(x_NPC.shape[0], -1, -1)
        for perceiver_round in self.rounds:
            queries_NTC = perceiver_round(queries_NTC, x_NPC)
        return queries_NTC


class _PerceiverRound(nn.Module):
    """Cross-attention of the queries to patches and queries, then an MLP; both with residuals."""

    def __init__(self, channels: int, heads: int) -> None:
        super().__init__()
        self.heads = heads
        self.norm_queries = nn.LayerNorm(channels)
        self.norm_patches = nn.LayerNorm(channels)
        self.to_q = nn.Linear(channels, channels, bias=False)
        self.to_kv = nn.Linear(channels, 2 * channels, bias=False)
        self.to_out = nn.Linear(channels, channels, bias=False)
        self.mlp = nn.Sequential(
            nn.LayerNorm(channels), nn.Linear(channels, 4 * channels), nn.GELU(), nn.Linear(4 * channels, channels)
        )

    def forward(self, queries_NTC: torch.Tensor, x_NPC: torch.Tensor) -> torch.Tensor:
        normed = self.norm_queries(queries_NTC)
        context = torch.cat([self.norm_patches(x_NPC), normed], dim=1)
        q = self._heads(self.to_q(normed))
        k, v = (self._heads(part) for part in self.to_kv(context).chunk(2, dim=-1))
        attended = F.scaled_dot_product_attention(q, k, v).transpose(1, 2).flatten(2)
        queries_NTC = queries_NTC + self.to_out(attended)
        return queries_NTC + self.mlp(queries_NTC)

    def _heads(self, x_NTC: torch.Tensor) -> torch.Tensor:
        return x_NTC.unflatten(-1, (self.heads, -1)).transpose(1, 2)


class Projector(nn.Module):
    """The projector of a kind for `channels` in and `hidden_size` out.

    `num_tokens` is the number of tokens of a tile; only the two learned kinds need it, the others follow their input.
    """

    def __init__(self, kind: ProjectorType, channels: int, hidden_size: int, num_tokens: int) -> None:
        super().__init__()
        self.layers = nn.Sequential(*_layers(kind, channels, hidden_size, num_tokens))

    def forward(self, x_NPC: torch.Tensor) -> torch.Tensor:
        """Patch features (N, P, C) to tokens (N, T, H)."""
        projected: torch.Tensor = self.layers(x_NPC)
        return projected


def _layers(kind: ProjectorType, channels: int, hidden_size: int, num_tokens: int) -> list[nn.Module]:
    if kind == "mlp_downsample":
        return [SpatialToChannel(2), *_two_linears(4 * channels, hidden_size)]
    if kind == "mlp_downsample_3x3_fix":
        middle = 3 * channels
        first = [nn.LayerNorm(9 * channels), nn.Linear(9 * channels, middle), nn.GELU()]
        return [SpatialToChannel(3), *first, *_two_linears(middle, hidden_size)]
    if kind == "token_learner":
        return [TokenLearner(channels, num_tokens), *_two_linears(channels, hidden_size)]
    return [PerceiverResampler(channels, num_tokens), *_two_linears(channels, hidden_size)]


def _two_linears(channels: int, hidden_size: int) -> list[nn.Module]:
    return [nn.LayerNorm(channels), nn.Linear(channels, hidden_size), nn.GELU(), nn.Linear(hidden_size, hidden_size)]
