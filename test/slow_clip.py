"""The formulas of the last layer's variants, patch by patch and head by head, in float64."""

import math
from copy import deepcopy
from typing import Any

import torch
from torch import Tensor


class SlowLayer:
    """One block on one image's tokens (T, C), the class token first."""

    def __init__(self, block: Any, tokens: Tensor) -> None:
        self.block = deepcopy(block).double()
        self.tokens = tokens.double()
        attention = self.block.attn
        joint = self.block.ln_1(self.tokens) @ attention.in_proj_weight.T + attention.in_proj_bias
        self.heads = attention.num_heads
        self.width = joint.shape[1] // 3
        self.head = self.width // self.heads
        self.query, self.key, self.value = joint.split(self.width, dim=1)

    def scores(self, left: Tensor, right: Tensor, head: int, row: int) -> list[float]:
        """One row of left right^T / sqrt(d) of one head."""
        part = slice(head * self.head, (head + 1) * self.head)
        return (right[:, part] @ left[row, part] / math.sqrt(self.head)).tolist()

    def output(self, weights: list[list[list[float]]]) -> Tensor:
        """O(A V) for A by head, row and token seen: (rows, C)."""
        rows = []
        for row in range(len(weights[0])):
            joined = torch.zeros(self.width, dtype=torch.float64)
            for head in range(self.heads):
                part = slice(head * self.head, (head + 1) * self.head)
                joined[part] = torch.tensor(weights[head][row], dtype=torch.float64) @ self.value[:, part]
            rows.append(self.block.ls_1(self.block.attn.out_proj(joined)))
        return torch.stack(rows)

    def whole(self, attended: Tensor, first: int) -> Tensor:
        """Residual and MLP over O(A V) of the rows from `first` on."""
        seen = self.tokens[first : first + len(attended)] + attended
        return seen + self.block.ls_2(self.block.mlp(self.block.ln_2(seen)))


def slow_softmax(scores: list[float]) -> list[float]:
    most = max(scores)
    grown = [math.exp(score - most) for score in scores]
    total = sum(grown)
    return [value / total for value in grown]


def slow_patches(
    block: Any, tokens: Tensor, variant: str, grid: tuple[int, int], sigma: float = 5.0
) -> Tensor:
    """The last layer's patches (N, C) of one image, before the last normalisation."""
    layer = SlowLayer(block, tokens)
    count = len(tokens)
    weights = []
    for head in range(layer.heads):
        rows = []
        for row in range(1, count):
            by_query = layer.scores(layer.query, layer.query, head, row)
            by_key = layer.scores(layer.key, layer.key, head, row)
            if variant == "plain":
                rows.append(slow_softmax(layer.scores(layer.query, layer.key, head, row)))
            elif variant == "clearclip":
                rows.append(slow_softmax(by_query))
            elif variant == "sclip":
                rows.append(
                    [a + b for a, b in zip(slow_softmax(by_query), slow_softmax(by_key), strict=True)]
                )
            elif variant == "naclip":
                rows.append(
                    slow_softmax([s + slow_gaussian(row, seen, grid, sigma) for seen, s in enumerate(by_key)])
                )
            else:
                rows.append([1.0 if seen == row else 0.0 for seen in range(count)])
        weights.append(rows)
    attended = layer.output(weights)
    return layer.whole(attended, 1) if variant in ("plain", "sclip", "dinoiser") else attended


def slow_gaussian(row: int, seen: int, grid: tuple[int, int], sigma: float) -> float:
    """Of two tokens, 0 being the class token."""
    if row == 0 or seen == 0:
        return 0.0
    (y, x), (v, u) = divmod(row - 1, grid[1]), divmod(seen - 1, grid[1])
    return math.exp(-((y - v) ** 2 + (x - u) ** 2) / (2 * sigma**2))


def slow_cosines(features: Tensor) -> Tensor:
    """(N, C) to (N, N)."""
    rows = features.double()
    return torch.tensor([[float(a @ b / (a.norm() * b.norm())) for b in rows] for a in rows])


def slow_affinities(cosines: Tensor, beta: float, gamma: float) -> list[list[float]]:
    mean = float(cosines.mean())
    weights = []
    for row in cosines.tolist():
        scores = [gamma * (value - beta * mean) for value in row]
        weights.append(slow_softmax([score if score >= 0 else -math.inf for score in scores]))
    return weights


def slow_given(block: Any, tokens: Tensor, affinities: list[list[float]]) -> Tensor:
    """The patches seen by weights among patches alone."""
    layer = SlowLayer(block, tokens)
    return layer.output([[[0.0, *row] for row in affinities]] * layer.heads)


def slow_mixed(block: Any, tokens: Tensor, affinities: list[list[float]]) -> Tensor:
    """The patches seen by the mean of such weights and of key-key attention among patches alone."""
    layer = SlowLayer(block, tokens)
    weights = []
    for head in range(layer.heads):
        rows = []
        for row in range(1, len(tokens)):
            by_key = slow_softmax(layer.scores(layer.key, layer.key, head, row)[1:])
            rows.append([0.0, *((a + b) / 2 for a, b in zip(by_key, affinities[row - 1], strict=True))])
        weights.append(rows)
    return layer.output(weights)


def slow_pool(features: Tensor, cosines: Tensor, least: float) -> Tensor:
    """Features (N, D) averaged by cosines (N, N) of at least `least`."""
    rows = []
    for row in cosines.tolist():
        kept = [value if value >= least else 0.0 for value in row]
        total = sum(weight * feature for weight, feature in zip(kept, features.double(), strict=True))
        rows.append(total / (sum(kept) + 1e-6))
    return torch.stack(rows)


def slow_outlier_factors(tokens: Tensor, neighbours: int) -> list[float]:
    """Breunig et al. 2000, definitions 3 to 7, of tokens (N, C)."""
    rows = tokens.double()
    count = len(rows)
    distance = [[float((a - b).norm()) for b in rows] for a in rows]
    nearest = [
        sorted((j for j in range(count) if j != i), key=lambda j, i=i: distance[i][j])[:neighbours]
        for i in range(count)
    ]
    reach = [distance[i][nearest[i][-1]] for i in range(count)]
    density = [len(nearest[i]) / sum(max(reach[j], distance[i][j]) for j in nearest[i]) for i in range(count)]
    return [sum(density[j] for j in nearest[i]) / len(nearest[i]) / density[i] for i in range(count)]


def slow_repair(tokens: Tensor, outliers: set[int], grid: tuple[int, int]) -> Tensor:
    """The mean of the inliers around each outlier in its place."""
    repaired = tokens.clone()
    for index in outliers:
        y, x = divmod(index, grid[1])
        around = [
            v * grid[1] + u
            for v in range(max(0, y - 1), min(grid[0], y + 2))
            for u in range(max(0, x - 1), min(grid[1], x + 2))
        ]
        inliers = [other for other in around if other not in outliers]
        if inliers:
            repaired[index] = tokens[inliers].mean(0)
    return repaired
