"""The user's function: its inputs, what it leaves behind, whether it is the same again."""

from chunkjac._problem.call_watcher import CallWatcher
from chunkjac._problem.checks import check_argnums, check_callable, check_computed, check_inputs, check_unchanged
from chunkjac._problem.departures import Departures
from chunkjac._problem.effects.found import Found
from chunkjac._problem.effects.own_generators import save_nothing
from chunkjac._problem.effects.randomness import RANDOMNESS, FixedNumbers
from chunkjac._problem.effects.restoring import LeftAsFound
from chunkjac._problem.identity.closures import frozen
from chunkjac._problem.kernels import plain_kernels
from chunkjac._problem.leaves import Leaf, Outputs, without_graph
from chunkjac._problem.looks import looks_like
from chunkjac._problem.modules import behind, restored_attributes
from chunkjac._problem.precision import PrecisionWatcher
from chunkjac._problem.problem import Problem
from chunkjac._problem.transforms import is_inside_transform
from chunkjac._problem.write_watcher import WriteWatcher
from chunkjac._problem.zero_products import ZeroProducts
