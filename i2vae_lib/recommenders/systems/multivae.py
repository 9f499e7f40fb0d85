"""Multi-VAE: a bag of items, through one Gaussian, to a multinomial over all items.

Liang, Krishnan, Hoffman & Jebara, "Variational autoencoders for collaborative filtering", WWW 2018 (code:
dawenl/vae_cf). With x_u the bag of a user's items, binary, and N_u of them,

    h = tanh(W dropout(x_u / |x_u|) + b)      [mu | log sigma^2] = V h + c      z ~ N(mu, sigma^2)
    logits = Q tanh(P z + p) + q
    loss = mean over u of -sum_{i in x_u} log softmax(logits)_i + beta KL[N(mu, sigma^2) || N(0, I)]

The first term is a sum over the bag, not a mean. beta rises linearly to its cap. A row scores logits at z = mu.

Made for one domain, for users nobody trained on, and for no order. Here it comes in both readings
(:mod:`.systems.separate_or_merged`): ``multivae-s``, two models that know nothing of each other, and
``multivae-m``, one bag of both domains. A user is one bag: everything that it took in training, targets included. An
evaluation row is the bag of its histories, so nothing has to be folded in.

Departs
    - latents have ``model.d`` dimensions (the code: 200) and batches ``training.batch_size`` users (500), as every
      system here; beta counts epochs, not steps: the code's 200,000 steps are sized for ML-20M and would leave beta
      near 0 on these data;
    - biases start at 0 (the code: normal, sd 0.001), and the L2 term, which the code's VAE weighs with 0, is left out;
    - epochs are selected on sampled NDCG@10 of both domains together, not on NDCG@100 of held-out clicks;
    - merged: a softmax per domain, their costs summed over the domains in which a user has items; one softmax over the
      union would let the larger domain take the smaller one's share;
    - the two models of ``multivae-s`` share one early stop, on both domains' mean.
"""

from collections.abc import Iterator, Mapping, Sequence, Sized
from dataclasses import dataclass
from typing import Self

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from i2vae_lib import training
from i2vae_lib.data.batches import Tensors, as_indices
from i2vae_lib.data.rows import Array, Ragged, Rows, batched
from i2vae_lib.data.user_sequences import chained
from i2vae_lib.model.encoders import dropout, initialise
from i2vae_lib.model.latents import Gaussian, annealing, kl, sample, standard_like
from i2vae_lib.model.likelihoods import multinomial
from i2vae_lib.recommenders.systems.separate_or_merged import both_readings
from i2vae_lib.recommenders.trained import Trained, dot, stream_stage
from i2vae_lib.training import CostAndParts, Stage


@dataclass(frozen=True)
class Bags(Tensors):
    """B sets of items, flat: set i is ``items[offsets[i]:offsets[i + 1]]``."""

    items: Tensor  # int64 [m], 0-based, distinct inside a set
    offsets: Tensor  # int64 [B + 1]

    @classmethod
    def of(cls, sets: Ragged) -> Self:
        """What :meth:`Ragged.distinct` gives, as tensors."""
        return cls(as_indices(sets.values) - 1, as_indices(sets.offsets))

    def __len__(self) -> int:
        return len(self.offsets) - 1

    @property
    def counts(self) -> Tensor:
        """Items of each set, int64 [B]."""
        return self.offsets.diff()

    @property
    def owner(self) -> Tensor:
        """For each item the number of its set, int64 [m]."""
        return torch.repeat_interleave(self.counts, output_size=len(self.items))


class Encoder(nn.Module):
    """Bag -> N(mu, sigma^2) over d dimensions.

    The first layer takes a handful of some ten thousand inputs: it sums the rows of those alone.
    """

    def __init__(self, size: int, hidden: int, d: int):
        super().__init__()
        self.items = nn.Parameter(torch.zeros(size, hidden))  # W transposed
        self.bias = nn.Parameter(torch.zeros(hidden))
        self.head = nn.Linear(hidden, 2 * d)

    def forward(self, bags: Bags, rate: float, generator: torch.Generator | None) -> Gaussian:
        """B bags -> q [B, d]; an empty bag is the zero vector. ``rate`` drops items, where there is a generator."""
        norm = bags.counts.clamp(min=1).to(self.items.dtype).rsqrt()
        values = dropout(norm[bags.owner], rate, generator)
        summed = F.embedding_bag(
            bags.items, self.items, bags.offsets, mode="sum", per_sample_weights=values, include_last_offset=True
        )
        mean, log_variance = self.head(torch.tanh(summed + self.bias)).chunk(2, dim=1)
        return Gaussian(mean, log_variance)


