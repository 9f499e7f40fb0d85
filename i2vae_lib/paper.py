"""The paper's own numbers, and a run's beside them.

``paper_tables.csv`` holds every cell of Tables 1 to 6 as printed (per cent; Table 4 counts) and the settings of
Figure 3, whose values the paper draws but does not print. Its ``flag`` says what is wrong or easily misread about a
cell. The paper's "cold-start" is the row kind ``cold_released``.
"""

from pathlib import Path

import pandas as pd

from i2vae_lib.data.rows import DOMAINS, DataError

ADDRESS = "https://proceedings.mlr.press/v286/ning25a.html"
BIBTEX = """@inproceedings{ning2025i2vae,
  title     = {i$^2$VAE: Interest Information Augmentation with Variational Regularizers for Cross-Domain Sequential
               Recommendation},
  author    = {Ning, Xuying and Xu, Wujiang and Wei, Tianxin and Liu, Xiaolei},
  booktitle = {Proceedings of the Forty-first Conference on Uncertainty in Artificial Intelligence},
  series    = {Proceedings of Machine Learning Research},
  volume    = {286},
  pages     = {3235--3251},
  year      = {2025},
  publisher = {PMLR},
  url       = {https://proceedings.mlr.press/v286/ning25a.html}
}"""

FILE = Path(__file__).with_name("paper_tables.csv")
_WORDS = ("table", "pair", "domain", "kind", "metric", "system", "setting", "flag")
_NUMBERS = ("mean", "sd", "gain_printed")
_OURS = "i2VAE"
CELL = ["domain", "kind", "metric"]
_BESIDE = ("recommender", *CELL, "n", "ours", "system", "paper_mean", "paper_sd", "difference", "flag")


def tables() -> pd.DataFrame:
    """Every line of the paper's tables, as printed.

    Returns
    -------
    DataFrame
        ``table`` ("1" … "6", "fig3"), ``pair``, ``domain`` (a name; empty for what a pair has once), ``kind``,
        ``metric``, ``system``, ``setting`` ("", "D_s=25%", "K_o=50%", "T=10", "lambda_a=0.004" …), ``mean``, ``sd``,
        ``gain_printed`` (float, NaN where the paper prints none), ``flag``.
    """
    types = dict.fromkeys(_WORDS, "str") | dict.fromkeys(_NUMBERS, "float64")
    missing = {key: [""] for key in _NUMBERS}  # an empty word stays an empty word
    return pd.read_csv(FILE, dtype=types, na_values=missing, keep_default_na=False, encoding="utf-8")


def beside(results: pd.DataFrame, pair: str) -> pd.DataFrame:
    """A run's sampled HR@10 and NDCG@10 beside Table 5: i2VAE, and the baseline with the highest mean.

    The best baseline is found from the cells, not from what the paper marks as second best (the two differ in three
    cells, which are flagged). Our candidates, rows and protocol are not the paper's: a difference is no error.

    Parameters
    ----------
    results
        Tidy, as :func:`i2vae_lib.evaluation.tidy` gives: ``recommender``, ``domain`` (key or name), ``kind``, ``n``,
        ``candidates``, ``metric``, ``value`` (a fraction). Lines that Table 5 has no cell for are left out.
    pair
        ``cloth_sport``, ``phone_elec`` or ``game_video``.

    Returns
    -------
    DataFrame
        Two lines for each line of ``results`` that Table 5 has: ``recommender``, ``domain`` (a name), ``kind``,
        ``metric``, ``n``, ``ours`` (per cent), ``system`` (whose cell of the paper), ``paper_mean``, ``paper_sd``,
        ``difference`` (ours - paper_mean, in per cent points), ``flag``.

    Raises
    ------
    DataError
        A pair that the paper does not have, a missing column, a domain of another pair, or two values for one cell.
    """
    table = tables()
    table = table[table["table"] == "5"]
    if pair not in set(table["pair"]):
        raise DataError(f"the paper has no pair {pair!r}; it has {', '.join(table['pair'].unique())}")
    paper = table[table["pair"] == pair]
    columns = ["recommender", *CELL, "n", "candidates", "value"]
    missing = [column for column in columns if column not in results.columns]
    if missing:
        raise DataError(f"results have no column {', '.join(missing)}; expected those of evaluation.tidy")
    names = dict(zip(DOMAINS, paper["domain"].unique(), strict=True))
    own = results.loc[results["candidates"] == "sampled", columns].reset_index(drop=True)
    own = own.assign(domain=own["domain"].replace(names), ours=100.0 * own["value"])
    foreign = sorted(set(own["domain"]) - set(names.values()))
    if foreign:
        raise DataError(f"domain {foreign[0]!r} is not of {pair}, which has {' and '.join(names.values())}")
    if own.duplicated(["recommender", *CELL]).any():
        first = own.loc[own.duplicated(["recommender", *CELL]), ["recommender", *CELL]].iloc[0]
        raise DataError(f"two values for {', '.join(first)}: take the mean over seeds first")
    ours, baselines = paper["system"] == _OURS, paper[paper["system"] != _OURS]
    best = baselines.loc[baselines.groupby(CELL)["mean"].idxmax()]
    lines = pd.concat([paper[ours], best])[[*CELL, "system", "mean", "sd", "flag"]]
    lines = lines.rename(columns={"mean": "paper_mean", "sd": "paper_sd"})
    joined = own.merge(lines, on=CELL, how="inner")  # in the order of the results; i2VAE's line before the baseline's
    joined["difference"] = joined["ours"] - joined["paper_mean"]
    return joined[list(_BESIDE)]
