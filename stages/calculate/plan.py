"""Moved to contracts/plan.py; these names go as soon as nobody imports them from here."""

from contracts.plan import BUTTERFLY as BUTTERFLY
from contracts.plan import SIDES as SIDES
from contracts.plan import SINGLE as SINGLE
from contracts.plan import STRATEGIES as STRATEGIES
from contracts.plan import VERTICAL as VERTICAL
from contracts.plan import Label as Label
from contracts.plan import Plan as Plan
from contracts.plan import cell_labels as cell_labels
from contracts.plan import compile_plan as compile_plan
from contracts.plan import points as points
from contracts.plan import width_axis as width_axis
