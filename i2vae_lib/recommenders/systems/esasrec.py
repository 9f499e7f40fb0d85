"""eSASRec: SASRec-CE with gated blocks.

Tikhonovich et al., "eSASRec: enhancing transformer-based recommendations in a modular fashion", RecSys 2025 (RecTools,
rectools/models/nn/transformers/ligr.py, 41a5a63). Each block, with q = LN(x) and then u = LN(x),

    x <- x + sigmoid(W_1 x + b_1) * Dropout(MHA(q, q, q))
    x <- x + sigmoid(W_2 x + b_2) * Dropout(W_c Dropout(SiLU(W_a u) * W_b u))        W_a, W_b: m d x d, no bias

The gates see the unnormalised x, and no normalisation follows the last block. All else is SASRec-CE
(:mod:`i2vae_lib.recommenders.systems.sasrec_ce`), as are both readings, ``esasrec-s`` and ``esasrec-m``.

Departs
    - the softmax is over all items of the next item's domain, in place of the target and 256 uniform negatives;
    - the rest as ``sasrec_ce``.
"""

from i2vae_lib.model.transformers import LiGRBlock
from i2vae_lib.recommenders.systems.every_position import EveryPosition
from i2vae_lib.recommenders.systems.separate_or_merged import both_readings


class _ESASRec(EveryPosition):
    """Both readings."""

    final_norm = False

    def block(self) -> LiGRBlock:
        return LiGRBlock(self.params.model.d, self.own.heads, self.own.multiplier)


ESASRecS, ESASRecM = both_readings(_ESASRec, "esasrec")
