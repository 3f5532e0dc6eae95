"""Losses: folds over the scores of candidates.

    state = loss.start(positive_B, log_count_B)
    state = loss.add(state, scores_BT, log_count)      for each tile T of candidates
    loss_B = loss.finish(state)

Two attributes tell the driver what to hand in: `temperature`, and `logq`; where it is true log_count is log of how often an
item is expected among a row's candidates ([B] for the positives, [T] or [B, T] for a tile), else None.

A fold never needs the whole score matrix. Scores come divided by `loss.temperature`: whoever drives the fold divides the
queries, which costs B x D instead of B x C. A candidate that must not count has the score EXCLUDED: its probability and its
gradient are exactly 0, and a row with no other candidate has loss and gradient 0.
"""

EXCLUDED = -1e30  # finite, so that a row of nothing else gives no NaN; far below any score over any temperature
