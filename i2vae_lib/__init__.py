"""i2vae_lib: Figure 2 of the i2VAE paper (UAI 2025) as a list of files.

====================  =================================================================================
``lazy``, ``places``  names imported when used; files and folders that the kit knows by name
``yaml_files``        the one reader of YAML: no aliases that blow up, no key twice
``parameter_groups``  names and limits of parameters, a group for each part and system; values: ``params/*.yaml``
``params``            frozen parameters, presets, one loader of ``params/*.yaml``
``progress``          a bar, or plain lines
``processes``         several processes that train one model; cores and memory of this one
``runs``              the run directory: atomic writes, records, refusals
``sample``            a small finished run that the package carries
``cache``             work that is done once, named by what it depends on
``data``              rows, vocabularies, protocols, controls; released pairs, the planted world, batches; ``logs``
``evaluation``        candidates, greater and ties, metrics by row kind
``paper``             the paper's tables, with their slips flagged
``generators``        pseudo-sequences: graphs, LightGCN, counts with the asker left out, recent takers, evidence
``model``             latents, encoders, i2VAE (infer, decode, score), objective
``training``          a plain loop with checkpoints
``recommenders``      the contract, i2VAE; ``references``: simple rankers and ceilings; ``systems``: all others
``labels``            what tables and figures call things
``audit``             the leak audit: rows, order, catalogue, log, what was learnt
``disentanglement``   probes, factor-wise scores, interventions on latents, information
``shared``            what runs on the same data share: recalled pseudo-sequences, ranks of the reference rankers
``stages``            the main job in four stages: prepare, recall, train, evaluate
``experiments``       what makes many runs: sweeps, tuning, search, the worth of leaks; their engine and workers
``results``           runs side by side: differences, tests, lifts, the paper's tables, one renderer
``figures``           plotly and static SVG, colours and labels, what notebooks show
``notebooks``         executes notebooks, and exports them as pages that ask no network
``report``            ``report.html`` of a run
``explorers``         widgets over tables and figures, for JupyterLab and for a page without it, with its server
``export``            a trained model with its card, or a split with its candidates, for use elsewhere
``api``               your data in, your recommendations out: one class over a run directory
``commands``          every command: its options, what it does
``cli``               ``i2vae``: reads the command line, answers errors
``__main__``          its entry point, which answers Ctrl-C
====================  =================================================================================

Imports point one way: each line only to what stands above it. The names below and the modules are imported when they
are first used.
"""

from typing import TYPE_CHECKING

from i2vae_lib.lazy import lazy_names

if TYPE_CHECKING:
    from i2vae_lib.api import I2VAE
    from i2vae_lib.data.loading import load_dataset
    from i2vae_lib.data.synthetic import sample_logs
    from i2vae_lib.params import Parameters, from_notebook, load
    from i2vae_lib.recommenders.i2vae import I2VAERecommender
    from i2vae_lib.sample import sample_run
    from i2vae_lib.stages import evaluate, open_run, prepare, recall, train
else:
    __getattr__ = lazy_names(
        __name__,
        {
            "I2VAE": "i2vae_lib.api",
            "I2VAERecommender": "i2vae_lib.recommenders.i2vae",
            "load_dataset": "i2vae_lib.data.loading",
            "sample_logs": "i2vae_lib.data.synthetic",
            "sample_run": "i2vae_lib.sample",
            **dict.fromkeys(("Parameters", "from_notebook", "load"), "i2vae_lib.params"),
            **dict.fromkeys(("evaluate", "open_run", "prepare", "recall", "train"), "i2vae_lib.stages"),
        },
    )

__all__ = [
    "I2VAE",
    "I2VAERecommender",
    "Parameters",
    "evaluate",
    "from_notebook",
    "load",
    "load_dataset",
    "open_run",
    "prepare",
    "recall",
    "sample_logs",
    "sample_run",
    "train",
]
