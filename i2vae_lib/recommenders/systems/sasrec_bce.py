"""SASRec-BCE: self-attention over a sequence, the next item after every position, against sampled negatives.

Kang & McAuley, "Self-attentive sequential recommendation", ICDM 2018 (code: kang205/SASRec). With f_t the state of
position t (:class:`i2vae_lib.model.encoders.SequenceEncoder`, the encoder that i2VAE uses) and E the item table,

    score(t, i) = f_t . E_i        loss = mean over t of -log sigmoid(f_t . E_{t+1}) - sum_j log sigmoid(-f_t . E_j)

where the j are sampled negatives. Input and output share E. The loss of 2018, and most of what sets this apart from
:mod:`i2vae_lib.recommenders.systems.sasrec_ce`.

Made for the next item in one domain. Here it comes in both readings (:mod:`.systems.separate_or_merged`):
``sasrec-bce-s``, two models that know nothing of each other, and ``sasrec-bce-m``, one model of the merged sequence.

Departs
    - residual connections go around the normalisation, as the paper writes them; the released code adds the normalised
      query (Kang & McAuley's Eq. of 3.2 against their code), and takes keys and values from what is not normalised;
    - padding is masked as key, not only zeroed, and positions count from the most recent item backwards, so that the
      amount of padding changes nothing;
    - no dropout on the attention's weights, nor inside the feed-forward net: it is on what each of the two adds;
    - sequences are cut to the last T + 1 items; every sequence is seen once an epoch (the code draws users with
      replacement). Merged, a sequence is a row's: a user of two rows is seen twice;
    - batches are of sequences of similar length (the code's of any), so a batch's mean over steps counts by its number
      of steps, against a mean batch's: every step weighs the same, as in batches of any length;
    - negatives are what the sequence does not hold; merged, they are of the positive's domain, and the same user's
      other row may hold them;
    - the two models of ``sasrec-bce-s`` share one loop: one selected epoch and one early stop, on both domains' mean.
"""

from collections.abc import Iterator
from dataclasses import dataclass, replace

import numpy as np
import torch
from torch import Tensor, nn

from i2vae_lib.data.batches import Tensors, as_indices
from i2vae_lib.data.rows import Array, Rows
from i2vae_lib.data.user_sequences import windows
from i2vae_lib.model.encoders import SequenceEncoder, initialise
from i2vae_lib.model.likelihoods import bernoulli
from i2vae_lib.params import Parameters
from i2vae_lib.recommenders.systems.separate_or_merged import both_readings, draw_beside, mean_steps
from i2vae_lib.recommenders.trained import Trained, dot, stream_stage
from i2vae_lib.training import CostAndParts, Stage


@dataclass(frozen=True)
class Windows(Tensors):
    """Sequences of one stream, left-padded with 0: the next item of every step, and negatives beside it."""

    inputs: Tensor  # int64 [B, L]
    targets: Tensor  # int64 [B, L]
    negatives: Tensor  # int64 [B, L, k]
    share: float  # its steps that have a next item, against a mean batch of the stream


class Stream(nn.Module):
    """One vocabulary and its encoder."""

    def __init__(self, size: int, p: Parameters):
        super().__init__()
        self.items = nn.Embedding(size + 1, p.model.d, padding_idx=0)
        self.encoder = SequenceEncoder(
            p.model.d, p.model.T, p.sasrec_bce.blocks, p.sasrec_bce.heads, causal=True, rate=p.sasrec_bce.dropout
        )

    def forward(self, inputs: Tensor, generator: torch.Generator | None) -> Tensor:
        """Item numbers [B, L] -> states [B, L, d]."""
        return self.encoder(self.items(inputs), inputs != 0, generator)


class _SASRecBCE(Trained):
    """Both readings."""

    def build(self, weights: torch.Generator) -> nn.Module:
        module = nn.ModuleDict({s: Stream(self.reading.size(s), self.params) for s in self.reading.streams})
        initialise(module, weights)
        with torch.no_grad():
            # small, as in the code: what an item was drawn with must not outweigh the little that is learnt of it
            for name in self.reading.streams:
                table = module[name].get_parameter("items.weight")
                nn.init.xavier_uniform_(table, generator=weights)
                table[0] = 0.0
        return module

    def stages(self, train: Rows) -> Iterator[Stage]:
        p, size, sequences = self.params, self.params.training.batch_size, self.reading.sequences(train)
        lengths = {s: one.lengths for s, one in sequences.items()}
        mean = {s: mean_steps(one, p.model.T, size) for s, one in lengths.items()}

        def collate(stream: str, at: Array, rng: np.random.Generator) -> Windows:
            own = sequences[stream].take(at)
            inputs, targets = windows(own, p.model.T)
            negatives = draw_beside(self.reading, stream, own, targets, p.sasrec_bce.negatives, rng)
            share = float((targets != 0).sum() / mean[stream])
            return Windows(as_indices(inputs), as_indices(targets), as_indices(negatives), share)

        yield replace(stream_stage("sasrec_bce", self.module, self.loss, lengths, size, collate), beta2=0.98)

    def loss(self, batch: dict[str, Windows], epoch: int, generator: torch.Generator) -> CostAndParts:
        """Mean over the steps that have a next item, by the batch's share of steps."""
        [(name, one)] = batch.items()
        stream, table = self.module[name], self.module[name].items.weight
        valid = one.targets != 0
        states, targets = stream(one.inputs, generator)[valid], one.targets[valid]
        positive = (states * table[targets]).sum(dim=1)
        negatives = torch.einsum("md,mkd->mk", states, table[one.negatives[valid]])
        value = bernoulli(positive, negatives).mean()
        return one.share * value, {f"reconstruction/{name}": value}

    def scores(self, rows: Rows, domain: str, items: Tensor) -> Tensor:
        stream = self.module[self.reading.stream(domain)]
        history = self.reading.histories(rows, domain).last(self.params.model.T)
        states = stream(as_indices(history).to(self.device), None)
        return dot(states[:, -1], stream.items.weight[1:][self.reading.slots(domain)], items)


SASRecBCES, SASRecBCEM = both_readings(_SASRecBCE, "sasrec-bce")
