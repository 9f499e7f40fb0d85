"""LightGCN: vectors of users and items, smoothed over the graph of who took what.

He et al., "LightGCN: Simplifying and powering graph convolution network for recommendation", SIGIR 2020 (code:
gusye1234/LightGCN-PyTorch). With E^0 the trained vectors of users and items and A the binary bipartite graph,

    E^{l+1} = D^-1/2 A D^-1/2 E^l        e = 1 / (L + 1) sum_{l=0}^L e^l        score(u, i) = e_u . e_i
    loss = mean softplus(score(u, j) - score(u, i)) + decay / 2 (|e_u^0|^2 + |e_i^0|^2 + |e_j^0|^2)

over triples of a uniform user u, one of its items i and an item j that it did not take. With L = 0 this is BPR-MF.

Made for implicit feedback in one domain. Here it comes in two readings: ``lightgcn-s``, a graph per domain, and
``lightgcn-m``, one graph of the users of both domains and the unified items (:class:`.graphs.Unified`). What
somebody took in the other domain reaches items of this one by way of users of both, from the third layer on as a user's
vector and from the first as an item's. The loss and its triples are those of :mod:`.generators.lightgcn`, which the
pseudo-sequence generator trains too.

Departs
    - evaluation users are no training users: a row is folded in as a new user whose edges are its history, with a zero
      layer-0 vector (:mod:`.systems.fold_in`); only under ``temporal`` do training users keep their
      vectors;
    - an item that no training user took scores 0 (an isolated node has its layer-0 vector alone, which is noise that
      negatives have pushed about), and a row that shows nothing else is ranked by popularity;
    - merged: linked items are one node, and negatives are of the positive's domain (a linked item's are of X). Under
      ``temporal`` a known user's vector may so be trained on an item linked to the target, which no row shows;
    - the epoch is selected by NDCG@10 on validation rows; the code has no validation and looks at the test set;
    - d, learning rate and epochs are the kit's (``model.d``, ``training``), and the two graphs of ``lightgcn-s`` share
      one early stop, on both domains' mean.
"""

from collections.abc import Iterator, Mapping

import numpy as np
import torch
from scipy import sparse
from torch import Tensor, nn

from i2vae_lib.data.rows import DOMAINS, Array, Catalogue, Rows
from i2vae_lib.generators import graphs
from i2vae_lib.generators.graphs import Adjacency, Unified
from i2vae_lib.generators.lightgcn import Triples, terms
from i2vae_lib.generators.psg import Generator
from i2vae_lib.recommenders.systems.fold_in import propagated
from i2vae_lib.recommenders.systems.separate_or_merged import Merged, PerDomain, both_readings
from i2vae_lib.recommenders.trained import NOTHING, Trained, dot
from i2vae_lib.training import CostAndParts, Stage


class SeparateGraphs(PerDomain):
    """``-S``: a graph per domain, of all users and the domain's items."""

    def pools(self, name: str) -> Mapping[str, Array]:
        """Domain -> the numbers of its items (those of 1…n, in order) in a graph."""
        return {name: np.arange(self.catalogue.size(name))}

    def taken(self, train: Rows, name: str) -> sparse.csr_matrix:
        """Binary training users x items."""
        return graphs.domain_takers(train, name)

    def edges(self, rows: Rows, name: str) -> sparse.csr_matrix:
        """Binary rows x items."""
        return graphs.domain_histories(rows, name)


class _United(Merged):
    """``-M``: one graph of all users and the unified items."""

    def __init__(self, catalogue: Catalogue):
        super().__init__(catalogue)
        self.unified = Unified(catalogue)

    def pools(self, name: str) -> Mapping[str, Array]:
        return self.unified.items

    def taken(self, train: Rows, name: str) -> sparse.csr_matrix:
        return graphs.user_items(train, self.unified)

    def edges(self, rows: Rows, name: str) -> sparse.csr_matrix:
        return self.unified.histories(rows)


