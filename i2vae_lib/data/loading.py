"""From files, logs or synthetic data to a :class:`CrossDomainDataset`."""

import hashlib
from pathlib import Path

from i2vae_lib.cache import once
from i2vae_lib.data import protocols, synthetic
from i2vae_lib.data.dataset import CrossDomainDataset
from i2vae_lib.data.logs import join
from i2vae_lib.data.logs.pair_file import ReleasedPair, read_any_pair
from i2vae_lib.data.registry import REGISTRY
from i2vae_lib.data.released import load_released, read_pair
from i2vae_lib.data.rows import DOMAINS, DataError, LogPair
from i2vae_lib.params import Parameters, pair_name
from i2vae_lib.places import preset_folder, suggestion
from i2vae_lib.runs import sha256_of


def _is_pair_file(name: str) -> bool:
    """Whether ``data`` names a YAML file that describes a pair of logs."""
    return name.endswith((".yaml", ".yml"))


def check_data(name: str, protocol: str) -> None:
    """Refuse an unknown name of data, and a protocol that the data cannot serve, before they are read.

    Raises
    ------
    DataError
        Suggests the nearest name, or says which protocols the data can serve (synthetic data serve all).
    """
    known = ["synthetic", *REGISTRY]
    if _is_pair_file(name):
        if not Path(name).is_file():
            own = preset_folder() / "pairs" / Path(name).name
            told = f"; the kit's own is {own}" if own.is_file() else ""
            raise DataError(f"no file {name}: data is a registered name or the YAML file of a pair of logs{told}")
    elif name not in known and Path(name).exists():
        raise DataError(
            f"{name} is no pair file, which says how two logs are read: `i2vae describe {name} OTHER_LOG --out "
            f"pair.yaml` writes one; then give --data pair.yaml"
        )
    elif name not in known:
        raise DataError(f"unknown data '{name}'{suggestion(name, known)} (or the YAML file of a pair of logs)")
    if name != "synthetic":
        timed = _is_pair_file(name) and not isinstance(read_any_pair(name), ReleasedPair)
        protocols.check_served(protocol, pair_name(name), timed=timed)


def load_dataset(parameters: Parameters) -> CrossDomainDataset:
    """The dataset that the parameters name, under their protocol and controls.

    Raises
    ------
    DataError
        An unknown name (the nearest is suggested), a protocol that the data cannot serve, or whatever is wrong with
        the files.
    """
    check_data(parameters.data, parameters.protocol)
    return protocols.apply(parameters.protocol, load_pair(parameters), parameters.split, parameters.controls)


def load_dataset_once(parameters: Parameters) -> CrossDomainDataset:
    """:func:`load_dataset`, made once (:mod:`i2vae_lib.cache`) per source, protocol and settings, then read back.

    Raises
    ------
    DataError
        As :func:`load_dataset`.
    """
    check_data(parameters.data, parameters.protocol)
    relevant = parameters.model_dump(mode="json", include={"protocol", "split", "controls", "synthetic"})
    source = source_of(parameters)
    name = parameters.data if source is None else pair_name(parameters.data)
    made = once("datasets", [name, source, relevant], (__name__,), lambda at: load_dataset(parameters).save(at))
    return CrossDomainDataset.load(made)


def source_of(parameters: Parameters) -> str | None:
    """SHA-256 of a pair file's logs and how it reads them, as of now; None for data that cannot change under a name."""
    name = parameters.data
    if not _is_pair_file(name):
        return None
    pair = read_any_pair(name)
    return _of_splits(pair) if isinstance(pair, ReleasedPair) else join.fingerprint(pair)


def _of_splits(pair: ReleasedPair) -> str:
    """SHA-256 of both tables of published splits, with the names of the domains."""
    parts = [pair.name, pair.x.name, pair.y.name, sha256_of(pair.train), sha256_of(pair.test)]
    return hashlib.sha256("|".join(parts).encode()).hexdigest()


def load_pair(parameters: Parameters) -> protocols.RawPair | LogPair:
    """The pair that the parameters name, before any protocol: published splits or timestamped logs."""
    name = parameters.data
    if name == "synthetic":
        timed = parameters.protocol in ("chronological", "temporal")
        return (synthetic.generate_log if timed else synthetic.generate)(parameters.synthetic)
    if not _is_pair_file(name):
        return load_released(name)
    pair = read_any_pair(name)
    if isinstance(pair, ReleasedPair):
        names = {d: getattr(pair, d).name for d in DOMAINS}
        return read_pair(pair.name, names, pair.train, pair.test, _of_splits(pair))
    return join.load_logs(pair)
