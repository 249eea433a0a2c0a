"""Who may see which scenes. A scene is made of its seed alone, so what may not meet gets ranges that do not."""
from __future__ import annotations

from dataclasses import dataclass

from ..checks import Count, Index, declared
from ..puppets import basemodel, decoder, front, heads, judge, measure, previews, world

MOST_LABELS, MOST_SEEDS = 10_000, 10            # labelled pictures of one training; trainings with other pictures


@dataclass(frozen=True)
class Scenes:
    """The scenes with seeds from `first` on, `count` of them."""
    first: int
    count: int

    @property
    def end(self) -> int:
        return self.first + self.count

    def part(self, number: int, size: int) -> int:
        """The first seed of the `number`-th part of `size` scenes; ValueError where the range does not hold it."""
        if number < 0 or size < 1 or (number + 1) * size > self.count:
            raise ValueError(f"part {number} of {size} scenes does not lie among {self.count}; pass a smaller one")
        return self.first + number * size


TRAIN = Scenes(700_000_000, MOST_LABELS * MOST_SEEDS)       # what all contestants learn from
CHECK = Scenes(710_000_000, 1_000)                          # picks the checkpoint of a training
TUNE = Scenes(world.HELD_OUT + 200_000, 10_000)             # on which settings are chosen
TEST = Scenes(world.HELD_OUT + 300_000, 100_000)            # on which everybody is measured
REAL = Scenes(world.HELD_OUT + 500_000, 100_000)            # renderings that the Frechet distance compares with
TRIAL = Scenes(world.HELD_OUT + 900_000, 100_000)           # drags with exact answers, on which metrics are tried

OURS = {"train": TRAIN, "check": CHECK, "tune": TUNE, "test": TEST, "real": REAL, "trial": TRIAL}
# What other rooms use, each with more than any of them takes.
OTHERS = {"base model": Scenes(basemodel.DATA_SEED, 1_000_000), "autoencoder": Scenes(basemodel.VAE_SEED, 1_000_000),
          "heads": Scenes(heads.TRAIN_SEED, 1_000_000), "judge": Scenes(judge.TRAIN_SEED, 10_000_000),
          "judge's test": Scenes(judge.TEST_SEED, 9_000), "judge's calibration": Scenes(judge.CALIBRATION_SEED,
                                                                                        1_000_000),
          "scores of heads": Scenes(heads.SCORE_SEED, 1_000), "front": Scenes(front.FRONT_SEED, 20_000),
          "previews": Scenes(previews.SCENES, 1_000_000), "previews' test": Scenes(previews.TEST_SCENES, 9_000),
          "decoder": Scenes(decoder.SCENES, 1_000_000), "decoder's test": Scenes(decoder.TEST_SCENES, 9_000),
          **{name: Scenes(getattr(measure, f"{name}_SEED"), 9_000) for name in ("BASE", "POSE", "MAP", "DRAG",
                                                                                "IDENTITY", "ARROW")}}


@declared
def training_scenes(seed: Index, labels: Count) -> int:
    """The first of the scenes that training `seed` learns from: of two numbers of labels the smaller is part of the
    larger."""
    if labels > MOST_LABELS or seed >= MOST_SEEDS:
        raise ValueError(f"seed {seed} with {labels} labels: there are seeds below {MOST_SEEDS} and at most "
                         f"{MOST_LABELS} labels")
    return TRAIN.part(seed, MOST_LABELS)
