"""SASRec-CE: SASRec with cross-entropy over all items of the next item's domain, at every position.

Klenitskiy & Vasilev, "Turning dross into gold loss: is BERT4Rec really better than SASRec?", RecSys 2023; the form of
RecTools (rectools/models/nn/transformers, 41a5a63). With E the item table and P a vector a distance from the end,

    x_t = Dropout(E[i_t] + P[distance]);  each block: q = LN(x), x <- q + MHA(q, x, x), u = LN(x), x <- u + FFN(u);
    f_t = LN(x_t);  score(t, i) = f_t . E_i;  loss = mean over t of -log softmax(f_t . E) at i_{t+1}

Attention is causal. What :mod:`.systems.every_position` says of positions, cold rows and long sequences
holds here.

Made for the next item in one domain. Here it comes in both readings (:mod:`.systems.separate_or_merged`):
``sasrec-ce-s``, two models that know nothing of each other, and ``sasrec-ce-m``, one model of both domains' events in
order of time.

Departs
    - merged, the softmax is over the items of the next item's domain: candidates are never compared across domains;
    - merged, within a stamp only the first domain's events are asked for, drawn anew each epoch, and a share of the
      sequences comes once more without the last event's domain (``sasrec_ce.hidden_share``; RecTools: 0);
    - T + 1 consecutive events of a longer sequence are drawn anew each epoch (RecTools: always the last);
    - ``sasrec_ce.start`` = cooccurrence starts item vectors at a factorisation of the training rows' cosines;
    - padding is masked as key; dropout is on what attention adds, not on its weights;
    - batches are of sequences of similar length and weigh by their number of steps;
    - the two models of ``sasrec-ce-s`` share one loop: one selected epoch and one early stop, on both domains' mean.
"""

from i2vae_lib.model.transformers import SASRecBlock
from i2vae_lib.recommenders.systems.every_position import EveryPosition
from i2vae_lib.recommenders.systems.separate_or_merged import both_readings


class _SASRecCE(EveryPosition):
    """Both readings."""

    def block(self) -> SASRecBlock:
        return SASRecBlock(self.params.model.d, self.own.heads)


SASRecCES, SASRecCEM = both_readings(_SASRecCE, "sasrec-ce")
