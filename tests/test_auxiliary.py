"""The second thing that small networks learn, against loops over voxels."""

import numpy as np
import pytest
from scipy import ndimage

torch = pytest.importorskip("torch")

from gstk.training.auxiliary import BORDER_WEIGHT, CENTRE_WEIGHT, ObjectReader  # noqa: E402


def scene() -> np.ndarray:
    """Two objects that touch, one apart, on sides that differ."""
    labels = np.zeros((12, 16, 20), np.int32)
    labels[2:8, 2:8, 2:12] = 3
    labels[2:8, 8:14, 2:8] = 9
    labels[8:12, 2:6, 14:20] = 400
    return labels


def slow_targets(labels: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    ids = labels[::2, ::2, ::2]
    centres, borders = np.zeros((3, *ids.shape)), np.zeros(ids.shape)
    for label in np.unique(ids):
        middle = np.argwhere(ids == label).mean(axis=0) + 0.5
        centres[:, ids == label] = (2 * middle / ids.shape - 1)[:, None]
    for voxel in np.ndindex(ids.shape):
        for axis in range(3):
            for step in (-1, 1):
                beside = list(voxel)
                beside[axis] += step
                if 0 <= beside[axis] < ids.shape[axis] and ids[tuple(beside)] != ids[voxel]:
                    borders[voxel] = 1
    return centres, borders


def test_the_loss_is_what_loops_over_voxels_give() -> None:
    labels = scene()
    centres, borders = slow_targets(labels)
    torch.manual_seed(0)
    reader, embedding = ObjectReader(8), torch.rand(1, 8, 6, 8, 10)
    with torch.no_grad():
        loss = float(reader(embedding, torch.from_numpy(labels)))
        found = reader.read(embedding)[0].numpy().astype(float)
    error = np.abs(found[:3] - centres)
    huber = np.where(error < 0.1, error**2 / 0.2, error - 0.05).mean(axis=0)
    chance = 1 / (1 + np.exp(-found[3]))
    entropy = -(borders * np.log(chance) + (1 - borders) * np.log(1 - chance)).mean()
    foreground = labels[::2, ::2, ::2] > 0
    assert loss == pytest.approx(CENTRE_WEIGHT * huber[foreground].mean() + BORDER_WEIGHT * entropy, rel=1e-5)


def test_what_it_asks_for_is_a_centre_and_a_border() -> None:
    """An embedding that holds the answers, read by the identity, costs nothing."""
    labels = scene()
    centres, borders = slow_targets(labels)
    reader = ObjectReader(4)
    with torch.no_grad():
        reader.read.weight.copy_(torch.eye(4)[..., None, None, None])
        reader.read.bias.zero_()
        answers = np.concatenate([centres, 60 * (2 * borders[None] - 1)])
        assert float(reader(torch.from_numpy(answers[None]).float(), torch.from_numpy(labels))) < 1e-6


def test_a_patch_without_objects_still_has_a_loss() -> None:
    embedding = torch.rand(1, 8, 4, 4, 4, requires_grad=True)
    loss = ObjectReader(8)(embedding, torch.zeros(8, 8, 8, dtype=torch.int32))
    loss.backward()
    assert torch.isfinite(loss)
    assert ndimage.label(embedding.grad[0].abs().sum(0).numpy() > 0)[1] == 1
