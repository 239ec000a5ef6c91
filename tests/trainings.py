"""A training that takes a second, for whoever needs one."""

from __future__ import annotations

from pathlib import Path

import numpy as np

from deqcert.training import TrainConfig

TINY_YAML = """
MODEL:
  NAME: mdeq
  NUM_LAYERS: 3
  NUM_CLASSES: 3
  NUM_GROUPS: 2
  DROPOUT: 0.1
  WNORM: true
  DOWNSAMPLE_TIMES: 0
  EXPANSION_FACTOR: 1
  IMAGE_SIZE: [4, 4]
  EXTRA:
    FULL_STAGE:
      NUM_CHANNELS: [4, 4]
      HEAD_CHANNELS: [2, 2]
      FINAL_CHANSIZE: 8
      NUM_BLOCKS: [1, 1]
      BIG_KERNELS: [0, 0]
INPUT: {CHANNELS: 1, MEAN: [0.3], STD: [0.3]}
"""


def small_training(tmp_path: Path) -> TrainConfig:
    """A task that is learned in a second: which third of a 4x4 image is bright."""
    rng = np.random.default_rng(0)
    for name, count in (("train", 192), ("test", 60)):
        y = np.arange(count) % 3
        x = rng.uniform(0.0, 0.3, (count, 1, 4, 4))
        for label in range(3):
            x[y == label, :, :, label] += 0.6
        np.savez(tmp_path / f"{name}.npz", x=x, y=y)
    (tmp_path / "tiny.yaml").write_text(TINY_YAML)
    return TrainConfig(
        out=tmp_path / "out",
        data=f"npz:{tmp_path / 'train.npz'}",
        test_data=f"npz:{tmp_path / 'test.npz'}",
        model_config=tmp_path / "tiny.yaml",
        sigma=0.1,
        epochs=6,
        batch=32,
        lr=0.02,
        max_nfe=8,
        backward_nfe=6,
        augment="none",
        test_draws=2,
        progress=False,
    )
