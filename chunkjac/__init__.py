"""Compute Jacobians of PyTorch functions under a memory budget."""

from chunkjac._api import blocks, jacobian, plan
from chunkjac._api import open_file as open
from chunkjac._config import Config, config_context, get_config, set_config
from chunkjac._errors import (
    ArgumentError,
    ArgumentTypeError,
    BudgetError,
    ChunkjacError,
    ConfigError,
    FunctionError,
    RungWarning,
    StoreError,
)
from chunkjac._faces import hessian, jacfd, jacfwd, jacrev
from chunkjac._plan import Plan, Report
from chunkjac._products import matvec, rmatvec
from chunkjac._progress import Progress
from chunkjac._reductions import diagonal, gram, norms
from chunkjac._scipy import operator, scipy_jac, svdvals
from chunkjac._types import Block, Norms

__version__ = "0.1.0"

__all__ = [
    "ArgumentError",
    "ArgumentTypeError",
    "Block",
    "BudgetError",
    "ChunkjacError",
    "Config",
    "ConfigError",
    "FunctionError",
    "Norms",
    "Plan",
    "Progress",
    "Report",
    "RungWarning",
    "StoreError",
    "blocks",
    "config_context",
    "diagonal",
    "get_config",
    "gram",
    "hessian",
    "jacfd",
    "jacfwd",
    "jacobian",
    "jacrev",
    "matvec",
    "norms",
    "open",
    "operator",
    "plan",
    "rmatvec",
    "scipy_jac",
    "set_config",
    "svdvals",
]
