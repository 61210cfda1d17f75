"""k-means of a source's features, fitted on a part of them and read off for all.

Features are centred and set to length 1 first: what all pictures share would else decide most distances (PRISM,
arXiv 2502.12119, measures it). scikit-learn's MiniBatchKMeans was taken over faiss: its result follows from the seed on
any machine, and it needs no library of its own for GPUs.
"""

from __future__ import annotations

import warnings
from collections.abc import Iterator
from typing import Any

import numpy as np
from numpy.typing import NDArray

from nvila.errors import ConfigError
from nvila.pruning.features.store import StoredFeatures

FITTED_PER_CLUSTER = 64
"""Samples of each cluster that the centroids are fitted on, which are held in memory: all of a source of usual clusters
up to 262,144 samples, 1.2 GB of them at 1152 values each."""


def cluster_labels(
    stored: StoredFeatures, wanted: NDArray[np.bool_], *, num_clusters: int, keys: NDArray[np.float64], seed: int
) -> NDArray[np.int32]:
    """(N,) int32: the cluster of each `wanted` sample that has features, -1 of others.

    `keys` (N,) are random numbers that follow from the samples' ids: those with the least are fitted on, in their
    order, so that the clusters do not depend on how the data are ordered. Raises ConfigError without scikit-learn.
    """
    labels = np.full(len(wanted), -1, np.int32)
    chosen = np.flatnonzero(wanted & stored.is_ok)
    if not len(chosen):
        return labels
    fitted = np.zeros(len(wanted), dtype=bool)
    fitted[chosen[np.argsort(keys[chosen], kind="stable")[: FITTED_PER_CLUSTER * num_clusters]]] = True
    numbers, features = _joined(stored.batches(fitted))
    features = features[np.argsort(keys[numbers], kind="stable")]
    centre = features.mean(0)
    model = _kmeans(num_clusters, seed)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # fewer different samples than clusters is nothing to be told of
        model.fit(_directions(features, centre))
    for numbers, features in stored.batches(wanted):
        labels[numbers] = model.predict(_directions(features, centre))
    return labels


def _joined(
    batches: Iterator[tuple[NDArray[np.int64], NDArray[np.float32]]],
) -> tuple[NDArray[np.int64], NDArray[np.float32]]:
    numbers, features = zip(*batches, strict=True)
    return np.concatenate(numbers), np.concatenate(features)


def _directions(features: NDArray[np.float32], centre: NDArray[np.float32]) -> NDArray[np.float32]:
    """Features from `centre`, of length 1; a zero stays one."""
    moved = features - centre
    lengths = np.linalg.norm(moved, axis=1, keepdims=True)
    result: NDArray[np.float32] = moved / np.maximum(lengths, np.float32(1e-6))
    return result


def _kmeans(num_clusters: int, seed: int) -> Any:
    try:
        from sklearn.cluster import MiniBatchKMeans
    except ImportError as error:
        raise ConfigError('clustering needs scikit-learn; install it with: pip install "nvila[prune]"') from error
    return MiniBatchKMeans(n_clusters=num_clusters, random_state=seed, n_init=3, batch_size=4096)
