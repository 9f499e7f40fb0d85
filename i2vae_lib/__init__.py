"""i2vae_lib: Figure 2 of the i2VAE paper (UAI 2025) as a list of files.

====================  =================================================================================
``lazy``, ``places``  names imported when used; files and folders that the kit knows by name
``yaml_files``        the one reader of YAML: no aliases that blow up, no key twice
``page``              the server of ``i2vae explore``: this machine and whoever has the token
``parameter_groups``  the groups of parameters, one for each part and system
``live``              widgets: a figure that is never blank, radio buttons
``sample``            a small finished run that the package carries
``params``            frozen parameters, presets, one loader
``progress``          a bar, or plain lines
``runs``              the run directory: atomic writes, records, refusals
``cache``             work that is done once, named by what it depends on
``workers``           who does work: processes of this machine, a Dask scheduler's workers
``engine``            cells: made by workers, resumed, recorded where they fail
``data``              rows, vocabularies, protocols, controls; released pairs, logs, the planted world, batches
``evaluation``        candidates, greater and ties, metrics by row kind
``information``       how much two sets of vectors know of each other, by independent estimators
``paper``             the paper's tables, with their slips flagged
``recency``           how many took an item shortly before a moment
``graphs``            users and items as a graph: adjacency, propagation, folding in
``item_order``        does one order of items run through everybody's list?
``fewest_takers``     does the catalogue tell which items will be taken?
``lightgcn``          LightGCN's training
``cooccurrence``      counts with the asker left out; item vectors of them
``features``          item vectors that no row tells: of titles, or given
``psg``               pseudo-sequence generators: LightGCN, co-occurrence, random; cross-fitting
``evidence``          what several counts say of the items that a row may ask for
``model``             latents, encoders, i2VAE (infer, decode, score), objective
``training``          a plain loop with checkpoints
``recommenders``      the contract; i2VAE, the paper's baselines, reference rankers, two ceilings; folding in
``labels``            what tables and figures call things
``audit_fitted``      and of what was learnt
``inspection``        what a generator recalls, measured
``disentanglement``   probes, factor-wise scores, interventions on latents
``after_the_last``    rankers that go by the one order of a file: what that gives away
``audit``             the leak audit: rows, order, catalogue, log
``shared``            what runs on the same data share: recalled pseudo-sequences, ranks of the reference rankers
``stages``            the main job in four stages: prepare, recall, train, evaluate
``grids``             sweep files, resolved into cells
``experiments``       a grid -> runs -> one tidy table
``tuning``            all systems, tuned alike
``results``           runs side by side: differences, tests, lifts, the paper's tables, one renderer
``leak_worth``        what each leak is worth
``search``            a hyper-parameter search over the same engine
``pictures``          figures as static SVG: the report's, README's, the model itself
``looks``             colours of figures
``plots``             figures that notebooks and explorers draw with plotly
``views``             what the explorers show, as tables
``report``            ``report.html`` of a run
``sweep_figures``     the figures of a sweep
``notebooks``         executes notebooks, and exports them as pages that ask no network
``explorers``         widgets over views and plots, for JupyterLab and for a page without it
``export``            a trained model with its card, or a split with its candidates, for use elsewhere
``display``           what notebooks show: wide tables, formulas beside their source
``listing``           ``i2vae list``: presets, pairs, systems, parameters with origins, runs
``api``               your data in, your recommendations out: one class over a run directory
``commands``          what each command does
``study_commands``    those that make many runs
``command_table``     every command's options, help and examples
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
