"""What the data of several pairs hold: statistics, audits, the order of their items."""

import pandas as pd

from i2vae_lib.audit.item_order import item_orders
from i2vae_lib.audit.leaks import audit
from i2vae_lib.data import CrossDomainDataset
from i2vae_lib.data.statistics import describe, describe_log


def pair_statistics(datasets: list[CrossDomainDataset]) -> pd.DataFrame:
    """:func:`i2vae_lib.data.statistics.describe` of several pairs beside each other."""
    return pd.concat([describe(one).set_index("statistic") for one in datasets], axis=1).reset_index()


def audits(datasets: list[CrossDomainDataset]) -> pd.DataFrame:
    """The audits of several datasets below each other, with ``pair`` and ``protocol``."""
    return pd.concat([audit(one).assign(pair=one.name, protocol=one.protocol) for one in datasets], ignore_index=True)


def food_kitchen(datasets: list[CrossDomainDataset]) -> pd.DataFrame:
    """What the filters of the first pair's logs left."""
    return describe_log(datasets[0])


def item_order_shares(datasets: list[CrossDomainDataset]) -> pd.DataFrame:
    """Of the observations of pairs of items that two or more people took, the share in the order that fewer had."""
    return pd.DataFrame(
        {
            "pair": one.name,
            "domain": one.catalogue.names[d],
            "source": "released" if one.log is None else "log",
            "observations": order.observations,
            "rarer": order.rarer,
            "share": order.share,
            "users": order.users,
        }
        for one in datasets
        for d, order in item_orders(one).items()
    )
