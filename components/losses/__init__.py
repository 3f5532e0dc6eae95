"""Losses: folds over the scores of candidates.

    state = loss.start(positive_B, log_count_B)
    state = loss.add(state, scores_BT, log_count)      for each tile T of candidates
    loss_B = loss.finish(state)

Two attributes tell the driver what to hand in: `temperature`, and `logq`; where it is true log_count is log of how often an
item is expected among a row's candidates ([B] for the positives, [T] or [B, T] for a tile), else None. A third, `family`, is
`log_sum_exp` where a number added to a candidate's score weighs it by its exponential, so that candidates count as one whose
score is their log-sum-exp, less their log_count; and `sum` where what a tile adds to the state depends on the positive alone.

A fold never needs the whole score matrix. Scores come divided by `loss.temperature`: whoever drives the fold divides the
queries, which costs B x D instead of B x C. A candidate that must not count has the score EXCLUDED: its part in the loss and
its gradient are exactly 0, and it is not in the N of a mean. A row with no other candidate keeps what the loss says of the
positive by itself: nothing, and gradient 0, where it only compares the two.
"""

from __future__ import annotations

from typing import Annotated

from pydantic import AfterValidator, Field

EXCLUDED = -1e30  # finite, so that a row of nothing else gives no NaN; far below any score over any temperature
LOWEST_TEMPERATURE = 1e-4  # far below it, the rounding of a float32 cosine, 6e-8, decides the logits


def _not_tiny(temperature: float) -> float:
    if temperature < LOWEST_TEMPERATURE:
        raise ValueError(f"a number >= {LOWEST_TEMPERATURE:g}")
    return temperature


Temperature = Annotated[float, Field(gt=0), AfterValidator(_not_tiny)]
