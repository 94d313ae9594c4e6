"""What was asked for, which mode does it, what it will hold."""

from chunkjac._planner.doubts import Doubt, doubt_about
from chunkjac._planner.job import Job
from chunkjac._planner.options import Given, GivenOnce, GivenToJacobian, GivenToPlan, Options
from chunkjac._planner.plan import GivenToRun, Plan
from chunkjac._planner.probe import Probe, Runner, dry_probe, real_probe, steady_size
from chunkjac._planner.progress import Progress, show_progress
from chunkjac._planner.reading import job_of, read_option, read_options
from chunkjac._planner.refusal import over_budget, over_budget_backwards
from chunkjac._planner.report import Report
from chunkjac._planner.selection import select_mode
from chunkjac._planner.slowness import Slowness
