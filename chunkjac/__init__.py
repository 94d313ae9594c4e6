"""Compute Jacobians of PyTorch functions under a memory budget.

The table of contents. A call comes in at the top; a file imports only from the rooms below its own.

    __main__    python -m chunkjac
    _cli        the command line
    compat      the paper's class: same arguments, same results
    _api        what users call: jacobian, jacrev, gram, matvec, svdvals, ...
    _ranks      (kept free) many processes
    _pictures   (kept free) plots
    _executor   executor: the loop, and what surrounds it
    _planner    planner, plan: what was asked for, which mode does it, what it will hold
    _sinks      sink: where blocks go
    _structure  (kept free) per-sample, sparse, bottleneck
    _modes      mode: how a block is made
    _programs   mode, its fastest rung: a step recorded and replayed
    _store      sink, its files: a Jacobian on disk, resumable
    _chunker    cost, chunker: how large, which directions, their seeds
    _problem    problem: the user's function
    _memory     budget, and what is alive
    _config     settings
    _compilers  what torch.compile sees of us
    _control_flow  torch.cond and its like, uncompiled
    _switches   what is switched for the whole process
    _units      bytes and seconds in words
    _arguments  what users give, read by its type and shown
    _tensors    what is asked of tensors
    _errors     what can go wrong
"""

from chunkjac._api import (
    blocks,
    diagonal,
    gram,
    hessian,
    jacfd,
    jacfwd,
    jacobian,
    jacrev,
    matvec,
    norms,
    operator,
    plan,
    rmatvec,
    scipy_jac,
    svdvals,
)
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
from chunkjac._planner import Plan, Progress, Report
from chunkjac._sinks import Block, Norms

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