class OnTriples(Trained):
    """Vectors of the users and items of a reading's graphs, trained on triples: LightGCN and what EMCDR starts from."""

    taken: Mapping[str, sparse.csr_matrix] = NOTHING
    adjacency: Mapping[str, Adjacency] = NOTHING  # where there are layers
    layers = 0

    @property
    def vectors(self) -> nn.Module:
        """Those of layer 0 of each graph, [users + items, d], users first."""
        return self.module

    def prepare(self, train: Rows, generator: Generator | None) -> None:
        self.users = np.array(list(dict.fromkeys(train.user)), dtype=object)
        self.taken = {name: self.reading.taken(train, name) for name in self.reading.streams}

    def build(self, weights: torch.Generator) -> nn.Module:
        """N(0, 0.1^2) as in LightGCN's code."""
        module = nn.ParameterDict()
        for name, graph in self.taken.items():
            vectors = torch.empty(sum(graph.shape), self.params.model.d)
            module[name] = nn.Parameter(vectors.normal_(std=0.1, generator=weights))
        return module

    def triple_stage(self, name: str) -> Stage:
        """A training on triples, as the nodes that :func:`i2vae_lib.generators.lightgcn.terms` takes.

        An epoch of a graph is as many triples as it has edges; batches of several graphs take random turns.
        """
        taken, size = self.taken, self.own.batch_size
        turns = [name for name, graph in taken.items() for _ in range(-(-graph.nnz // size))]

        def batches(rng: np.random.Generator) -> Iterator[dict[str, Tensor]]:
            samplers = {one: Triples(taken[one], dict(self.reading.pools(one)), rng) for one in dict.fromkeys(turns)}
            for i in rng.permutation(len(turns)):
                users = taken[turns[i]].shape[0]
                user, positive, negative = samplers[turns[i]].draw(size)
                yield {turns[i]: torch.from_numpy(np.concatenate([user, users + positive, users + negative]))}

        return Stage(name, self.vectors, self.loss, batches, sum(graph.nnz for graph in taken.values()), len(turns))

    def loss(self, batch: dict[str, Tensor], epoch: int, generator: torch.Generator) -> CostAndParts:
        """BPR and decay of one graph's triples; with layers, each step propagates through the whole graph."""
        [(name, rows)] = batch.items()
        vectors = self.vectors.get_parameter(name)
        ranking, penalty = terms(vectors, self.adjacency.get(name), self.layers, rows, self.own.decay)
        return ranking + penalty, {f"reconstruction/{name}": ranking, f"decay/{name}": penalty}

    def tables(self) -> Iterator[tuple[str, Tensor, Tensor]]:
        """``fold_in`` and ``final`` of :func:`graphs.tables_of`, by graph; under ``temporal`` users are remembered."""
        for name, graph in self.taken.items():
            users, items = np.split(self.vectors.get_parameter(name).detach().cpu().numpy(), [graph.shape[0]])
            mean, fold_in, final = graphs.tables_of(graph, (users, items), self.layers)
            lines = np.flatnonzero(graph.getnnz(axis=1))  # the others' vectors nobody has trained
            self.keep_user_vectors(name, self.users[lines], torch.from_numpy(mean[lines].astype(np.float32)))
            yield name, torch.from_numpy(fold_in), torch.from_numpy(final)


class _LightGCN(OnTriples):
    """Both readings."""

    @property
    def layers(self) -> int:  # type: ignore[override]
        return int(self.own.layers)

    def prepare(self, train: Rows, generator: Generator | None) -> None:
        super().prepare(train, generator)
        self.adjacency = {d: Adjacency.of(graphs.normalised(one)).to(self.device) for d, one in self.taken.items()}

    def stages(self, train: Rows) -> Iterator[Stage]:
        yield self.triple_stage("lightgcn")

    def update_tables(self) -> None:
        """Tables of each graph. A loaded model has these and no graph."""
        for name, fold_in, final in self.tables():
            self.frozen |= {f"fold_in {name}": fold_in, f"final {name}": final}
        pools = [(name, *pool) for name in self.reading.streams for pool in self.reading.pools(name).items()]
        self.finals = {
            d: self.frozen[f"final {name}"][torch.from_numpy(items)].to(self.device) for name, d, items in pools
        }

    def scoring_module(self) -> nn.Module:
        """Nothing: ``frozen`` is all that scores."""
        return nn.Module()

    def can_rank(self, rows: Rows) -> Array:
        """Rows of which an item that the graph knows is in the history, bool [n]."""
        found = np.zeros(len(rows), dtype=bool)
        for d in DOMAINS:
            at, name = rows.of(d), self.reading.stream(d)
            seen = self.frozen[f"fold_in {name}"].cpu().numpy().any(axis=1)  # zero for an item without edges
            found[at] = self.reading.edges(rows.take(at), name) @ seen.astype(np.float32) > 0
        return found

    def scores(self, rows: Rows, domain: str, items: Tensor) -> Tensor:
        name = self.reading.stream(domain)
        folded = propagated(self.reading.edges(rows, name), self.frozen[f"fold_in {name}"].cpu().numpy())
        vectors = self.known_or_folded(torch.from_numpy(folded).to(self.device), rows, name)
        return dot(vectors, self.finals[domain], items)


LightGCNS, LightGCNM = both_readings(_LightGCN, "lightgcn", SeparateGraphs, _United)
