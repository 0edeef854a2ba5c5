"""From result rows to tables, figures and a page: pure functions of the rows, nothing edited by hand."""

from typing import TYPE_CHECKING

from ..lazy_imports import lazy_names

if TYPE_CHECKING:
    from .conclusions import findings
    from .costs import cost_table, training_cost_table
    from .diagnostics import convergence_table, distribution_table
    from .figures import accuracy_figure, contact_sheet, w2_figure
    from .formatting import flat_table, format_table, write_tables
    from .page import run_tables, write_results
    from .rows import Run, load_rows, load_run, make_frame
    from .run_folder import open_run, write_run_report
    from .score_tables import score_table, scores_of_runs
    from .statistics import detectable_difference, holm, paired_t_test
    from .tables import cross_model_table

__all__ = [
    "Run", "accuracy_figure", "contact_sheet", "convergence_table", "cost_table", "cross_model_table",
    "detectable_difference", "distribution_table", "findings", "flat_table", "format_table", "holm", "load_rows",
    "load_run", "make_frame", "open_run", "paired_t_test", "run_tables", "score_table", "scores_of_runs",
    "training_cost_table", "w2_figure", "write_results", "write_run_report", "write_tables",
]  # fmt: skip
__getattr__, __dir__ = lazy_names(__name__)
