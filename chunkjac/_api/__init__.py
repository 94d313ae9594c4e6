"""What users call; errors are told in the words of the caller."""

from chunkjac._api.jacobians import blocks, jacobian, open_file, plan
from chunkjac._api.paper_arguments import (
    DOUBLE_EPS,
    LowerPrecisionError,
    PapersCall,
    as_complex,
    check_type,
    converted,
    number_of,
)
from chunkjac._api.products import matvec, rmatvec
from chunkjac._api.reductions import diagonal, gram, norms
from chunkjac._api.solvers import operator, scipy_jac, svdvals
from chunkjac._api.transforms import hessian, jacfd, jacfwd, jacrev
