"""SVAE: a variational autoencoder of every prefix of a sequence, which predicts the next k items.

Sachdeva, Manco, Ritacco & Pudi, "Sequential variational autoencoders for collaborative filtering", WSDM 2019 (code:
noveens/svae_cf). With h_t the state of a GRU after item t and Y_t the set of the items t + 1 … t + k (as many as there
are),

    q(z_t | s_1…t) = N(mu(h_t), diag exp(lambda(h_t)))      mu, lambda = Linear(tanh(Linear(h_t)))
    p(i | z_t) = softmax_i Linear(tanh(Linear(z_t)))

    loss = mean_t [ -1 / |Y_t| sum_{i in Y_t} log p(i | z_t) + beta KL[q(z_t | s_1…t) || N(0, I)] ]

A step's latent depends on the items so far, but not on the latents before it.

Made for one domain. Here it comes in both readings (:mod:`.systems.separate_or_merged`). ``svae-s`` is
two models that know nothing of each other; a row without an own history is ranked by popularity. ``svae-m`` is one
model of the merged sequence and ranks the candidates among the items of their domain. A row is scored by the posterior
mean of its last step.

Departs
    - sigma^2 = exp(lambda) everywhere; the released code samples with sigma = exp(lambda) and takes lambda for the
      log-variance in the KL;
    - a step's likelihood is divided by its own |Y_t| and averaged over the steps, as the KL is; the code divides the
      sum over all steps by |Y_1|, so that the balance of the two depends on a sequence's length;
    - beta rises linearly with the epochs to ``svae.beta``; the code starts it anew each epoch and gets to 0.02, not to
      the 0.2 that it names;
    - batches of sequences; the code takes one user a batch. A batch's loss is the mean of its sequences' losses
      (merged, a sequence is a row's: a user of two rows counts twice);
    - item vectors start at N(0, 1 / d), the code's at N(0, 1);
    - the two models of ``svae-s`` share one selected epoch and one early stop, on both domains' mean;
    - training sequences are cut to the last T + k items, histories to the last T. A step needs one later item, so a
      sequence of one item trains nothing;
    - the mean is scored and the whole history shown; the code samples at evaluation and withholds the last item;
    - beside a mean over steps, ``svae.beta`` and ``svae.weight_decay`` press harder than beside the code's sum over
      some hundred, hence smaller values than the code's (0.2 and 5e-3);
    - merged: a softmax per domain, over which -log p of the items of that domain is taken. One over both vocabularies
      would, beside this, learn which domain comes next: in a row always the other's items first, and candidates are
      never compared across domains.
"""

from collections.abc import Iterator
from dataclasses import dataclass, replace

import numpy as np
import torch
from torch import Tensor, nn

from i2vae_lib.data.batches import Tensors, as_indices
from i2vae_lib.data.rows import PAD, Array, Ragged, Rows
from i2vae_lib.data.user_sequences import right_padded
from i2vae_lib.model.encoders import initialise
from i2vae_lib.model.latents import Gaussian, annealing, kl, sample, standard_like
from i2vae_lib.model.likelihoods import multinomial_sum
from i2vae_lib.params import Parameters
from i2vae_lib.recommenders.systems.separate_or_merged import both_readings
from i2vae_lib.recommenders.trained import Trained, dot, stream_stage
from i2vae_lib.training import CostAndParts, Stage


@dataclass(frozen=True)
class Steps(Tensors):
    """Sequences of one stream, right-padded with 0, and what follows each of their steps."""

    inputs: Tensor  # int64 [B, L]
    targets: Tensor  # int64 [B, L, k]: the set Y_t, 0 where it is smaller; all 0 where the input is no step


def next_items(items: Array, k: int) -> Array:
    """The sets Y_t of the k items after each one.

    Parameters
    ----------
    items
        int [n, L], right-padded with 0.

    Returns
    -------
    int [n, L, k]
        Member j of step t is item t + 1 + j; 0 after the end, and where an item stands in the set already.
    """
    wide = np.pad(items, ((0, 0), (0, k)), constant_values=PAD)
    following = np.stack([wide[:, 1 + j : 1 + j + items.shape[1]] for j in range(k)], axis=2)
    same = following[:, :, :, None] == following[:, :, None, :]
    repeated = (same & np.tri(k, k, -1, dtype=bool)).any(axis=3)
    return np.where(repeated, PAD, following)


