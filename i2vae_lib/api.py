"""Your data in, your recommendations out: one class over a run directory, with no pipeline code of its own.

>>> kit = I2VAE.fit({"books": books, "films": films}, time="when")      # two DataFrames, or two paths
>>> kit.recommend(users=[700, 701], domain="films", k=10)               # DataFrame: user, item, score, rank

Ids go in and come out as they are in the data: integers as integers. A domain goes by its name or its key (x, y).
"""

import html
import itertools
import os
import shutil
import tempfile
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path
from typing import Any, Literal, Self

import numpy as np
import pandas as pd

from i2vae_lib import evaluation, export, stages
from i2vae_lib.data.dataset import CrossDomainDataset
from i2vae_lib.data.histories import check_unknown, encoded_lists, read_histories, rows_asking, whole_histories
from i2vae_lib.data.logs.frames import TEXT, Log, Names, by_name, write_pair
from i2vae_lib.data.rows import DOMAINS, PAD, Array, Catalogue, DataError, Ragged, Rows, batched, listed
from i2vae_lib.data.user_sequences import UserSequences
from i2vae_lib.generators.features import write_vectors
from i2vae_lib.model.i2vae import ROLES
from i2vae_lib.params import ParameterError, joined, load
from i2vae_lib.recommenders import I2VAERecommender
from i2vae_lib.recommenders.contract import ROWS_AT_ONCE, best_items, check_count
from i2vae_lib.runs import LayoutError, Run, check_outside_runs, claim, new_folder, parameters_in, read_record
from i2vae_lib.shared import ranked, stamped

Histories = Mapping[str, Sequence[Sequence[Any]]] | Path
_NO_NEED = (".lock", "last*.ckpt", "logs", ".*.part")  # not copied into a saved model
_OF_PEOPLE = ("dataset", "pseudo.parquet", "ranks.parquet", "notebooks", "report.html")  # these name training users


class _Page(type(Path())):  # type: ignore[misc]  # the platform's own Path class
    """The path of an HTML page, shown as the page in a notebook."""

    def _repr_html_(self) -> str:
        page = html.escape(self.read_text(encoding="utf-8"))
        return f'<iframe srcdoc="{page}" style="width: 100%; height: 40rem; border: 0"></iframe>'


@dataclass(frozen=True)
class Asked:
    """The users to recommend to, with their histories."""

    took: Mapping[str, Ragged]  # domain key -> their histories
    users: Array  # as the caller names them
    ids: Array | None  # object array of str for known users; None for new ones
    dropped: int  # unknown ids left out

    def rows(self, catalogue: Catalogue, d: str) -> Rows:
        """One row per user, each asking for an item of a domain."""
        return rows_asking(catalogue, self.took, d, self.ids)


def typed(ids: Array, kind: str) -> Array:
    """Ids (object array of str) converted back to the type that they came in."""
    return ids if kind == TEXT else ids.astype(kind)