class Decoder(nn.Module):
    """Latent -> logits of all items."""

    def __init__(self, d: int, hidden: int, size: int):
        super().__init__()
        self.hidden = nn.Linear(d, hidden)
        self.items = nn.Linear(hidden, size)

    def forward(self, z: Tensor) -> Tensor:
        """What the logits are linear in: z [B, d] -> [B, hidden]."""
        return torch.tanh(self.hidden(z))

    def logits(self, states: Tensor, block: slice) -> Tensor:
        """States [B, hidden] -> logits of the block's items [B, items]."""
        return F.linear(states, self.items.weight[block], self.items.bias[block])

    def scores(self, z: Tensor, items: Tensor, block: slice) -> Tensor:
        """Logits of a block's candidates: z [B, d], items 1…n of the block, int64 [B, k] or [1, k] -> [B, k]."""
        return dot(self(z), self.items.weight[block], items) + self.items.bias[block][items - 1]

    def reconstruction(self, z: Tensor, bags: Bags, blocks: Sequence[slice]) -> Tensor:
        """-sum over a bag of log softmax(logits), a softmax a block: [B].

        Parameters
        ----------
        z
            [B, d].
        blocks
            They cover the vocabulary, 0-based. A bag skips the blocks in which it has no items.
        """
        states, owner = self(z), bags.owner
        total = states.new_zeros(len(bags))
        for block in blocks:
            inside = torch.nonzero((bags.items >= block.start) & (bags.items < block.stop))[:, 0]
            who, line = torch.unique_consecutive(owner[inside], return_inverse=True)
            nats = multinomial(self.logits(states[who], block), line, bags.items[inside] - block.start)
            total = total.index_add(0, who, nats)
        return total


class VariationalAutoencoder(nn.Module):
    """I -> hidden -> 2 d, and d -> hidden -> I."""

    def __init__(self, size: int, hidden: int, d: int):
        super().__init__()
        self.encoder = Encoder(size, hidden, d)
        self.decoder = Decoder(d, hidden, size)

    def costs(
        self,
        bags: Bags,
        blocks: Sequence[slice],
        rate: float,
        generator: torch.Generator | None,
        prior: Gaussian | None = None,
    ) -> tuple[Tensor, Tensor]:
        """The two costs of each bag in nats: reconstruction from a draw of z, KL[q || prior]. Each [B].

        Without a generator nothing is dropped, and z is the mean; without a prior it is N(0, I).
        """
        q = self.encoder(bags, rate, generator)
        prior = standard_like(q) if prior is None else prior
        return self.decoder.reconstruction(sample(q, generator), bags, blocks), kl(q, prior)


def draw(module: nn.Module, weights: torch.Generator) -> None:
    """Xavier-uniform weights and zero biases, those of bag encoders included."""
    initialise(module, weights)
    with torch.no_grad():
        for one in module.modules():
            if isinstance(one, Encoder):
                nn.init.xavier_uniform_(one.items, generator=weights)


def weighed(name: str, found: tuple[Tensor, Tensor], beta: float) -> CostAndParts:
    """Mean over bags of reconstruction + beta KL, as ``costs`` of an autoencoder found them; both under their names."""
    nats, divergence = (one.mean() for one in found)
    return nats + beta * divergence, {f"reconstruction/{name}": nats, f"kl/{name}": divergence}


def shuffled(sets: Mapping[str, Sized], batch_size: int, rng: np.random.Generator) -> Iterator[tuple[str, Array]]:
    """Batches of one epoch, those of all streams mixed: (stream, int64 positions)."""
    batches = []
    for name, one in sets.items():
        batches += [(name, at) for at in batched(rng.permutation(len(one)), batch_size)]
    yield from (batches[i] for i in rng.permutation(len(batches)))


def bag_stage(name: str, module: nn.Module, loss: training.Loss, bags: Mapping[str, Ragged], batch_size: int) -> Stage:
    """A training over sets, one stream a batch."""

    def collate(stream: str, at: Array, rng: np.random.Generator) -> Bags:
        return Bags.of(bags[stream].take(at))

    return stream_stage(name, module, loss, bags, batch_size, collate, shuffled)


class _MultiVAE(Trained):
    """Both readings."""

    def bags(self, train: Rows) -> dict[str, Ragged]:
        """For each stream the sets of its users (not of rows: a user is one bag), without empty ones."""
        found = {stream: chained(*parts) for stream, parts in self.reading.parts(train).items()}
        return {stream: whole.take(np.flatnonzero(whole.lengths)).distinct() for stream, whole in found.items()}

    def build(self, weights: torch.Generator) -> nn.Module:
        p = self.params
        module = nn.ModuleDict()
        for s in self.reading.streams:
            module[s] = VariationalAutoencoder(self.reading.size(s), p.multivae.hidden, p.model.d)
        draw(module, weights)
        return module

    def stages(self, train: Rows) -> Iterator[Stage]:
        yield bag_stage("multivae", self.module, self.loss, self.bags(train), self.params.training.batch_size)

    def loss(self, batch: dict[str, Bags], epoch: int, generator: torch.Generator) -> CostAndParts:
        """Mean over the users of a batch."""
        p = self.params.multivae
        [(name, bags)] = batch.items()
        blocks = [self.reading.slots(d) for d in self.reading.domains(name)]
        found = self.module[name].costs(bags, blocks, p.dropout, generator)
        return weighed(name, found, p.beta * annealing(epoch, p.annealing_epochs))

    def scores(self, rows: Rows, domain: str, items: Tensor) -> Tensor:
        module = self.module[self.reading.stream(domain)]
        bags = Bags.of(self.reading.histories(rows, domain).distinct()).to(self.device)
        mean = module.encoder(bags, 0.0, None).mean
        return module.decoder.scores(mean, items, self.reading.slots(domain))


MultiVAES, MultiVAEM = both_readings(_MultiVAE, "multivae")