class Stream(nn.Module):
    """One vocabulary: its GRU, the posterior of a step and the decoder."""

    def __init__(self, size: int, p: Parameters):
        super().__init__()
        self.items = nn.Embedding(size + 1, p.model.d, padding_idx=PAD)
        self.recurrent = nn.GRU(p.model.d, p.svae.recurrent, batch_first=True)
        self.encoder = nn.Sequential(
            nn.Linear(p.svae.recurrent, p.svae.hidden), nn.Tanh(), nn.Linear(p.svae.hidden, 2 * p.svae.latent)
        )
        self.decoder = nn.Sequential(nn.Linear(p.svae.latent, p.svae.hidden), nn.Tanh())
        self.output = nn.Linear(p.svae.hidden, size)

    def states(self, inputs: Tensor) -> Tensor:
        """Item numbers [B, L], right-padded -> GRU states [B, L, r]: what stands on the right changes none."""
        return self.recurrent(self.items(inputs))[0]

    def posterior(self, states: Tensor) -> Gaussian:
        """States [M, r] -> q(z_t | s_1…t) [M, latent]."""
        mean, log_variance = self.encoder(states).chunk(2, dim=-1)
        return Gaussian(mean, log_variance)


class _SVAE(Trained):
    """Both readings."""

    def build(self, weights: torch.Generator) -> nn.Module:
        module = nn.ModuleDict({s: Stream(self.reading.size(s), self.params) for s in self.reading.streams})
        initialise(module, weights)
        return module

    def stages(self, train: Rows) -> Iterator[Stage]:
        p, sequences = self.params, self.reading.sequences(train)
        lengths = {s: one.lengths for s, one in sequences.items()}

        def collate(stream: str, at: Array, rng: np.random.Generator) -> Steps:
            return self.steps(sequences[stream].take(at))

        stage = stream_stage("svae", self.module, self.loss, lengths, p.training.batch_size, collate)
        yield replace(stage, weight_decay=p.svae.weight_decay)

    def steps(self, sequences: Ragged) -> Steps:
        """Training sequences of a stream, of two items or more -> a batch."""
        k = self.params.svae.next_items
        items = right_padded(sequences, self.params.model.T + k)
        return Steps(as_indices(items[:, :-1]), as_indices(next_items(items, k)[:, :-1]))

    def loss(self, batch: dict[str, Steps], epoch: int, generator: torch.Generator) -> CostAndParts:
        """Mean over users of the mean over the steps that have a next item."""
        [(name, one)] = batch.items()
        stream, p = self.module[name], self.params.svae
        valid = one.targets[:, :, 0] != PAD
        targets, count = one.targets[valid], valid.sum(dim=1, keepdim=True)
        # a step's share of the batch's loss
        share = (valid / count.clamp(min=1) / (count > 0).sum())[valid]
        q = stream.posterior(stream.states(one.inputs)[valid])
        reconstruction = self.reconstruction(name, stream.decoder(sample(q, generator)), targets, share)
        divergence = (share * kl(q, standard_like(q))).sum()
        value = reconstruction + p.beta * annealing(epoch, p.annealing_epochs) * divergence
        return value, {f"reconstruction/{name}": reconstruction, f"kl/{name}": divergence}

    def reconstruction(self, name: str, decoded: Tensor, targets: Tensor, share: Tensor) -> Tensor:
        """-sum over steps of w_t / |Y_t| sum over Y_t of log p, each item's p among the items of its domain.

        Parameters
        ----------
        name
            Of the stream.
        decoded
            What the output layer takes, [M, hidden].
        targets
            int64 [M, k], 0 for none.
        share
            w, [M].

        Returns
        -------
        Tensor []
        """
        output = self.module[name].output
        share = share / (targets != PAD).sum(dim=1)
        found = decoded.new_zeros(())
        for d in self.reading.domains(name):
            inside, slots = self.reading.within(targets, d), self.reading.slots(d)
            line = inside.any(dim=1).nonzero()[:, 0]
            owner, items = inside[line].nonzero()[:, 0], targets[inside] - slots.start - 1
            weight, bias = output.weight[slots], output.bias[slots]
            found = found + multinomial_sum(decoded[line], weight, bias, owner, items, share[line])
        return found

    def scores(self, rows: Rows, domain: str, items: Tensor) -> Tensor:
        stream, slots = self.module[self.reading.stream(domain)], self.reading.slots(domain)
        history = self.reading.histories(rows, domain)
        inputs = as_indices(right_padded(history, self.params.model.T)).to(self.device)
        last = (inputs != PAD).sum(dim=1) - 1
        states = stream.states(inputs)[torch.arange(len(inputs), device=self.device), last]
        decoded = stream.decoder(stream.posterior(states).mean)
        return dot(decoded, stream.output.weight[slots], items) + stream.output.bias[slots][items - 1]


SVAES, SVAEM = both_readings(_SVAE, "svae")