class I2VAE:
    """A trained system (i2VAE, or another by ``system``) with its data: :meth:`fit` or :meth:`load` it.

    Attributes
    ----------
    folder
        The run directory, as every other part of the kit takes it.
    domains
        Domain key -> name.
    """

    def __init__(self, run: Run, home: tempfile.TemporaryDirectory[str] | None = None):
        self.run, self._home = run, home
        self.folder = run.folder
        self.recommender = stages.load_system(run.folder)
        self.catalogue = self.recommender.catalogue
        self.domains = dict(self.catalogue.names)
        self._id_types: dict[str, str] = dict.fromkeys(("user", *DOMAINS), TEXT) | run.record.get("id_types", {})
        self._ids = {d: typed(self.catalogue.ids[d], self._id_types[d]) for d in DOMAINS}

    def __repr__(self) -> str:
        sizes = ", ".join(f"{name} {self.catalogue.size(d):,} items" for d, name in self.domains.items())
        return f"I2VAE({self.recommender.name}: {sizes}; {self.folder})"

    # --- in and out ---------------------------------------------------------------------------------------------------

    @classmethod
    def fit(
        cls,
        logs: Mapping[str, Log] | str | Path,
        *,
        user: str | None = None,
        item: str | None = None,
        time: str | Literal[False] | None = None,
        preset: str = "tuned",
        system: str = "i2vae",
        protocol: str | None = "chronological",
        seed: int = 0,
        epochs: int | None = None,
        overrides: Mapping[str, Any] | None = None,
        min_events: int = 1,
        same_items: bool | None = None,
        item_vectors: Mapping[str, pd.DataFrame] | None = None,
        out: str | Path | None = None,
    ) -> Self:
        """Train on the training part of ``protocol``; its test rows are kept for :meth:`evaluate`.

        Parameters
        ----------
        logs
            Domain name -> DataFrame or path, for two domains; or whatever ``i2vae run --data`` takes.
        user, item, time
            Columns of the logs: ids are text or integers, times are datetimes, ISO text or Unix time. None: columns of
            these names; in files, those that ``i2vae describe`` finds. ``time=False``: no times; each log is in order,
            and the order between the two logs is unknown (``docs/evaluation.md``, ``unit: order``).
        protocol
            None: train on all but the validation users, with no test rows left for :meth:`evaluate`.
        epochs, overrides
            None: as the preset says. ``overrides``: dotted keys to values, as ``--set`` takes them.
        min_events, same_items
            As in :func:`i2vae_lib.data.logs.frames.write_pair`.
        item_vectors
            Domain -> vectors known for its items (text or image embeddings, say): indexed by item id, one column per
            dimension. Training starts from them (``model.start`` = given); items may be missing.
        out
            The run directory, resumed if unfinished. None: a temporary one, deleted with this object; see :meth:`save`.

        Raises
        ------
        DataError, ParameterError
            The message says what is wrong, where, and what would be right.
        """
        columns = _columns_given(user, item, time)
        if overrides is not None and not isinstance(overrides, Mapping):
            raise ParameterError(f"overrides is {overrides!r}: expected dotted keys with their values")
        if not isinstance(logs, Mapping | str | Path):
            raise DataError(f"logs is a {type(logs).__name__}: give two DataFrames or paths by their domains' names")
        if out is not None:
            out = _folder(out)
        home = None if out else tempfile.TemporaryDirectory(prefix="i2vae-", ignore_cleanup_errors=True)
        folder = Path(out or (home.name if home else ""))
        chosen = joined(overrides or {}, {"system": system}, "overrides and the argument system")
        if protocol is None:
            chosen = joined(chosen, {"split.test_share": 0.0}, "overrides and protocol=None")
            protocol = "chronological"
        claim(folder)
        if item_vectors is not None:
            given = {"model.start": "given", "model.vectors": str((folder / "vectors.parquet").resolve())}
            chosen = joined(chosen, given, "overrides and item_vectors")
            write_vectors(item_vectors, folder / "vectors.parquet")
        types: dict[str, str] = {}
        names: dict[str, str] = {}
        if isinstance(logs, Mapping):
            logs = {str(name): log for name, log in logs.items()}
            names = dict(zip(DOMAINS, logs, strict=False))
            logs, types = write_pair(logs, folder / "logs", columns, min_events, same_items)
        p = load(preset, chosen, data=str(logs), protocol=protocol, seed=seed, epochs=epochs)
        with by_name(folder / "logs", names):
            run = stages.open_run(p, folder)
            run.note(id_types=types)
            stages.train(run)
        return cls(run, home)

    @classmethod
    def load(cls, folder: str | Path) -> Self:
        """Load what :meth:`save` wrote, or any run directory with a trained model.

        Raises
        ------
        LayoutError
            There is no run or no model, or another version of the kit made it.
        """
        return cls(Run(parameters_in(read_record(_folder(folder)), folder), folder))

    def save(self, folder: str | Path, histories: bool = True) -> Path:
        """Write everything that :meth:`load` needs.

        Parameters
        ----------
        folder
            Must not exist.
        histories
            False: leave out the users' ids and histories, so that only ``recommend(histories=…)`` works.

        Raises
        ------
        LayoutError
            The folder exists.
        ParameterError
            ``histories=False`` for a system that keeps user vectors.
        """
        folder = _folder(folder)
        check_outside_runs(folder)
        left = shutil.ignore_patterns(*_NO_NEED, *(() if histories else _OF_PEOPLE))
        with new_folder(folder) as part:
            shutil.copytree(self.folder, part, ignore=left, dirs_exist_ok=True)
            if not histories:
                export.forget_users(part)
        return folder

    # --- recommendations ----------------------------------------------------------------------------------------------

    def recommend(
        self,
        *,
        domain: str,
        users: Sequence[Any] | None = None,
        histories: Histories | None = None,
        k: int = 10,
        unknown: str = "error",
        exclude: Sequence[Any] = (),
        only: Sequence[Any] | None = None,
    ) -> pd.DataFrame:
        """The k best items of a domain for known users or given histories, without items that the user already has.

        Parameters
        ----------
        users
            Ids of users in the data, whose histories are known.
        histories
            One list of item ids per domain and user, oldest first: ``{"books": [[3, 5], []], "films": [[], [8]]}``.
            Or the path of a Parquet file that has them (:func:`i2vae_lib.data.histories.read_histories`). Users are
            named by their position, from 0.
        unknown
            What to do about unknown users and items: ``"error"``, or ``"drop"``: the user gets no line, the item is
            left out of the history, and ``attrs["dropped"]`` counts them.
        exclude, only
            Items of the domain that are never recommended; the only ones that may be.

        Returns
        -------
        DataFrame
            ``user``, ``item``, ``score``, ``rank`` (from 1); fewer than k lines for a user with fewer items left.

        Raises
        ------
        DataError
            Unknown ids (up to five are named), an unknown domain, or k below 1.
        """
        asked, d = self.asked(users, histories, unknown), self.catalogue.key(domain)
        empty, *tables = self.tables(asked, d, k, self.among(d, exclude, only))
        best = pd.concat(tables or [empty], ignore_index=True)
        best.attrs = {"dropped": asked.dropped}
        return best

    def asked(self, users: Sequence[Any] | None, histories: Histories | None, unknown: str = "error") -> Asked:
        """Known users, or given histories, as the model takes them."""
        check_unknown(unknown)
        if users is None and histories is not None:
            read: Any = read_histories if isinstance(histories, Path) else encoded_lists
            took, dropped = read(self.catalogue, histories, unknown)
            return Asked(took, np.arange(len(took["x"])), None, dropped)
        if users is None or histories is not None:
            raise ParameterError("give either users or histories")
        _check_ids("users", users)
        names = [str(user) for user in users]
        at = pd.Index(self.people.users, dtype=object).get_indexer(pd.Index(names, dtype=object))
        strangers = [names[i] for i in np.flatnonzero(at < 0)]
        if strangers and unknown == "error":
            raise DataError(
                f"{listed('user', strangers)} not among the {len(self.people):,} users of {self.folder} "
                f"({len(strangers)} of {len(names)}); give what they took as histories"
            )
        at = at[at >= 0]
        took = {d: self.people.sequences[d].take(at) for d in DOMAINS}
        ids = self.people.users[at]
        return Asked(took, typed(ids, self._id_types["user"]), ids, len(strangers))

    def among(self, d: str, exclude: Sequence[Any] = (), only: Sequence[Any] | None = None) -> Array:
        """The numbers of the items that may be recommended."""
        _check_ids("exclude", exclude)
        if only is not None:
            _check_ids("only", only)
        allowed = np.arange(1, self.catalogue.size(d) + 1) if only is None else self.catalogue.encode(d, list(only))
        return np.setdiff1d(allowed, self.catalogue.encode(d, list(exclude)))

    def _batches(self, asked: Asked, d: str, k: int, among: Array | None) -> Iterator[tuple[Array, Array, Array]]:
        """Some users at a time with their best items and scores, [users, k], 0-padded."""
        done = 0
        for items, scores in best_items(self.recommender, asked.rows(self.catalogue, d), d, k, among):
            yield asked.users[done : done + len(items)], items, scores
            done += len(items)

    def tables(self, asked: Asked, d: str, k: int, among: Array | None = None) -> Iterator[pd.DataFrame]:
        """:meth:`recommend` in batches of users, where one table would be too large; the first table is empty."""
        nothing = asked.users[:0], np.zeros((0, 1), dtype=np.int32), np.zeros((0, 1), dtype=np.float32)
        for users, items, scores in itertools.chain([nothing], self._batches(asked, d, k, among)):
            owner, place = np.nonzero(items != PAD)
            lines = {"user": users[owner], "item": self.ids(d, items[owner, place]), "score": scores[owner, place]}
            names = [name for name in ("user", "item") if lines[name].dtype == object]
            yield pd.DataFrame(lines | {"rank": place + 1}).astype(dict.fromkeys(names, "str"))

    def lists(
        self, asked: Asked, d: str, k: int, among: Array | None = None
    ) -> Iterator[tuple[Any, Array, list[float]]]:
        """:meth:`recommend`, user by user: the user, item numbers (see :meth:`ids`) and scores, best first."""
        for users, items, scores in self._batches(asked, d, k, among):
            for user, chosen, values in zip(users.tolist(), items, scores.tolist(), strict=True):
                chosen = chosen[chosen != PAD]
                yield user, chosen, values[: len(chosen)]

    def ids(self, d: str, numbers: Array) -> Array:
        """The data's own ids of item numbers."""
        return self._ids[d][numbers - 1]

    def explain(self, user: Any, domain: str, item: Any, most: int = 100) -> pd.DataFrame:
        """What a user's score for an item rests on: each event of the history is left out in turn.

        Parameters
        ----------
        most
            How many of the latest events of each domain are tried.

        Returns
        -------
        DataFrame
            ``domain``, ``item``, ``difference``: the score minus the score without that event, largest first;
            ``attrs["score"]`` is the score.
        """
        check_count("most", most)
        d, asked = self.catalogue.key(domain), self.asked([user], None)
        number = self.catalogue.encode(d, [item])
        lengths = {e: len(history.values) for e, history in asked.took.items()}
        tried = [(e, at) for e, length in lengths.items() for at in range(max(0, length - most), length)]
        rows = asked.rows(self.catalogue, d).take(np.zeros(1 + len(tried), dtype=np.int64))
        took = dict(rows.history)
        for e in DOMAINS:
            left_out = np.array([at if key == e else -1 for key, at in [("", -1), *tried]])
            place = np.arange(len(took[e].values)) - took[e].offsets[took[e].owner]
            took[e] = took[e].keep(place != left_out[took[e].owner])
        rows = replace(rows, history=took)
        parts = np.array_split(np.arange(len(rows)), -(-len(rows) // ROWS_AT_ONCE))
        scores = np.concatenate([self.recommender.score(rows.take(at), np.tile(number, (len(at), 1))) for at in parts])
        table = pd.DataFrame(
            {
                "domain": [self.domains[e] for e, _ in tried],
                "item": self._mixed([e for e, _ in tried], [asked.took[e].values[at] for e, at in tried]),
                "difference": scores[0, 0] - scores[1:, 0],
            }
        ).sort_values("difference", ascending=False, ignore_index=True)
        table.attrs = {"score": float(scores[0, 0])}
        return table

    def _mixed(self, domains: Sequence[str], numbers: Sequence[int] | Array) -> Any:
        """Ids of items of either domain; as text where the domains' id types differ."""
        kinds = {self._id_types[d] for d in DOMAINS}
        ids = np.empty(len(numbers), dtype=object)
        for d in DOMAINS:
            at = np.flatnonzero(np.asarray(domains) == d)
            ids[at] = self.catalogue.decode(d, np.asarray(numbers, dtype=np.int64)[at])
        return typed(ids, kinds.pop() if len(kinds) == 1 else TEXT)

    # --- what it learnt -----------------------------------------------------------------------------------------------

    def item_vectors(self, domain: str) -> pd.DataFrame:
        """The item vectors, one line per item, indexed by id.

        Raises
        ------
        ParameterError
            A system other than i2VAE.
        """
        d, model = self.catalogue.key(domain), self._i2vae("item vectors").model
        table = model.items[d].get_parameter("weight")[1:].detach().cpu().numpy()
        return pd.DataFrame(table, index=pd.Index(self.ids(d, np.arange(1, len(table) + 1)), name="item"))

    def similar_items(self, domain: str, item: Any, k: int = 10) -> pd.DataFrame:
        """The items of a domain with vectors nearest to an item's, by cosine: ``item``, ``score``, ``rank``."""
        check_count("k", k)
        d = self.catalogue.key(domain)
        vectors = self.item_vectors(d).to_numpy()
        at = self.catalogue.encode(d, [item])[0] - 1
        unit = vectors / np.maximum(np.linalg.norm(vectors, axis=1, keepdims=True), np.finfo(np.float32).tiny)
        scores = unit @ unit[at]
        scores[at] = -np.inf
        best = np.argsort(-scores, kind="stable")[: min(k, len(scores) - 1)]
        items = self.ids(d, best + 1)
        return pd.DataFrame({"item": items, "score": scores[best], "rank": np.arange(1, len(best) + 1)})

    def latents(self, *, users: Sequence[Any] | None = None, histories: Histories | None = None) -> pd.DataFrame:
        """Posterior means of the latents of known users or given histories.

        Returns
        -------
        DataFrame
            ``user``, ``domain`` (of the item that is asked for), ``latent`` (specific, transferable, augmented), and
            one column per dimension, from 0. A latent that the histories do not yield has no line.
        """
        system, asked, parts = self._i2vae("latents"), self.asked(users, histories), []
        for d in DOMAINS:
            rows = asked.rows(self.catalogue, d)
            for at in batched(np.arange(len(rows)), ROWS_AT_ONCE):
                for _, _, latents in system.infer(rows.take(at)):
                    for role in ROLES:
                        there = latents.has(role).cpu().numpy()
                        if not there.any():
                            continue
                        lead = {"user": asked.users[at[there]], "domain": self.domains[d], "latent": role}
                        values = pd.DataFrame(getattr(latents, role).mean.cpu().numpy()[there])
                        parts.append(pd.concat([pd.DataFrame(lead, index=values.index), values], axis=1))
        table = pd.concat(parts) if parts else pd.DataFrame(columns=["user", "domain", "latent"])
        return table.sort_values("user", kind="stable", ignore_index=True)

    def _i2vae(self, what: str) -> I2VAERecommender:
        if not isinstance(self.recommender, I2VAERecommender):
            raise ParameterError(f"{self.recommender.name} has no {what} to show: only i2vae does")
        return self.recommender

    # --- how good it is -----------------------------------------------------------------------------------------------

    @cached_property
    def dataset(self) -> CrossDomainDataset:
        """The data under the run's protocol.

        Raises
        ------
        DataError
            The model was saved without histories.
        """
        if not (self.folder / "dataset").is_dir():
            raise DataError(f"{self.folder} was saved without users' histories: it recommends for histories alone")
        return stages.load_data(self.folder)

    @cached_property
    def people(self) -> UserSequences:
        """The known users with everything they took."""
        return whole_histories(self.dataset)

    def candidates(self) -> pd.DataFrame:
        """Frozen candidates of the test rows: ``row``, ``user``, ``domain``, ``item``, ``target`` (true or false)."""
        rows, p = self._test(), self.run.parameters
        negatives = evaluation.sample_negatives(rows, p.evaluation.negatives, p.split.data_seed)
        items = np.concatenate([rows.target[:, None], negatives], axis=1)
        row, place = np.nonzero(items != PAD)
        domain = np.array(DOMAINS)[rows.domain[row]]
        return pd.DataFrame(
            {
                "row": rows.source[row],
                "user": typed(rows.user, self._id_types["user"])[row],
                "domain": np.array([self.domains[d] for d in DOMAINS], dtype=object)[rows.domain[row]],
                "item": self._mixed(domain, items[row, place]),
                "target": place == 0,
            }
        )

    def evaluate(
        self, metric: str | evaluation.Measure | None = None, scores: pd.DataFrame | None = None
    ) -> pd.DataFrame:
        """Metrics on the test rows, for the model and the reference rankers.

        Parameters
        ----------
        metric
            A name such as ``"NDCG@10"``, or a function of (greater, ties, candidates), int64 [rows] each, that returns
            one value per row. None: HR, NDCG and MRR at 5, 10 and 20.
        scores
            Another model's scores of :meth:`candidates` (columns ``row``, ``item``, ``score``), ranked beside the
            others under the name ``given``, on sampled candidates only.

        Returns
        -------
        DataFrame
            ``recommender``, ``domain``, ``kind`` (of row), ``n``, ``candidates``, ``metric``, ``value`` (fractions).

        Raises
        ------
        DataError
            No test rows were kept (``protocol=None``), or a candidate has no score.
        """
        rows = self._test()
        measures = _measures(metric)
        table = stages.evaluate(self.run, self.dataset)
        if scores is not None:
            given = evaluation.GivenScores("given", rows, scores)
            table = pd.concat(
                [ranked([given], self.dataset, self.run.parameters, full=False), table], ignore_index=True
            )
        tidy = evaluation.tidy(evaluation.metrics(table, measures), self.domains)
        return stamped(tidy, self.dataset)

    def _test(self) -> Rows:
        rows = self.dataset.splits["test"]
        if not len(rows):
            raise DataError(
                "nothing is left to evaluate on: with protocol=None all but the validation rows are trained on"
            )
        return rows

    def timings(self) -> pd.DataFrame:
        """Seconds and peak memory (of the process so far) of each stage, and of all of them."""
        return stages.seconds_by_stage(read_record(self.folder))

    def report(self) -> _Page:
        """Write ``report.html`` and return its path, which a notebook shows as the page."""
        from i2vae_lib.report import write_report  # imports plotly, which nothing else here needs

        self._test()
        stages.evaluate(self.run, self.dataset)
        return _Page(write_report(self.folder))


def _measures(metric: Any) -> dict[str, evaluation.Measure] | None:
    """A metric by its name; None: the default ones."""
    if metric is None:
        return None
    if isinstance(metric, str):
        return {metric: evaluation.measure(metric)}
    if not callable(metric):
        raise ParameterError(f"metric is {metric!r}: expected a name such as 'NDCG@10', or a function")
    return {getattr(metric, "__name__", "metric"): metric}


def _folder(folder: Any) -> Path:
    """A folder's path; what is no path is refused."""
    try:
        encoded = os.fsencode("" if isinstance(folder, bytes) else folder)
    except (TypeError, UnicodeEncodeError):
        encoded = b""
    if not encoded or b"\0" in encoded:
        raise LayoutError(f"folder is {folder!r}: expected the path of a run directory")
    return Path(folder)


def _check_ids(name: str, ids: Any) -> None:
    """Refuse what is no list of ids: a string would be taken apart into characters, a DataFrame into its columns."""
    if isinstance(ids, str | bytes | pd.DataFrame) or not hasattr(ids, "__len__"):
        shown = f"a {type(ids).__name__}" if isinstance(ids, pd.DataFrame) else repr(ids)
        raise DataError(f"{name} is {shown}: expected a list of ids")


def _columns_given(user: Any, item: Any, time: Any) -> Names:
    """Names of columns as text; they may be numbers, as of files without a header."""
    columns: dict[str, str | Literal[False] | None] = {}
    for role, name in (("user", user), ("item", item), ("timestamp", time)):
        if isinstance(name, bool) and not (role == "timestamp" and name is False):
            wanted = "the name of a column, or False where there are no times" if role == "timestamp" else "a column"
            raise DataError(f"{'time' if role == 'timestamp' else role} is {name}: expected {wanted}")
        columns[role] = name if name is None or name is False else str(name)
    return columns
