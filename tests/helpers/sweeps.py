"""A sweep of seconds."""

from __future__ import annotations

from typing import Any

# a cell of about a second
CONTENT: dict[str, Any] = {
    "preset": "smoke",
    "epochs": 1,
    "seeds": [0, 1],
    "overrides": {
        "synthetic.users": 600,
        "synthetic.items": 120,
        "evaluation.negatives": 49,
        "psg.kind": "random",
        "psg.recalled": 8,
        "model.d": 8,
        "model.T": 10,
        "model.T_pseudo": 18,
        "references.ease_lambda": [100.0],
    },
    "grids": {
        "claims": {"rows": {"full": {}, "none": {"psg.kind": "none"}}, "base": "full"},
        "T": {"product": {"model.T": [5, 10]}},
    },
}
